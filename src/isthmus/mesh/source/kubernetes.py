"""One API server as a source of mesh events.

Watches pods, namespaces and nodes of all namespaces, what is shared of them (Services, EndpointSlices, and where there
are any, ServiceExports), where there are any the ClusterProperties, and policies of every kind only for the label keys
that they select on. Invariants: `ClusterJoined` comes first, and again when the cluster's properties are others;
`ClusterSynced` comes when all that there was at the start has been told, and again after every new snapshot; an API
server that fails, or answers nothing for ten seconds (`liveness`), degrades the source and takes nothing back; what
waits between the watches and the consumer is bounded, and a consumer that is slow slows the watches down instead of
losing events.
Lifetime: `events` may be iterated once, and runs until it is closed or cancelled.

Rejected: applying each event as it comes. A rollout makes thousands within a second, and an agent that gets them in
batches writes to the kernel once and not a thousand times.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
import structlog

from isthmus.kube.client import Client
from isthmus.kube.reflector import Change, Degraded, Dropped, Gone, Healthy, Put, Snapshot, State, follow
from isthmus.kube.resources import (
    CLUSTER_PROPERTIES,
    ENDPOINT_SLICES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    POLICY_KINDS,
    SERVICE_EXPORTS,
    SERVICES,
    Resource,
)
from isthmus.kube.schema import EndpointSlice, Namespace, Node, Pod, Service
from isthmus.mesh.mcs.api import ServiceExport
from isthmus.mesh.source.exports import find_exports
from isthmus.mesh.source.identities import Allocator, LabelFilter
from isthmus.mesh.source.importer import Importer
from isthmus.mesh.source.liveness import follow_liveness
from isthmus.mesh.source.optional import AGAIN, SELDOM, Find, Served, follow_optional
from isthmus.mesh.source.properties import VERSIONS, ClusterProperty, Properties
from isthmus.mesh.source.reports import Report
from isthmus.mesh.source.selection import PolicyKeys, SelectedKeys
from isthmus.mesh.source.sharing import Sharing
from isthmus.model.endpoint import Cluster
from isthmus.model.identity import Identity
from isthmus.model.mesh import ClusterJoined, ClusterSynced, MeshEvent

GATHER = 0.015
"""Seconds that a batch waits for more: an eyeblink for a policy, an age for a burst."""

MAX_CHANGES = 512
"""Changes that make a batch full before its time, and that may wait to become one."""

MAX_BATCH = 4096
"""Events of one batch; a snapshot makes several."""

PIECE = 500
"""Pods of a snapshot that are taken in at a time: some 20 ms of the loop."""

FEW = 40
"""Services of a snapshot, or slices, each of which may have a hundred endpoints: as much."""

CONNECTION = "connection"
"""What fails when the server answers nothing, whatever the watches believe."""

SOURCE_SYNCED = "cluster synced"
OBJECT_REPORTED = "object reported"
ADOPTION_REFUSED = "identity not adopted"


class PolicyTaker(Protocol):
    """Who wants the policies as they are stored; every method returns at once."""

    def retain_policies(self, resource: Resource, objects: Sequence[dict[str, Any]]) -> None:
        """Takes which objects of a kind there are: the first half of a snapshot."""

    def put_policies(self, resource: Resource, objects: Sequence[dict[str, Any]], *, listed: bool) -> None:
        """Takes objects that are there, `listed` in a snapshot, of which this is a piece."""

    def drop_policy(self, resource: Resource, obj: dict[str, Any]) -> None:
        """Takes a deletion."""

    def listed_policies(self, resource: Resource) -> None:
        """Takes that a snapshot was told to its end."""


_OPTIONAL_POLICIES = tuple(resource for resource in POLICY_KINDS if resource is not NETWORK_POLICIES)

_log = structlog.get_logger()


class SourceHealth(msgspec.Struct, frozen=True):
    """How a source is: `trouble` holds what fails now, by resource, or by CONNECTION."""

    connected: bool
    synced: bool
    trouble: dict[str, str]
    last_error: str
    counts: dict[str, int]
    dropped: int

    @property
    def reason(self) -> str | None:
        """Returns why the source is not ready, None if it is. A source that was ready stays so when it degrades."""
        if self.synced:
            return None
        details = "; ".join(f"{resource}: {reason}" for resource, reason in sorted(self.trouble.items()))
        return f"not synced yet: {details}" if details else "not synced yet"


class KubernetesSource:
    """The mesh state of `cluster`, read through `client` (which must be open while `events` runs).

    `adopt` holds the identities that were persisted for the cluster in an earlier life. Sources that share `selection`
    keep the labels that policies of any of their clusters select on. `on_report` hears of objects that were not taken
    as they are; each is logged anyway. `policies` is told those of all kinds but networkpolicies as they are
    stored; without it these are watched only while there are any, which is a few seconds later for the first one.
    """

    def __init__(
        self,
        client: Client,
        cluster: Cluster,
        *,
        label_filter: LabelFilter | None = None,
        adopt: Mapping[int, Identity] | None = None,
        selection: SelectedKeys | None = None,
        on_report: Callable[[Report], None] | None = None,
        policies: PolicyTaker | None = None,
    ) -> None:
        self.cluster = cluster
        self._taker = policies
        self._client = client
        self._on_report = on_report
        self._selection = selection or SelectedKeys()
        self._log = _log.bind(cluster=cluster.name)
        allocator = Allocator(cluster)
        for reason in allocator.adopt(adopt or {}):
            self._log.warning(ADOPTION_REFUSED, reason=reason)
        self._importer = Importer(cluster, label_filter=label_filter, allocator=allocator)
        self._sharing = Sharing(cluster.name)
        self._policies = PolicyKeys(label_filter)
        self._properties = Properties(cluster)
        self._queue: asyncio.Queue[_Item] = asyncio.Queue(MAX_CHANGES)
        self._waiting_for = {
            PODS,
            NAMESPACES,
            NODES,
            SERVICES,
            ENDPOINT_SLICES,
            SERVICE_EXPORTS,
            CLUSTER_PROPERTIES,
            *POLICY_KINDS,
        }
        self._resynced = False
        self._synced = False
        self._healthy: set[Resource] = set()
        self._trouble: dict[Resource, str] = {}
        self._silence = ""
        self._last_error = ""
        self._dropped = 0
        self._started = False
        self._fault: BaseException | None = None
        self._namespaces_known = asyncio.Event()
        self._selected: frozenset[str] = frozenset()

    @property
    def health(self) -> SourceHealth:
        """Returns how the source is now."""
        trouble = {str(resource): reason for resource, reason in self._trouble.items()}
        if self._silence:
            trouble[CONNECTION] = self._silence
        return SourceHealth(
            connected=not trouble and bool(self._healthy),
            synced=self._synced,
            trouble=trouble,
            last_error=self._last_error,
            counts={**self._importer.counts, **self._sharing.counts},
            dropped=self._dropped,
        )

    def ready(self) -> str | None:
        """Returns None once the source is synced, otherwise why it is not: a check for /readyz."""
        return self.health.reason

    async def events(self) -> AsyncGenerator[Sequence[MeshEvent], None]:
        """Yields batches of events, for ever. Raises RuntimeError if it was iterated before."""
        if self._started:
            raise RuntimeError("a source can be followed once")
        self._started = True
        # Plain tasks: a TaskGroup around a `yield` would cancel whatever the consumer is doing when a task fails.
        tasks = [
            asyncio.create_task(self._pump(PODS, Pod), name=f"{self.cluster.name} pods"),
            asyncio.create_task(self._pump(NAMESPACES, Namespace), name=f"{self.cluster.name} namespaces"),
            asyncio.create_task(self._pump(NODES, Node), name=f"{self.cluster.name} nodes"),
            asyncio.create_task(self._pump(NETWORK_POLICIES, dict), name=f"{self.cluster.name} networkpolicies"),
            asyncio.create_task(self._pump(SERVICES, Service), name=f"{self.cluster.name} services"),
            asyncio.create_task(self._pump(ENDPOINT_SLICES, EndpointSlice), name=f"{self.cluster.name} endpointslices"),
            self._optional(SERVICE_EXPORTS, ServiceExport, partial(find_exports, self._client), again=AGAIN),
            self._optional(CLUSTER_PROPERTIES, ClusterProperty, Served(self._client, *VERSIONS, populated=True)),
            *(
                self._optional(kind, dict, Served(self._client, kind, populated=self._taker is None))
                for kind in _OPTIONAL_POLICIES
            ),
            asyncio.create_task(follow_liveness(self._client, self._hear), name=f"{self.cluster.name} liveness"),
        ]
        for task in tasks:
            task.add_done_callback(self._ended)
        stop_listening = self._selection.listen(self._poke)
        try:
            yield [ClusterJoined(self.cluster)]
            while True:
                told = await self._gather()
                if self._fault is not None:
                    raise RuntimeError(f"a watch of cluster {self.cluster.name} failed") from self._fault
                async with contextlib.aclosing(self._apply(told)) as pieces:
                    async for events in pieces:
                        for start in range(0, len(events), MAX_BATCH):
                            yield events[start : start + MAX_BATCH]
        finally:
            stop_listening()
            self._selection.forget(self.cluster.name)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, resource: Resource, type: type[Any]) -> None:
        """Follows one resource; a full queue holds the watch up, and with it the server."""
        if resource is PODS:
            # Pods of unknown namespaces would wait, and then all come due in one piece.
            await self._namespaces_known.wait()

        def on_state(state: State) -> None:
            self._note(resource, state)

        async with contextlib.aclosing(follow(self._client, resource, type, on_state=on_state)) as changes:
            async for change in changes:
                await self._queue.put(_Told(resource, change))
                if resource is NAMESPACES:
                    self._namespaces_known.set()

    def _optional(
        self, resource: Resource, type: type[Any], find: Find, *, again: float = SELDOM
    ) -> asyncio.Task[None]:
        pump = self._pump_optional(resource, type, find, again=again)
        return asyncio.create_task(pump, name=f"{self.cluster.name} {resource.plural}")

    async def _pump_optional(self, resource: Resource, type: type[Any], find: Find, *, again: float) -> None:
        """Follows a kind that many servers do not have, in whatever version, as `resource`."""

        def on_state(state: State) -> None:
            self._note(resource, state)

        changes = follow_optional(self._client, find, type, again=again, on_state=on_state)
        async with contextlib.aclosing(changes):
            async for change in changes:
                await self._queue.put(_Told(resource, change))

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A watch ends only by cancellation or by a fault of ours, which the consumer must see."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fault = error
            self._poke()

    def _poke(self) -> None:
        """Wakes the consumer's side; a full queue will wake it anyway."""
        with contextlib.suppress(asyncio.QueueFull):
            self._queue.put_nowait(None)

    def _note(self, resource: Resource, state: State) -> None:
        match state:
            case Healthy():
                self._healthy.add(resource)
                self._trouble.pop(resource, None)
            case Degraded(reason):
                self._healthy.discard(resource)
                self._trouble[resource] = reason
                self._last_error = f"{resource}: {reason}"
                if resource in POLICY_KINDS:
                    # They only refine identities: without leave to read them the cluster is still a member.
                    self._waiting_for.discard(resource)
                    self._poke()
            case Dropped():
                self._dropped += 1

    def _hear(self, state: State) -> None:
        """Takes whether the server answers at all."""
        self._silence = state.reason if isinstance(state, Degraded) else ""
        self._last_error = self._silence or self._last_error

    async def _gather(self) -> "list[_Told]":
        """Waits for a change, then a moment for more."""
        first = await self._queue.get()
        told = [first] if first is not None else []
        try:
            async with asyncio.timeout(GATHER):
                while len(told) < MAX_CHANGES:
                    item = await self._queue.get()
                    if item is not None:
                        told.append(item)
        except TimeoutError:
            pass
        return told

    async def _apply(self, told: "list[_Told]") -> AsyncGenerator[list[MeshEvent], None]:
        """Puts changes into the importer and yields what comes of them, in pieces that keep the loop responsive."""
        events: list[MeshEvent] = []
        for item in told:
            match item.resource.kind, item.change:
                case "Pod", Snapshot(pods):
                    events += self._importer.retain_pods(pods)
                    for start in range(0, len(pods), PIECE):
                        events += self._importer.put_pods(pods[start : start + PIECE])
                        yield events
                        events = []
                        await asyncio.sleep(0)
                case "Pod", change:
                    events += self._importer.pods(change)
                case "Namespace", change:
                    events += self._importer.namespaces(change)
                    events += self._sharing.namespaces(change)
                case "Service", Snapshot(services):
                    self._policies.services(item.change)
                    events += self._sharing.retain_services(services)
                    for start in range(0, len(services), FEW):
                        events += self._sharing.put_services(services[start : start + FEW])
                        yield events
                        events = []
                        await asyncio.sleep(0)
                case "Service", change:
                    self._policies.services(change)
                    events += self._sharing.services(change)
                case "EndpointSlice", Snapshot(slices):
                    events += self._sharing.retain_slices(slices)
                    for start in range(0, len(slices), FEW):
                        events += self._sharing.put_slices(slices[start : start + FEW])
                        yield events
                        events = []
                        await asyncio.sleep(0)
                case "EndpointSlice", change:
                    events += self._sharing.slices(change)
                case "ServiceExport", change:
                    events += self._sharing.exports(change)
                case "Node", change:
                    events += self._importer.nodes(change)
                case "ClusterProperty", change:
                    if self._properties.take(change):
                        events.append(ClusterJoined(self._properties.cluster))
                case kind, change:
                    self._take_policies(kind, change)
                    if self._taker is not None and item.resource is not NETWORK_POLICIES:
                        async with contextlib.aclosing(_tell_policies(self._taker, item.resource, change)) as pieces:
                            async for _ in pieces:
                                yield events
                                events = []
            if isinstance(item.change, Snapshot):
                self._waiting_for.discard(item.resource)
                self._resynced = True
        self._selection.tell(self.cluster.name, self._policies.keys)
        if self._selected != self._selection.keys:
            self._selected = self._selection.keys
            events += self._importer.select(self._selected)
        if self._resynced and not self._waiting_for:
            self._resynced = False
            events.append(ClusterSynced(self.cluster.name))
            if not self._synced:
                self._synced = True
                self._importer.settle()
                self._log.info(SOURCE_SYNCED, **self._importer.counts)
        for report in (*self._importer.reports(), *self._sharing.reports(), *self._properties.reports()):
            self._log.warning(OBJECT_REPORTED, **msgspec.structs.asdict(report))
            if self._on_report is not None:
                self._on_report(report)
        yield events

    def _take_policies(self, kind: str, change: Change[dict[str, Any]]) -> None:
        match change:
            case Put(policy):
                self._policies.put(kind, policy)
            case Gone(policy):
                self._policies.drop(kind, policy)
            case Snapshot(policies):
                self._policies.reset(kind, policies)


async def _tell_policies(
    taker: PolicyTaker, resource: Resource, change: Change[dict[str, Any]]
) -> AsyncGenerator[None, None]:
    """Tells a change, and stops after each piece of a snapshot."""
    match change:
        case Put(obj):
            taker.put_policies(resource, (obj,), listed=False)
        case Gone(obj):
            taker.drop_policy(resource, obj)
        case Snapshot(objects):
            taker.retain_policies(resource, objects)
            for start in range(0, len(objects), FEW):
                taker.put_policies(resource, objects[start : start + FEW], listed=True)
                yield
                await asyncio.sleep(0)
            taker.listed_policies(resource)


class _Told(msgspec.Struct, frozen=True):
    resource: Resource
    change: Any


_Item = _Told | None
"""None only wakes."""
