"""A policy written -> enforced, and -> live connections cut: in a lab, in a cluster that looks big, idle and in churn.

Two probers in a pod of another cluster ask the policed pod every other millisecond: one on a connection that stays
open (TCP), one on a new one each time (UDP from another port). The policy is written by PUT by a client that notes
when the API server acknowledged it. What answers and what does not is seen on the wire, not read from any status.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.enforcement import AGNHOST, FAR, NEAR, Lab, Stream
from benchmarks.policy.crowd import Crowd, app_of, made
from benchmarks.table import Table, quantile
from isthmus.cli import logs
from isthmus.kube.client import Client
from isthmus.kube.reflector import Gone, follow
from isthmus.kube.resources import (
    CILIUM_NETWORK_POLICIES,
    CLUSTER_NETWORK_POLICIES,
    MESH_NODES,
    NETWORK_POLICIES,
    PODS,
    Resource,
)
from isthmus.kube.schema import Pod
from tests.support.steady import inside_network

PODS_IN_ALL, POLICIES_IN_ALL = 10_000, 1_000
CHURN = 100.0  # pods replaced a second
ON_THE_TARGET = 10  # policies that select the pod in question
BYSTANDERS = 10  # other pods of its node, each with as many policies
GOALS = (30, 150)
PAUSE = 0.1  # seconds between two changes
QUIET = 5.0  # seconds for what is left when the policies are taken in

_LIVE = """
import socket, sys, time
address, last, sock = sys.argv[1], "", None
while True:
    began = time.monotonic()
    try:
        if sock is None:
            sock = socket.create_connection((address, 80), 0.05)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(0.05)
        sock.sendall(b"GET /hostname HTTP/1.1\\r\\nHost: t\\r\\n\\r\\n")
        mark = "+" if sock.recv(4096) else "-"
    except OSError:
        mark = "-"
    if mark == "-" and sock is not None:
        sock.close()
        sock = None
    if mark != last:
        print(mark, began, flush=True)
        last = mark
    time.sleep(max(0, began + 0.002 - time.monotonic()))
"""

_NEW = """
import collections, socket, sys, time
waiting, last, told = collections.deque(), "", 0.0
while True:
    began = time.monotonic()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((sys.argv[1], 8081))
    sock.setblocking(False)
    waiting.append((began, sock))
    sock.send(b"hostname")
    time.sleep(max(0, began + 0.002 - time.monotonic()))
    for _ in range(len(waiting)):
        began, sock = waiting.popleft()
        try:
            sock.recv(100)
            mark = "+"
        except BlockingIOError:
            if time.monotonic() < began + 0.03:
                waiting.append((began, sock))
                continue
            mark = "-"
        sock.close()
        if mark != last and began > told:
            print(mark, began, flush=True)
            last, told = mark, began
"""

KINDS: dict[str, Resource] = {
    "NetworkPolicy": NETWORK_POLICIES,
    "CiliumNetworkPolicy": CILIUM_NETWORK_POLICIES,
    "ClusterNetworkPolicy": CLUSTER_NETWORK_POLICIES,
}


def run(*, quick: bool) -> Iterable[Table]:
    logs.configure(level="warning")
    pods, policies, rounds = (1_000, 100, 10) if quick else (PODS_IN_ALL, POLICIES_IN_ALL, 60)
    with Lab() as lab:
        rows = asyncio.run(_measure(lab, pods=pods, policies=policies, rounds=rounds))
    columns = ["pods change", "kind", "what", "p50", "p99", "goal p50", "goal p99"]
    table = Table(f"Policy acknowledged -> in force, {pods:,} pods and {policies:,} policies, in ms", columns)
    for state, kind, what, values in rows:
        table.add(state, kind, what, quantile(values, 0.5) * 1000, quantile(values, 0.99) * 1000, *GOALS)
    table.notes.append(
        f"{rounds} rounds each; probes are 2 ms apart, so no value is better than that. "
        "0: in force before the client had its answer."
    )
    yield table


Row = tuple[str, str, str, list[float]]


async def _measure(lab: Lab, *, pods: int, policies: int, rounds: int) -> list[Row]:
    rows: list[Row] = []
    async with lab.client(FAR) as client, lab.client(NEAR) as near:
        crowd = Crowd(client)
        target = await _started(client, "target", node=f"{FAR}-worker")
        for number in range(BYSTANDERS):
            await _started(client, f"bystander-{number}", node=f"{FAR}-worker")
        await _started(near, "asker", node=f"{NEAR}-worker")
        await crowd.settle(pods=pods, policies=policies)
        await _policies_of_the_node(client)
        async with crowd.alive(), _probers(lab, target.status.podIP) as probers:
            await _taken_in(client, policies)
            for kind in KINDS:
                rows += await _rounds(client, probers, state="none", kind=kind, rounds=rounds)
            async with crowd.churning(CHURN) as replaced:
                await asyncio.sleep(2)
                for kind in KINDS:
                    before, began = len(replaced), time.monotonic()
                    found = await _rounds(client, probers, state="", kind=kind, rounds=rounds)
                    rate = (len(replaced) - before) / (time.monotonic() - began)
                    rows += [(f"{rate:.0f}/s", kind, what, values) for _, _, what, values in found]
    return rows


class Probers:
    """Both probers of the target."""

    def __init__(self, live: Stream, new: Stream) -> None:
        self.live, self.new = live, new

    def forget(self) -> None:
        """Forgets what was seen."""
        self.live.lines.clear()
        self.new.lines.clear()

    async def changed(self, stream: Stream, mark: str) -> float:
        """Returns when the first probe began that ended as `mark` says."""

        def found(_: float, line: str) -> float | None:
            sign, _, began = line.partition(" ")
            return float(began) if sign == mark else None

        return await stream.wait_for(found, limit=20)

    async def both(self, mark: str) -> None:
        """Waits until both probers have seen it."""
        for stream in (self.live, self.new):
            await self.changed(stream, mark)


@asynccontextmanager
async def _probers(lab: Lab, address: str) -> AsyncIterator[Probers]:
    inside = inside_network(await asyncio.to_thread(_network_of_asker, lab))
    streams = [Stream([*inside, sys.executable, "-c", program, address], lab.environ) for program in (_LIVE, _NEW)]
    live, new = streams
    try:
        yield Probers(live, new)
    finally:
        for stream in streams:
            stream.close()


def _network_of_asker(lab: Lab) -> str:
    words = ["kubectl", "--kubeconfig", f"{lab.environ['ISTHMUS_STATE']}/kubeconfig", "--context", f"lab-{NEAR}"]
    words += ["exec", "asker", "--", "readlink", "/proc/self/ns/net"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


async def _rounds(client: Client, probers: Probers, *, state: str, kind: str, rounds: int) -> list[Row]:
    """Denies and allows in turn; returns what each took to be seen."""
    cut: list[float] = []
    refused: list[float] = []
    admitted: list[float] = []
    resource = KINDS[kind]
    where = {"namespace": "default"} if resource.namespaced else {}
    probers.forget()
    await made(client, resource, _switch(resource, open_=True), **where)
    await probers.both("+")
    held: dict[str, Any] = await client.get(resource, "switch", type=dict, **where)
    for _ in range(rounds):
        await asyncio.sleep(PAUSE)
        probers.forget()
        held, written = await _written(client, resource, held, open_=False, where=where)
        cut.append(max(0.0, await probers.changed(probers.live, "-") - written))
        refused.append(max(0.0, await probers.changed(probers.new, "-") - written))
        await asyncio.sleep(PAUSE)
        probers.forget()
        held, written = await _written(client, resource, held, open_=True, where=where)
        admitted.append(max(0.0, await probers.changed(probers.new, "+") - written))
        await probers.both("+")
    probers.forget()
    await client.delete(resource, "switch", **where)
    await probers.both("-")
    return [
        (state, kind, "live connection cut", cut),
        (state, kind, "new connection refused", refused),
        (state, kind, "new connection let in", admitted),
    ]


async def _written(
    client: Client, resource: Resource, held: dict[str, Any], *, open_: bool, where: dict[str, str]
) -> tuple[dict[str, Any], float]:
    """PUTs the policy; returns what is stored and when that was acknowledged."""
    body = {**_switch(resource, open_=open_)}
    meta = {key: value for key, value in held["metadata"].items() if key != "resourceVersion"}
    body = {"apiVersion": held["apiVersion"], "kind": held["kind"], **body, "metadata": meta}
    stored = await client.replace(resource, "switch", body, type=dict, **where)
    return stored, time.monotonic()


def _switch(resource: Resource, *, open_: bool) -> dict[str, Any]:
    """Returns a policy for the target that lets anyone in, or nobody."""
    labels = {"matchLabels": {"app": "target"}}
    spec: dict[str, Any]
    if resource is NETWORK_POLICIES:
        spec = {"podSelector": labels, "policyTypes": ["Ingress"], "ingress": [{}] if open_ else []}
    elif resource is CILIUM_NETWORK_POLICIES:
        spec = {"endpointSelector": labels, "ingress": [{"fromEntities": ["all"]} if open_ else {}]}
    else:
        everyone = [{"namespaces": {}}]
        rule = {"action": "Accept" if open_ else "Deny", "from": everyone}
        subject = {"pods": {"podSelector": labels}}
        spec = {"tier": "Admin", "priority": 5, "subject": subject, "ingress": [rule]}
    return {"metadata": {"name": "switch"}, "spec": spec}


async def _policies_of_the_node(client: Client) -> None:
    """Gives the target, and each bystander, policies that isolate it and let in neither the asker nor the other."""
    for app in ("target", *(f"bystander-{number}" for number in range(BYSTANDERS))):
        for number in range(ON_THE_TARGET):
            peer = {"podSelector": {"matchLabels": {"app": app_of(50 * number)}}, "namespaceSelector": {}}
            ports = [{"port": 80}, {"port": 7000 + number}]
            spec = {"podSelector": {"matchLabels": {"app": app}}, "ingress": [{"from": [peer], "ports": ports}]}
            body = {"metadata": {"name": f"{app}-{number}"}, "spec": spec}
            await made(client, NETWORK_POLICIES, body, namespace="default")


async def _taken_in(client: Client, policies: int) -> None:
    """Waits until the worker says that it knows as many policies, and for a while of silence after that."""
    async with asyncio.timeout(120):
        while True:
            node = await client.get(MESH_NODES, f"{FAR}-worker", type=dict)
            if node.get("status", {}).get("policies", {}).get("total", 0) >= policies:
                break
            await asyncio.sleep(0.5)
    await asyncio.sleep(QUIET)


async def _started(client: Client, name: str, *, node: str) -> Pod:
    container = {"name": "c", "image": AGNHOST, "args": ["netexec", "--http-port=80", "--udp-port=8081"]}
    body = {"metadata": {"name": name, "labels": {"app": name}}, "spec": {"nodeName": node, "containers": [container]}}
    await made(client, PODS, body, namespace="default")
    async for change in follow(client, PODS, Pod, namespace="default", field_selector=f"metadata.name={name}"):
        if isinstance(change, Gone):
            continue
        for pod in getattr(change, "objects", None) or (getattr(change, "object", None),):
            if pod is not None and any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions):
                return pod
    raise RuntimeError("the watch ended")
