"""The node runtime: one process per node that turns pods of the API into processes in namespaces."""
