"""`python -m isthmus.lab.controllers --kubeconfig FILE`: all controllers of one cluster.

There is no leader election: a cluster of a lab has one such process, and two of them would only conflict, which costs
rounds and breaks nothing, because every write names the uid or the version that it means.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from isthmus.aio.signals import run_until_signal
from isthmus.kube.access import Access
from isthmus.kube.client import Client
from isthmus.kube.errors import ConfigError
from isthmus.kube.kubeconfig import load
from isthmus.lab.controllers.endpoints.shell import EndpointsController
from isthmus.lab.controllers.garbage.collector import Collector
from isthmus.lab.controllers.namespaces.emptying import Emptying
from isthmus.lab.controllers.namespaces.gifts import Gifts
from isthmus.lab.controllers.namespaces.tokens import TokenSecrets
from isthmus.lab.controllers.nodes.eviction import PodCollection, TaintEviction
from isthmus.lab.controllers.nodes.lifecycle import GRACE, NodeLifecycle
from isthmus.lab.controllers.scheduling.scheduler import Scheduler
from isthmus.lab.controllers.workloads.budgets import Budgets
from isthmus.lab.controllers.workloads.jobs import Jobs
from isthmus.lab.controllers.workloads.revisioned import DaemonSets, StatefulSets
from isthmus.lab.controllers.workloads.sets import Deployments, ReplicaSets
from isthmus.lab.controllers.world import World
from isthmus.lab.daemon import set_up_logging, settle_memory

_log = structlog.get_logger()


def main() -> int:
    """Runs until a signal."""
    set_up_logging()
    parser = argparse.ArgumentParser(prog="isthmus.lab.controllers", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument(
        "--root-ca-file", type=Path, help="what kube-root-ca.crt holds; its default is the kubeconfig's"
    )
    parser.add_argument(
        "--node-monitor-grace-period", type=float, default=GRACE, help="seconds of silence after which a node is lost"
    )
    options = parser.parse_args()
    try:
        access = load(options.kubeconfig)
        root_ca = (access.tls.ca or b"").decode("ascii")
        if options.root_ca_file is not None:
            root_ca = options.root_ca_file.read_text(encoding="ascii")
    except (ConfigError, OSError, UnicodeError) as error:
        parser.error(str(error))
    grace = options.node_monitor_grace_period
    if grace <= 0:
        parser.error(f"--node-monitor-grace-period: {grace} is not a time to wait")
    return run_until_signal(lambda: _serve(access, root_ca=root_ca, grace=grace))


async def _serve(access: Access, *, root_ca: str, grace: float) -> None:
    async with Client(access) as client:
        world = World(client)
        loops = controllers(world, root_ca=root_ca, grace=grace)
        tokens = TokenSecrets(world, root_ca=root_ca)
        budgets = Budgets(world)
        _log.info("controllers started")
        settle_memory()
        async with asyncio.TaskGroup() as group:
            for store in (*world.stores, tokens.secrets, budgets.budgets):
                group.create_task(store.serve())
            for recorder in world.recorders:
                group.create_task(recorder.serve())
            for serve in (*loops, tokens.serve, budgets.serve):
                group.create_task(_run(serve))


def controllers(world: World, *, root_ca: str, grace: float = GRACE) -> list[Callable[[], Awaitable[None]]]:
    """Returns the loops of all controllers."""
    return [
        Scheduler(world).serve,
        Deployments(world).serve,
        ReplicaSets(world).serve,
        StatefulSets(world).serve,
        DaemonSets(world).serve,
        Jobs(world).serve,
        EndpointsController(world).serve,
        Emptying(world).serve,
        Gifts(world, root_ca=root_ca).serve,
        NodeLifecycle(world, grace=grace).serve,
        TaintEviction(world).serve,
        PodCollection(world).serve,
        Collector(world).serve,
    ]


async def _run(serve: Callable[[], Awaitable[None]]) -> None:
    await serve()


if __name__ == "__main__":
    raise SystemExit(main())
