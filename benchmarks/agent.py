"""The agent alone: a change told to it -> committed by the kernel, and the memory it needs.

No API server and no etcd: what they add is measured by `enforcement`, in the lab. The kernel is the real one.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterable

from benchmarks.meshes import mesh
from benchmarks.table import Table, quantile
from isthmus.agent.view import View
from isthmus.agent.writer import KernelWriter
from isthmus.kube.reflector import Put
from isthmus.model.endpoint import Endpoint
from isthmus.model.mesh import EndpointTold, IdentityTold
from isthmus.policy.rules import Scope
from tests.support.netns import Host, World

CLIENT, SERVER = "10.244.2.1", "10.244.0.10"


def run(*, quick: bool) -> Iterable[Table]:
    sizes = [(10, 1_000), (100, 10_000), (1_000, 10_000), (1_000, 100_000)]
    rounds = 10 if quick else 60
    table = Table(
        "Change told to the agent -> committed by the kernel, in ms",
        ["policies", "remote IPs", "policy p50", "policy p99", "pod IP p50", "pod IP p99", "policy vs first row"],
    )
    first = 0.0
    for policies, addresses in sizes[: 2 if quick else None]:
        with World([]) as world:
            slow, fast = _in(world.router, policies, addresses, rounds)
        first = first or quantile(slow, 0.5)
        table.add(
            policies,
            addresses,
            *(quantile(s, p) * 1000 for s in (slow, fast) for p in (0.5, 0.99)),
            quantile(slow, 0.5) / first,
        )
    table.notes.append(
        "A policy is a new gate of a pod (rule text); a pod IP of another cluster is one element (netlink)."
    )
    yield table
    memory = Table(
        "Memory of the agent's state, in MiB (resident)", ["remote IPs", "identities", "MiB", "above an empty agent"]
    )
    empty = _memory(0)
    for addresses in (1_000, 10_000) if quick else (1_000, 10_000, 100_000):
        now = _memory(addresses)
        memory.add(addresses, max(1, addresses // 10), now, now - empty)
    memory.notes.append(
        f"An agent that knows nothing yet: {empty:.0f} MiB, of which most is Python with its libraries."
    )
    yield memory


def _in(router: Host, policies: int, addresses: int, rounds: int) -> tuple[list[float], list[float]]:
    return router.run(lambda: asyncio.run(_measure(policies, addresses, rounds)))


async def _measure(policies: int, addresses: int, rounds: int) -> tuple[list[float], list[float]]:
    view = View(cluster="local", scope=Scope.CLUSTERSET)
    made = mesh(server=SERVER, client=CLIENT, policies=policies, addresses=addresses)
    view.mesh([IdentityTold(identity) for identity in made.identities.values()])
    view.mesh([EndpointTold(endpoint) for endpoint in made.endpoints.values()])
    for pod in made.pods.values():
        view.compiler.put_pod(pod)
    for policy in made.policies.values():
        view.compiler.put_policy(policy)
    table = view.compiler.table
    slow, fast = [], []
    number = next(iter(made.identities))
    async with KernelWriter() as writer:
        whole = table.whole()
        table.forget_journal()
        await writer.replace(whole)
        for turn in range(rounds):
            started = time.perf_counter()
            view.policies(Put(_policy(turn)))
            await writer.apply(table.take_delta())
            slow.append(time.perf_counter() - started)
            started = time.perf_counter()
            view.mesh([EndpointTold(Endpoint("remote", f"10.99.{turn >> 8}.{turn & 255}", number, "x", "p"))])
            await writer.apply(table.take_delta())
            fast.append(time.perf_counter() - started)
    return slow, fast


def _policy(turn: int) -> dict[str, object]:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": f"ns-{turn % 20}"}}}
    spec = {
        "podSelector": {"matchLabels": {"app": "server"}},
        "ingress": [{"from": [peer], "ports": [{"port": 9000 + turn}]}],
    }
    return {"metadata": {"namespace": "demo", "name": "toggled"}, "spec": spec}


_MEMORY = """
import sys
import isthmus.agent.process
from isthmus.agent.view import View
from isthmus.model.endpoint import Endpoint
from isthmus.model.identity import Identity
from isthmus.model.mesh import EndpointTold, IdentityTold
from isthmus.policy.rules import Scope

count = int(sys.argv[1])
view = View(cluster="local", scope=Scope.CLUSTERSET)
identities = max(1, count // 10)
for n in range(identities):
    view.mesh([IdentityTold(Identity(0x20100 + n, "remote", f"ns-{n % 100}", {"app": f"app-{n}"}, {"team": "a"}))])
for n in range(count):
    ip = f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"
    number, uid = 0x20100 + n % identities, f"{n:036}"
    endpoint = Endpoint("remote", ip, number, f"ns-{n % 100}", f"pod-{n}", uid, f"node-{n % 100}")
    view.mesh([EndpointTold(endpoint)])
view.compiler.table.take_delta()
print(int(open("/proc/self/statm").read().split()[1]) * 4096)
"""


def _memory(addresses: int) -> float:
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(addresses)], capture_output=True, text=True, check=True)
    return int(done.stdout) / 2**20
