"""Kubernetes clusters on one machine: API server, controllers, nodes and pods as network namespaces."""
