"""Services: what a change of one backend costs, what a connection through a ClusterIP costs, and a whole load.

Beside each stands the same in the style of kube-proxy's nftables mode: a chain for every service and one for every
endpoint, made here by a generator of our own, and written in one transaction through the same library. Goals: a change
of one backend costs the same at every size; a connection through a ClusterIP at least 0.9 of a direct one.
"""

import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.dataplane import TRACKED
from benchmarks.load import Burst, Generator
from benchmarks.table import Table, quantile, ratio
from isthmus.model.flow import Protocol
from isthmus.model.service import Backend, Port, Service, Slice, Target
from isthmus.policy.world import LocalPod
from isthmus.policy.world import World as PolicyWorld
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.services import ServiceCompiler
from isthmus.ruleset.text import replacement
from tests.support.netns import World

SIZES = ((10, 10), (1_000, 10), (10_000, 10), (1, 1_000), (1, 5_000))  # services, backends of each
PER_SLICE = 100  # as Kubernetes makes them
PORTS = tuple(range(9000, 9016))  # several, so that a client does not run out of its own
VIP = "172.31.0.1"  # of the service that is measured
CLIENT, SERVER = "10.244.0.10", "10.244.0.11"
BACKENDS = "10.100.0.0/16"  # all of them are the one server
PATIENCE = 100  # seconds for one load of chains
STYLE = "chains per service"

_UPDATES = (
    "`told -> table` is the agent's own work on the EndpointSlice that changed (100 endpoints), `commit` the kernel's. "
    f"`{STYLE}` writes what a proxy with a chain for each service and endpoint would: two chains and the service's "
    "choice anew."
)
_CONNECTIONS = (
    "`direct` connects to the backend itself. The ratio is how many connections the same CPU makes, with quartiles "
    "over rounds; client and server share it. The service that is measured has as many backends as the others."
)


def run(*, quick: bool) -> Iterator[Table]:
    """Yields the tables one by one as they are measured."""
    sizes = SIZES[:2] if quick else SIZES
    yield _updates(sizes, rounds=20 if quick else 100)
    yield _connections(sizes, rounds=6 if quick else 16, seconds=0.2)


# -- what a change costs ---------------------------------------------------------------------------------------


def _updates(sizes: tuple[tuple[int, int], ...], *, rounds: int) -> Table:
    table = Table(
        "A change of one backend",
        ("services", "backends each", "how", "load s", "told -> table ms", "commit p50 ms", "commit p99 ms"),
        notes=[_UPDATES],
    )
    for services, each in sizes:
        with World([]) as world:
            node = _Node(services, each)
            began = time.perf_counter()
            world.nft(replacement(node.compiler.table.whole()))
            load = time.perf_counter() - began
            node.compiler.table.forget_journal()
            told, committed = [], []
            for number in range(rounds):
                began = time.perf_counter()
                delta = node.change(number)
                told.append(time.perf_counter() - began)
                assert not delta.structural
                began = time.perf_counter()
                world.apply(*delta.changes)
                committed.append(time.perf_counter() - began)
            table.add(services, each, "isthmus", load, statistics.median(told) * 1e3, *milliseconds(committed))
        with World([]) as world:
            chains = _Chains(services, each)
            try:
                began = time.perf_counter()
                world.router.command("nft", "-f", "-", text=chains.whole(), timeout=PATIENCE)
                load = time.perf_counter() - began
            except subprocess.TimeoutExpired:
                table.add(services, each, STYLE, f"> {PATIENCE}", "-", "-", "-")
                continue
            committed = []
            for number in range(max(4, rounds // 10)):
                script = chains.change(number)
                began = time.perf_counter()
                world.nft(script)
                committed.append(time.perf_counter() - began)
            table.add(services, each, STYLE, load, "-", *milliseconds(committed))
    return table


def milliseconds(seconds: list[float]) -> tuple[float, float]:
    return statistics.median(seconds) * 1e3, quantile(seconds, 0.99) * 1e3


# -- what a connection costs -----------------------------------------------------------------------------------


def _connections(sizes: tuple[tuple[int, int], ...], *, rounds: int, seconds: float) -> Table:
    table = Table(
        "New TCP connections through a ClusterIP",
        ("services", "backends each", "way", "conn/s", "CPU µs/conn", "CPU: conntrack only / this"),
        notes=[_CONNECTIONS],
    )
    for services, each in sizes:
        with ExitStack() as stack:
            ways = {"direct, conntrack only": path(stack, TRACKED, SERVER)}
            node = _Node(services, each, measured=True)
            ours = replacement(node.compiler.table.whole())
            ways["direct, isthmus"] = path(stack, ours, SERVER)
            ways["ClusterIP, isthmus"] = path(stack, ours, VIP)
            if (services, each) in SIZES[:2]:  # more chains take minutes to load
                chains = _Chains(services, each, measured=True).whole()
                ways[f"ClusterIP, {STYLE}"] = path(stack, chains, VIP)
            bursts: dict[str, list[Burst]] = {name: [] for name in ways}
            for generator in ways.values():
                generator.connections(seconds)
            for number in range(rounds):
                for name in ways if number % 2 else reversed(ways):
                    bursts[name].append(ways[name].connections(seconds))
            baseline = [burst.cost for burst in bursts["direct, conntrack only"]]
            for name, found in bursts.items():
                costs = [burst.cost for burst in found]
                rate = statistics.median(burst.rate for burst in found)
                table.add(services, each, name, rate, statistics.median(costs) * 1e6, ratio(baseline, costs))
    return table


def path(stack: ExitStack, script: str, address: str) -> Generator:
    world = stack.enter_context(World({"client": (CLIENT,), "server": (SERVER,)}))
    world.nft(script)
    # By way of one address: a neighbour for each backend would overflow the kernel's table of them.
    world.router.ip(f"route add {BACKENDS} via {SERVER} dev pod1 onlink")
    world["server"].ip(f"route add local {BACKENDS} dev lo")
    world["server"].sysctl("net/core/somaxconn", "32768")  # on a busy machine the server is late to take them
    # Entries of reset connections would otherwise pile up to the limit of the table.
    world.router.sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")
    return stack.enter_context(
        Generator(world["client"], world["server"], address="0.0.0.0", through=address, ports=PORTS)
    )


# -- what is loaded --------------------------------------------------------------------------------------------


def backend_ip(number: int) -> str:
    return f"10.{100 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def service_ip(number: int) -> str:
    return f"172.{16 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


class _Node:
    """A node's table; the service in the middle is the one that changes, and the last, if asked for, is measured."""

    def __init__(self, services: int, each: int, *, measured: bool = False) -> None:
        self.compiler = Compiler(PolicyWorld("east"))
        self.compiler.put_pod(LocalPod("x", "client", "", {}, (CLIENT,)))
        self._services = ServiceCompiler(self.compiler.table, node="n1")
        self._each = each
        self._changed = services // 2
        for number in range(services):
            key = ("x", f"s{number}")
            self._services.put_service(
                Service(*key, ports=(Port("", Protocol.TCP, 80),), cluster_ips=(service_ip(number),))
            )
            for first in range(0, each, PER_SLICE):
                self._services.put_slice(self._slice(number, first))
        if measured:
            ports = tuple(Port(f"p{port}", Protocol.TCP, port) for port in PORTS)
            self._services.put_service(Service("x", "measured", ports=ports, cluster_ips=(VIP,)))
            members = {(p.key, Backend("east", Target(backend_ip(n), p.port))) for n in range(each) for p in ports}
            self._services.put_slice(Slice(("x", "measured"), ("x", "measured"), frozenset(members)))

    def change(self, number: int):
        """Takes one backend out and another in, as when a pod is replaced, and returns what is to be written."""
        self._services.put_slice(self._slice(self._changed, 0, shift=(number + 1) % 2))
        return self.compiler.table.take_delta()

    def _slice(self, number: int, first: int, *, shift: int = 0) -> Slice:
        last = min(first + PER_SLICE, self._each)
        spare = 0xF000 + number  # an address that no other backend has
        numbers = [number * self._each + n for n in range(first, last - shift)] + [spare] * shift
        members = frozenset((("", Protocol.TCP), Backend("east", Target(backend_ip(n), 80), "n1")) for n in numbers)
        return Slice(("x", f"s{number}-{first}"), ("x", f"s{number}"), members)


class _Chains:
    """The same services in the style of a chain for each service and each endpoint, as nft text."""

    def __init__(self, services: int, each: int, *, measured: bool = False) -> None:
        self._services = services
        self._each = each
        self._measured = measured

    def whole(self) -> str:
        lines = [
            "add table ip proxy",
            "add map ip proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }",
            "add map ip proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }",
            "add set ip proxy cluster-ips { type ipv4_addr; }",
            "add chain ip proxy mark-masquerade",
            "add rule ip proxy mark-masquerade mark set mark or 0x4000",
            "add chain ip proxy services",
            "add chain ip proxy endpoints-check",
        ]
        for number in range(self._services):
            lines += self._service(service_ip(number), 80, f"s{number}", number * self._each)
        if self._measured:
            for port in PORTS:
                lines += self._service(VIP, port, f"m{port}", 0, target=port)
        lines += [
            "add rule ip proxy services ip daddr . meta l4proto . th dport vmap @service-ips",
            "add rule ip proxy endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services",
            "add chain ip proxy filter-prerouting { type filter hook prerouting priority dstnat - 10; }",
            "add rule ip proxy filter-prerouting ct state new jump endpoints-check",
            "add chain ip proxy filter-forward { type filter hook forward priority -110; }",
            "add rule ip proxy filter-forward ct state new ip daddr @cluster-ips reject",
            "add chain ip proxy nat-prerouting { type nat hook prerouting priority dstnat; }",
            "add rule ip proxy nat-prerouting jump services",
            "add chain ip proxy nat-output { type nat hook output priority -100; }",
            "add rule ip proxy nat-output jump services",
            "add chain ip proxy nat-postrouting { type nat hook postrouting priority srcnat; }",
            "add rule ip proxy nat-postrouting mark and 0x4000 == 0 return",
            "add rule ip proxy nat-postrouting masquerade fully-random",
        ]
        return "".join(f"{line}\n" for line in lines)

    def change(self, number: int) -> str:
        """Returns the script that puts a new endpoint in the place of one of the service in the middle."""
        changed = self._services // 2
        name = f"s{changed}"
        first = changed * self._each
        fresh, old = f"{name}-new{number}", f"{name}-new{number - 1}" if number else f"{name}-{first}"
        chosen = [f"{name}-{first + n}" for n in range(1, self._each)] + [fresh]
        lines = [
            *self._endpoint(fresh, "10.99.0.1", 80),
            f"flush chain ip proxy service-{name}",
            f"add rule ip proxy service-{name} {_choice(chosen)}",
            f"flush chain ip proxy endpoint-{old}",
            f"delete chain ip proxy endpoint-{old}",
        ]
        return "".join(f"{line}\n" for line in lines)

    def _service(self, vip: str, port: int, name: str, first: int, *, target: int = 80) -> Iterator[str]:
        numbers = range(first, first + self._each)
        for number in numbers:
            yield from self._endpoint(f"{name}-{number}", backend_ip(number), target)
        yield f"add chain ip proxy service-{name}"
        yield f"add rule ip proxy service-{name} {_choice([f'{name}-{number}' for number in numbers])}"
        yield f"add element ip proxy service-ips {{ {vip} . tcp . {port} : goto service-{name} }}"
        yield f"add element ip proxy cluster-ips {{ {vip} }}" if port in (80, PORTS[0]) else ""

    @staticmethod
    def _endpoint(name: str, address: str, port: int) -> Iterator[str]:
        yield f"add chain ip proxy endpoint-{name}"
        yield f"add rule ip proxy endpoint-{name} ip saddr {address} jump mark-masquerade"
        yield f"add rule ip proxy endpoint-{name} meta l4proto tcp dnat to {address}:{port}"


def _choice(names: list[str]) -> str:
    options = ", ".join(f"{index} : goto endpoint-{name}" for index, name in enumerate(names))
    return f"numgen random mod {len(names)} vmap {{ {options} }}"
