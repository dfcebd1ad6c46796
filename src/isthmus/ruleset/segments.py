"""One segment of a gate as sets and rules: what its peers and ports become, whatever the segment does with a match.

Peers that follow from the identity are elements of sets, keyed by what is in the scratch; address blocks are rules;
names and ports by name are sets of addresses. Invariant: the number of rules follows from what *kinds* of ports there
are, not from how many policies: a thousand of them are a few look-ups.
Rejected: a set for each long range of ports whatever their number, and a rule for each block: a packet would try them
one by one.
"""

from collections.abc import Iterable, Iterator

import msgspec

from isthmus.model.identity import KUBE_APISERVER, WORLD
from isthmus.policy.cost import MOST_SINGLES, aligned
from isthmus.policy.gate import Opening, Ports, Segment
from isthmus.policy.rules import IcmpType, IdentityPeer, NamePeer, PortRange
from isthmus.ruleset import networks
from isthmus.ruleset.layout import PEERS
from isthmus.ruleset.rules import (
    AddressIn,
    AddressPortIn,
    Expr,
    Family,
    HasProtocol,
    IcmpIs,
    InDirection,
    Lookup,
    PeerIs,
    PortIn,
    Rule,
    Statement,
)
from isthmus.ruleset.sets import Field, Key, SetSpec

# A range of up to MOST_SINGLES ports is spelled out as elements; a longer one gets a set of its own,
MOST_RANGES = 8  # or, where a segment has more than so many longer ones, aligned blocks of 4, 16, 64 … ports

Element = tuple[str, Key]
"""Name of a set, and a key of it (or, in rows, what follows the identity or address in it)."""

_OUTSIDE = PeerIs((WORLD, KUBE_APISERVER))


class Rows(msgspec.Struct, frozen=True):
    """What one segment's sets hold: for each peer, the elements that whoever it means gets.

    `by_identity` is for peers that follow from the identity; `by_name` for names, with the set of addresses without the
    version of IP at its end; `named` are the openings with ports by name, whose numbers the addresses say.
    """

    prefix: str
    by_identity: dict[IdentityPeer, tuple[Element, ...]]
    by_name: tuple[tuple[NamePeer, str], ...] = ()
    named: tuple[Opening, ...] = ()

    @property
    def anywhere(self) -> str:
        """Returns the set of identities that are meant whatever the port."""
        return f"{self.prefix}_any"

    def named_set(self, version: int) -> str:
        """Returns the name of the set of addresses that port names were resolved for."""
        return f"{self.prefix}_named{version}"


class SegmentPlan:
    """A segment in the making: `write` yields its rules, and then `sets` and `rows` are what these need.

    `side` is the peer's address, for each version of IP; `verdict` ends the rules for what matches.
    """

    def __init__(self, prefix: str, segment: Segment, side: dict[int, Expr], verdict: Statement) -> None:
        self.sets: dict[str, SetSpec] = {}
        self.rows = Rows(prefix, {})
        self._prefix = prefix
        self._openings = segment.openings
        self._side = side
        self._verdict = verdict
        self._alone: dict[str, Ports] = {}  # sets of identities whose ports are asked for in a rule
        self._blocks = _has_many_ranges(segment)

    def write(self) -> Iterator[Rule]:
        """Yields the rules, what is quick to tell first."""
        by_identity: dict[IdentityPeer, tuple[Element, ...]] = {}
        for opening in self._openings:
            if opening.peer is None:
                yield from _matching((), opening.ports, self._verdict)
            elif isinstance(opening.peer, IdentityPeer) and opening.ports:
                by_identity[opening.peer] = tuple(one for ports in opening.ports for one in self._elements(ports))
        yield from self._identity_rules()
        named = tuple(opening for opening in self._openings if opening.names)
        for version in (4, 6) if named else ():
            name = self._add(f"_named{version}", PEERS[version].key[0], Field.PROTOCOL, Field.PORT)
            yield from self._both_ways((self._side[version], Expr.PROTOCOL), name)
        yield from self._network_rules()
        names: dict[tuple[Ports, ...], str] = {}
        by_name = tuple(
            (opening.peer, names.setdefault(opening.ports, f"{self._prefix}_dns{len(names)}_"))
            for opening in self._openings
            if isinstance(opening.peer, NamePeer) and opening.ports
        )
        yield from self._name_rules(names)
        self.rows = Rows(self._prefix, by_identity, by_name, named)

    def _add(self, suffix: str, *key: Field) -> str:
        name = f"{self._prefix}{suffix}"
        if name not in self.sets:
            self.sets[name] = SetSpec(name, key)
        return name

    def _elements(self, ports: Ports) -> Iterator[Element]:
        """Yields set and rest of the key (what follows the identity) that mean `ports`."""
        match ports:
            case None:
                yield self._add("_any", Field.IDENTITY), ()
            case IcmpType(protocol, kind):
                name = self._add(f"_i{protocol}_{kind}", Field.IDENTITY)
                self._alone[name] = ports
                yield name, ()
            case PortRange(protocol, _, _) if ports.whole:
                yield self._add("_proto", Field.IDENTITY, Field.PROTOCOL), (protocol,)
            case PortRange(protocol, first, last) if not _long(ports) or self._blocks:
                for bits, base in (
                    aligned(first, last) if _long(ports) else ((0, port) for port in range(first, last + 1))
                ):
                    yield self._add(_ports_set(bits), Field.IDENTITY, Field.PROTOCOL, Field.PORT), (protocol, base)
            case PortRange(protocol, first, last):
                name = self._add(f"_p{protocol}_{first}_{last}", Field.IDENTITY)
                self._alone[name] = ports
                yield name, ()

    def _identity_rules(self) -> Iterator[Rule]:
        for bits in range(0, 16, 2):
            name = f"{self._prefix}{_ports_set(bits)}"
            if name in self.sets:
                yield from self._both_ways((Expr.SCRATCH, Expr.PROTOCOL), name, ignored=bits)
        name = f"{self._prefix}_proto"
        if name in self.sets:
            yield Rule((Lookup((Expr.SCRATCH, Expr.PROTOCOL), name), self._verdict))
        name = f"{self._prefix}_any"
        if name in self.sets:
            yield Rule((Lookup((Expr.SCRATCH,), name), self._verdict))
        for name, ports in self._alone.items():
            yield from _matching((), (ports,), Lookup((Expr.SCRATCH,), name), self._verdict)

    def _both_ways(self, fields: tuple[Expr, ...], name: str, *, ignored: int = 0) -> Iterator[Rule]:
        for reply, port in ((False, Expr.DESTINATION_PORT), (True, Expr.SOURCE_PORT)):
            yield Rule((InDirection(reply), Lookup((*fields, port), name, ignored=ignored), self._verdict))

    def _network_rules(self) -> Iterator[Rule]:
        by_kind: dict[tuple[int, bool], list[networks.Group]] = {}
        for group in networks.groups(self._openings):
            by_kind.setdefault((group.version, group.outside), []).append(group)
        for (version, outside), groups in by_kind.items():
            who: tuple[Statement, ...] = (_OUTSIDE,) if outside else ()
            if len(groups) > networks.MOST_GROUPS:
                pairs = [networks.split(group) for group in groups]
                boxes = networks.boxes(fit for fit, _ in pairs)
                if boxes:
                    for reply, port in ((False, Expr.DESTINATION_PORT), (True, Expr.SOURCE_PORT)):
                        inside = AddressPortIn(self._side[version], port, boxes)
                        yield Rule((*who, InDirection(reply), inside, self._verdict))
                    groups = networks.joined(rest for _, rest in pairs)
            for group in groups:
                where: Statement = (
                    Family(version) if group.everything else AddressIn(self._side[version], group.networks)
                )
                yield from _matching((*who, where), group.ports, self._verdict)

    def _name_rules(self, names: dict[tuple[Ports, ...], str]) -> Iterator[Rule]:
        """Yields the look-ups of sets of addresses, one for each distinct choice of ports."""
        for ports, name in names.items():
            for version in (4, 6):
                self.sets[f"{name}{version}"] = SetSpec(f"{name}{version}", (PEERS[version].key[0],))
                where = (_OUTSIDE, Lookup((self._side[version],), f"{name}{version}"))
                yield from _matching(where, ports, self._verdict)


def _long(ports: PortRange) -> bool:
    return ports.last - ports.first >= MOST_SINGLES


def _has_many_ranges(segment: Segment) -> bool:
    long = {
        ports
        for opening in segment.openings
        if isinstance(opening.peer, IdentityPeer)
        for ports in opening.ports
        if isinstance(ports, PortRange) and not ports.whole and _long(ports)
    }
    return len(long) > MOST_RANGES


def _ports_set(bits: int) -> str:
    return f"_port{bits}" if bits else "_port"


def _matching(where: tuple[Statement, ...], ports: Iterable[Ports], *then: Statement) -> Iterator[Rule]:
    """Yields rules that run `then` for packets of any of `ports`: one for each protocol, or one each way."""
    ports = tuple(ports)
    if None in ports:
        yield Rule((*where, *then))
        return
    for port in ports:
        if isinstance(port, IcmpType):
            yield Rule((*where, IcmpIs(port.protocol, port.type), *then))
        elif port is not None and port.whole:
            yield Rule((*where, HasProtocol(port.protocol), *then))
    for protocol, ranges in networks.port_ranges(ports):
        for reply, side in ((False, Expr.DESTINATION_PORT), (True, Expr.SOURCE_PORT)):
            yield Rule((*where, InDirection(reply), HasProtocol(protocol), PortIn(side, ranges), *then))
