"""Services on a node: objects in, the service part of the table out."""
