"""The agent as a process: builds what the options ask for and runs it until a signal.

The kernel is looked at first: an agent that cannot enforce must say so at once and not after a sync.
"""

import asyncio
import gc
from asyncio.sslproto import SSLProtocol
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, Gauge, GCCollector, PlatformCollector, ProcessCollector

from isthmus import __version__
from isthmus.agent.daemon import Agent, Settings
from isthmus.agent.options import LiveConnections, Options, OptionsError
from isthmus.agent.policies.storing import KeptStore
from isthmus.agent.writer import KernelWriter, UnfitKernel
from isthmus.aio.health import HealthServer
from isthmus.kernel.memory import trim
from isthmus.kube.client import Client
from isthmus.kube.kubeconfig import load
from isthmus.mesh.clusters import ClusterList, ClusterSpec, own_cluster
from isthmus.mesh.listing import ListFollower
from isthmus.mesh.storing import reader
from isthmus.mesh.storing.reading import HEARTBEAT_LIMIT
from isthmus.model.mesh import MeshEvent
from isthmus.store.client import Client as StoreClient
from isthmus.store.transport import Tls

if TYPE_CHECKING:
    from isthmus.mesh.fleet import Fleet

STARTED = "agent started"
METRICS_FLAG = "--metrics-bind-address"

_log = structlog.get_logger()


async def serve(options: Options) -> None:
    """Runs the agent until cancelled.

    Raises UnfitKernel, ConfigError, BindError or OptionsError before anything is enforced; nothing later.
    """
    # Every TLS connection of asyncio holds a buffer of this size, 256 KiB by default, and most are watches on which
    # little comes: 4 MB of an agent. Two TLS records (16 KiB, RFC 8446) fit.
    SSLProtocol.max_size = 32 * 1024
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    access = await asyncio.to_thread(load, options.kubeconfig, context=options.context)
    async with AsyncExitStack() as stack:
        writer = await _open_writer(options, stack)
        client = await stack.enter_async_context(Client(access))
        health = HealthServer(options.metrics_bind_address, flag=METRICS_FLAG, registry=registry)
        # Part of the same group as the agent: a fault in it ends the process with a reason, and is not lost.
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        state = reader.ReaderHealth()
        if options.standalone:
            fleet, follower = await _open_fleet(options)
            tasks.create_task(_keep_configured(fleet, follower))
            mesh = fleet.events()
        else:
            mesh = _from_etcd(options, state, registry, stack)
        settings = Settings(
            node=options.node_name,
            cluster=options.cluster_name,
            scope=options.policy_scope,
            sync_timeout=options.sync_timeout,
            services=options.services,
            keep_live=options.live_connections is LiveConnections.KEEP,
        )
        # Without a store each cluster's own watch tells how fresh it is.
        silence = partial(_silence, None if options.standalone else state)
        store, earlier = None, None
        if options.state_dir is not None:
            store = KeptStore(options.state_dir, cluster=options.cluster_name, node=options.node_name)
            earlier = await asyncio.to_thread(store.load)
        agent = Agent(
            settings,
            client=client,
            writer=writer,
            mesh=lambda: mesh,
            registry=registry,
            silence=silence,
            on_first=_settle_memory,
            store=store,
            earlier=earlier,
        )
        agent.add_checks(health)
        await stack.enter_async_context(health)
        _log.info(
            STARTED,
            version=__version__,
            node=options.node_name,
            cluster=options.cluster_name,
            mesh="standalone" if options.standalone else ",".join(options.etcd_endpoints),
            scope=options.policy_scope.value,
            live_connections=options.live_connections.value,
            services="all" if options.kube_proxy_replacement else "global" if options.services else "none",
            global_services=options.global_services.value,
        )
        await agent.run()


def _settle_memory() -> None:
    """Tells the garbage collector that what is known by now stays.

    Else it goes through all of it whenever enough has changed, and a policy that comes just then waits for 0.1 s.
    """
    gc.collect()
    gc.freeze()
    trim()


async def _open_writer(options: Options, stack: AsyncExitStack) -> KernelWriter:
    try:
        return await stack.enter_async_context(KernelWriter(services=options.services is not None))
    except UnfitKernel as error:
        if options.services is not None and not options.services.everything:
            raise UnfitKernel(f"{error}\n--global-services=off may need less of it") from error
        raise


def _from_etcd(
    options: Options, state: reader.ReaderHealth, registry: CollectorRegistry, stack: AsyncExitStack
) -> AsyncGenerator[Sequence[MeshEvent], None]:
    tls = Tls(ca=options.etcd_ca, cert=options.etcd_cert, key=options.etcd_key)
    store = StoreClient(options.etcd_endpoints, tls=tls)
    stack.push_async_callback(store.close)
    # A silent tracker makes an agent stale and not unready: enforcement goes on, and these say how old its view is.
    for name, text, value in (
        ("isthmus_agent_mesh_connected", "Whether the mesh store answers.", lambda: float(state.connected)),
        ("isthmus_agent_mesh_staleness_seconds", "Since the mesh store was heard last.", lambda: state.staleness),
        ("isthmus_agent_mesh_unreadable", "Mesh facts that cannot be read.", lambda: float(state.unreadable)),
    ):
        Gauge(name, text, registry=registry).set_function(value)
    return reader.follow(store, health=state)


def _silence(state: reader.ReaderHealth | None) -> float:
    """Returns for how many seconds nothing has been heard of the mesh; a store without a writer is silent too."""
    if state is None:
        return 0.0
    if not state.connected:
        return state.staleness
    age = state.heartbeat_age
    return age if age is not None and age > HEARTBEAT_LIMIT else 0.0


async def _open_fleet(options: Options) -> "tuple[Fleet, ListFollower]":
    from isthmus.mesh.fleet import Fleet  # sources and all: a megabyte that agents with a tracker do not need

    if options.cluster_id is None:
        raise OptionsError("--standalone needs --cluster-id")
    own = ClusterSpec(own_cluster(options.cluster_name, options.cluster_id), options.kubeconfig, options.context)
    listing = ClusterList(own, file=options.clusters_file)
    fleet = Fleet()
    specs = await asyncio.to_thread(listing.read)
    fleet.configure(specs)
    return fleet, ListFollower(listing, known=specs)


async def _keep_configured(fleet: "Fleet", follower: ListFollower) -> None:
    async with aclosing(follower.changes()) as lists:
        async for specs in lists:
            fleet.configure(specs)
