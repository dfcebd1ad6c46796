"""What the tracker writes into its own cluster, for people and for what reads Kubernetes objects alone."""
