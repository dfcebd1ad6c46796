"""From the API to the kernel, in a lab of two clusters: real API servers, trackers, etcd, agents, nftables.

A prober on another node of the cluster sends a datagram to the policed pod every millisecond; a policy is written by a
client that notes when the API server acknowledged it. `nft monitor` on a node of the other cluster says when a pod's IP
is in its kernel.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.table import Table, quantile
from isthmus.cli import logs
from isthmus.kube import kubeconfig
from isthmus.kube.client import Client
from isthmus.kube.errors import KubeError
from isthmus.kube.reflector import Gone, follow
from isthmus.kube.resources import NETWORK_POLICIES, PODS
from isthmus.kube.schema import Pod

AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.39"
NEAR, FAR = "near", "far"

_PROBER = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], 8081))
sock.settimeout(0.02)
while True:
    began = time.monotonic()
    try:
        sock.send(b"hostname")
        sock.recv(100)
        print("+", began, flush=True)
    except OSError:
        print("-", began, flush=True)
    time.sleep(max(0, began + 0.001 - time.monotonic()))
"""


class Lab:
    """A lab in a directory of its own, gone at the end."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="isthmus-bench-")
        self.environ = {**os.environ, "ISTHMUS_STATE": f"{self._directory}/lab"}

    def __enter__(self) -> "Lab":
        for name in (NEAR, FAR):
            self.isthmus("lab", "create", name, "--nodes", "2")
        return self

    def __exit__(self, *_: object) -> None:
        self.isthmus("lab", "delete", "--all")
        shutil.rmtree(self._directory, ignore_errors=True)

    def isthmus(self, *words: str) -> str:
        command = [sys.executable, "-m", "isthmus", *words]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, check=True).stdout

    def stream(self, cluster: str, node: str, *words: str) -> "Stream":
        return Stream([sys.executable, "-m", "isthmus", "lab", "exec", cluster, node, "--", *words], self.environ)

    def client(self, cluster: str) -> Client:
        path = Path(self._directory) / f"{cluster}.yaml"
        path.write_text(self.isthmus("lab", "kubeconfig", cluster))
        return Client(kubeconfig.load(path, context=f"lab-{cluster}"))


class Stream:
    """Lines of a process, each with the moment it came."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self.lines: list[tuple[float, str]] = []
        self._process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append((time.monotonic(), line.strip()))

    async def wait_for(self, found: Callable[[float, str], float | None], *, limit: float = 10) -> float:
        """Returns what `found(line moment, line)` gives first (a moment, or None to go on)."""
        seen = 0
        end = time.monotonic() + limit
        while time.monotonic() < end:
            while seen < len(self.lines):
                moment = found(*self.lines[seen])
                seen += 1
                if moment is not None:
                    return moment
            await asyncio.sleep(0.002)
        raise TimeoutError(f"nothing came in {limit} s; last: {self.lines[-3:]}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def run(*, quick: bool) -> Iterable[Table]:
    rounds = 10 if quick else 50
    logs.configure(level="warning")
    with Lab() as lab:
        denied, allowed, known = asyncio.run(_measure(lab, rounds))
        sizes = [(row["name"].split("-")[0], _mib(row)) for row in json.loads(lab.isthmus("lab", "ps", "-o", "json"))]
    table = Table("From the API to the kernel, in ms", ["what", "p50", "p99", "goal p50", "goal p99"])
    for what, values, goals in (
        ("policy acknowledged -> live traffic cut", denied, (30, 150)),
        ("policy acknowledged -> traffic flows again", allowed, (30, 150)),
        ("pod IP published -> in the kernel of the other cluster's node", known, (100, 500)),
    ):
        table.add(what, quantile(values, 0.5) * 1000, quantile(values, 0.99) * 1000, *goals)
    table.notes.append(f"{rounds} rounds each; probes are a millisecond apart, so no value is better than that.")
    yield table
    memory = Table("Memory of the lab's processes, in MiB (resident; small clusters)", ["process", "MiB"])
    for kind in ("tracker", "agent", "apiserver", "controllers", "node"):
        memory.add(kind, max(size for name, size in sizes if name == kind))
    yield memory


def _mib(row: dict[str, object]) -> float:
    status = Path(f"/proc/{row['pid']}/smaps_rollup").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("Rss:"))) / 1024


async def _measure(lab: Lab, rounds: int) -> tuple[list[float], list[float], list[float]]:
    async with lab.client(FAR) as far, lab.client(NEAR) as near:
        target = await _start(far, "target", ["netexec", "--http-port=80", "--udp-port=8081"])
        prober = lab.stream(FAR, _other(target.spec.nodeName), sys.executable, "-c", _PROBER, target.status.podIP)
        monitor = lab.stream(FAR, target.spec.nodeName, "nft", "monitor", "new", "elements")
        try:
            await prober.wait_for(lambda _, line: 0.0 if line.startswith("+") else None)
            denied, allowed = [], []
            for _ in range(rounds):
                denied.append(await _switch(far, prober, ingress=[], sign="-"))
                await asyncio.sleep(0.05)
                allowed.append(await _switch(far, prober, ingress=[{}], sign="+"))
                await asyncio.sleep(0.05)
            known = [await _remote_pod(near, monitor, number) for number in range(rounds)]
        finally:
            prober.close()
            monitor.close()
    return denied, allowed, known


def _other(node: str) -> str:
    return f"{FAR}-worker" if node.endswith("control-plane") else f"{FAR}-control-plane"


async def _switch(client: Client, prober: Stream, *, ingress: list[dict[str, object]], sign: str) -> float:
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "switch"},
        "spec": spec,
    }
    prober.lines.clear()
    try:
        await client.create(NETWORK_POLICIES, policy, type=dict, namespace="default")
    except KubeError:
        await client.patch(NETWORK_POLICIES, "switch", {"spec": spec}, type=dict, namespace="default")
    acknowledged = time.monotonic()

    def changed(_: float, line: str) -> float | None:
        mark, _, sent = line.partition(" ")
        return float(sent) if mark == sign else None

    return max(0.0, await prober.wait_for(changed) - acknowledged)


async def _remote_pod(client: Client, monitor: Stream, number: int) -> float:
    monitor.lines.clear()
    pod = await _start(client, f"remote-{number}", ["pause"], wait_ready=False)
    published = time.monotonic()

    def appeared(moment: float, line: str) -> float | None:
        return moment if f" {pod.status.podIP} :" in line and "peers4" in line else None

    return max(0.0, await monitor.wait_for(appeared) - published)


async def _start(client: Client, name: str, arguments: list[str], *, wait_ready: bool = True) -> Pod:
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": AGNHOST, "args": arguments}]},
    }
    await client.create(PODS, body, type=dict, namespace="default")
    async for change in follow(client, PODS, Pod, namespace="default", field_selector=f"metadata.name={name}"):
        if isinstance(change, Gone):
            continue
        for pod in getattr(change, "objects", None) or (getattr(change, "object", None),):
            ready = pod is not None and any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)
            if pod is not None and pod.status.podIP and (ready or not wait_ready):
                return pod
    raise RuntimeError("the watch ended")
