"""The objects of group isthmus.dev: how the mesh is, and what it is told to do (mesh/manifests/crds.yaml).

Who writes what: a MeshCluster is the tracker's, but for `spec.drain`, which is a user's; a MeshNode is its agent's; a
GlobalService is the tracker's. Everyone else reads. Field names are the API's own; times are RFC 3339 text. Rejected:
asking trackers and agents directly, which needs a way to each of them and credentials for it; these can be read by
whoever may read the cluster, and stay when their writer is gone.
"""

import msgspec

from isthmus.kube.schema import Condition, KubeObject

NO_MEMBER = "not a member of the cluster mesh; kept because it is drained"
"""Reason of a MeshCluster that is left of a cluster which is none any more."""


class Drain(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Since when a cluster is being drained, and over what time (a Go duration; "" is at once)."""

    since: str = ""
    over: str = ""


class MeshClusterSpec(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a user wants of a cluster."""

    drain: Drain | None = None


class MeshClusterStatus(msgspec.Struct, frozen=True, gc=False):
    """How a cluster is, as this cluster's tracker sees it; `state` is Syncing, Synced or Degraded."""

    id: int = 0
    own: bool = False
    state: str = ""
    reason: str = ""
    since: str = ""
    lastSynced: str = ""
    nodes: int = 0
    identities: int = 0
    endpoints: int = 0
    services: int = 0


class MeshCluster(KubeObject, frozen=True, gc=False, kw_only=True):
    """A cluster of the ClusterSet."""

    spec: MeshClusterSpec = MeshClusterSpec()
    status: MeshClusterStatus = MeshClusterStatus()


class ClusterSeenByNode(msgspec.Struct, frozen=True, gc=False):
    """Another cluster as a node's agent sees it.

    `health` is Reachable, Unreachable, Unknown, Unwatched or Stale; `unreachable` names nodes that do not answer.
    """

    name: str
    ready: bool = False
    reason: str = ""
    nodes: int = 0
    endpoints: int = 0
    services: int = 0
    health: str = "Unwatched"
    unreachable: tuple[str, ...] = ()
    since: str = ""


class RecentPolicy(msgspec.Struct, frozen=True, gc=False):
    """A change of a policy object that the kernel has, and since when (RFC 3339 with milliseconds)."""

    kind: str
    namespace: str = ""
    name: str = ""
    generation: int = 0
    since: str = ""


class PolicyException(msgspec.Struct, frozen=True, gc=False):
    """A policy object that a node does not enforce as it is written; `message` says why.

    `state` is Invalid, Kept (an earlier valid version is in force), Refused or PartiallyEnforced.
    """

    kind: str
    namespace: str = ""
    name: str = ""
    generation: int = 0
    state: str = ""
    message: str = ""


class PoliciesOnNode(msgspec.Struct, frozen=True, gc=False):
    """Which policies the kernel of a node has: of each kind, everything up to the resourceVersion in `watermarks`.

    `recent` are the last 64 changes, oldest first; `exceptions` are at most 64, and `moreExceptions` counts the others;
    what is in none of `recent` is in the kernel since `since` at the latest: the first ruleset, or the last change that
    is not told any more. `total` counts the objects that the agent knows.
    """

    total: int = 0
    watermarks: dict[str, str] = {}
    recent: tuple[RecentPolicy, ...] = ()
    exceptions: tuple[PolicyException, ...] = ()
    moreExceptions: int = 0
    since: str = ""


class MeshNodeStatus(msgspec.Struct, frozen=True, gc=False):
    """What an agent knows; `heartbeat` is renewed every minute, `connected` is "ready/all" of the other clusters.

    `policies` is None where the agent does not say.
    """

    version: str = ""
    ready: bool = False
    reason: str = ""
    heartbeat: str = ""
    connected: str = ""
    globalServices: int = 0
    clusters: tuple[ClusterSeenByNode, ...] = ()
    policies: PoliciesOnNode | None = None


class MeshNode(KubeObject, frozen=True, gc=False, kw_only=True):
    """A node with an agent; named as the node."""

    status: MeshNodeStatus = MeshNodeStatus()


class EndpointSeen(msgspec.Struct, frozen=True, gc=False):
    """One backend; `ports` as "http:8080/TCP", or "8080/TCP" for a port without a name."""

    address: str
    ports: tuple[str, ...] = ()
    node: str = ""
    ready: bool = True
    terminating: bool = False


class ServiceInCluster(msgspec.Struct, frozen=True, gc=False):
    """What a cluster has of a global Service, and whether it is used here; `share` of new connections in per cent."""

    name: str
    own: bool = False
    state: str = ""
    backends: int = 0
    ready: int = 0
    weight: int = 100
    share: int = 0
    used: bool = False
    why: str = ""
    endpoints: tuple[EndpointSeen, ...] = ()


class SeenPort(msgspec.Struct, frozen=True, gc=False):
    """A port of the local Service."""

    name: str = ""
    protocol: str = "TCP"
    port: int = 0


class DatedCondition(Condition, frozen=True, gc=False):
    """A condition that says since when it is as it is."""

    lastTransitionTime: str = ""


class GlobalServiceStatus(msgspec.Struct, frozen=True, gc=False):
    """What became of a global Service of this cluster."""

    affinity: str = "none"
    shared: bool = True
    summary: str = ""
    used: str = ""
    ports: tuple[SeenPort, ...] = ()
    clusters: tuple[ServiceInCluster, ...] = ()
    conditions: tuple[DatedCondition, ...] = ()


class GlobalService(KubeObject, frozen=True, gc=False, kw_only=True):
    """Named as the Service, and owned by it."""

    status: GlobalServiceStatus = GlobalServiceStatus()
