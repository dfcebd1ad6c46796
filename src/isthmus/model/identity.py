"""Identities: one number for every pod that looks the same to policy.

Numbers follow Cilium's layout (reference: Cilium `pkg/identity`, 255 clusters): bits 16-23 hold the cluster ID, the
low 16 bits the identity within the cluster; numbers below 256 are reserved and mean the same in every cluster. So an
identity read from, or by, a Cilium cluster needs no translation, and `number >> 16` tells who owns it.
"""

import msgspec

from isthmus.model.labels import CLUSTER_KEYS, NAMESPACE_NAME

UNKNOWN = 0
HOST = 1
WORLD = 2
REMOTE_NODE = 6
FIRST_LOCAL = 256

CLUSTER_SHIFT = 16
MAX_CLUSTER_ID = 255
LOCAL_MASK = 0xFFFF


class Identity(msgspec.Struct, frozen=True):
    """What policy may know of a pod, and its number.

    `labels` and `namespace_labels` never hold cluster keys or `kubernetes.io/metadata.name`: those follow from
    `cluster` and `namespace` and are added by the two methods that selectors are matched through.
    """

    number: int
    cluster: str
    namespace: str
    labels: dict[str, str]
    namespace_labels: dict[str, str]
    service_account: str = ""

    def pod_label(self, key: str) -> str | None:
        """Returns what a podSelector sees under `key`."""
        return self.cluster if key in CLUSTER_KEYS else self.labels.get(key)

    def namespace_label(self, key: str) -> str | None:
        """Returns what a namespaceSelector sees under `key`."""
        if key in CLUSTER_KEYS:
            return self.cluster
        return self.namespace if key == NAMESPACE_NAME else self.namespace_labels.get(key)


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
