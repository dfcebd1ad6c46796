"""Global services: what a change costs where half of the backends are another cluster's, and what a connection costs.

Beside each in the same run, taking turns, stands an ordinary service of the same size. Goals: a change of one backend
costs the same at every size and, but for the seats of a weight, as much as in an ordinary service; only a change of
tier or weight looks at a whole service.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from benchmarks.load import Burst, Generator
from benchmarks.services import CLIENT, PER_SLICE, PORTS, SIZES, VIP, backend_ip, milliseconds, path, service_ip
from benchmarks.table import Table, ratio
from isthmus.model.flow import Protocol
from isthmus.model.service import Backend, Port, Service, Slice, Target
from isthmus.policy.world import LocalPod
from isthmus.policy.world import World as PolicyWorld
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.services import ServiceCompiler
from isthmus.ruleset.table import Delta
from isthmus.ruleset.text import replacement
from isthmus.services.choice import REST, Choice
from tests.support.netns import World

OWN, OTHER = "east", "west"
ALIKE = Choice(OWN)
LOCAL, REMOTE = Choice(OWN, (frozenset({OWN}), REST)), Choice(OWN, (REST, frozenset({OWN})))
WAYS: dict[str, Choice | None] = {
    "ordinary": None,
    "merged": ALIKE,
    "merged, 100 to 25": Choice(OWN, (REST,), {OTHER: 25}),
    "merged, 100 to 90": Choice(OWN, (REST,), {OTHER: 90}),
    "merged, local first": LOCAL,
}

_UPDATES = (
    "A backend of one cluster is replaced by another. `all` is told -> committed; the ratio is that of an ordinary "
    "service to this one, pair by pair with quartiles: less than 1 is dearer. Seats: slots of the service that changes."
)
_SWITCHES = "Of one service: the own cluster first -> the other one first; all alike -> 90 % left of one -> 80 %."


def run(*, quick: bool) -> Iterator[Table]:
    """Yields the tables one by one as they are measured."""
    sizes = SIZES[:2] if quick else SIZES
    yield _updates(sizes, rounds=20 if quick else 100)
    yield _switches(sizes, rounds=4 if quick else 20)
    yield _connections((SIZES[0], SIZES[-1])[: 1 if quick else 2], rounds=6 if quick else 16, seconds=0.2)


def _updates(sizes: tuple[tuple[int, int], ...], *, rounds: int) -> Table:
    columns = ("services", "backends each", "how", "seats", "told -> table ms", "commit p50 ms", "commit p99 ms", "all")
    table = Table("A change of one backend of a global service", columns, notes=[_UPDATES])
    for services, each in sizes:
        with ExitStack() as stack:
            nodes = {name: _Loaded(stack, services, each, choice) for name, choice in WAYS.items()}
            for number in range(rounds):
                for name in nodes if number % 2 else reversed(nodes):
                    nodes[name].measure(lambda node, number=number: node.change(number))
            ordinary = nodes["ordinary"].everything
            for name, node in nodes.items():
                told = statistics.median(node.told) * 1e3
                against = ratio(ordinary, node.everything)
                table.add(services, each, name, node.node.seats, told, *milliseconds(node.committed), against)
    return table


def _switches(sizes: tuple[tuple[int, int], ...], *, rounds: int) -> Table:
    columns = ("services", "backends each", "what changes", "elements", "told -> table ms", "commit p50 ms")
    table = Table("A change of a whole global service", columns, notes=[_SWITCHES])
    weights = [Choice(OWN, (REST,), {OTHER: left}) for left in (90, 80)]
    turns = {
        "tier": [REMOTE, LOCAL],
        "first step of a drain": [weights[0], ALIKE],
        "next step": [weights[1], weights[0]],
    }
    for services, each in sizes:
        with ExitStack() as stack:
            loaded = _Loaded(stack, services, each, ALIKE)
            for name, choices in turns.items():
                loaded.apply(loaded.node.choose(choices[1]))
                loaded.forget()
                for number in range(rounds):
                    loaded.measure(lambda node, choice=choices[number % 2]: node.choose(choice))
                told = statistics.median(loaded.told) * 1e3
                table.add(services, each, name, loaded.elements, told, milliseconds(loaded.committed)[0])
    return table


def _connections(sizes: tuple[tuple[int, int], ...], *, rounds: int, seconds: float) -> Table:
    columns = ("services", "backends each", "how", "conn/s", "CPU µs/conn", "CPU: ordinary / this")
    table = Table("New TCP connections through a ClusterIP of a global service", columns)
    for services, each in sizes:
        with ExitStack() as stack:
            ways: dict[str, Generator] = {}
            for name in ("ordinary", "merged", "merged, 100 to 90"):
                node = _Node(services, each, WAYS[name], measured=True)
                ways[name] = path(stack, replacement(node.compiler.table.whole()), VIP)
            bursts: dict[str, list[Burst]] = {name: [] for name in ways}
            for generator in ways.values():
                generator.connections(seconds)
            for number in range(rounds):
                for name in ways if number % 2 else reversed(ways):
                    bursts[name].append(ways[name].connections(seconds))
            baseline = [burst.cost for burst in bursts["ordinary"]]
            for name, found in bursts.items():
                costs = [burst.cost for burst in found]
                rate = statistics.median(burst.rate for burst in found)
                table.add(services, each, name, rate, statistics.median(costs) * 1e6, ratio(baseline, costs))
    return table


class _Node:
    """A node's table; half of the backends are the other cluster's, and the service in the middle is what changes."""

    def __init__(self, services: int, each: int, choice: Choice | None, *, measured: bool = False) -> None:
        self.compiler = Compiler(PolicyWorld(OWN))
        self.compiler.put_pod(LocalPod("x", "client", "", {}, (CLIENT,)))
        self._services = ServiceCompiler(self.compiler.table, node="n1")
        self._each = each
        self._changed = services // 2
        for number in range(services):
            self._services.set_choice(("x", f"s{number}"), choice)
            ips = (service_ip(number),)
            self._services.put_service(Service("x", f"s{number}", ports=(Port("", Protocol.TCP, 80),), cluster_ips=ips))
            for cluster in (OWN, OTHER):
                for first in range(0, each // 2, PER_SLICE):
                    self._services.put_slice(self._slice(cluster, number, first))
        if measured:
            key = ("x", "measured")
            ports = tuple(Port(f"p{port}", Protocol.TCP, port) for port in PORTS)
            self._services.set_choice(key, choice)
            self._services.put_service(Service(*key, ports=ports, cluster_ips=(VIP,)))
            told = {
                (port.key, Backend((OWN, OTHER)[n % 2], Target(backend_ip(n), port.port)))
                for n in range(each)
                for port in ports
            }
            self._services.put_slice(Slice(key, key, frozenset(told)))

    @property
    def seats(self) -> int:
        """Returns how many slots the service that changes has."""
        ip = service_ip(self._changed)
        return sum(key[0] == ip for key in self.compiler.table.elements["backends4"])

    def change(self, number: int) -> Delta:
        """Takes one backend out and another in, as when a pod is replaced, and returns what is to be written."""
        shift = number // 2 % 2 == 0
        self._services.put_slice(self._slice((OWN, OTHER)[number % 2], self._changed, 0, shift=shift))
        return self.compiler.table.take_delta()

    def choose(self, choice: Choice) -> Delta:
        """Lets the service follow another choice."""
        self._services.set_choice(("x", f"s{self._changed}"), choice)
        return self.compiler.table.take_delta()

    def _slice(self, cluster: str, number: int, first: int, *, shift: bool = False) -> Slice:
        half = self._each // 2
        base = number * self._each + half * (cluster == OTHER)
        last = min(first + PER_SLICE, half)
        numbers = [base + n for n in range(first, last - shift)]
        spare = [0xF000 + 2 * number + (cluster == OTHER)] * shift  # an address that no other backend has
        told = frozenset(
            (("", Protocol.TCP), Backend(cluster, Target(backend_ip(n), 80), f"n{n // PER_SLICE}"))
            for n in (*numbers, *spare)
        )
        return Slice((cluster, "x", f"s{number}-{first}"), ("x", f"s{number}"), told)


class _Loaded:
    """A node in a kernel of its own, and how long its changes took."""

    def __init__(self, stack: ExitStack, services: int, each: int, choice: Choice | None) -> None:
        self._world = stack.enter_context(World([]))
        self.node = _Node(services, each, choice)
        self._world.nft(replacement(self.node.compiler.table.whole()))
        self.node.compiler.table.forget_journal()
        self.forget()

    def forget(self) -> None:
        """Starts to measure anew."""
        self.told: list[float] = []
        self.committed: list[float] = []
        self.elements = 0

    @property
    def everything(self) -> list[float]:
        """Returns how long each change took in all."""
        return [told + committed for told, committed in zip(self.told, self.committed, strict=True)]

    def measure(self, change: Callable[[_Node], Delta]) -> None:
        """Makes one change and writes it."""
        began = time.perf_counter()
        delta = change(self.node)
        self.told.append(time.perf_counter() - began)
        began = time.perf_counter()
        self.apply(delta)
        self.committed.append(time.perf_counter() - began)
        self.elements = max(self.elements, sum(len(one.remove) + len(one.add) for one in delta.changes))

    def apply(self, delta: Delta) -> None:
        """Writes a change."""
        assert not delta.structural
        if delta.changes:
            self._world.apply(*delta.changes)
