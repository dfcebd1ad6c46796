"""One member as a store shows it: how its facts are written there, whether they are complete, and what they say.

Invariants: of Services, slices are read of a member that writes them and records of whole services of another, never
both; a fact that cannot be read counts as absent, so what was held of it goes before the error is raised. When a member
may be told of, and when it leaves, is for `reading` to decide.
"""

from isthmus.mesh.storing.mirror import Mirror
from isthmus.model.endpoint import Cluster, Endpoint, Node
from isthmus.model.identity import Identity
from isthmus.model.sharing import SharedSlice
from isthmus.store.contract import Event, KeyValue
from isthmus.wire import kvstore
from isthmus.wire.kvstore import DataKey, Kind, Membership

REQUIRED = frozenset({Kind.NODES, Kind.IDENTITIES, Kind.ENDPOINTS})
"""Kinds that must be complete before a cluster counts, besides the one that its backends are read from."""

_SLICES = f"/{Kind.SLICES.value}/".encode()


class Member:
    """A member by its membership record; `missing_since` is when that was missed, by the reader's clock."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self.told = membership.cluster
        """The cluster with the properties that were told."""
        self.present = True
        self.marks: set[Kind] = set()
        self.whole = False
        self.synced = False
        self.missing_since: float | None = None
        self.mirror = Mirror(membership.cluster.name)

    @property
    def complete(self) -> bool:
        """Whether what the store holds of the cluster may be told."""
        return self.present and not self._lacking

    @property
    def waiting(self) -> str:
        """Why nothing new may be told of it, empty when all is well."""
        if not self.present:
            return "its membership is missing in the store"
        missing = ", ".join(sorted(kind.value for kind in self._lacking))
        return f"not complete in the store yet: {missing}" if missing else ""

    @property
    def _backends(self) -> Kind:
        """The kind that its backends are read from."""
        return Kind.SLICES if self.membership.slices else Kind.SERVICES

    @property
    def _lacking(self) -> frozenset[Kind]:
        """The kinds that are not complete, as far as is known."""
        wanted = REQUIRED | {self._backends}
        if self.membership.whole:
            return frozenset() if self.whole else wanted
        return wanted - self.marks if self.membership.canaries else frozenset()

    def clear(self) -> None:
        """A listing begins: nothing of the member is in the store until it is found there."""
        self.present = False
        self.marks.clear()
        self.whole = False
        self.synced = False
        self.mirror.clear()

    def is_written_as(self, membership: Membership) -> bool:
        """Whether its facts are where and what they would be by `membership`; if not, other keys of it count."""
        return _ways(self.membership) == _ways(membership)

    def take(self, key: DataKey, event: Event) -> None:
        """Takes a fact, or that it is gone. Raises CodecError for one that cannot be read."""
        if key.kind is Kind.EXPORTS or (key.kind in (Kind.SLICES, Kind.SERVICES) and key.kind is not self._backends):
            return
        self._drop(key)
        if isinstance(event, KeyValue):
            if key.kind is Kind.SERVICES:
                self._put_record(key, event)
            else:
                self.mirror.put(_decode(key, event, self.membership.cluster))

    def take_seen(self, event: Event) -> None:
        """Takes since when what is told of it may be old. Raises CodecError."""
        self.mirror.drop_seen()
        if isinstance(event, KeyValue):
            self.mirror.put(kvstore.decode_seen(event.key, event.value, cluster=self.membership.cluster.name))

    def _put_record(self, key: DataKey, pair: KeyValue) -> None:
        cluster = self.membership.cluster
        record = kvstore.decode_service(
            pair.key, pair.value, place=key.place, cluster=cluster.name, cluster_id=cluster.id
        )
        self.mirror.put_parts(key.place, record.slices)

    def _drop(self, key: DataKey) -> None:
        match key.kind:
            case Kind.NODES:
                self.mirror.drop_node(key.name)
            case Kind.SLICES:
                self.mirror.drop_slice(key.place)
            case Kind.SERVICES:
                self.mirror.put_parts(key.place, ())
            case Kind.IDENTITIES:
                self.mirror.drop_identity(int(key.name))
            case _:
                self.mirror.drop_endpoint(key.name)


def cost_of(pair: KeyValue) -> int:
    """What a pair costs to read, in addresses; a slice of 100 endpoints has 500 bytes and takes as long as 25."""
    return 1 + len(pair.value) // (20 if _SLICES in pair.key else 500)


def _decode(key: DataKey, pair: KeyValue, cluster: Cluster) -> Node | Identity | Endpoint | SharedSlice:
    match key.kind:
        case Kind.NODES:
            return kvstore.decode_node(pair.key, pair.value, name=key.name, cluster=cluster.name, cluster_id=cluster.id)
        case Kind.SLICES:
            return kvstore.decode_slice(
                pair.key, pair.value, place=key.place, cluster=cluster.name, cluster_id=cluster.id
            )
        case Kind.IDENTITIES:
            return kvstore.decode_identity(
                pair.key, pair.value, number=int(key.name), cluster=cluster.name, cluster_id=cluster.id
            )
        case _:
            return kvstore.decode_endpoint(
                pair.key, pair.value, ip=key.name, cluster=cluster.name, cluster_id=cluster.id
            )


def _ways(membership: Membership) -> tuple[bool, bool, bool]:
    return membership.cached, membership.slices, membership.whole
