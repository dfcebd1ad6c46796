"""Names of container images that stand for programs of this machine."""
