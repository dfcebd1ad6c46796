"""A cluster that looks big: pods that are objects alone, on nodes that are Leases alone, and policies for them.

To API server, tracker and agents they are what pods are: they have labels, addresses and nodes. Nothing runs.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from isthmus.kube.client import Client
from isthmus.kube.errors import KubeError
from isthmus.kube.resources import CILIUM_NETWORK_POLICIES, LEASES, NAMESPACES, NETWORK_POLICIES, NODES, PODS, Resource

NAMESPACES_OF_THE_CROWD = 50
APPS = 20  # of each namespace: a thousand identities in all
NODES_OF_THE_CROWD = 10
WRITERS = 12  # requests under way at a time
RENEWAL = 10.0  # seconds between two heartbeats of the nodes


def namespace_of(number: int) -> str:
    return f"crowd-{number % NAMESPACES_OF_THE_CROWD}"


def node_of(number: int) -> str:
    return f"elsewhere-{number % NODES_OF_THE_CROWD}"


def app_of(number: int) -> str:
    return f"app-{number // NAMESPACES_OF_THE_CROWD % APPS}"


class Crowd:
    """Pods, nodes and policies in one cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._numbers = itertools.count()

    async def settle(self, *, pods: int, policies: int) -> None:
        """Makes namespaces, nodes, `pods` pods and `policies` policies."""
        await spread(range(NAMESPACES_OF_THE_CROWD), self._namespace)
        await spread(range(NODES_OF_THE_CROWD), self._node)
        await spread((next(self._numbers) for _ in range(pods)), self._pod)
        await spread(range(policies), self._policy)

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Keeps the nodes' heartbeats going: without them their pods would be evicted."""
        beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def churning(self, rate: float) -> AsyncIterator[list[float]]:
        """Replaces `rate` pods a second while it is open; yields the moments at which one was replaced."""
        done: list[float] = []
        churn = asyncio.create_task(self._churn(rate, done))
        try:
            yield done
        finally:
            churn.cancel()
            await asyncio.gather(churn, return_exceptions=True)

    async def _churn(self, rate: float, done: list[float]) -> None:
        oldest = itertools.count()
        began = time.monotonic()
        gate = asyncio.Semaphore(WRITERS)

        async def replace() -> None:
            async with gate:
                number = next(oldest)
                await self._client.delete(PODS, f"pod-{number}", namespace=namespace_of(number), grace_period=0)
                await self._pod(next(self._numbers))
                done.append(time.monotonic())

        async with asyncio.TaskGroup() as group:
            for turn in itertools.count():
                await asyncio.sleep(max(0.0, began + turn / rate - time.monotonic()))
                group.create_task(replace())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL)
            for number in range(NODES_OF_THE_CROWD):
                change = {"spec": {"renewTime": _now()}}
                await self._client.patch(LEASES, node_of(number), change, type=dict, namespace="kube-node-lease")

    async def _namespace(self, number: int) -> None:
        labels = {"team": f"team-{number % 7}"}
        await made(self._client, NAMESPACES, {"metadata": {"name": namespace_of(number), "labels": labels}})

    async def _node(self, number: int) -> None:
        name = node_of(number)
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now()}
        addresses = [{"type": "InternalIP", "address": f"192.0.2.{number + 1}"}]
        await made(self._client, NODES, {"metadata": {"name": name}, "spec": {"unschedulable": True}})
        status = {"status": {"conditions": [ready], "addresses": addresses}}
        await self._client.patch(NODES, name, status, type=dict, subresource="status")
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": _now()}
        await made(self._client, LEASES, {"metadata": {"name": name}, "spec": spec}, namespace="kube-node-lease")

    async def _pod(self, number: int) -> None:
        name, namespace = f"pod-{number}", namespace_of(number)
        ip = f"10.200.{number >> 8 & 255}.{number & 255}"
        body = {
            "metadata": {"name": name, "labels": {"app": app_of(number), "tier": f"tier-{number % 3}"}},
            "spec": {
                "nodeName": node_of(number),
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "pause"}],
            },
        }
        await made(self._client, PODS, body, namespace=namespace)
        ready = {"type": "Ready", "status": "True"}
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]}
        await self._client.patch(PODS, name, {"status": status}, type=dict, namespace=namespace, subresource="status")

    async def _policy(self, number: int) -> None:
        """Of two kinds in turn, each for one app of a namespace, with two peers and three ports."""
        name, namespace = f"policy-{number}", namespace_of(number)
        subject = {"matchLabels": {"app": app_of(number)}}
        peer, other = app_of(number + 50), namespace_of(number + 1)
        if number % 2:
            ports = [{"port": port, "protocol": "TCP"} for port in (80, 443, 8000 + number)]
            peers = [
                {"podSelector": {"matchLabels": {"app": peer}}},
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": other}}},
            ]
            spec = {"podSelector": subject, "ingress": [{"from": peers, "ports": ports}]}
            await made(self._client, NETWORK_POLICIES, {"metadata": {"name": name}, "spec": spec}, namespace=namespace)
            return
        texts = [{"port": str(port), "protocol": "TCP"} for port in (80, 443, 8000 + number)]
        endpoints = [
            {"matchLabels": {"app": peer}},
            {"matchLabels": {"k8s:io.kubernetes.pod.namespace": other}},
        ]
        rule = {"fromEndpoints": endpoints, "toPorts": [{"ports": texts}]}
        body = {"metadata": {"name": name}, "spec": {"endpointSelector": subject, "ingress": [rule]}}
        await made(self._client, CILIUM_NETWORK_POLICIES, body, namespace=namespace)


async def made(client: Client, resource: Resource, body: dict[str, Any], *, namespace: str | None = None) -> None:
    """Creates an object."""
    head = {"apiVersion": resource.api_version, "kind": resource.kind}
    try:
        await client.create(resource, {**head, **body}, type=dict, namespace=namespace)
    except KubeError as error:
        raise RuntimeError(f"{resource.kind} {body['metadata']['name']}: {error}") from error


async def spread(numbers: Iterable[int], work: Callable[[int], Awaitable[None]]) -> None:
    """Does `work` for every number, a dozen at a time."""
    shared = iter(numbers)

    async def worker() -> None:
        for number in shared:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(worker())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
