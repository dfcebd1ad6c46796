"""The label keys that carry meaning in a mesh, and the stamp that makes two of them trustworthy.

Invariant: the labels that policy sees say which cluster a pod belongs to only because *we* said so. Whatever a
pod or a namespace claims under a cluster key is removed before ours is put there (`stamp`), so a namespace in
one cluster cannot speak for another (NPEP-311 leaves the value to the administrator, which anyone who may label
a namespace could forge; that reading was rejected).
"""

from collections.abc import Mapping

CLUSTERSET_CLUSTER = "cluster.clusterset.k8s.io"
"""NPEP-311 and KEP-2149: the cluster's name, as a namespace label."""

CILIUM_CLUSTER = "io.cilium.k8s.policy.cluster"
"""Cilium's name for the same thing, as a pod label."""

CLUSTER_KEYS = (CLUSTERSET_CLUSTER, CILIUM_CLUSTER)

NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Set by every API server on every namespace since Kubernetes 1.22; immutable."""

PROPERTY_PREFIX = "property.isthmus.dev/"
"""Followed by the name of an About API ClusterProperty (KEP-2149): what the pod's cluster has for it. Ours."""

POD_NAMESPACE = "io.kubernetes.pod.namespace"
"""Cilium's pod label for the name of the pod's namespace."""

CILIUM_PREFIX = "io.cilium.k8s"
"""Cilium's own pod labels; a pod cannot give itself one."""

CILIUM_NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."
"""Followed by the key of a label of the namespace."""

CILIUM_SERVICE_ACCOUNT = "io.cilium.k8s.policy.serviceaccount"

Labels = Mapping[str, str]


def names_clusters(key: str) -> bool:
    """Tells whether a selector with a term on `key` says which clusters it means, by name or by property."""
    return key in CLUSTER_KEYS or key.startswith(PROPERTY_PREFIX)


def stamp(labels: Labels, *, cluster: str) -> dict[str, str]:
    """Returns `labels` with both cluster keys set to `cluster`, whatever they said before."""
    return {**labels, CLUSTERSET_CLUSTER: cluster, CILIUM_CLUSTER: cluster}


def strip_claims(labels: Labels) -> dict[str, str]:
    """Returns `labels` without the cluster keys."""
    return {key: value for key, value in labels.items() if key not in CLUSTER_KEYS}


def foreign_claims(labels: Labels, *, cluster: str) -> dict[str, str]:
    """Returns the cluster keys in `labels` whose value is not `cluster`: to be reported, never believed."""
    return {key: labels[key] for key in CLUSTER_KEYS if key in labels and labels[key] != cluster}
