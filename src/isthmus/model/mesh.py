"""What a mesh source says: a stream of small facts, each of which replaces an earlier one of the same key.

Invariants: an Endpoint refers only to an identity that was told before it, in the same batch or an earlier one; an
identity is removed only after its last endpoint. `ClusterSynced` is told once the source has told all that it found at
its start, and again after every resynchronisation; until then absence proves nothing.
"""

import msgspec

from isthmus.model.endpoint import Cluster, Endpoint, Node
from isthmus.model.identity import Identity
from isthmus.model.service import ServiceKey
from isthmus.model.sharing import SharedExport, SharedService, SharedSlice


class ClusterJoined(msgspec.Struct, frozen=True):
    """A cluster is a member, or its properties changed; all that was told of it stays, as its name and ID do."""

    cluster: Cluster


class ClusterLeft(msgspec.Struct, frozen=True):
    """A cluster was removed from the set: everything that was told of it is gone with this one fact."""

    name: str


class ClusterSynced(msgspec.Struct, frozen=True):
    """All that the cluster holds has been told."""

    name: str


class IdentityTold(msgspec.Struct, frozen=True):
    """An identity exists, or its labels changed."""

    identity: Identity


class IdentityGone(msgspec.Struct, frozen=True):
    """An identity is no longer used by any endpoint."""

    cluster: str
    number: int


class EndpointTold(msgspec.Struct, frozen=True):
    """A pod IP exists, or its record changed."""

    endpoint: Endpoint


class EndpointGone(msgspec.Struct, frozen=True):
    """A pod IP is free again."""

    cluster: str
    ip: str


class NodeTold(msgspec.Struct, frozen=True):
    """A node exists, or its record changed."""

    node: Node


class NodeGone(msgspec.Struct, frozen=True):
    """A node was deleted."""

    cluster: str
    name: str


class ServiceTold(msgspec.Struct, frozen=True):
    """A Service is global in its cluster, or something about it changed."""

    service: SharedService


class ServiceGone(msgspec.Struct, frozen=True):
    """A Service is not global any more, or gone."""

    cluster: str
    key: ServiceKey


class SliceTold(msgspec.Struct, frozen=True):
    """A part of the backends of a shared Service exists, or changed."""

    slice: SharedSlice


class SliceGone(msgspec.Struct, frozen=True):
    """A part of the backends of a Service is not shared any more; `key` is the slice's namespace and name."""

    cluster: str
    key: tuple[str, str]


class ExportTold(msgspec.Struct, frozen=True):
    """A Service is exported (MCS API), or its export changed."""

    export: SharedExport


class ExportGone(msgspec.Struct, frozen=True):
    """A Service is not exported any more."""

    cluster: str
    key: ServiceKey


class ClusterSeen(msgspec.Struct, frozen=True):
    """How fresh what is told of a cluster is: `stale_since` is when its source failed (Unix seconds), None if it works.

    Told when that changes; a cluster of which it was never told is fresh.
    """

    name: str
    stale_since: float | None = None
    reason: str = ""


MeshEvent = (
    ClusterJoined
    | ClusterLeft
    | ClusterSynced
    | IdentityTold
    | IdentityGone
    | EndpointTold
    | EndpointGone
    | NodeTold
    | NodeGone
    | ServiceTold
    | ServiceGone
    | SliceTold
    | SliceGone
    | ExportTold
    | ExportGone
    | ClusterSeen
)
