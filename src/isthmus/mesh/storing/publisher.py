"""From mesh events to the store, in the layout that KVStoreMesh has.

Our own cluster is written as `cilium/state`, every other as `cilium/cache`. Invariants: events only change what is
wanted and never wait for the store (`apply` is synchronous); what is found in the store and not wanted is removed only
once its cluster has been told in full, since until then absence proves nothing; a cluster that is not a member any more
is removed as a whole, its membership first. A fact that cannot be encoded is reported and treated as absent. Services
are written twice: slice by slice, and of our own cluster whole as well, for readers that know no slices, but not for
each change (`records`).
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

import msgspec
import structlog

from isthmus.aio.backoff import Backoff
from isthmus.mesh.storing.layout import RANKS, rank_of, rank_of_removal
from isthmus.mesh.storing.records import ServiceRecords
from isthmus.model.endpoint import Cluster
from isthmus.model.identity import Identity
from isthmus.model.mesh import (
    ClusterJoined,
    ClusterLeft,
    ClusterSeen,
    ClusterSynced,
    EndpointGone,
    EndpointTold,
    ExportGone,
    ExportTold,
    IdentityGone,
    IdentityTold,
    MeshEvent,
    NodeGone,
    NodeTold,
    SliceGone,
    SliceTold,
)
from isthmus.model.service import ServiceKey
from isthmus.model.sharing import SharedService, SharedSlice
from isthmus.store.contract import Put, Store
from isthmus.store.keeper import Keeper, KeeperState
from isthmus.store.ledger import Ledger
from isthmus.wire import kvstore
from isthmus.wire.kvstore import CodecError, Kind

RECORDS_PAUSE = 0.5
"""Seconds between two rounds of service records at least."""

RECORDS_RATE = 500_000
"""Bytes a second of records that change, on the average: etcd keeps ten minutes of history, and its size is bounded."""

RECORDS_DELAY = 0.05
"""Seconds that records wait after a change, so that its slice, which is small and for our own, is written ahead."""

RECORDS_PIECE = 50
"""Records that are made at a time: some ms of the loop, where they are of common size."""

_log = structlog.get_logger("isthmus.mesh.storing.publisher")


class _Member(msgspec.Struct):
    cluster: Cluster
    synced: bool = False


class Publisher:
    """Publishes what it is told. `own` is the name of the cluster that is published as `state`."""

    def __init__(
        self,
        store: Store,
        *,
        own: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        backoff: Backoff | None = None,
    ) -> None:
        self._own = own
        self._now = now
        self._members: dict[str, _Member] = {}
        self._retained: frozenset[str] | None = None
        self._records = ServiceRecords(own)
        self._records_due = asyncio.Event()
        self._refused: set[bytes] = set()
        self._ledger = Ledger(ranks=RANKS)
        self._keeper = Keeper(
            store,
            self._ledger,
            root=kvstore.ROOT,
            rank_of=rank_of,
            on_listed=self._sweep,
            pulse=self._pulse,
            backoff=backoff,
        )

    @property
    def pending(self) -> int:
        """How many keys wait to be written."""
        return self._ledger.pending

    @property
    def state(self) -> KeeperState:
        """Whether the store answers, and what went wrong so far."""
        return self._keeper.state

    async def serve(self) -> None:
        """Writes until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keeper.serve())
            tasks.create_task(self._write_records())

    async def settled(self) -> None:
        """Waits until all that was applied is stored."""
        self._make_records(self._records.take_due())
        self._keeper.wake()
        await self._keeper.settled()

    def doubt(self) -> None:
        """The store's server was restarted: looks whether it still holds what it held."""
        self._keeper.beat()

    def retain(self, clusters: Collection[str]) -> None:
        """Says which clusters there are by configuration: everything of any other is removed from the store."""
        self._retained = frozenset(clusters)
        for name in [name for name in self._members if name not in self._retained]:
            self._leave(name)
        self._sweep()
        self._keeper.wake()

    def apply(self, events: Sequence[MeshEvent]) -> None:
        """Takes events; returns at once."""
        for event in events:
            self._apply(event)
            self._records.take(event)
        if self._records.due:
            self._records_due.set()
        if events:
            self._keeper.wake()

    def _apply(self, event: MeshEvent) -> None:
        match event:
            case ClusterJoined(cluster):
                self._join(cluster)
            case ClusterLeft(name):
                self._leave(name)
            case ClusterSynced(name):
                self._synced(name)
            case IdentityTold(identity):
                cached = identity.cluster != self._own
                key = kvstore.identity_key(identity.cluster, identity.number, cached=cached)
                self._tell(key, identity.cluster, lambda _: kvstore.encode_identity(key, identity))
            case IdentityGone(cluster, number):
                self._gone(kvstore.identity_key(cluster, number, cached=cluster != self._own))
            case EndpointTold(endpoint):
                key = kvstore.endpoint_key(endpoint.cluster, endpoint.ip, cached=endpoint.cluster != self._own)
                self._tell(key, endpoint.cluster, lambda _: kvstore.encode_endpoint(endpoint))
            case EndpointGone(cluster, ip):
                self._gone(kvstore.endpoint_key(cluster, ip, cached=cluster != self._own))
            case NodeTold(node):
                key = kvstore.node_key(node.cluster, node.name, cached=node.cluster != self._own)
                self._tell(key, node.cluster, lambda of: kvstore.encode_node(key, node, cluster_id=of.id))
            case NodeGone(cluster, name):
                self._gone(kvstore.node_key(cluster, name, cached=cluster != self._own))
            case SliceTold(slice_):
                key = kvstore.object_key(Kind.SLICES, slice_.cluster, slice_.key, cached=slice_.cluster != self._own)
                self._tell(key, slice_.cluster, lambda of: kvstore.encode_slice(key, slice_, cluster_id=of.id))
            case SliceGone(cluster, place):
                self._gone(kvstore.object_key(Kind.SLICES, cluster, place, cached=cluster != self._own))
            case ExportTold(export):
                key = kvstore.object_key(Kind.EXPORTS, export.cluster, export.key, cached=export.cluster != self._own)
                self._tell(key, export.cluster, lambda _: kvstore.encode_export(key, export))
            case ExportGone(cluster, place):
                self._gone(kvstore.object_key(Kind.EXPORTS, cluster, place, cached=cluster != self._own))
            case ClusterSeen(name, None):
                self._gone(kvstore.seen_key(name))
            case ClusterSeen(name):
                key = kvstore.seen_key(name)
                self._tell(key, name, lambda _: kvstore.encode_seen(key, event))

    async def _write_records(self) -> None:
        """Makes service records as they come due, but so many bytes in a while only; cancelled with `serve`."""
        while True:
            await self._records_due.wait()
            await asyncio.sleep(RECORDS_DELAY)
            self._records_due.clear()
            # A piece is due until its turn: when the cluster is complete meanwhile, what is not made yet is made first.
            due, size = self._records.waiting(), 0
            for start in range(0, len(due), RECORDS_PIECE):
                size += self._make_records(self._records.take_due(due[start : start + RECORDS_PIECE]))
                self._keeper.wake()
                await asyncio.sleep(0)
            await asyncio.sleep(max(RECORDS_PAUSE, size / RECORDS_RATE))

    def _make_records(self, due: Sequence[ServiceKey]) -> int:
        """Brings these records up to date; returns how many bytes of them are new."""
        size = 0
        for place in due:
            key = kvstore.object_key(Kind.SERVICES, self._own, place, cached=False)
            content, before = self._records.content(place), self._ledger.wanted.get(key)
            if content is None:
                self._gone(key)
                continue
            service, slices = content
            self._tell_record(key, service, slices)
            after = self._ledger.wanted.get(key)
            size += len(after) if after is not None and after != before else 0
        return size

    def _tell_record(self, key: bytes, service: SharedService, slices: Sequence[SharedSlice]) -> None:
        self._tell(key, service.cluster, lambda of: kvstore.encode_service(key, service, slices, cluster_id=of.id))

    def _tell(self, key: bytes, cluster: str, encode: Callable[[Cluster], bytes]) -> None:
        member = self._members.get(cluster)
        if member is None:
            _log.error("fact of a cluster that is no member is left out", cluster=cluster, key=key.decode())
            return
        try:
            # What an object is called follows from what a cluster says: no key that readers refuse is written.
            kvstore.parse_key(key)
            value = encode(member.cluster)
        except CodecError as error:
            if key not in self._refused:
                self._refused.add(key)
                _log.error("fact cannot be published", key=error.key, field=error.field, reason=error.reason)
            self._unwant(key)
            return
        self._refused.discard(key)
        self._ledger.want(key, value, rank=rank_of(key))

    def _gone(self, key: bytes) -> None:
        self._refused.discard(key)
        self._unwant(key)

    def _unwant(self, key: bytes) -> None:
        self._ledger.unwant(key, rank=rank_of_removal(key))

    def _join(self, cluster: Cluster) -> None:
        known = self._members.get(cluster.name)
        if known is not None and known.cluster.id != cluster.id:
            # Every number of it is another now: nothing that was written may stay.
            self._leave(cluster.name)
            known = None
        if known is None:
            self._members[cluster.name] = _Member(cluster)
        else:
            known.cluster = cluster
        own = cluster.name == self._own
        membership = kvstore.Membership(cluster, cached=not own, slices=True, services=own, exports=True, whole=True)
        key = kvstore.config_key(cluster.name)
        try:
            value = kvstore.encode_membership(membership)
        except CodecError as error:
            # A cluster whose properties nobody can read is a member all the same.
            _log.error("properties cannot be published", key=error.key, field=error.field, reason=error.reason)
            plain = msgspec.structs.replace(membership, cluster=msgspec.structs.replace(cluster, properties={}))
            value = kvstore.encode_membership(plain)
        self._ledger.want(key, value, rank=rank_of(key))

    def _leave(self, name: str) -> None:
        self._members.pop(name, None)
        # Readers believe a removal only of a writer that they heard of late, so a heartbeat goes ahead.
        self._keeper.beat()
        cached = name != self._own
        self._gone(kvstore.config_key(name))
        if name == self._own:
            self._records.clear()
        marks = [kvstore.synced_key(name, kind, cached=c) for kind in Kind for c in (False, True)]
        marks += [kvstore.whole_key(name), kvstore.seen_key(name)]
        prefixes = kvstore.prefixes_of(name, cached=cached)
        self._refused = {key for key in self._refused if not key.startswith(prefixes)}
        for key in (*marks, *self._ledger.keys(prefixes)):
            self._gone(key)

    def _synced(self, name: str) -> None:
        member = self._members.get(name)
        if member is None:
            return
        member.synced = True
        if name == self._own:
            # What is due is not there yet, and would be taken for left over.
            self._make_records(self._records.take_due())
        self._sweep()
        marks = [kvstore.synced_key(name, kind, cached=name != self._own) for kind in Kind]
        for key in (*marks, kvstore.whole_key(name)):
            if key not in self._ledger.wanted:
                self._ledger.want(key, kvstore.encode_time(self._now()), rank=rank_of(key))

    def _sweep(self) -> None:
        """Removes what the store holds and nobody wants, where that is certain."""
        for key in [key for key in self._ledger.stored if key not in self._ledger.wanted]:
            if self._is_leftover(key):
                self._gone(key)

    def _is_leftover(self, key: bytes) -> bool:
        try:
            parsed = kvstore.parse_key(key)
        except CodecError:
            # Not ours, or not whole: readers report it, and we do not touch what we do not understand.
            return False
        match parsed:
            case (
                kvstore.ConfigKey(cluster)
                | kvstore.SyncedKey(cluster=cluster)
                | kvstore.SeenKey(cluster)
                | kvstore.WholeKey(cluster)
            ):
                return self._is_foreign(cluster) or self._is_complete(cluster)
            case kvstore.DataKey(cluster=cluster, cached=cached):
                owner = cluster or self._own
                if cached == (owner == self._own):
                    # Under the wrong roof: written when another cluster was our own.
                    return self._retained is not None
                return self._is_foreign(owner) or self._is_complete(owner)
        return False

    def _is_foreign(self, cluster: str) -> bool:
        return self._retained is not None and cluster not in self._retained

    def _is_complete(self, cluster: str) -> bool:
        member = self._members.get(cluster)
        return member is not None and member.synced

    def _pulse(self) -> Put:
        return Put(kvstore.HEARTBEAT, kvstore.encode_time(self._now()))


async def load_properties(store: Store) -> dict[str, dict[str, str]]:
    """Reads the properties of every cluster that has any in a store, by name; what cannot be read is left out."""
    found: dict[str, dict[str, str]] = {}
    async for page in store.pages(kvstore.CONFIGS):
        for pair in page.pairs:
            try:
                key = kvstore.parse_key(pair.key)
                if isinstance(key, kvstore.ConfigKey):
                    cluster = kvstore.decode_membership(pair.key, pair.value, cluster=key.cluster).cluster
                    if cluster.properties:
                        found[cluster.name] = cluster.properties
            except CodecError:
                continue
    return found


async def load_identities(
    store: Store, *, own: Cluster, on_report: Callable[[str, str], None] | None = None
) -> dict[str, tuple[Identity, ...]]:
    """Reads the identities of every cluster in a store, so that their numbers can be given again after a restart.

    `own` names the cluster published as `state`. What cannot be read is told to `on_report(key, reason)` and left out.
    """
    report = on_report or (lambda _key, _reason: None)
    ids = {own.name: own.id}
    async for page in store.pages(kvstore.CONFIGS):
        for pair in page.pairs:
            try:
                key = kvstore.parse_key(pair.key)
                if isinstance(key, kvstore.ConfigKey) and key.cluster != own.name:
                    membership = kvstore.decode_membership(pair.key, pair.value, cluster=key.cluster)
                    ids[key.cluster] = membership.cluster.id
            except CodecError as error:
                report(error.key, error.reason)
    found: dict[str, list[Identity]] = {}
    for place in (kvstore.STATE, kvstore.CACHE):
        async for page in store.pages(place + Kind.IDENTITIES.value.encode() + b"/"):
            for pair in page.pairs:
                try:
                    identity = _identity(pair.key, pair.value, own=own.name, ids=ids)
                except CodecError as error:
                    report(error.key, error.reason)
                    continue
                if identity is not None:
                    found.setdefault(identity.cluster, []).append(identity)
    return {cluster: tuple(identities) for cluster, identities in found.items()}


def _identity(key: bytes, value: bytes, *, own: str, ids: dict[str, int]) -> Identity | None:
    parsed = kvstore.parse_key(key)
    if not isinstance(parsed, kvstore.DataKey):
        return None
    cluster = parsed.cluster or own
    if cluster not in ids:
        raise CodecError(key, "cluster", f"{cluster} has no membership record")
    return kvstore.decode_identity(key, value, number=int(parsed.name), cluster=cluster, cluster_id=ids[cluster])
