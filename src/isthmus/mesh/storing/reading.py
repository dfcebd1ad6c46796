"""What a store says about clusters, and how far to believe it: decisions only.

A fact counts when its cluster is a member (`cluster-config`) and every kind we read is complete (`synced` marks, or one
mark of our own for all of them, where the writer has it): until then nothing is told of the cluster, not even that
something is gone. Nor is anything told while the writer is silent, which it is `HEARTBEAT_LIMIT` seconds after its last
heartbeat (or after the first listing). So a store that was replaced and fills up again, or one whose keys run out with
the leases of a writer that died, changes nothing until it is whole and alive again, and then only what differs.

A cluster leaves when its membership is deleted by a living writer: the heartbeat was heard within `HEARTBEAT_LIMIT`. If
the membership is missing for another reason (a listing lacks it, or its lease ran out), the cluster is kept for `GRACE`
seconds of living heartbeat. The same rule for values: one that cannot be decoded is reported and counts as absent, so
an address is outside the mesh (policies fail closed); an unreadable membership keeps the last good one. Properties of a
cluster are part of its membership, and what changes of them is told by the same rule as any other fact.
Of Services, slices are read of members that write them, and records of whole services of the others, never both.
Rejected: Cilium's rule for marks, which ignores their deletion once seen; ours holds instead, since a mark that is gone
means that the writer's leases ran out or that the cluster is being removed.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from isthmus.mesh.storing.member import Member, cost_of
from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterJoined, ClusterLeft, ClusterSynced, MeshEvent
from isthmus.store.contract import Event, KeyValue, Removed
from isthmus.wire import kvstore
from isthmus.wire.kvstore import (
    CodecError,
    ConfigKey,
    DataKey,
    HeartbeatKey,
    Membership,
    SeenKey,
    SyncedKey,
    WholeKey,
)

HEARTBEAT_LIMIT = 120.0
"""Seconds without a heartbeat after which its writer counts as gone: two beats, as Cilium has it."""

PIECE = 1000
"""What a listing costs at a time, in pairs of an address: some 10 ms of the loop."""

GRACE = 180.0
"""Seconds that a cluster without a membership is kept: KVStoreMesh's own delay before it removes data."""


class ClusterHealth(msgspec.Struct, frozen=True):
    """A member as its reader sees it; `waiting` is why nothing new is told of it, empty when all is well."""

    cluster: Cluster
    waiting: str
    nodes: int
    identities: int
    endpoints: int
    services: int = 0


class Reading:
    """Turns listings and changes of a store into mesh events. `now` is in seconds of any steady clock."""

    def __init__(self, *, on_report: Callable[[str, str], None]) -> None:
        self._members: dict[str, Member] = {}
        self._on_report = on_report
        self._bad: dict[bytes, str] = {}
        self._heard: float | None = None
        self._heartbeat = b""
        self._quiet_from: float | None = None
        self._orphans = False
        self._refused: set[str] = set()
        self._partial = False
        self.relist = False
        """Set when facts were passed over that count now: the store must be listed again."""

    @property
    def bad(self) -> int:
        """How many keys hold something that cannot be read."""
        return len(self._bad)

    def heartbeat_age(self, now: float) -> float | None:
        """Seconds since the last heartbeat, or since a listing first had one; None if there never was one."""
        return None if self._quiet_from is None else now - self._quiet_from

    def clusters(self) -> tuple[ClusterHealth, ...]:
        """How each member is."""
        return tuple(
            ClusterHealth(
                member.membership.cluster, member.waiting, *member.mirror.counts, services=member.mirror.services
            )
            for member in self._members.values()
        )

    @property
    def wants_all(self) -> bool:
        """Whether what our own writers write for others alone must be read, because of a member that is not ours."""
        return any(not member.membership.whole for member in self._members.values())

    def snapshot(self, pairs: Sequence[KeyValue], *, now: float) -> list[MeshEvent]:
        """Takes a listing of everything."""
        return [event for events in self.pieces(pairs, now=now) for event in events]

    def pieces(self, pairs: Sequence[KeyValue], *, now: float, partial: bool = False) -> Iterator[list[MeshEvent]]:
        """Takes a listing as `snapshot` does, but stops every few milliseconds with an empty list.

        `partial` says that only what lies before `kvstore.FOR_OTHERS` is listed, and told from now on. Must be run to
        its end before anything else is taken; only the last list holds events.
        """
        self.relist = False
        self._partial = partial
        self._orphans = False
        self._refused.clear()
        bad, self._bad = self._bad, {}
        for member in self._members.values():
            member.clear()
        events: list[MeshEvent] = []
        # Membership first: nothing else can be read without it.
        ordered = sorted(pairs, key=lambda pair: not pair.key.startswith(kvstore.CONFIGS))
        cost = 0
        for pair in ordered:
            cost += cost_of(pair)
            if cost >= PIECE:
                cost = 0
                yield []
            if pair.key == kvstore.HEARTBEAT:
                # An old heartbeat may lie in a store for ever: only a new one is a sign of life.
                if self._heartbeat and pair.value != self._heartbeat:
                    self._heard = self._quiet_from = now
                self._heartbeat = pair.value
                if self._quiet_from is None:
                    self._quiet_from = now
                continue
            self._take(pair, events, now=now, known=bad)
        for member in self._members.values():
            if not member.present and member.missing_since is None:
                member.missing_since = now
        # All memberships were read, so whatever had none is simply not of a member.
        self._orphans, self.relist = False, False
        yield self._finish(events, now=now)

    def changes(self, changed: Sequence[Event], *, now: float) -> list[MeshEvent]:
        """Takes changes in the order in which they happened; an empty sequence lets time pass."""
        events: list[MeshEvent] = []
        for event in changed:
            if event.key == kvstore.HEARTBEAT:
                if isinstance(event, KeyValue):
                    self._heartbeat = event.value
                    self._heard = self._quiet_from = now
                continue
            self._take(event, events, now=now, known={})
        return self._finish(events, now=now)

    def _finish(self, events: list[MeshEvent], *, now: float) -> list[MeshEvent]:
        if self._members and self._partial == self.wants_all:
            self.relist = True
        alive = self._alive(now)
        # A store that never had a heartbeat has no writer that could fall silent.
        silent = self._quiet_from is not None and now - self._quiet_from > HEARTBEAT_LIMIT
        for name, member in list(self._members.items()):
            if member.missing_since is not None:
                if not alive:
                    member.missing_since = now
                elif now - member.missing_since >= GRACE:
                    self._leave(name, events)
                    continue
            if not member.complete:
                member.synced = False
                continue
            if silent:
                continue
            if member.told != member.membership.cluster:
                member.told = member.membership.cluster
                events.append(ClusterJoined(member.told))
            events.extend(member.mirror.tell())
            if not member.synced:
                member.synced = True
                events.append(ClusterSynced(name))
        return events

    def _take(self, event: Event, events: list[MeshEvent], *, now: float, known: dict[bytes, str]) -> None:
        try:
            key = kvstore.parse_key(event.key)
            self._bad.pop(event.key, None)
            match key:
                case ConfigKey(cluster):
                    self._config(cluster, event, events, now=now)
                case SyncedKey():
                    self._mark(key, present=isinstance(event, KeyValue))
                case WholeKey():
                    self._whole(key, present=isinstance(event, KeyValue))
                case SeenKey():
                    self._seen(key, event)
                case DataKey():
                    self._data(key, event)
                case HeartbeatKey() | None:
                    return
        except CodecError as error:
            if isinstance(event, Removed):
                self._bad.pop(event.key, None)
                return
            reason = f"{error.field}: {error.reason}" if error.field else error.reason
            self._bad[event.key] = reason
            if known.get(event.key) != reason:
                self._on_report(error.key, reason)

    def _config(self, name: str, event: Event, events: list[MeshEvent], *, now: float) -> None:
        member = self._members.get(name)
        if isinstance(event, Removed):
            self._refused.discard(name)
            if member is None:
                return
            member.present = False
            if self._alive(now):
                self._leave(name, events)
            else:
                member.missing_since = now
            return
        returned = member is not None and not member.present
        if member is not None:
            # Even if it cannot be read: the cluster has not been removed.
            member.present, member.missing_since = True, None
        membership = kvstore.decode_membership(event.key, event.value, cluster=name)
        fault = self._conflict(membership)
        if fault is not None:
            self._refused.add(name)
            raise CodecError(event.key, "id", fault)
        self._refused.discard(name)
        if member is None or member.membership.cluster.id != membership.cluster.id:
            if member is not None:
                # With another ID every number is another: nothing that was told holds any more.
                events.append(ClusterLeft(name))
            self._members[name] = Member(membership)
            events.append(ClusterJoined(membership.cluster))
            self.relist = self.relist or self._orphans or member is not None
            return
        if not member.is_written_as(membership) or (returned and self._orphans):
            self.relist = True
        member.membership = membership

    def _leave(self, name: str, events: list[MeshEvent]) -> None:
        del self._members[name]
        events.append(ClusterLeft(name))
        # A cluster that was refused because of this one may be a member now.
        self.relist = self.relist or bool(self._refused)

    def _conflict(self, membership: Membership) -> str | None:
        for name, member in self._members.items():
            if name == membership.cluster.name:
                continue
            if member.membership.cluster.id == membership.cluster.id:
                return f"{membership.cluster.id} is already the ID of cluster {name}"
            if member.present and not (member.membership.cached or membership.cached):
                return f"cluster {name} already is the one that this store serves as its own"
        return None

    def _mark(self, key: SyncedKey, *, present: bool) -> None:
        member = self._members.get(key.cluster)
        if member is None:
            self._orphans = True
        elif member.membership.cached == key.cached:
            if present:
                member.marks.add(key.kind)
            else:
                member.marks.discard(key.kind)

    def _whole(self, key: WholeKey, *, present: bool) -> None:
        member = self._members.get(key.cluster)
        if member is None:
            self._orphans = True
        else:
            member.whole = present

    def _seen(self, key: SeenKey, event: Event) -> None:
        member = self._members.get(key.cluster)
        if member is None:
            self._orphans = True
        else:
            member.take_seen(event)

    def _data(self, key: DataKey, event: Event) -> None:
        member = self._owner(key)
        if member is None:
            self._orphans = True
        else:
            member.take(key, event)

    def _owner(self, key: DataKey) -> Member | None:
        """The member that the fact belongs to; facts of our own cluster must not come from its mirror, or reversed."""
        if key.cluster:
            member = self._members.get(key.cluster)
            return member if member is not None and member.membership.cached == key.cached else None
        own = [member for member in self._members.values() if not member.membership.cached]
        return max(own, key=lambda member: member.present, default=None)

    def _alive(self, now: float) -> bool:
        return self._heard is not None and now - self._heard <= HEARTBEAT_LIMIT
