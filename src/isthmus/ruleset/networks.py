"""Address blocks of a segment as few rules: what policies write is cut, merged and turned into what nftables matches.

Invariants: an address and port that some peer means is matched, and no other. A handful of differing groups costs a
rule each, as people would write it; more of them become one look-up in a set of boxes (address range, protocol, port
range) that do not overlap, as nftables demands, so that a thousand policies with a block each cost no more than ten.
Rejected: always the set of boxes, which is slower than a rule or two and cannot hold "any port".
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, collapse_addresses, summarize_address_range
from itertools import pairwise

import msgspec

from isthmus.policy.gate import Opening, Ports, simplest
from isthmus.policy.rules import Address, CidrPeer, IcmpType, Network, PortRange

MOST_GROUPS = 4
MOST_BOXES = 20_000

Box = tuple[Address, Address, int, int, int]


class Group(msgspec.Struct, frozen=True):
    """Networks of one family, merged and without overlaps, that may all use `ports`."""

    version: int
    outside: bool
    networks: tuple[Network, ...]
    ports: tuple[Ports, ...]


def groups(openings: Iterable[Opening]) -> list[Group]:
    """Returns the groups that the peers by address of `openings` make up."""
    by_ports: dict[tuple[int, bool, tuple[Ports, ...]], list[Network]] = {}
    for opening in openings:
        peer = opening.peer
        if isinstance(peer, CidrPeer) and opening.ports:
            by_ports.setdefault((peer.network.version, peer.outside, opening.ports), []).extend(_cut(peer))
    return [
        Group(version, outside, merged, ports)
        for (version, outside, ports), networks in by_ports.items()
        if (merged := tuple(_merge(networks)))
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
        blocks += [(int(one.network_address), int(one.broadcast_address), ranges) for one in group.networks]
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
    by_port: dict[tuple[int, bool, Ports], list[Network]] = {}
    for group in of:
        for port in group.ports:
            by_port.setdefault((group.version, group.outside, port), []).extend(group.networks)
    return [
        Group(version, outside, tuple(_merge(networks)), (port,))
        for (version, outside, port), networks in by_port.items()
    ]


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


def icmp_types(ports: Iterable[Ports]) -> list[IcmpType]:
    """Returns the types of ICMP among `ports`."""
    return [port for port in ports if isinstance(port, IcmpType)]


def _cut(peer: CidrPeer) -> list[Network]:
    """Returns what is left of the network, in one pass over its holes in the order of their addresses."""
    first, last = int(peer.network.network_address), int(peer.network.broadcast_address)
    pieces: list[Network] = []
    holes = [hole for hole in peer.excepts if hole.version == peer.network.version]
    for hole in sorted(holes, key=lambda hole: int(hole.network_address)):
        pieces += _networks_of(peer.network, first, min(int(hole.network_address) - 1, last))
        first = max(first, int(hole.broadcast_address) + 1)
    return pieces + _networks_of(peer.network, first, last)


def _networks_of(like: Network, first: int, last: int) -> list[Network]:
    if first > last:
        return []
    if like.version == 4:
        return list(summarize_address_range(IPv4Address(first), IPv4Address(last)))
    return list(summarize_address_range(IPv6Address(first), IPv6Address(last)))


def _merge(networks: Iterable[Network]) -> Iterator[Network]:
    four = [network for network in networks if network.version == 4]
    six = [network for network in networks if network.version == 6]
    yield from collapse_addresses(four)
    yield from collapse_addresses(six)
