"""A thin Kubernetes client: kubeconfig, authentication, verbs, watches, narrow schemas."""
