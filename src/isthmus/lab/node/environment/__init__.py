"""A container's environment variables and the values of fields that a pod can ask for."""
