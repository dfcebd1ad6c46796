"""Reading kind's cluster files (kind.x-k8s.io/v1alpha4), so that texts written for kind work here."""
