"""`python -m isthmus.lab.controllers --kubeconfig FILE`: all controllers of one cluster."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import structlog

from isthmus.aio.backoff import Backoff
from isthmus.aio.runner import BoundedRunner
from isthmus.aio.signals import run_until_signal
from isthmus.kube.client import Client
from isthmus.kube.events import EventRecorder
from isthmus.kube.kubeconfig import load
from isthmus.kube.resources import (
    ENDPOINT_SLICES,
    ENDPOINTS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from isthmus.kube.schema import Service
from isthmus.lab.controllers.endpoints import EndpointsController
from isthmus.lab.controllers.namespaces import Emptying, ServiceAccounts
from isthmus.lab.controllers.nodes import NodeLifecycle
from isthmus.lab.controllers.objects import Lease, Meta, Namespace, Node, Pod
from isthmus.lab.controllers.scheduler import NAME, Scheduler
from isthmus.lab.controllers.store import Store
from isthmus.lab.daemon import set_up_logging, settle_memory

_MIN_INTERVAL = 0.02
"""Seconds between two rounds of one controller: a burst of changes becomes one round."""

_log = structlog.get_logger()


def main() -> int:
    """Runs until a signal."""
    set_up_logging()
    parser = argparse.ArgumentParser(prog="isthmus.lab.controllers", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    options = parser.parse_args()
    return run_until_signal(lambda: _serve(options.kubeconfig))


async def _serve(kubeconfig: Path) -> None:
    async with Client(load(kubeconfig)) as client:
        scheduler_events = EventRecorder(client, NAME)
        node_events = EventRecorder(client, "node-controller")
        pods, nodes = Store(client, PODS, Pod), Store(client, NODES, Node)
        namespaces, accounts = Store(client, NAMESPACES, Namespace), Store(client, SERVICE_ACCOUNTS, Meta)
        services, leases = Store(client, SERVICES, Service), Store(client, LEASES, Lease, namespace="kube-node-lease")
        slices, endpoints = Store(client, ENDPOINT_SLICES, Meta), Store(client, ENDPOINTS, Meta)
        lifecycle = NodeLifecycle(client, node_events, nodes=nodes, leases=leases, pods=pods)
        behind = EndpointsController(client, services=services, pods=pods, slices=slices, endpoints=endpoints)
        loops = [
            _loop("scheduler", Scheduler(client, scheduler_events, pods=pods, nodes=nodes).run, (pods, nodes), 30.0),
            _loop(
                "serviceaccounts",
                ServiceAccounts(client, namespaces=namespaces, accounts=accounts).run,
                (namespaces, accounts),
                60.0,
            ),
            _loop("namespaces", Emptying(client, namespaces=namespaces).run, (namespaces,), 60.0),
            # Silence makes no event, so this one looks often.
            _loop("nodes", lifecycle.run, (nodes, leases), 5.0),
            _loop("endpoints", behind.run, (services, pods, slices, endpoints), 60.0),
        ]
        _log.info("controllers started")
        settle_memory()
        async with asyncio.TaskGroup() as group:
            for store in (pods, nodes, namespaces, accounts, services, leases, slices, endpoints):
                group.create_task(store.serve())
            for events in (scheduler_events, node_events):
                group.create_task(events.serve())
            for loop in loops:
                group.create_task(loop.serve())


def _loop(
    name: str, run: Callable[[], Awaitable[None]], stores: Iterable[Store[Any]], max_interval: float
) -> BoundedRunner:
    trouble = ""

    def on_error(error: Exception, delay: float) -> None:
        nonlocal trouble
        if str(error) != trouble:
            trouble = str(error)
            _log.warning("controller failed", controller=name, reason=trouble, retry_in=round(delay, 1))

    runner = BoundedRunner(
        run,
        min_interval=_MIN_INTERVAL,
        max_interval=max_interval,
        retry=Backoff(base=0.1, cap=5.0),
        on_error=on_error,
    )
    for store in stores:
        store.listen(runner.trigger)
    runner.trigger()
    return runner


if __name__ == "__main__":
    raise SystemExit(main())
