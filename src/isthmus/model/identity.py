"""Identities: one number for every pod that looks the same to policy.

Numbers follow Cilium's layout (reference: Cilium `pkg/identity`, 255 clusters): bits 16-23 hold the cluster ID, the
low 16 bits the identity within the cluster; numbers below 256 are reserved and mean the same in every cluster. So an
identity read from, or by, a Cilium cluster needs no translation, and `number >> 16` tells who owns it.
"""

import msgspec

from isthmus.model.labels import (
    CILIUM_CLUSTER,
    CILIUM_NAMESPACE_LABELS,
    CILIUM_PREFIX,
    CILIUM_SERVICE_ACCOUNT,
    CLUSTER_KEYS,
    NAMESPACE_NAME,
    POD_NAMESPACE,
    PROPERTY_PREFIX,
    names_clusters,
)

UNKNOWN = 0
HOST = 1
"""The node that judges, with every address it has."""
WORLD = 2
"""No pod and no node of the ClusterSet."""
REMOTE_NODE = 6
KUBE_APISERVER = 7
"""The API server of the own cluster where it is no node of it: also `world`."""
FIRST_LOCAL = 256
FIRST_NODE = 2 << 24
"""From here on an agent numbers nodes, one for each look of a node; the numbers mean nothing to others."""

RESERVED_SOURCE = "reserved:"

CLUSTER_SHIFT = 16
MAX_CLUSTER_ID = 255
LOCAL_MASK = 0xFFFF


class Identity(msgspec.Struct, frozen=True, gc=False):
    """What policy may know of a pod (or of a node, or of the world), and its number.

    `labels` and `namespace_labels` never hold cluster keys or `kubernetes.io/metadata.name`: those follow from
    `cluster` and `namespace` and are added by the methods that selectors are matched through. `properties` are the
    ClusterProperties of the cluster. `reserved` is empty for pods, and holds Cilium's words for everything else
    (`host`, `remote-node`, `kube-apiserver`, `world`); then `labels` are those of the Node, and `namespace` is empty.
    """

    number: int
    cluster: str
    namespace: str
    labels: dict[str, str]
    namespace_labels: dict[str, str]
    service_account: str = ""
    properties: dict[str, str] = {}
    reserved: tuple[str, ...] = ()

    @property
    def is_pod(self) -> bool:
        """Tells whether pods have this identity."""
        return not self.reserved

    def _of_cluster(self, key: str) -> str | None:
        return self.cluster if key in CLUSTER_KEYS else self.properties.get(key.removeprefix(PROPERTY_PREFIX))

    def pod_label(self, key: str) -> str | None:
        """Returns what a podSelector (or, for a node, a node selector) sees under `key`."""
        return self._of_cluster(key) if names_clusters(key) else self.labels.get(key)

    def namespace_label(self, key: str) -> str | None:
        """Returns what a namespaceSelector sees under `key`."""
        if names_clusters(key):
            return self._of_cluster(key)
        return self.namespace if key == NAMESPACE_NAME else self.namespace_labels.get(key)

    def cilium_label(self, key: str) -> str | None:
        """Returns what a selector of a Cilium policy sees under `key`, which is without `k8s:` or `any:`.

        `reserved:world` and the like are there, and empty, for what is reserved; nothing else is for those. Labels that
        begin with `io.cilium.k8s` are ours to give (reference: cilium-policy §2.2), whatever the pod says.
        """
        if key.startswith(RESERVED_SOURCE):
            return "" if key.removeprefix(RESERVED_SOURCE) in self.reserved else None
        if self.reserved:
            return None
        if key == POD_NAMESPACE:
            return self.namespace
        if key.startswith(CILIUM_NAMESPACE_LABELS):
            return self.namespace_label(key.removeprefix(CILIUM_NAMESPACE_LABELS))
        if key == CILIUM_SERVICE_ACCOUNT:
            return self.service_account or None
        if key.startswith(CILIUM_PREFIX) and key != CILIUM_CLUSTER:
            return None
        return self.pod_label(key)


THE_WORLD = Identity(WORLD, "", "", {}, {}, reserved=("world",))
THE_API_SERVER = Identity(KUBE_APISERVER, "", "", {}, {}, reserved=("kube-apiserver", "world"))


def cluster_of(number: int) -> int:
    """Returns the cluster ID in the upper bits; 0 for reserved numbers."""
    return (number >> CLUSTER_SHIFT) & 0xFF


def number_range(cluster_id: int) -> range:
    """Returns the numbers that cluster `cluster_id` (1-255) may give to pods.

    Raises ValueError for an ID outside 1-255.
    """
    if not 1 <= cluster_id <= MAX_CLUSTER_ID:
        raise ValueError(f"cluster id {cluster_id} is not in 1-{MAX_CLUSTER_ID}")
    base = cluster_id << CLUSTER_SHIFT
    return range(base, base + LOCAL_MASK + 1)
