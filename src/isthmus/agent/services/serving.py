"""The service half of the agent, put together: own Services, other clusters' backends, or both.

Invariant: what Services say about other clusters is taken in before the services themselves, and who is to be probed
follows after both, so one change of an object is one change of the table. Rejected: two independent watches of
Services, of which one would be behind the other.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from isthmus.agent.across.services import GlobalServices
from isthmus.agent.across.watch import GlobalWatch
from isthmus.agent.optional_watch import follow_if_there
from isthmus.agent.services.staging import Stage
from isthmus.agent.services.view import ServiceView
from isthmus.agent.services.watch import ServiceWatch
from isthmus.kernel.conntrack import forget_stale
from isthmus.kube.client import Client
from isthmus.kube.events import EventRecorder
from isthmus.kube.meshobjects import MeshCluster
from isthmus.kube.reflector import Change, follow
from isthmus.kube.resources import ENDPOINT_SLICES, MESH_CLUSTERS, SERVICES
from isthmus.kube.schema import Bare, EndpointSlice, Service
from isthmus.model.endpoint import Endpoint
from isthmus.model.mesh import MeshEvent
from isthmus.ruleset.services import ServiceCompiler
from isthmus.ruleset.table import Table

T = TypeVar("T")


class ServiceSettings(msgspec.Struct, frozen=True):
    """What is served: `everything` is all Services of the cluster, `across` the backends of other clusters.

    `probe_port` None is no probes of nodes; `staleness` is in seconds, 0 is never.
    """

    everything: bool = True
    across: bool = False
    probe_port: int | None = None
    staleness: float = 0.0


class Serving:
    """Everything about Services of one node."""

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        cluster: str,
        node: str,
        table: Table,
        events: EventRecorder,
        registry: CollectorRegistry,
        members: Callable[[], Iterable[str]],
        endpoint: Callable[[str], Endpoint | None],
        silence: Callable[[], float],
        on_change: Callable[[], None],
        also_slices: Callable[[Change[EndpointSlice]], None] = lambda _: None,
    ) -> None:
        """`members` are the other clusters, `endpoint` finds a pod by address, `silence` as in GlobalWatch.

        `also_slices` hears of EndpointSlices too.
        """
        self._on_change = on_change
        self._also_slices = also_slices
        compiler = ServiceCompiler(table, node=node)
        self.across: GlobalWatch | None = None
        stage = Stage(compiler)
        if settings.across:
            joined = GlobalServices(compiler, own=cluster, node=node, everything=settings.everything, endpoint=endpoint)
            stage = joined.stage
            self.across = GlobalWatch(
                joined,
                registry=registry,
                members=members,
                on_change=on_change,
                probe_port=settings.probe_port,
                staleness=settings.staleness,
                silence=silence,
            )
        self.own = ServiceWatch(
            ServiceView(stage, cluster=cluster), events=events, registry=registry, flush=forget_stale
        )

    @property
    def missing(self) -> list[str]:
        """Returns what has not been told yet, for people."""
        return self.own.view.missing + (self.across.missing if self.across is not None else [])

    def on_services(self, change: Change[Service]) -> None:
        """Takes in a change of Services."""
        if self.across is not None:
            self.across.on_services(change)
        self.own.on_services(change)
        self._catch_up()

    def on_slices(self, change: Change[EndpointSlice]) -> None:
        """Takes in a change of EndpointSlices."""
        self._also_slices(change)
        self.own.on_slices(change)
        self._catch_up()

    def on_namespaces(self, change: Change[Bare]) -> None:
        """Takes in a change of Namespaces."""
        if self.across is not None:
            self.across.on_namespaces(change)

    def mesh(self, events: Sequence[MeshEvent]) -> None:
        """Takes in a batch of mesh events."""
        if self.across is not None:
            self.across.mesh(events)

    def set_node(self, addresses: tuple[str, ...]) -> None:
        """Says at which addresses the node has its node ports."""
        self.own.view.compiler.set_node(addresses)

    def taken(self) -> None:
        """Says that the table, as it is now, is about to be written."""
        if self.across is not None:
            self.own.recount(self.across.globals.take_touched())
        self.own.taken()

    def written(self) -> None:
        """Says that the kernel holds what the table held at `taken`."""
        self.own.written()
        if self.across is not None:
            self.across.measure()

    async def run(self, client: Client) -> None:
        """Follows what there is to follow, until cancelled; of namespaces somebody else tells."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take(follow(client, SERVICES, Service), self.on_services))
            tasks.create_task(self._take(follow(client, ENDPOINT_SLICES, EndpointSlice), self.on_slices))
            tasks.create_task(self.own.serve())
            if self.across is not None:
                clusters = follow_if_there(client, MESH_CLUSTERS, MeshCluster, on_absent=self.across.on_no_clusters)
                tasks.create_task(self._take(clusters, self.across.on_clusters))
                tasks.create_task(self.across.serve())

    async def _take(self, changes: AsyncGenerator[Change[T], None], sink: Callable[[Change[T]], None]) -> None:
        async with aclosing(changes):
            async for change in changes:
                sink(change)
                self._on_change()

    def _catch_up(self) -> None:
        if self.across is not None:
            self.across.catch_up()
