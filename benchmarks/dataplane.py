"""What a policed pod costs: TCP connections and bulk throughput against the same path with connection tracking only.

Every variant is a world of its own (client, router, server), all up at the same time; rounds go from one to the next
and back again, and a ratio is the median over rounds of neighbours in time. Goals: connections at least 0.90 of the
baseline at 10 policies and 0.85 at 1,000 policies and 100,000 remote IPs, bulk at least 0.97.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from benchmarks.load import Burst, Generator, without_offload
from benchmarks.meshes import FIRST_PORT, PORTS, compiled, load, mesh
from benchmarks.table import Table, ratio
from tests.support.netns import World

CLIENT, SERVER = "10.244.0.10", "10.244.0.11"
BASELINE = "conntrack only"
TRACKED = """table inet conntrack_only {
    chain postrouting {
        type filter hook postrouting priority srcnat - 5; policy accept;
        ct state invalid counter
    }
}
"""
NOT_JUDGED = "insert rule inet isthmus postrouting ct state established accept\n"
VARIANTS = ("no conntrack", BASELINE, "isthmus", "isthmus, new connections only")
SIZES = ((1, 1_000), (10, 1_000), (1_000, 1_000), (1_000, 100_000))  # policies, remote IPs


def run(*, quick: bool) -> Iterator[Table]:
    """Yields the tables one by one as they are measured."""
    rounds, seconds = (8, 0.2) if quick else (24, 0.3)
    connections = Table(
        "New TCP connections to a policed pod",
        ("policies", "remote IPs", "variant", "conn/s", "CPU µs/conn", f"CPU: {BASELINE} / this"),
    )
    bulk = Table(
        "Bulk TCP to a policed pod, one stream",
        ("policies", "remote IPs", "packets", "variant", "Gbit/s", "CPU s/GB", f"CPU: {BASELINE} / this"),
    )
    for policies, addresses in SIZES:
        with ExitStack() as stack:
            generators = {name: _world(name, policies, addresses, stack) for name in VARIANTS}
            for name, bursts in _rounds(generators, Generator.connections, rounds, seconds).items():
                rate = statistics.median(burst.rate for burst in bursts)
                connections.add(policies, addresses, name, rate, _cost(bursts) * 1e6, _ratio(name))
        if (policies, addresses) in (SIZES[1], SIZES[-1]):
            for segmented in (False, True):
                with ExitStack() as stack:
                    generators = {name: _world(name, policies, addresses, stack, segmented) for name in VARIANTS}
                    for name, bursts in _rounds(generators, Generator.bulk, rounds, seconds).items():
                        rate = statistics.median(burst.rate for burst in bursts) * 8 / 1e9
                        packets = "1,500 bytes" if segmented else "64 KiB (offload)"
                        bulk.add(policies, addresses, packets, name, rate, _cost(bursts) * 1e9, _ratio(name))
    connections.notes.append(_reading)
    yield connections
    yield bulk


_reading = (
    "CPU is that of client and server process together and holds the whole path; the ratio is how many connections the "
    "same CPU makes, with quartiles over rounds. `new connections only` accepts established connections unseen, which "
    "the product does not do: it is the upper bound of any way to remember a verdict."
)
_current: dict[str, list[Burst]] = {}


def _ratio(name: str) -> str:
    return ratio([burst.cost for burst in _current[BASELINE]], [burst.cost for burst in _current[name]])


def _cost(bursts: Sequence[Burst]) -> float:
    return statistics.median(burst.cost for burst in bursts)


def _rounds(
    generators: dict[str, Generator],
    burst: Callable[[Generator, float], Burst],
    rounds: int,
    seconds: float,
) -> dict[str, list[Burst]]:
    for generator in generators.values():
        burst(generator, seconds)
    results: dict[str, list[Burst]] = {name: [] for name in generators}
    for number in range(rounds):
        for name in generators if number % 2 else reversed(generators):
            results[name].append(burst(generators[name], seconds))
    _current.clear()
    _current.update(results)
    return results


def _world(name: str, policies: int, addresses: int, stack: ExitStack, segmented: bool = False) -> Generator:
    world = stack.enter_context(World({"client": (CLIENT,), "server": (SERVER,)}))
    if name == BASELINE:
        world.nft(TRACKED)
    elif name.startswith("isthmus"):
        whole = compiled(mesh(server=SERVER, client=CLIENT, policies=policies, addresses=addresses))
        load(whole, nft=world.nftables, elements=world.elements)
        if name != "isthmus":
            world.nft(NOT_JUDGED)
    if name != "no conntrack":
        # Entries of reset connections would otherwise pile up to the limit of the table.
        world.router.sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")
    if segmented:
        world["client"].run(lambda: without_offload("eth0"))
        world["server"].run(lambda: without_offload("eth0"))
        world.router.run(lambda: [without_offload(link) for link in ("pod0", "pod1")])
    ports = range(FIRST_PORT, FIRST_PORT + PORTS)
    return stack.enter_context(Generator(world["client"], world["server"], address=SERVER, ports=ports))
