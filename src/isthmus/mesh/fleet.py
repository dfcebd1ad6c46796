"""Many clusters as one stream of mesh events, while clusters come and go.

A source per configured cluster; what they tell is put together here. Invariants: a cluster that cannot be reached, or
whose source fails, is degraded and keeps all that was told of it; only a cluster that is no longer configured leaves,
with one `ClusterLeft`. A source that starts again (new credentials, a fault) is compared with what was told before and
is silent until it has told everything, so a rejoin is a difference and never an empty moment: identities keep their
numbers, and the cluster its properties. An address that two clusters claim is told for one of them (`overlap`). Since
when a source fails is told as well (`freshness`). What waits for the consumer is bounded; a slow consumer slows the
watches.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import Protocol

import msgspec
import structlog

from isthmus.aio.backoff import Backoff
from isthmus.kube.client import Client
from isthmus.kube.errors import Forbidden, KubeError, NotFound
from isthmus.kube.kubeconfig import load
from isthmus.kube.resources import CLUSTER_PROPERTIES, NAMESPACES, POLICY_KINDS, SERVICE_EXPORTS
from isthmus.kube.schema import Namespace
from isthmus.mesh.clusters import ClusterSpec
from isthmus.mesh.overlap import Overlaps
from isthmus.mesh.source.freshness import Freshness
from isthmus.mesh.source.kubernetes import KubernetesSource, PolicyTaker, SourceHealth
from isthmus.mesh.source.selection import SelectedKeys
from isthmus.mesh.storing.mirror import Mirror
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
    ServiceGone,
    ServiceTold,
    SliceGone,
    SliceTold,
)

MAX_BATCHES = 16
"""Batches of all sources that wait for the consumer, each of at most some 4,000 events."""

LOOK = 2.0
"""Seconds between two looks at how the sources are."""

# Worded as kube-ip-tracker's, for those who search logs for them.
CONFIGURED = "New cluster configured: {}. Starting watcher."
CONNECTED = "Successfully connected to cluster {} (UID: {}). Starting informers..."
FAILED = "Failed to connect to cluster {}"
REMOVED = "Cluster no longer configured: {}. Stopping watcher."
STOPPED = "Watcher for cluster {} has stopped."
OVERLAP = "Clusters overlap"

_ASIDE = frozenset(map(str, (*POLICY_KINDS, SERVICE_EXPORTS, CLUSTER_PROPERTIES)))
"""Policies only refine identities, and exports and properties say nothing of backends: those are as fresh without."""

_log = structlog.get_logger("isthmus.mesh.fleet")


class Source(Protocol):
    """What a fleet needs of a source (`mesh.source.kubernetes.KubernetesSource`)."""

    @property
    def health(self) -> SourceHealth:
        """How it is now."""

    def events(self) -> AsyncGenerator[Sequence[MeshEvent], None]:
        """Batches for ever."""


Connect = Callable[[ClusterSpec, Mapping[int, Identity]], AbstractAsyncContextManager[Source]]
"""Opens a source for a cluster, with the identities that were told of it before."""


class ClusterStatus(msgspec.Struct, frozen=True):
    """How a cluster of the fleet is. `state` is syncing, synced or degraded; `reason` says why it is not synced."""

    cluster: Cluster
    state: str
    reason: str
    nodes: int
    identities: int
    endpoints: int
    last_synced: float | None
    """When everything had been told last, in seconds of the loop's clock."""
    services: int = 0


class _Slot:
    """A configured cluster: its source's task, and all that was told of it."""

    def __init__(self, spec: ClusterSpec, adopt: Mapping[int, Identity]) -> None:
        self.spec = spec
        self.told_properties: dict[str, str] = {}
        self.properties: dict[str, str] = {}
        """What the present run of the source says; it counts once that has told everything."""
        self.complete = False
        """Whether the present run of the source has told everything."""
        self.adopt = dict(adopt)
        self.mirror = Mirror(spec.cluster.name)
        self.task: asyncio.Task[None] | None = None
        self.source: Source | None = None
        self.error = ""
        self.run = 0
        """Counts the starts of its source; batches of an earlier one are void."""
        self.told = False
        """Whether everything was told at least once."""
        self.resyncing = False
        self.last_synced: float | None = None


class Fleet:
    """The configured clusters.

    `adopt` holds the identities of an earlier life, by cluster name, `properties` the clusters' properties, and `seen`
    what it told of failing sources; `clock` gives Unix seconds.
    """

    def __init__(
        self,
        *,
        connect: Connect | None = None,
        adopt: Mapping[str, Mapping[int, Identity]] | None = None,
        properties: Mapping[str, dict[str, str]] | None = None,
        seen: tuple[ClusterSeen, ...] = (),
        clock: Callable[[], float] = time.time,
        backoff: Callable[[], Backoff] = lambda: Backoff(base=0.5, cap=5.0),
    ) -> None:
        self._connect = connect or kubernetes_sources()
        self._adopt = dict(adopt or {})
        self._properties = dict(properties or {})
        self._backoff = backoff
        self._slots: dict[str, _Slot] = {}
        self._queue: asyncio.Queue[tuple[_Slot, int, Sequence[MeshEvent]] | None] = asyncio.Queue(MAX_BATCHES)
        self._announced: list[MeshEvent] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._overlaps = Overlaps()
        self._freshness = Freshness(seen)
        self._clock = clock

    def configure(self, specs: Sequence[ClusterSpec]) -> None:
        """Makes the fleet what `specs` say (names and IDs are unique); starts and stops sources. Never blocks."""
        wanted = {spec.cluster.name: spec for spec in specs}
        for name, slot in list(self._slots.items()):
            spec = wanted.get(name)
            if spec is None or spec.cluster != slot.spec.cluster:
                _log.info(REMOVED.format(name), cluster=name)
                self._remove(name)
            elif spec != slot.spec:
                _log.info("Access to cluster changed; starting its watcher again", cluster=name)
                slot.spec = spec
                self._stop(slot)
                self._start(slot)
        for name, spec in wanted.items():
            if name not in self._slots:
                _log.info(CONFIGURED.format(name), cluster=name, id=spec.cluster.id)
                slot = self._slots[name] = _Slot(spec, self._adopt.pop(name, {}))
                slot.told_properties = self._properties.pop(name, {})
                self._announced.append(_joined(slot))
                self._start(slot)
        self._wake()

    def status(self) -> tuple[ClusterStatus, ...]:
        """How each cluster is; safe to call from another thread."""
        return tuple(_status(slot) for slot in list(self._slots.values()))

    @property
    def withheld(self) -> int:
        """How many addresses are withheld because another cluster has them."""
        return self._overlaps.withheld

    async def events(self) -> AsyncGenerator[Sequence[MeshEvent], None]:
        """Yields batches for ever; to be iterated once. Stops every source when it is closed."""
        try:
            loop = asyncio.get_running_loop()
            looked = loop.time()
            while True:
                item = await self._next(looked + LOOK)
                if loop.time() >= looked + LOOK:
                    looked = loop.time()
                    self._look()
                events, self._announced = self._announced, []
                if item is not None:
                    slot, run, batch = item
                    if self._slots.get(slot.spec.cluster.name) is slot and slot.run == run:
                        events += self._take(slot, batch)
                passed = self._overlaps.apply(events)
                for report in self._overlaps.reports():
                    _log.error(OVERLAP, **msgspec.structs.asdict(report))
                if passed:
                    yield passed
        finally:
            for slot in self._slots.values():
                self._stop(slot)
            await asyncio.gather(*self._ending, return_exceptions=True)

    async def _next(self, until: float) -> tuple[_Slot, int, Sequence[MeshEvent]] | None:
        """Returns the next batch, or None at the loop's time `until` or if there is something else to do."""
        try:
            async with asyncio.timeout_at(until):
                return await self._queue.get()
        except TimeoutError:
            return None

    def _look(self) -> None:
        """Announces which sources have begun to fail, or work again."""
        for name, slot in self._slots.items():
            seen = self._freshness.look(name, _trouble(slot), now=self._clock())
            if seen is not None:
                self._announced.append(seen)

    def _take(self, slot: _Slot, batch: Sequence[MeshEvent]) -> list[MeshEvent]:
        """Brings the mirror of a cluster up to date; returns what to tell of it."""
        mirror = slot.mirror
        synced = False
        for event in batch:
            match event:
                case ClusterJoined(cluster):
                    slot.properties = cluster.properties
                case NodeTold(fact) | IdentityTold(fact) | EndpointTold(fact):
                    mirror.put(fact)
                case ServiceTold(fact) | SliceTold(fact) | ExportTold(fact):
                    mirror.put(fact)
                case ServiceGone(_, key):
                    mirror.drop_service(key)
                case SliceGone(_, key):
                    mirror.drop_slice(key)
                case ExportGone(_, key):
                    mirror.drop_export(key)
                case NodeGone(_, key):
                    mirror.drop_node(key)
                case IdentityGone(_, number):
                    mirror.drop_identity(number)
                case EndpointGone(_, key):
                    mirror.drop_endpoint(key)
                case ClusterSynced():
                    synced = True
        if slot.resyncing and not synced:
            return []
        slot.resyncing = False
        slot.complete = slot.complete or synced
        events: list[MeshEvent] = []
        if slot.complete and slot.properties != slot.told_properties:
            slot.told_properties = slot.properties
            events.append(_joined(slot))
        events += mirror.tell()
        if synced:
            slot.told = True
            slot.last_synced = asyncio.get_running_loop().time()
            events.append(ClusterSynced(slot.spec.cluster.name))
        return events

    def _start(self, slot: _Slot) -> None:
        slot.task = asyncio.create_task(self._run(slot), name=f"cluster {slot.spec.cluster.name}")

    def _stop(self, slot: _Slot) -> None:
        slot.run += 1
        task, slot.task = slot.task, None
        if task is None:
            return
        name = slot.spec.cluster.name
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        task.add_done_callback(lambda _: _log.info(STOPPED.format(name), cluster=name))
        task.cancel()

    def _remove(self, name: str) -> None:
        self._stop(self._slots.pop(name))
        self._freshness.forget(name)
        self._announced.append(ClusterLeft(name))

    def _wake(self) -> None:
        # A full queue wakes the consumer anyway.
        with suppress(asyncio.QueueFull):
            self._queue.put_nowait(None)

    async def _run(self, slot: _Slot) -> None:
        """One cluster, for ever: connects, passes on what its source tells, and starts again when that fails."""
        delays = self._backoff()
        while True:
            slot.run += 1
            run = slot.run
            # From here on the mirror holds what this run says; what was told stays told until it is complete.
            slot.mirror.clear()
            slot.complete = False
            slot.resyncing = any((*slot.mirror.counts, slot.mirror.services))
            adopt = slot.mirror.identities() or slot.adopt
            try:
                async with self._connect(slot.spec, adopt) as source:
                    slot.source, slot.error = source, ""
                    async with aclosing(source.events()) as batches:
                        async for batch in batches:
                            await self._queue.put((slot, run, batch))
                            delays.reset()
                raise RuntimeError("the source ended")
            except Exception as error:
                # Whatever it is, one cluster must not take the others down; it is said, and tried again.
                delay = delays.next()
                reason = f"{type(error).__name__}: {error}" if not isinstance(error, KubeError) else str(error)
                if slot.error != reason:
                    name = slot.spec.cluster.name
                    _log.warning(FAILED.format(name), cluster=name, error=reason, retry_seconds=round(delay, 1))
                slot.source, slot.error = None, reason
                await asyncio.sleep(delay)


def kubernetes_sources(own: str = "", policies: PolicyTaker | None = None) -> Connect:
    """Returns how to open API servers as sources that know of each other's policies; `policies` is told of `own`'s."""
    selection = SelectedKeys()

    @asynccontextmanager
    async def connect(spec: ClusterSpec, adopt: Mapping[int, Identity]) -> AsyncGenerator[Source, None]:
        # Files and, for plugins, nothing yet: but a network file system may be slow.
        access = spec.access
        if access is None:
            access = await asyncio.to_thread(load, spec.kubeconfig, context=spec.context)
        async with Client(access) as client:
            name = spec.cluster.name
            _log.info(CONNECTED.format(name, await _uid(client)), cluster=name, server=access.server)
            yield KubernetesSource(
                client,
                spec.cluster,
                adopt=adopt,
                selection=selection,
                policies=policies if name == own else None,
            )

    return connect


async def _uid(client: Client) -> str:
    """The UID of a cluster's kube-system namespace, by which people know a cluster; "unknown" if we may not see it."""
    try:
        return (await client.get(NAMESPACES, "kube-system", type=Namespace)).metadata.uid or "unknown"
    except (Forbidden, NotFound):
        return "unknown"


def _joined(slot: _Slot) -> ClusterJoined:
    return ClusterJoined(msgspec.structs.replace(slot.spec.cluster, properties=slot.told_properties))


def _trouble(slot: _Slot) -> str | None:
    """Why what is told of a cluster may be old; None if it is not, or only policies or exports cannot be watched."""
    if slot.source is None:
        return slot.error or "connecting"
    trouble = {resource: text for resource, text in slot.source.health.trouble.items() if resource not in _ASIDE}
    if trouble:
        return "; ".join(f"{resource}: {text}" for resource, text in sorted(trouble.items()))
    if slot.resyncing or not slot.told:
        return slot.source.health.reason or "not everything has been told yet"
    return None


def _status(slot: _Slot) -> ClusterStatus:
    nodes, identities, endpoints = slot.mirror.counts
    source = slot.source
    health = source.health if source is not None else None
    if health is None:
        state, reason = ("degraded", slot.error) if slot.error else ("syncing", "connecting")
    elif health.trouble:
        state = "degraded"
        reason = "; ".join(f"{resource}: {text}" for resource, text in sorted(health.trouble.items()))
    elif slot.resyncing or not slot.told:
        state, reason = "syncing", health.reason or "not everything has been told yet"
    else:
        state, reason = "synced", ""
    return ClusterStatus(
        slot.spec.cluster, state, reason, nodes, identities, endpoints, slot.last_synced, slot.mirror.services
    )
