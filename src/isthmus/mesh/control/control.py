"""The tracker's writer of MeshClusters, GlobalServices and mirrored EndpointSlices of its own cluster.

Watches what it needs of that cluster, puts it beside what is told of all clusters (`world`), and works on what changed,
one object at a time: a plan is made of what is known at that moment, and done. Invariants: nothing is planned before
all watches that it needs have given their first state, and all clusters have told everything or had time to; a kind
that the server does not have stops only what is written of that kind; an object is written at most once in a REST,
and the first change after a quiet time at once. Rejected: planning all objects in a period, which is slow to notice and
busy for nothing.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, NamedTuple

import structlog

from isthmus.aio.backoff import Backoff
from isthmus.aio.pace import Pace
from isthmus.kube.client import Client
from isthmus.kube.events import EventRecorder
from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.meshobjects import MeshCluster
from isthmus.kube.reflector import Change, Degraded, Healthy, Put, Snapshot, State, follow
from isthmus.kube.resources import ENDPOINT_SLICES, GLOBAL_SERVICES, MESH_CLUSTERS, NAMESPACES, SERVICES, Resource
from isthmus.kube.schema import Namespace, Service
from isthmus.mesh.control import clusters, global_services, mirrored
from isthmus.mesh.control.effects import Effect
from isthmus.mesh.control.metrics import ControlMetrics
from isthmus.mesh.control.objects import StoredGlobalService, StoredSlice
from isthmus.mesh.control.performing import Hands
from isthmus.mesh.control.world import Key, Member, World
from isthmus.model.mesh import MeshEvent

LOOK = 1.0
"""Seconds between looks at how the clusters are, and at what is left of drains."""

REST = 1.0
"""Seconds between two writes of one object."""

SLICE_REST = 0.2
"""The same for EndpointSlices, which connections wait for."""

COUNT_RESTS = 5
"""RESTs for which a MeshCluster waits where nothing but numbers changed."""

MEASURE = 5
"""LOOKs between two settings of the gauges."""

SETTLING = 30.0
"""Seconds after the start for which Services wait for clusters that have not told everything yet."""

STALENESS = 600.0
"""Seconds after which a cluster whose source fails is stale; as the agents' default."""

PROBLEM = "service has bad annotations"
MENDED = "service is well again"

_TYPES: dict[Resource, type[Any]] = {
    MESH_CLUSTERS: MeshCluster,
    GLOBAL_SERVICES: StoredGlobalService,
    ENDPOINT_SLICES: StoredSlice,
}
_NEEDED = (SERVICES, NAMESPACES, ENDPOINT_SLICES)

_log = structlog.get_logger("isthmus.mesh.control")


class Set(NamedTuple):
    """The clusters of the set, and whether those are all; `kept` are others that may be members, and why."""

    members: tuple[Member, ...] = ()
    known: bool = False
    kept: Mapping[str, str] = MappingProxyType({})


class Control:
    """A writer of the own cluster (`session.Writer`); `clusters` says how the clusters are, `mode` is a mode of
    `mirrored`, `staleness` in seconds (0: never)."""

    def __init__(
        self,
        own: str,
        *,
        clusters: Callable[[], Set],
        mode: str = mirrored.HEADLESS_ONLY,
        metrics: ControlMetrics | None = None,
        staleness: float = STALENESS,
        settling: float = SETTLING,
        rest: float = REST,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.world = World(own)
        self._clusters = clusters
        self._mode = mode
        self._metrics = metrics
        self._staleness = staleness
        self._settling = settling
        self.rest = rest
        self._clock = clock
        self._session: _Session | None = None
        self._began: float | None = None
        self._told: dict[Key, str] = {}
        """What was said last of Services with bad annotations."""

    def apply(self, events: Sequence[MeshEvent]) -> None:
        """Takes a batch of what is told of all clusters."""
        self.world.tell(events)
        if self._session is not None:
            self._session.kick()

    async def serve(self, client: Client, recorder: EventRecorder) -> None:
        """Writes until cancelled."""
        if self._began is None:
            self._began = asyncio.get_running_loop().time()
        session = self._session = _Session(self, client, recorder)
        self.world.touch_all()
        try:
            await session.serve()
        finally:
            self._session = None

    @property
    def settled(self) -> bool:
        """Whether every cluster has told everything, or had time to."""
        world = self.world
        if world.members_known and world.heard >= set(world.members):
            return True
        return self._began is not None and asyncio.get_running_loop().time() - self._began >= self._settling

    def look(self) -> None:
        """Takes how the clusters are now."""
        now = self._clock()
        found = self._clusters()
        self.world.kept = found.kept
        self.world.observe(found.members, known=found.known, now=now, patience=self._staleness)

    def judge(self, key: Key, recorder: EventRecorder) -> None:
        """Says what is wrong with a Service's annotations, once for each fault."""
        service = self.world.services.get(key)
        found = global_services.problems_told(service)
        text = found[1] if found is not None else ""
        if text == self._told.get(key, ""):
            return
        if found is None:
            del self._told[key]
            _log.info(MENDED, name="/".join(key))
            return
        self._told[key] = text
        stored = self.world.global_services.get(key)
        known = {condition.message for condition in stored.status.conditions} if stored is not None else set()
        if not any(message.startswith(text[: global_services.HALF]) for message in known):
            # An earlier life of ours said it, and the status still does.
            recorder.emit(found[0], reason=global_services.INVALID_EVENT, message=text)
            _log.warning(PROBLEM, name="/".join(key), problems=text)

    def plan_cluster(self, key: Key) -> list[Effect]:
        """Returns what to do about a MeshCluster."""
        return clusters.plan(self.world, key[1], now=self._clock())

    def plan_service(self, key: Key) -> list[Effect]:
        """Returns what to do about a GlobalService."""
        return global_services.plan(
            self.world,
            key,
            now=self._clock(),
            enabled=self._mode != mirrored.OFF,
            slices=self._mode == mirrored.ALL,
        )

    def plan_slices(self, key: Key) -> list[Effect]:
        """Returns what to do about the EndpointSlices of a Service."""
        return mirrored.plan(self.world, key, mode=self._mode)

    def measure(self, waiting: int) -> None:
        """Sets the gauges."""
        if self._metrics is None:
            return
        world, metrics = self.world, self._metrics
        statuses = [stored.status for stored in world.global_services.values()]
        metrics.global_services.set(len(statuses))
        metrics.conflicts.set(sum(global_services.conflicting(status) for status in statuses))
        metrics.invalid.set(sum(bool(service.settings.problems) for service in world.services.values()))
        metrics.unserved.set(sum(not status.used for status in statuses))
        metrics.mirrored.set(len(world.mirrored))
        metrics.waiting.set(waiting)

    def wrote(self, resource: Resource, result: str) -> None:
        """Counts a write."""
        if self._metrics is not None:
            self._metrics.wrote(resource, result)


class _Session:
    """The control at work with one client."""

    def __init__(self, control: Control, client: Client, recorder: EventRecorder) -> None:
        self._control = control
        self._world = control.world
        self._client = client
        self._recorder = recorder
        self._loaded: set[Resource] = set()
        self._away: set[Resource] = set()
        """Kinds whose watch does not work now."""
        statuses = Hands(
            client, recorder, show=self._show, types=_TYPES, pace=Pace(rate=10, burst=50), on_write=control.wrote
        )
        # What connections depend on never waits behind what people read.
        slices = Hands(
            client, recorder, show=self._show, types=_TYPES, pace=Pace(rate=20, burst=100), on_write=control.wrote
        )
        self._status_hands, self._slice_hands = statuses, slices
        rest = control.rest
        self._clusters = KeyQueue("meshclusters", self._on_cluster, workers=1, rest=rest)
        self._services = KeyQueue("globalservices", self._on_service, workers=2, rest=rest)
        self._slices = KeyQueue("mirrored endpointslices", self._on_slices, workers=4, rest=min(rest, SLICE_REST))
        self._open = False
        """Whether Services were planned before."""

    async def serve(self) -> None:
        world = self._world
        slow = Backoff(base=1.0, cap=60.0)
        async with asyncio.TaskGroup() as tasks:
            for queue in (self._clusters, self._services, self._slices):
                tasks.create_task(queue.serve())
            tasks.create_task(self._watch(SERVICES, Service, world.on_services))
            tasks.create_task(self._watch(NAMESPACES, Namespace, world.on_namespaces))
            tasks.create_task(self._watch(ENDPOINT_SLICES, StoredSlice, world.on_slices))
            tasks.create_task(self._watch(MESH_CLUSTERS, MeshCluster, self._take_mesh_clusters, backoff=slow))
            tasks.create_task(
                self._watch(
                    GLOBAL_SERVICES,
                    StoredGlobalService,
                    world.on_global_services,
                    backoff=Backoff(base=1.0, cap=60.0),
                )
            )
            tasks.create_task(self._look())

    async def _watch(
        self, resource: Resource, type_: type[Any], take: Callable[[Any], None], *, backoff: Backoff | None = None
    ) -> None:
        def on_state(state: State) -> None:
            match state:
                case Healthy():
                    if resource in self._away:
                        self._away.discard(resource)
                        self._world.touch_all()
                        self.kick()
                case Degraded():
                    self._away.add(resource)

        changes = follow(self._client, resource, type_, on_state=on_state, backoff=backoff)
        async with aclosing(changes):
            async for change in changes:
                take(change)
                if resource not in self._loaded and isinstance(change, Snapshot):
                    self._loaded.add(resource)
                    self._world.touch_all()
                self.kick()

    def _take_mesh_clusters(self, change: Change[MeshCluster]) -> None:
        self._world.on_mesh_clusters(change)
        self._control.look()  # a drain counts at once: nothing may be planned with what was left before

    async def _look(self) -> None:
        looks = 0
        while True:
            self._control.look()
            self.kick()
            if looks % MEASURE == 0:
                self._control.measure(self._clusters.waiting + self._services.waiting + self._slices.waiting)
            looks += 1
            await asyncio.sleep(LOOK)

    def kick(self) -> None:
        """Hands on what has to be looked at, as far as it may be."""
        for name in self._world.take_clusters():
            if clusters.only_counts(self._world, name):
                self._clusters.later(("", name), COUNT_RESTS * self._control.rest)
            else:
                self._clusters.add(("", name))
        if not self._open:
            if not self._ready:
                return
            self._open = True
            self._world.touch_all()
        for key in self._world.take_services():
            self._control.judge(key, self._recorder)
            self._services.add(key)
            self._slices.add(key)

    @property
    def _ready(self) -> bool:
        """Whether enough is known to plan anything."""
        if not self._loaded.issuperset(_NEEDED) or not self._control.settled:
            return False
        # A cluster without our definitions has no drains, and wants its EndpointSlices all the same.
        return all(kind in self._loaded or kind in self._away for kind in (MESH_CLUSTERS, GLOBAL_SERVICES))

    def _writable(self, resource: Resource) -> bool:
        return resource in self._loaded and resource not in self._away

    async def _on_cluster(self, key: Key) -> float | None:
        if not self._writable(MESH_CLUSTERS):
            return None  # all are looked at again when it is
        return await self._status_hands.do(self._control.plan_cluster(key))

    async def _on_service(self, key: Key) -> float | None:
        if not self._writable(GLOBAL_SERVICES):
            return None
        await asyncio.sleep(0)  # thousands of plans that change nothing must not keep the store waiting
        effects = self._control.plan_service(key)
        again = await self._status_hands.do(effects)
        if again is None:
            failed = global_services.still_failed(self._world, key, effects)
            if failed:
                self._world.failed[key] = failed
            else:
                self._world.failed.pop(key, None)
        return again

    async def _on_slices(self, key: Key) -> float | None:
        await asyncio.sleep(0)
        return await self._slice_hands.do(self._control.plan_slices(key))

    def _show(self, resource: Resource, stored: Any) -> None:
        """Takes what the server stored, before the watch brings it."""
        take: dict[Resource, Callable[[Any], None]] = {
            MESH_CLUSTERS: self._world.on_mesh_clusters,
            GLOBAL_SERVICES: self._world.on_global_services,
            ENDPOINT_SLICES: self._world.on_slices,
        }
        take[resource](Put(stored))
