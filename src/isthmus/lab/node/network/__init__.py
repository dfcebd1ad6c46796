"""A pod's network: addresses, namespaces, name resolution."""
