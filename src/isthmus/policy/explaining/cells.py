"""All of (protocol, port) cut into cells within which no policy makes a difference, as bits of one number.

The cuts are the ends of every port range and every port that a name or a container stands for, so a statement about a
cell is one about each port in it: what is said of "all other ports" is exact. Rejected: a list of well-known ports to
try, which misses the rule that is wrong.
"""

from bisect import bisect_left
from collections.abc import Iterable
from functools import lru_cache

import msgspec

from isthmus.model.flow import Protocol
from isthmus.policy.rules import LAST_PORT, IcmpType, PortRange

_ICMP = (Protocol.ICMP, Protocol.ICMPV6)
LAST_TYPE = 255
OTHER = 256
"""Stands for every protocol that nobody names."""


class Cell(msgspec.Struct, frozen=True, order=True):
    """Ports `first`-`last` of a protocol, or types of ICMP."""

    protocol: int
    first: int
    last: int


class Cells:
    """The partition that ranges, ICMP types and single ports (protocol, number) make."""

    def __init__(self, named: Iterable[PortRange | IcmpType], ports: Iterable[tuple[int, int]] = ()) -> None:
        starts: dict[int, set[int]] = {protocol: {0} for protocol in (*Protocol, OTHER)}
        for one in named:
            if isinstance(one, IcmpType):
                starts.setdefault(one.protocol, {0}).update((one.type, one.type + 1))
            else:
                starts.setdefault(one.protocol, {0}).update((one.first, one.last + 1))
        for protocol, port in ports:
            starts.setdefault(protocol, {0}).update((port, port + 1))
        self.all: list[Cell] = []
        self._first: dict[int, int] = {}
        self._starts: dict[int, list[int]] = {}
        for protocol in sorted(starts):
            last = LAST_TYPE if protocol in _ICMP else LAST_PORT
            cuts = sorted(cut for cut in starts[protocol] if cut <= last)
            self._first[protocol] = len(self.all)
            self._starts[protocol] = cuts
            ends = [*(cut - 1 for cut in cuts[1:]), last]
            self.all += [Cell(protocol, first, end) for first, end in zip(cuts, ends, strict=True)]
        self.everything = (1 << len(self.all)) - 1

    def mask(self, one: PortRange | IcmpType) -> int:
        """Returns the cells of a range, or of an ICMP type; it must be among those that made the partition."""
        if isinstance(one, IcmpType):
            return self._span(one.protocol, one.type, one.type)
        return self._span(one.protocol, one.first, one.last)

    def at(self, protocol: int, port: int) -> int:
        """Returns the cell of one port; of a protocol that nobody names, that of all such."""
        known = protocol if protocol in self._starts else OTHER
        return self._span(known, port if known != OTHER else 0, port if known != OTHER else 0)

    def _span(self, protocol: int, first: int, last: int) -> int:
        starts, offset = self._starts[protocol], self._first[protocol]
        begin = bisect_left(starts, first + 1) - 1
        end = bisect_left(starts, last + 1) - 1
        return ((1 << (end + 1)) - (1 << begin)) << offset

    def family(self, version: int) -> int:
        """Returns the cells that an address family can have: ICMP belongs to IPv4, ICMPv6 to IPv6."""
        wrong = Protocol.ICMPV6 if version == 4 else Protocol.ICMP
        return self.everything & ~self._span(wrong, 0, LAST_TYPE)

    def ranges(self, mask: int) -> list[Cell]:
        """Returns the cells in `mask`, neighbours joined."""
        found: list[Cell] = []
        for number, cell in enumerate(self.all):
            if not mask >> number & 1:
                continue
            if found and found[-1].protocol == cell.protocol and found[-1].last + 1 == cell.first:
                found[-1] = Cell(cell.protocol, found[-1].first, cell.last)
            else:
                found.append(cell)
        return found

    def spoken(self, mask: int, *, within: int | None = None) -> str:
        """Returns `mask` for people: `all`, `none`, `53/UDP, 80/TCP`, or `all but 80/TCP`, whatever is shorter.

        `within` are the cells that count.
        """
        whole = self.everything if within is None else within
        mask &= whole
        if mask == whole:
            return "all"
        if not mask:
            return "none"
        said, unsaid = self._list(mask, whole), self._list(whole & ~mask, whole)
        return ", ".join(said) if len(said) <= len(unsaid) else "all but " + ", ".join(unsaid)

    def _list(self, mask: int, whole: int) -> list[str]:
        ranges = self.ranges(mask)
        known = {protocol: self._span(protocol, 0, self._last(protocol)) & whole for protocol in self._starts}
        complete = {p for p, cells in known.items() if cells and mask & cells == cells}
        words = [_word(protocol) for protocol in sorted(complete)]
        return words + [range_text(cell) for cell in ranges if cell.protocol not in complete]

    @staticmethod
    def _last(protocol: int) -> int:
        return LAST_TYPE if protocol in _ICMP else LAST_PORT


def in_family(port: tuple[int, int], family: int) -> tuple[int, int]:
    """Returns what (protocol, number or type) is in IPv4 or IPv6: ICMP or ICMPv6, and an echo request 8 or 128."""
    protocol, number = port
    if protocol not in _ICMP:
        return port
    wanted, echo = (Protocol.ICMPV6, 128) if family == 6 else (Protocol.ICMP, 8)
    return wanted, echo if number in (8, 128) else number


@lru_cache(maxsize=512)
def _word(protocol: int) -> str:
    if protocol == OTHER:
        return "other protocols"
    if protocol == Protocol.ICMPV6:
        return "ICMPv6"
    return Protocol(protocol).name if protocol in set(Protocol) else f"protocol {protocol}"


def range_text(cell: Cell) -> str:
    """Returns a range as `80/TCP`, `8000-8080/TCP` or `ICMP type 8`."""
    span = f"{cell.first}" if cell.first == cell.last else f"{cell.first}-{cell.last}"
    if cell.protocol in _ICMP:
        return f"{_word(cell.protocol)} type{'' if cell.first == cell.last else 's'} {span}"
    return f"{span}/{_word(cell.protocol)}"


def port_text(protocol: int, port: int) -> str:
    """Returns one port, or type of ICMP, in the same words."""
    if protocol not in (*_ICMP, Protocol.TCP, Protocol.UDP, Protocol.SCTP):
        return _word(protocol)
    return range_text(Cell(protocol, port, port))
