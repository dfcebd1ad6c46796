"""Isthmus joins Kubernetes clusters into one ClusterSet at the network level."""

__version__ = "0.1.0"
