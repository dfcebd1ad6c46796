"""The agent as a process: builds what the options ask for and runs it until a signal.

The kernel is looked at first: an agent that cannot enforce must say so at once and not after a sync.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from isthmus import __version__
from isthmus.agent.daemon import Agent, Settings
from isthmus.agent.options import Options
from isthmus.agent.writer import KernelWriter
from isthmus.aio.health import HealthServer
from isthmus.kube.client import Client
from isthmus.kube.kubeconfig import load
from isthmus.mesh import reader
from isthmus.model.mesh import MeshEvent
from isthmus.store.client import Client as StoreClient
from isthmus.store.transport import Tls

STARTED = "agent started"
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
        mesh = _from_etcd(options, health, stack)
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


def _from_etcd(options: Options, health: HealthServer, stack: AsyncExitStack) -> AsyncIterator[Sequence[MeshEvent]]:
    tls = Tls(ca=options.etcd_ca, cert=options.etcd_cert, key=options.etcd_key)
    store = StoreClient(options.etcd_endpoints, tls=tls)
    stack.push_async_callback(store.close)
    state = reader.ReaderHealth()
    # Enforcement goes on without the mesh, so a silent tracker makes an agent stale and not unready: see /metrics.
    health.add_live("mesh", lambda: None)
    return reader.follow(store, health=state)
