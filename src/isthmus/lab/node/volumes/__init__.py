"""Volumes: directories of a pod, filled from the API and kept up to date."""
