"""Set elements into the kernel: what one change costs in a big table, and how long a first load takes.

The ways that are compared are the one the agent uses (raw netlink, `ElementWriter`) and the same change as text through
libnftables and through a process of nft, in the same table. Times include the making of bytes or text from typed keys.
"""

import errno
import resource
import time
from collections.abc import Callable, Iterator

from benchmarks.meshes import compiled, load, mesh
from benchmarks.table import Table, quantile
from isthmus.kernel.elements import in_transactions
from isthmus.kernel.errors import KernelError
from isthmus.ruleset.sets import ElementChange
from isthmus.ruleset.table import Delta
from isthmus.ruleset.text import script
from tests.support.netns import World

SERVER, CLIENT = "10.244.0.11", "10.244.0.10"
PEERS = "peers4"


def run(*, quick: bool) -> Iterator[Table]:
    """Yields the tables one by one as they are measured."""
    yield _one_change(times=10 if quick else 50)
    yield _first_load((10_000, 100_000) if quick else (10_000, 100_000, 1_000_000))


def _one_change(*, times: int) -> Table:
    table = Table(
        "One pod IP appears (one element of peers4), in ms",
        ("policies", "remote IPs", "way", "p50", "p99", "p50 / raw netlink"),
    )
    for policies, addresses in ((10, 1_000), (1_000, 1_000), (1_000, 100_000)):
        with World([]) as world:
            whole = compiled(mesh(server=SERVER, client=CLIENT, policies=policies, addresses=addresses))
            load(whole, nft=world.nftables, elements=world.elements)
            spec = next(spec for spec in whole.new_sets if spec.name == PEERS)
            ways: dict[str, Callable[[World, ElementChange], object]] = {
                "raw netlink": lambda world, change: world.apply(change),
                "libnftables": lambda world, change: world.nft(_text(change)),
                "nft process": lambda world, change: world.router.command("nft", "-f", "-", text=_text(change)),
            }
            spent: dict[str, list[float]] = {}
            for index, (name, way) in enumerate(ways.items()):
                for number in range(times):
                    change = ElementChange(spec, add=(((f"172.{16 + index}.0.{number}",), 0x20101),))
                    start = time.perf_counter()
                    way(world, change)
                    spent.setdefault(name, []).append((time.perf_counter() - start) * 1000)
            base = quantile(spent["raw netlink"], 0.5)
            for name, values in spent.items():
                middle = quantile(values, 0.5)
                table.add(policies, addresses, name, middle, quantile(values, 0.99), middle / base)
    return table


def _first_load(sizes: tuple[int, ...]) -> Table:
    table = Table(
        "First load of peers4 into an empty map",
        ("elements", "way", "seconds", "µs/element", "peak memory more, MB"),
    )
    for size in sizes:
        with World([]) as world:
            # Whoever holds a million elements has them as changes already: those are made outside the time.
            whole = compiled(mesh(server=SERVER, client=CLIENT, policies=1, addresses=1))
            spec = next(spec for spec in whole.new_sets if spec.name == PEERS)
            change = ElementChange(
                spec, add=tuple(((f"11.{n >> 16}.{n >> 8 & 255}.{n & 255}",), 0x20101 + n % 1000) for n in range(size))
            )
            empty = Delta(new_sets=whole.new_sets, new_chains=whole.new_chains)
            ways: dict[str, Callable[[World, ElementChange], object]] = {
                "raw netlink, 4,096 a transaction": _in_parts,
                "raw netlink, one transaction": lambda world, change: world.apply(change),
                "libnftables, one transaction": lambda world, change: world.nft(_text(change)),
            }
            for name, way in ways.items():
                load(empty, nft=world.nftables, elements=world.elements)
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                start = time.perf_counter()
                try:
                    way(world, change)
                except KernelError as error:
                    if error.errno != errno.EMSGSIZE:
                        raise
                    table.add(size, name, "beyond net.core.wmem_max", "", "")
                    continue
                seconds = time.perf_counter() - start
                more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
                table.add(size, name, seconds, seconds / size * 1e6, more)
    table.notes.append(
        "Peak memory is of the process and never goes down, so a way that needs less than an earlier one shows 0."
    )
    return table


def _in_parts(world: World, change: ElementChange) -> None:
    for group in in_transactions([change]):
        world.apply(*group)


def _text(change: ElementChange) -> str:
    return script(Delta(changes=(change,)))
