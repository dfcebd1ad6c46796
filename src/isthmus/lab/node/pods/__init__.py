"""Pods as values: the API object as the node reads it, what is known of its containers, what to do next, its status."""
