"""In a lab of two clusters: the last backend in use is gone -> the other cluster answers.

A client asks a global service 500 times a second from a pod's network on a node that holds no backend. `Dark` is the
time from the first request that was not answered, or else the last answer of the old cluster, to the first request that
the other cluster answered: what a user sees. `Acknowledged` counts from the moment at which the command that did it had
its answer, which is before a pod has ended and after a node has. Rounds begin when the old cluster alone answers: an
agent trusts a node later each time it failed soon before, which is not what is measured.

The second table is of the same agents as a proxy that knows EndpointSlices alone (`--global-services endpointslices`),
where the tracker writes the other cluster's backends when the last local one is gone.
"""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from benchmarks.enforcement import FAR, NEAR, Lab
from benchmarks.table import Table, quantile
from isthmus.cli import logs
from isthmus.kube.client import Client
from isthmus.kube.reflector import Gone, Put, Snapshot, follow
from isthmus.kube.resources import CONFIG_MAPS, PODS, SERVICES
from isthmus.kube.schema import Pod, Service
from tests.support.steady import Request, Steady, inside_network

NAMESPACE = "default"
GLOBAL, AFFINITY = "service.cilium.io/global", "service.cilium.io/affinity"
LABELS = {"name": "base"}
SETTLE = 1.0  # seconds between putting things back and the next round: hysteresis must be over
LIMIT = 30.0
LONGEST_HOLD = 90.0
"""Seconds for clients to be back with the old cluster: a node that failed often is trusted a minute later."""
OUTAGES = (3, 10)
"""Rounds, quick and whole, in which nodes are lost; they take a minute each in the end."""


class Switch(msgspec.Struct):
    """One failover, in seconds; `failed` requests were not answered."""

    dark: float
    acknowledged: float
    failed: int


class ThreeNodes(Lab):
    """Two clusters; the near one has a node for the client and one for the backend."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self._mode = mode

    def __enter__(self) -> "ThreeNodes":
        for name, nodes in ((NEAR, "3"), (FAR, "2")):
            self.isthmus("lab", "create", name, "--nodes", nodes, "--global-services", self._mode)
        return self


def run(*, quick: bool) -> Iterable[Table]:
    rounds = 5 if quick else 30
    logs.configure(level="warning")
    for mode, goals in (("nftables", (250, 250, 250, 250)), ("endpointslices", (None, None))):
        table = Table(
            f"The last backend in use is gone -> the other cluster answers, in ms (--global-services {mode})",
            ["what", "rounds", "dark p50", "dark p99", "acknowledged p50", "acknowledged p99", "failed requests p50"]
            + ["goal"] * (goals[0] is not None),
        )
        with ThreeNodes(mode) as lab:
            measured = asyncio.run(_measure(lab, rounds, OUTAGES[not quick], outages=mode == "nftables"))
        for (what, switches), goal in zip(measured.items(), goals, strict=True):
            dark, said = ([1000 * getattr(s, name) for s in switches] for name in ("dark", "acknowledged"))
            failed = [float(s.failed) for s in switches]
            cells = (what, len(switches), *_both(dark), *_both(said), quantile(failed, 0.5))
            table.add(*cells, *([] if goal is None else [goal]))
        table.notes.append("500 requests a second, so no value is better than 2 ms; p99 of few rounds is the worst.")
        if mode == "endpointslices":
            table.notes.append(
                "A node that stops, and a partition, is noticed here only as Kubernetes does, after 40 s."
            )
        yield table


def _both(values: list[float]) -> tuple[float, float]:
    return quantile(values, 0.5), quantile(values, 0.99)


async def _measure(lab: Lab, rounds: int, fewer: int, *, outages: bool) -> dict[str, list[Switch]]:
    async with lab.client(NEAR) as near, lab.client(FAR) as far:
        address = ""
        for name, client in ((NEAR, near), (FAR, far)):
            service = await _install(client, name.capitalize())
            address = address or service.spec.clusterIP
        backend, other = f"{NEAR}-worker", f"{NEAR}-worker2"
        await _run_pod(far, "base", f"{FAR}-worker")
        asker = await _run_pod(near, "asker", other, image="quay.io/cilium/json-mock:v1.3.8", labels={})
        namespace = await asyncio.to_thread(_network_of, lab, asker.metadata.name)
        inside = inside_network(namespace)

        async def deleted(pod: str) -> None:
            await near.delete(PODS, pod, namespace=NAMESPACE)

        async def killed(pod: str) -> None:
            await near.delete(PODS, pod, namespace=NAMESPACE, grace_period=0)

        async def stopped(pod: str) -> None:
            await asyncio.to_thread(lab.isthmus, "lab", "stop", "node", backend)

        async def parted(pod: str) -> None:
            await asyncio.to_thread(lab.isthmus, "lab", "partition", NEAR, FAR)

        async def back(pod: str) -> None:
            await asyncio.to_thread(lab.isthmus, "lab", "start", "node", backend)

        async def healed(pod: str) -> None:
            await asyncio.to_thread(lab.isthmus, "lab", "heal")

        found: dict[str, list[Switch]] = {}
        ends = (("last local pod deleted", deleted, None, "local"), ("last local pod killed", killed, None, "local"))
        losses = (
            ("its node stopped", stopped, back, "local"),
            ("clusters cut off from each other (affinity remote)", parted, healed, "remote"),
        )
        for what, act, undo, affinity in (*ends, *(losses if outages else ())):
            await _prefer(near, affinity)
            found[what] = []
            first, second = (NEAR, FAR) if affinity == "local" else (FAR, NEAR)
            for number in range(rounds if undo is None else fewer):
                pod = f"base-{len(found)}-{number}"
                await _run_pod(near, pod, backend)
                await asyncio.sleep(SETTLE)
                await asyncio.to_thread(_await_alone, inside, address, first)
                with Steady(inside, address) as steady:
                    await _until(lambda s=steady, who=first: _answered(s.requests, who), "the first cluster answers")
                    began = time.time()
                    await act(pod)
                    said = time.time()
                    await _until(
                        lambda s=steady, who=second, b=began: _answered([r for r in s.requests if r.began > b], who),
                        "the other cluster answers",
                    )
                    requests = await asyncio.to_thread(steady.finish)
                found[what].append(_switch(requests, began, said, first.capitalize(), second.capitalize()))
                if undo is not None:
                    await undo(pod)
                await _remove(near, pod)
        return found


def _await_alone(inside: list[str], address: str, who: str) -> None:
    """Waits until only one cluster answers, before anything is measured."""
    end = time.monotonic() + LONGEST_HOLD
    while True:
        with Steady(inside, address, rate=200, limit=100) as steady:
            answers = {request.result for request in steady.wait(timeout=LIMIT)}
        if answers == {who.capitalize()}:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"waited {LONGEST_HOLD:.0f} s in vain until only {who} answers: {sorted(answers)}")


def _answered(requests: list[Request], who: str) -> bool:
    return any(request.result == who.capitalize() for request in requests[-50:])


def _switch(requests: list[Request], began: float, said: float, first: str, second: str) -> Switch:
    late = sorted(request for request in requests if request.began >= began)
    answered = next(request.began for request in late if request.result == second)
    failed = [request.began for request in late if request.failed]
    lasts = [request.began for request in requests if request.result == first and request.began < answered]
    dark_since = failed[0] if failed and failed[0] < answered else max(lasts, default=began)
    return Switch(answered - dark_since, max(0.0, answered - said), len(failed))


async def _until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {LIMIT:.0f} s in vain until {what}")
        await asyncio.sleep(0.02)


async def _install(client: Client, word: str) -> Service:
    data = {"index.html": json.dumps({"Cluster": word})}
    await client.create(CONFIG_MAPS, _object("ConfigMap", "answer", data=data), type=dict, namespace=NAMESPACE)
    body = _object("Service", "base", spec={"selector": LABELS, "ports": [{"port": 80}]})
    body["metadata"]["annotations"] = {GLOBAL: "true"}
    return await client.create(SERVICES, body, type=Service, namespace=NAMESPACE)


async def _prefer(client: Client, affinity: str) -> None:
    patch = {"metadata": {"annotations": {AFFINITY: affinity}}}
    await client.patch(SERVICES, "base", patch, type=Service, namespace=NAMESPACE)


def _object(kind: str, name: str, **parts: object) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **parts}


def _network_of(lab: Lab, pod: str) -> str:
    """Returns what /proc/self/ns/net shows in a pod of the near cluster."""
    words = ["kubectl", "--kubeconfig", f"{lab.environ['ISTHMUS_STATE']}/kubeconfig", "--context", f"lab-{NEAR}"]
    words += ["exec", pod, "--", "readlink", "/proc/self/ns/net"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


async def _run_pod(
    client: Client, name: str, node: str, *, image: str = "nginx", labels: dict[str, str] | None = None
) -> Pod:
    container = {"name": "c", "image": image}
    mounted = {"volumeMounts": [{"name": "html", "mountPath": "/usr/share/nginx/html"}]} if image == "nginx" else {}
    spec = {
        "nodeName": node,
        "terminationGracePeriodSeconds": 2,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{**container, **mounted}],
        "volumes": [{"name": "html", "configMap": {"name": "answer"}}],
    }
    body = _object("Pod", name, spec=spec)
    body["metadata"]["labels"] = LABELS if labels is None else labels
    await client.create(PODS, body, type=Pod, namespace=NAMESPACE)
    pod = await _pod(client, name, lambda pod: pod is not None and _is_ready(pod))
    if pod is None:
        raise RuntimeError(f"pod {name} is ready and not there")
    return pod


async def _remove(client: Client, name: str) -> None:
    found = await client.list_all(PODS, type=Pod, namespace=NAMESPACE)
    if any(pod.metadata.name == name for pod in found):
        await client.delete(PODS, name, namespace=NAMESPACE, grace_period=0)
    await _pod(client, name, lambda pod: pod is None)


def _is_ready(pod: Pod) -> bool:
    return any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions)


async def _pod(client: Client, name: str, good: Callable[[Pod | None], bool]) -> Pod | None:
    async with asyncio.timeout(LIMIT):
        async for change in follow(client, PODS, Pod, namespace=NAMESPACE, field_selector=f"metadata.name={name}"):
            match change:
                case Put(pod):
                    now: Pod | None = pod
                case Gone(_):
                    now = None
                case Snapshot(objects):
                    now = objects[0] if objects else None
            if good(now):
                return now
    raise TimeoutError(name)
