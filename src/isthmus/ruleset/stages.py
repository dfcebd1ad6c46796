"""A gate as sets and chains: a chain for each stage, in it the segments one after the other, each with its own sets.

A gate puts the identity of the peer into the priority of the packet, and every segment looks it up together with
protocol and port. `return` allows, wherever it is met: stages go on by `goto`, which keeps the way back to the entry.
What a segment denies goes to `<gate>_denied` (`<gate>_refused` in the normal tier), where the few exemptions are asked
that nobody should pay for who is let through: ICMP errors about known connections, and the pod itself.
Pods that only NetworkPolicies isolate have one chain, `<gate>_rules`, with one segment: what falls to its end drops.

Invariant: what a gate's sets hold follows from identities and addresses; its rules follow from policies alone.
Rejected: a verdict map per gate (identity, protocol, port -> verdict), which cannot say "first match" across sets of
different keys without writing out every combination.
"""

from collections.abc import Iterable, Iterator

import msgspec

from isthmus.model.identity import HOST, KUBE_APISERVER, UNKNOWN, WORLD
from isthmus.policy.gate import Gate, Opening, Ports, Segment
from isthmus.policy.rules import (
    Action,
    Direction,
    IcmpType,
    IdentityPeer,
    NamePeer,
    PortRange,
)
from isthmus.ruleset import networks
from isthmus.ruleset.layout import KEEP_ANYONE, KEEP_PEER, PEERS, SELF, SOURCE, TARGET
from isthmus.ruleset.rules import (
    AddressIn,
    AddressPortIn,
    Chain,
    Drop,
    Expr,
    Family,
    FromThisNode,
    GoTo,
    HasProtocol,
    IcmpIs,
    InDirection,
    JumpTo,
    Keep,
    Lookup,
    PeerIs,
    PortIn,
    RelatedError,
    Return,
    Rule,
    Statement,
    Translated,
    Unjudgeable,
)
from isthmus.ruleset.sets import Field, Key, SetSpec

MOST_SINGLES = 16  # a range of up to so many ports is spelled out as elements; a longer one gets a set of its own,
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


class Layout(msgspec.Struct, frozen=True):
    """A gate as sets and chains, and what the sets hold, segment by segment."""

    gate: Gate
    sets: tuple[SetSpec, ...]
    chains: tuple[Chain, ...]
    rows: tuple[Rows, ...]

    @property
    def peers(self) -> set[IdentityPeer]:
        """Returns all peers that follow from the identity."""
        return {peer for rows in self.rows for peer in rows.by_identity}

    @property
    def uses_names(self) -> bool:
        """Tells whether some opening has ports by name."""
        return any(rows.named for rows in self.rows)

    @property
    def uses_domains(self) -> bool:
        """Tells whether some peer is a set of domain names."""
        return any(rows.by_name for rows in self.rows)

    def elements(self, number: int, peers: Iterable[IdentityPeer]) -> set[Element]:
        """Returns the elements of an identity that exactly `peers` match."""
        found: set[Element] = set()
        peers = tuple(peers)
        for rows in self.rows:
            mine = {element for peer in peers for element in rows.by_identity.get(peer, ())}
            if (rows.anywhere, ()) in mine:
                found.add((rows.anywhere, (number,)))
            else:
                found.update((name, (number, *rest)) for name, rest in mine)
        return found


def node_entry(gate: Gate) -> str:
    """Returns the chain for packets to the node itself, which is there if the gate judges those."""
    return f"{gate.name}_node"


def lay_out(gate: Gate) -> Layout:
    """Returns the sets and chains of `gate`."""
    return _Plan(gate).layout()


class _Plan:
    """A layout in the making."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.side = SOURCE if gate.direction is Direction.INGRESS else TARGET
        self.sets: dict[str, SetSpec] = {}
        self.rows: list[Rows] = []
        self.chains: list[Chain] = []
        self.policies = _policies(gate)

    def layout(self) -> Layout:
        gate = self.gate
        stages = [
            (f"{gate.name}_admin", gate.admin, self._ordered),
            (f"{gate.name}_rules", gate.normal, self._normal),
            (f"{gate.name}_baseline", gate.baseline, self._ordered),
        ]
        used = [stage for stage in stages if stage[1] or (stage[0] == f"{gate.name}_rules" and gate.isolates)]
        names = [name for name, _, _ in used]
        for index, (name, segments, write) in enumerate(used):
            following = names[index + 1] if index + 1 < len(used) else ""
            self.chains.append(Chain(name, tuple(write(segments, following))))
        if not used:
            names = [f"{gate.name}_rules"]
            self.chains.append(Chain(names[0]))
        self._deny_chains(names)
        self.chains += self._entries(names[0])
        return Layout(gate, tuple(self.sets.values()), tuple(self.chains), tuple(self.rows))

    def _entries(self, first: str) -> Iterator[Chain]:
        """Yields the chains that verdict maps lead to: they note who the peer is, and leave no trace of that."""
        gate = self.gate
        jump, reset = Rule((JumpTo(first),)), Rule((Keep(UNKNOWN),))
        comment = f"{gate.direction.value}: {self.policies}"
        if gate.plain:
            identified = any(Field.IDENTITY in spec.key for spec in self.sets.values())
            around = (Rule((JumpTo(KEEP_PEER[gate.direction]),)), jump, reset) if identified else (jump,)
            yield Chain(gate.name, around, comment=comment)
            return
        # Nobody can tell the peer of packets of no connection; two who want to talk could send nothing else.
        strict = [Rule((Unjudgeable(), GoTo(self._deny_chain)))] if gate.denies else []
        unknown = [] if gate.denies else [Rule((Unjudgeable(), Keep(UNKNOWN)))]
        keep = Rule((JumpTo(KEEP_ANYONE[gate.direction]),))
        yield Chain(gate.name, (*strict, keep, *unknown, jump, reset), comment=comment)
        if gate.judges_node:
            to_node = (*strict, Rule((Keep(HOST),)), jump, reset)
            yield Chain(node_entry(gate), to_node, comment=f"to the node: {self.policies}")

    def _ordered(self, segments: tuple[Segment, ...], following: str) -> Iterator[Rule]:
        on = GoTo(following) if following else Return()
        if self.gate.direction is Direction.INGRESS:
            yield Rule((PeerIs((HOST,)), on))
        verdicts: dict[Action, Statement] = {
            Action.ALLOW: Return(),
            Action.DENY: GoTo(f"{self.gate.name}_denied"),
            Action.PASS: on,
        }
        for segment in segments:
            yield from self._segment(segment, verdicts[segment.action])
        yield from self._end(following)

    def _normal(self, segments: tuple[Segment, ...], following: str) -> Iterator[Rule]:
        verdicts: dict[Action, Statement] = {
            Action.ALLOW: Return(),
            Action.DENY: GoTo(f"{self.gate.name}_refused"),
        }
        for segment in segments:
            yield from self._segment(segment, verdicts[segment.action])
        if not self.gate.isolates:
            yield from self._end(following)
            return
        yield from _of_itself(Return())
        if self.gate.plain:
            yield Rule((FromThisNode(), Return()))
        elif self.gate.spares_node:
            yield Rule((PeerIs((HOST,)), Return()))
        yield Rule((RelatedError(), Return()))
        yield Rule((Drop(),), comment=self.policies)

    def _end(self, following: str) -> Iterator[Rule]:
        if following:
            yield Rule((GoTo(following),))

    @property
    def _deny_chain(self) -> str:
        ordered = any(segment.action is Action.DENY for segment in self.gate.admin + self.gate.baseline)
        return f"{self.gate.name}_{'denied' if ordered else 'refused'}"

    def _deny_chains(self, stages: list[str]) -> None:
        gate = self.gate
        error, drop = Rule((RelatedError(), Return())), Rule((Drop(),), comment=self.policies)
        if any(segment.action is Action.DENY for segment in gate.admin + gate.baseline):
            itself = _of_itself(Translated(True), Return())
            self.chains.append(Chain(f"{gate.name}_denied", (error, *itself, drop)))
        if any(segment.action is Action.DENY for segment in gate.normal):
            baseline = f"{gate.name}_baseline"
            itself = _of_itself(GoTo(baseline) if baseline in stages else Return())
            self.chains.append(Chain(f"{gate.name}_refused", (error, *itself, drop)))

    # -- a segment ---------------------------------------------------------------------------------------------

    def _segment(self, segment: Segment, verdict: Statement) -> Iterator[Rule]:
        """Yields the rules of a segment, and notes its sets and rows."""
        many = len(self.gate.segments) > 1
        prefix = f"{self.gate.name}_{len(self.rows)}" if many else self.gate.name
        sets: dict[str, SetSpec] = {}
        ranges: dict[str, PortRange | IcmpType] = {}
        by_identity: dict[IdentityPeer, tuple[Element, ...]] = {}
        blocks = _has_many_ranges(segment)
        for opening in segment.openings:
            if opening.peer is None:
                yield from _matching((), opening.ports, verdict)
            elif isinstance(opening.peer, IdentityPeer) and opening.ports:
                by_identity[opening.peer] = tuple(
                    element for ports in opening.ports for element in _row(prefix, ports, sets, ranges, blocks=blocks)
                )
        yield from _identity_rules(prefix, sets, ranges, verdict)
        named = tuple(opening for opening in segment.openings if opening.names)
        for version in (4, 6) if named else ():
            spec = SetSpec(f"{prefix}_named{version}", (PEERS[version].key[0], Field.PROTOCOL, Field.PORT))
            sets[spec.name] = spec
            yield from _both_ways((self.side[version], Expr.PROTOCOL), spec.name, verdict)
        yield from self._network_rules(segment, verdict)
        by_name: list[tuple[NamePeer, str]] = []
        for found in self._name_rules(prefix, segment, sets, verdict):
            if isinstance(found, Rule):
                yield found
            else:
                by_name.append(found)
        self.sets |= sets
        self.rows.append(Rows(prefix, by_identity, tuple(by_name), named))

    def _network_rules(self, segment: Segment, verdict: Statement) -> Iterator[Rule]:
        by_kind: dict[tuple[int, bool], list[networks.Group]] = {}
        for group in networks.groups(segment.openings):
            by_kind.setdefault((group.version, group.outside), []).append(group)
        for (version, outside), groups in by_kind.items():
            who: tuple[Statement, ...] = (_OUTSIDE,) if outside else ()
            if len(groups) > networks.MOST_GROUPS:
                pairs = [networks.split(group) for group in groups]
                boxes = networks.boxes(fit for fit, _ in pairs)
                if boxes:
                    for reply, port in ((False, Expr.DESTINATION_PORT), (True, Expr.SOURCE_PORT)):
                        inside = AddressPortIn(self.side[version], port, boxes)
                        yield Rule((*who, InDirection(reply), inside, verdict))
                    groups = [rest for _, rest in pairs]
                groups = networks.joined(groups)
            for group in groups:
                everything = any(network.prefixlen == 0 for network in group.networks)
                where: Statement = Family(version) if everything else AddressIn(self.side[version], group.networks)
                yield from _matching((*who, where), group.ports, verdict)

    def _name_rules(
        self, prefix: str, segment: Segment, sets: dict[str, SetSpec], verdict: Statement
    ) -> Iterator[tuple[NamePeer, str] | Rule]:
        """Yields peers with their sets (one for each distinct choice of ports) and the rules that look them up."""
        names: dict[tuple[Ports, ...], str] = {}
        for opening in segment.openings:
            if isinstance(opening.peer, NamePeer) and opening.ports:
                yield opening.peer, names.setdefault(opening.ports, f"{prefix}_dns{len(names)}_")
        for ports, name in names.items():
            for version in (4, 6):
                sets[f"{name}{version}"] = SetSpec(f"{name}{version}", (PEERS[version].key[0],))
                where = (_OUTSIDE, Lookup((self.side[version],), f"{name}{version}"))
                yield from _matching(where, ports, verdict)


def _policies(gate: Gate) -> str:
    return " + ".join(f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name for ref in gate.policies)


def _of_itself(*then: Statement) -> list[Rule]:
    return [Rule((Lookup((SOURCE[v], TARGET[v]), SELF[v].name), *then)) for v in (4, 6)]


def _row(
    prefix: str, ports: Ports, sets: dict[str, SetSpec], ranges: dict[str, PortRange | IcmpType], *, blocks: bool
) -> Iterator[Element]:
    """Yields set and rest of the key (what follows the identity) that mean `ports`; notes which sets that needs."""
    match ports:
        case None:
            spec = SetSpec(f"{prefix}_any", (Field.IDENTITY,))
            yield spec.name, ()
        case IcmpType(protocol, kind):
            spec = SetSpec(f"{prefix}_i{protocol}_{kind}", (Field.IDENTITY,))
            ranges[spec.name] = ports
            yield spec.name, ()
        case PortRange(protocol, first, last):
            if ports.whole:
                spec = SetSpec(f"{prefix}_proto", (Field.IDENTITY, Field.PROTOCOL))
                yield spec.name, (protocol,)
            elif last - first < MOST_SINGLES:
                spec = SetSpec(f"{prefix}_port", (Field.IDENTITY, Field.PROTOCOL, Field.PORT))
                for port in range(first, last + 1):
                    yield spec.name, (protocol, port)
            elif blocks:
                for bits, base in _aligned(first, last):
                    spec = SetSpec(_blocks(prefix, bits), (Field.IDENTITY, Field.PROTOCOL, Field.PORT))
                    sets[spec.name] = spec
                    yield spec.name, (protocol, base)
            else:
                spec = SetSpec(f"{prefix}_p{protocol}_{first}_{last}", (Field.IDENTITY,))
                ranges[spec.name] = ports
                yield spec.name, ()
    sets[spec.name] = spec


def _has_many_ranges(segment: Segment) -> bool:
    long = {
        ports
        for opening in segment.openings
        if isinstance(opening.peer, IdentityPeer)
        for ports in opening.ports
        if isinstance(ports, PortRange) and not ports.whole and ports.last - ports.first >= MOST_SINGLES
    }
    return len(long) > MOST_RANGES


def _aligned(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yields the fewest blocks of a power of four that make up a range: the bits that count as zero, and the base."""
    while first <= last:
        bits = 0
        while bits < 14 and first % (4 << bits) == 0 and first + (4 << bits) - 1 <= last:
            bits += 2
        yield bits, first
        first += 1 << bits


def _blocks(prefix: str, bits: int) -> str:
    return f"{prefix}_port{bits}" if bits else f"{prefix}_port"


def _identity_rules(
    prefix: str, sets: dict[str, SetSpec], ranges: dict[str, PortRange | IcmpType], verdict: Statement
) -> Iterator[Rule]:
    for bits in range(0, 16, 2):
        if _blocks(prefix, bits) in sets:
            yield from _both_ways((Expr.SCRATCH, Expr.PROTOCOL), _blocks(prefix, bits), verdict, ignored=bits)
    if f"{prefix}_proto" in sets:
        yield Rule((Lookup((Expr.SCRATCH, Expr.PROTOCOL), f"{prefix}_proto"), verdict))
    if f"{prefix}_any" in sets:
        yield Rule((Lookup((Expr.SCRATCH,), f"{prefix}_any"), verdict))
    for name, ports in ranges.items():
        yield from _matching((), (ports,), Lookup((Expr.SCRATCH,), name), verdict)


def _both_ways(fields: tuple[Expr, ...], name: str, verdict: Statement, *, ignored: int = 0) -> Iterator[Rule]:
    for reply, port in ((False, Expr.DESTINATION_PORT), (True, Expr.SOURCE_PORT)):
        yield Rule((InDirection(reply), Lookup((*fields, port), name, ignored=ignored), verdict))


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
