"""Pods in a lab: created -> Ready, one after another and a hundred at once; what they cost.

The client writes pods and watches them over the API, as anyone would. A pod is Ready when its API object says so; for
a web server with a readiness probe that means that it has answered.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Any

from benchmarks.enforcement import AGNHOST, NEAR, Lab
from benchmarks.footprint import Footprint, measure
from benchmarks.table import Table, quantile
from isthmus.cli import logs
from isthmus.kube.client import Client
from isthmus.kube.reflector import Gone, Put, Snapshot, follow
from isthmus.kube.resources import PODS
from isthmus.kube.schema import Pod

NAMESPACE = "default"
PAUSE = {"name": "c", "image": "registry.k8s.io/pause:3.10"}
WEB = {
    "name": "c",
    "image": AGNHOST,
    "args": ["netexec", "--http-port=8080"],
    "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
}


class OneCluster(Lab):
    """A lab of one cluster with two nodes."""

    def __enter__(self) -> "OneCluster":
        self.isthmus("lab", "create", NEAR, "--nodes", "2")
        return self


class Watched:
    """When each pod became ready, and when it went, as the API told."""

    def __init__(self) -> None:
        self.ready: dict[str, float] = {}
        self.gone: dict[str, float] = {}
        self._moved = asyncio.Event()

    async def serve(self, client: Client) -> None:
        """Follows the API until cancelled."""
        async with contextlib.aclosing(follow(client, PODS, Pod, namespace=NAMESPACE)) as changes:
            async for change in changes:
                now = time.monotonic()
                match change:
                    case Put(pod) if _is_ready(pod):
                        self.ready.setdefault(pod.metadata.name, now)
                    case Gone(pod):
                        self.gone.setdefault(pod.metadata.name, now)
                    case Snapshot(_):
                        pass
                self._moved.set()

    async def wait(self, moments: dict[str, float], names: Iterable[str], *, limit: float = 120) -> None:
        """Waits until all names have a moment."""
        async with asyncio.timeout(limit):
            while not all(name in moments for name in names):
                self._moved.clear()
                await self._moved.wait()


def pod(name: str, container: dict[str, Any]) -> dict[str, Any]:
    """Returns a pod that is gone only when its node has taken it down."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }


def run(*, quick: bool) -> Iterable[Table]:
    logs.configure(level="warning")
    single, many = (8, 30) if quick else (40, 100)
    with OneCluster() as lab:
        before = measure(lab.environ["ISTHMUS_STATE"])
        rows, full = asyncio.run(_measure(lab, single, many))
        after = measure(lab.environ["ISTHMUS_STATE"])
    table = Table("Pods of a cluster of two nodes, in ms", ["what", "p50", "p99", "all after"])
    for what, values, total in rows:
        table.add(what, quantile(values, 0.5) * 1000, quantile(values, 0.99) * 1000, total * 1000)
    yield table
    cost = Table(f"What {many} pods cost", ["", "empty", f"{many} pods", "afterwards"])
    for name in Footprint.__struct_fields__:
        cost.add(name.replace("_", " "), *(getattr(state, name) for state in (before, full, after)))
    cost.notes.append("Of all processes of the lab; pss in MiB.")
    yield cost


async def _measure(lab: Lab, single: int, many: int) -> tuple[list[tuple[str, list[float], float]], Footprint]:
    rows = []
    async with lab.client(NEAR) as client:
        watched = Watched()
        serving = asyncio.create_task(watched.serve(client))
        try:
            for what, container in (("pause", PAUSE), ("web server with a probe", WEB)):
                began = time.monotonic()
                values = [
                    await _one(client, watched, f"{what.split()[0]}-{number}", container) for number in range(single)
                ]
                rows.append((f"one after another: {what}", values, time.monotonic() - began))
            names = [f"many-{number}" for number in range(many)]
            began = time.monotonic()
            await together(client.create(PODS, pod(name, PAUSE), type=dict, namespace=NAMESPACE) for name in names)
            await watched.wait(watched.ready, names)
            values = [watched.ready[name] - began for name in names]
            rows.append((f"{many} at once: created -> Ready", values, max(values)))
            full = await asyncio.to_thread(measure, lab.environ["ISTHMUS_STATE"])
            began = time.monotonic()
            await together(client.delete(PODS, name, namespace=NAMESPACE) for name in names)
            await watched.wait(watched.gone, names)
            values = [watched.gone[name] - began for name in names]
            rows.append((f"{many} at once: deleted -> gone", values, max(values)))
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    return rows, full


async def _one(client: Client, watched: Watched, name: str, container: dict[str, Any]) -> float:
    began = time.monotonic()
    await client.create(PODS, pod(name, container), type=dict, namespace=NAMESPACE)
    await watched.wait(watched.ready, [name])
    await client.delete(PODS, name, namespace=NAMESPACE)
    await watched.wait(watched.gone, [name])
    return watched.ready[name] - began


async def together(requests: Iterable[Any]) -> None:
    """Makes all requests, ten at a time."""
    gate = asyncio.Semaphore(10)

    async def one(request: Any) -> None:
        async with gate:
            await request

    async with asyncio.TaskGroup() as group:
        for request in requests:
            group.create_task(one(request))


def _is_ready(found: Pod) -> bool:
    return any(condition.type == "Ready" and condition.status == "True" for condition in found.status.conditions)
