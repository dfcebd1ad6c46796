"""The processes of a cluster as command lines, and the files they need."""
