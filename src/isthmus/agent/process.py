"""The agent as a process: builds what the options ask for and runs it until a signal.

The kernel is looked at first: an agent that cannot enforce must say so at once and not after a sync.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import structlog
from prometheus_client import CollectorRegistry, Gauge, GCCollector, PlatformCollector, ProcessCollector

from isthmus import __version__
from isthmus.agent.daemon import Agent, Settings
from isthmus.agent.options import Options, OptionsError
from isthmus.agent.writer import KernelWriter
from isthmus.aio.health import HealthServer
from isthmus.kube.client import Client
from isthmus.kube.kubeconfig import load
from isthmus.mesh import reader
from isthmus.mesh.clusters import ClusterList, ClustersError, ClusterSpec, own_cluster
from isthmus.mesh.fleet import Fleet
from isthmus.model.mesh import MeshEvent
from isthmus.store.client import Client as StoreClient
from isthmus.store.transport import Tls

STARTED = "agent started"
BAD_LIST = "list of clusters cannot be used; the last good one stays"
REREAD = 2.0  # seconds between looks at --clusters-file
METRICS_FLAG = "--metrics-bind-address"

_log = structlog.get_logger()


async def serve(options: Options) -> None:
    """Runs the agent until cancelled.

    Raises UnfitKernel, ConfigError, BindError or OptionsError before anything is enforced; nothing later.
    """
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    access = load(options.kubeconfig, context=options.context)
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(KernelWriter())
        client = await stack.enter_async_context(Client(access))
        health = HealthServer(options.metrics_bind_address, flag=METRICS_FLAG, registry=registry)
        mesh = _standalone(options, stack) if options.standalone else _from_etcd(options, registry, stack)
        settings = Settings(
            node=options.node_name,
            cluster=options.cluster_name,
            scope=options.policy_scope,
            sync_timeout=options.sync_timeout,
        )
        agent = Agent(settings, client=client, writer=writer, mesh=lambda: mesh, registry=registry)
        agent.add_checks(health)
        await stack.enter_async_context(health)
        _log.info(
            STARTED,
            version=__version__,
            node=options.node_name,
            cluster=options.cluster_name,
            mesh="standalone" if options.standalone else ",".join(options.etcd_endpoints),
            scope=options.policy_scope.value,
        )
        await agent.run()


def _from_etcd(
    options: Options, registry: CollectorRegistry, stack: AsyncExitStack
) -> AsyncIterator[Sequence[MeshEvent]]:
    tls = Tls(ca=options.etcd_ca, cert=options.etcd_cert, key=options.etcd_key)
    store = StoreClient(options.etcd_endpoints, tls=tls)
    stack.push_async_callback(store.close)
    state = reader.ReaderHealth()
    # A silent tracker makes an agent stale and not unready: enforcement goes on, and these say how old its view is.
    for name, text, value in (
        ("isthmus_agent_mesh_connected", "Whether the mesh store answers.", lambda: float(state.connected)),
        ("isthmus_agent_mesh_staleness_seconds", "Since the mesh store was heard last.", lambda: state.staleness),
        ("isthmus_agent_mesh_unreadable", "Mesh facts that cannot be read.", lambda: float(state.unreadable)),
    ):
        Gauge(name, text, registry=registry).set_function(value)
    return reader.follow(store, health=state)


def _standalone(options: Options, stack: AsyncExitStack) -> AsyncIterator[Sequence[MeshEvent]]:
    if options.cluster_id is None:
        raise OptionsError("--standalone needs --cluster-id")
    own = ClusterSpec(own_cluster(options.cluster_name, options.cluster_id), options.kubeconfig, options.context)
    listing = ClusterList(own, file=options.clusters_file)
    fleet = Fleet()
    fleet.configure(listing.read())
    task = asyncio.create_task(_keep_configured(fleet, listing))
    stack.callback(task.cancel)
    return fleet.events()


async def _keep_configured(fleet: Fleet, listing: ClusterList) -> None:
    trouble = ""
    while True:
        await asyncio.sleep(REREAD)
        try:
            fleet.configure(await asyncio.to_thread(listing.read))
            trouble = ""
        except ClustersError as error:
            if str(error) != trouble:
                trouble = str(error)
                _log.error(BAD_LIST, error=trouble)
