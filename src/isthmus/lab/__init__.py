"""Kubernetes clusters on one machine: API servers, controllers, nodes and pods as processes in network namespaces."""
