"""Address blocks of a segment as few rules: what policies write is cut, merged and turned into what nftables matches.

Invariants: an address and port that some peer means is matched, and no other. A handful of differing groups costs a
rule each, as people would write it; more of them become one look-up in a set of boxes (address range, protocol, port
range) that do not overlap, as nftables demands, so that a thousand policies with a block each cost no more than ten.
Blocks are pairs of numbers until they are written: the standard library's networks take seconds for a hundred thousand.
Rejected: always the set of boxes, which is slower than a rule or two and cannot hold "any port".
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise

import msgspec

from isthmus.policy.gate import Opening, Ports, simplest
from isthmus.policy.rules import CidrPeer, Network, PortRange
from isthmus.ruleset.rules import Box

MOST_GROUPS = 4
MOST_BOXES = 20_000

Block = tuple[int, int]
"""First and last address of a network, as numbers."""

_WIDTH = {4: 32, 6: 128}


class Group(msgspec.Struct, frozen=True):
    """Networks of one family, merged and without overlaps, in order, that may all use `ports`."""

    version: int
    outside: bool
    blocks: tuple[Block, ...]
    ports: tuple[Ports, ...]

    @property
    def everything(self) -> bool:
        """Tells whether every address of the family is meant."""
        return self.blocks == ((0, (1 << _WIDTH[self.version]) - 1),)

    @property
    def networks(self) -> tuple[Network, ...]:
        """Returns the blocks as they are written."""
        width = _WIDTH[self.version]
        lengths = [(first, width + 1 - (last - first + 1).bit_length()) for first, last in self.blocks]
        return tuple(map(IPv4Network if self.version == 4 else IPv6Network, lengths))


def groups(openings: Iterable[Opening]) -> list[Group]:
    """Returns the groups that the peers by address of `openings` make up."""
    by_ports: dict[tuple[int, bool, tuple[Ports, ...]], list[Block]] = {}
    for opening in openings:
        peer = opening.peer
        if isinstance(peer, CidrPeer) and opening.ports:
            by_ports.setdefault((peer.network.version, peer.outside, opening.ports), []).extend(_cut(peer))
    return [
        Group(version, outside, merged, ports)
        for (version, outside, ports), ranges in by_ports.items()
        if (merged := _merged(ranges))
    ]


def boxes(of: Iterable[Group]) -> tuple[Box, ...]:
    """Returns the ranges of ports (none of ICMP, none that is whole) that `of` lead to, all of one family.

    Empty if there would be more than MOST_BOXES.
    """
    blocks: list[tuple[int, int, tuple[PortRange, ...]]] = []
    version = 4
    for group in of:
        version = group.version
        ranges = tuple(port for port in group.ports if isinstance(port, PortRange))
        blocks += [(first, last, ranges) for first, last in group.blocks]
    found: list[Box] = []
    address = IPv4Address if version == 4 else IPv6Address
    for first, last, ranges in _disjoint(blocks):
        for port in _joined(ranges):
            found.append((address(first), address(last), port.protocol, port.first, port.last))
            if len(found) > MOST_BOXES:
                return ()
    return tuple(found)


def split(group: Group) -> tuple[Group, Group]:
    """Returns the group with the ports that fit into boxes, and with those that do not; either may have none."""
    fit = tuple(port for port in group.ports if isinstance(port, PortRange) and not port.whole)
    rest = tuple(port for port in group.ports if not isinstance(port, PortRange) or port.whole)
    return msgspec.structs.replace(group, ports=fit), msgspec.structs.replace(group, ports=rest)


def joined(of: Iterable[Group]) -> list[Group]:
    """Returns `of` turned around: for each kind of port that they name, all networks that may use it."""
    by_port: dict[tuple[int, bool, Ports], list[Block]] = {}
    for group in of:
        for port in group.ports:
            by_port.setdefault((group.version, group.outside, port), []).extend(group.blocks)
    return [Group(version, outside, _merged(blocks), (port,)) for (version, outside, port), blocks in by_port.items()]


def _disjoint(
    blocks: list[tuple[int, int, tuple[PortRange, ...]]],
) -> Iterator[tuple[int, int, tuple[PortRange, ...]]]:
    """Yields pieces in order, each with the ports of all blocks that cover it; blocks nest or are apart."""
    edges = sorted({edge for first, last, _ in blocks for edge in (first, last + 1)})
    open_blocks: list[tuple[int, tuple[PortRange, ...]]] = []
    waiting = sorted(blocks, key=lambda block: (block[0], -block[1]), reverse=True)
    for start, end in pairwise(edges):
        while open_blocks and open_blocks[-1][0] < start:
            open_blocks.pop()
        while waiting and waiting[-1][0] == start:
            _, last, ranges = waiting.pop()
            open_blocks.append((last, ranges))
        if open_blocks:
            yield start, end - 1, tuple(port for _, ranges in open_blocks for port in ranges)


def _joined(ranges: Iterable[PortRange]) -> list[PortRange]:
    """Returns ranges of ports that cover the same and do not overlap."""
    found: list[PortRange] = []
    for one in simplest(ranges):
        if not isinstance(one, PortRange):
            continue
        if found and found[-1].protocol == one.protocol and one.first <= found[-1].last + 1:
            found[-1] = PortRange(one.protocol, found[-1].first, max(one.last, found[-1].last))
        else:
            found.append(one)
    return found


def port_ranges(ports: Iterable[Ports]) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
    """Yields protocols with the ranges that `ports` have of them, where that is not all: merged, not overlapping."""
    by_protocol: dict[int, list[tuple[int, int]]] = {}
    for one in _joined([port for port in ports if isinstance(port, PortRange) and not port.whole]):
        by_protocol.setdefault(one.protocol, []).append((one.first, one.last))
    for protocol, ranges in by_protocol.items():
        yield protocol, tuple(ranges)


def _cut(peer: CidrPeer) -> list[Block]:
    """Returns the ranges that are left of the network, in one pass over its holes in the order of their addresses."""
    first, last = _block(peer.network)
    pieces: list[Block] = []
    for start, end in sorted(_block(hole) for hole in peer.excepts if hole.version == peer.network.version):
        if first < start:
            pieces.append((first, min(start - 1, last)))
        first = max(first, end + 1)
    return [*pieces, (first, last)] if first <= last else pieces


def _block(network: Network) -> Block:
    first = int(network.network_address)
    return first, first | (1 << network.max_prefixlen - network.prefixlen) - 1


def _merged(ranges: Iterable[Block]) -> tuple[Block, ...]:
    """Returns the fewest networks that cover the same: they nest in others or are apart from them."""
    wholes: list[Block] = []
    for first, last in sorted(ranges):
        if wholes and first <= wholes[-1][1] + 1:
            wholes[-1] = wholes[-1][0], max(last, wholes[-1][1])
        else:
            wholes.append((first, last))
    return tuple(network for first, last in wholes for network in _networks_of(first, last))


def _networks_of(first: int, last: int) -> Iterator[Block]:
    while first <= last:
        size = 1 << (last - first + 1).bit_length() - 1
        if first:
            size = min(size, first & -first)
        yield first, first + size - 1
        first += size
