"""The layout of table `inet isthmus`: which sets and chains there are, and how a gate becomes some of each.

A packet at postrouting (after DNAT, before SNAT; IPVS included) meets two verdict maps keyed by pod IP: by the
address that opened the connection (egress) and by the one that answers (ingress). They jump to the gate of the
policies that isolate the pod, or miss. A gate puts the identity of the peer into the priority of the packet, and
`<gate>_rules` looks it up together with protocol and port: `return` allows, falling to the end drops. Both
expressions are of the *connection*, so the same text judges replies, DNAT'd packets and, after a change, connections
that already exist; nothing is remembered per connection, so nothing can go stale. (Remembering a verdict in the
conntrack mark was rejected: see docs/decisions.md.)

Invariant: what a gate's sets hold follows from identities and addresses; its rules follow from policies alone.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, collapse_addresses, summarize_address_range

import msgspec

from isthmus.model.identity import WORLD
from isthmus.policy.gate import Gate, Ports
from isthmus.policy.rules import CidrPeer, Direction, Network, PodPeer, PortRange
from isthmus.ruleset.rules import (
    AddressIn,
    ByState,
    Chain,
    Drop,
    Expr,
    Family,
    FromThisNode,
    GoBy,
    GoTo,
    HasProtocol,
    InDirection,
    JumpTo,
    Keep,
    KeepFrom,
    Lookup,
    NeighbourDiscovery,
    RelatedError,
    Return,
    Rule,
    Statement,
    ports_of,
)
from isthmus.ruleset.sets import Field, Holds, Key, SetSpec

HOOK = "type filter hook postrouting priority srcnat - 5; policy accept;"
BASE = "postrouting"
BASE6 = "postrouting6"
NEW = {4: "new4", 6: "new6"}
UNTRACKED = "untracked"
UNKNOWN = "unknown_pod"
KEEP_PEER = {Direction.INGRESS: "peer_is_source", Direction.EGRESS: "peer_is_target"}

PEERS = {4: SetSpec("peers4", (Field.IPV4,), Holds.IDENTITY), 6: SetSpec("peers6", (Field.IPV6,), Holds.IDENTITY)}
EGRESS = {4: SetSpec("egress4", (Field.IPV4,), Holds.VERDICT), 6: SetSpec("egress6", (Field.IPV6,), Holds.VERDICT)}
INGRESS = {4: SetSpec("ingress4", (Field.IPV4,), Holds.VERDICT), 6: SetSpec("ingress6", (Field.IPV6,), Holds.VERDICT)}
PODS = {4: SetSpec("pods4", (Field.IPV4,)), 6: SetSpec("pods6", (Field.IPV6,))}
SELF = {4: SetSpec("self4", (Field.IPV4, Field.IPV4)), 6: SetSpec("self6", (Field.IPV6, Field.IPV6))}
FIXED = (PEERS, EGRESS, INGRESS, PODS, SELF)

_SOURCE = {4: Expr.SOURCE4, 6: Expr.SOURCE6}
_TARGET = {4: Expr.TARGET4, 6: Expr.TARGET6}

MOST_SINGLES = 16  # a range of up to so many ports is spelled out as elements; a longer one gets a set of its own


def base_chains(*, pod_cidrs: Iterable[Network], guarded: frozenset[Direction]) -> tuple[Chain, ...]:
    """Returns the chains that every node has.

    `guarded` are the directions in which some policy of the cluster isolates: in them, a pod of this node that is not
    known yet (an address of `pod_cidrs` that is neither in `pods` nor the node's own) cannot open or accept a
    connection.
    Each family has its own way, so that an IPv4 packet passes no rule for IPv6.
    """
    cidrs = sorted(pod_cidrs, key=str)
    chains = [_base(version, guard=bool(guarded) and any(c.version == version for c in cidrs)) for version in (4, 6)]
    for version in (4, 6):
        rules = [
            Rule(
                (AddressIn(side[version], (cidr,)), Lookup((side[version],), PODS[version].name, True), JumpTo(UNKNOWN))
            )
            for cidr in cidrs
            if cidr.version == version
            for direction, side in ((Direction.EGRESS, _SOURCE), (Direction.INGRESS, _TARGET))
            if direction in guarded
        ]
        chains.append(Chain(NEW[version], tuple(rules), comment="connections that are being opened"))
    return (
        *chains,
        Chain(
            UNTRACKED,
            (
                Rule((NeighbourDiscovery(), Return())),
                Rule((GoBy((Expr.HEADER_SOURCE4,), EGRESS[4].name),)),
                Rule((GoBy((Expr.HEADER_SOURCE6,), EGRESS[6].name),)),
                Rule((GoBy((Expr.HEADER_TARGET4,), INGRESS[4].name),)),
                Rule((GoBy((Expr.HEADER_TARGET6,), INGRESS[6].name),)),
            ),
            comment="packets of no connection that conntrack follows: nothing but the node gets through a gate",
        ),
        Chain(
            UNKNOWN,
            (Rule((FromThisNode(), Return())), Rule((Drop(),))),
            comment="pods of this node that are not known yet",
        ),
        *(
            # Not in the gates: libnftables fetches all elements of a map that new rules name (17 ms at 100k).
            Chain(
                KEEP_PEER[direction],
                (
                    Rule((Keep(WORLD),)),
                    *(Rule((KeepFrom((side[version],), PEERS[version].name),)) for version in (4, 6)),
                ),
                comment="puts the identity of the peer into the priority of the packet",
            )
            for direction, side in ((Direction.INGRESS, _SOURCE), (Direction.EGRESS, _TARGET))
        ),
    )


def _base(version: int, *, guard: bool) -> Chain:
    judge = (
        Rule((GoBy((_SOURCE[version],), EGRESS[version].name),)),
        Rule((GoBy((_TARGET[version],), INGRESS[version].name),)),
        Rule((ByState(UNTRACKED, NEW[version] if guard else ""),)),
    )
    if version == 6:
        return Chain(BASE6, judge)
    return Chain(BASE, (Rule((Family(6), GoTo(BASE6))), *judge), hook=HOOK)


class Layout(msgspec.Struct, frozen=True):
    """A gate as sets and chains. `rows` leads from an opening for pods to the elements that one identity gets."""

    gate: Gate
    sets: tuple[SetSpec, ...]
    chains: tuple[Chain, ...]
    rows: tuple[tuple[PodPeer, tuple[tuple[str, Key], ...]], ...]

    @property
    def entry(self) -> str:
        """Returns the chain that the verdict maps jump to."""
        return self.gate.name

    def elements(self, number: int, matching: Iterable[int]) -> set[tuple[str, Key]]:
        """Returns the elements of an identity that the peers at the indexes `matching` of `rows` match."""
        found = {element for index in matching for element in self.rows[index][1]}
        anywhere = f"{self.gate.name}_any"
        if (anywhere, ()) in found:
            return {(anywhere, (number,))}
        return {(name, (number, *rest)) for name, rest in found}

    def named_set(self, version: int) -> str:
        """Returns the name of the set of addresses that port names were resolved for."""
        return f"{self.gate.name}_named{version}"


def lay_out(gate: Gate) -> Layout:
    """Returns the sets and chains of `gate`."""
    name = gate.name
    peer = _SOURCE if gate.direction is Direction.INGRESS else _TARGET
    sets: dict[str, SetSpec] = {}
    rules: list[Rule] = []
    rows: list[tuple[PodPeer, tuple[tuple[str, Key], ...]]] = []
    ranges: dict[PortRange, str] = {}
    for opening in gate.openings:
        if opening.peer is None:
            for ports in opening.ports:
                rules += _allow((), ports)
    for opening in gate.openings:
        if isinstance(opening.peer, PodPeer):
            rest = tuple(row for ports in opening.ports for row in _row(name, ports, sets, ranges))
            if rest:
                rows.append((opening.peer, rest))
    rules += _identity_rules(name, sets, ranges)
    for version in (4, 6):
        if any(opening.names for opening in gate.openings):
            spec = SetSpec(f"{name}_named{version}", (PEERS[version].key[0], Field.PROTOCOL, Field.PORT))
            sets[spec.name] = spec
            rules += _both_ways((peer[version], Expr.PROTOCOL), spec.name)
    for opening_ports, networks in _networks(gate):
        for version in (4, 6):
            mine = tuple(network for network in networks if network.version == version)
            if mine:
                everything = any(network.prefixlen == 0 for network in mine)
                where: Statement = Family(version) if everything else AddressIn(peer[version], mine)
                rules += _allow((where,), opening_ports)
    needs_identity = any(Field.IDENTITY in spec.key for spec in sets.values())
    rules += [
        *(Rule((Lookup((_SOURCE[v], _TARGET[v]), SELF[v].name), Return())) for v in (4, 6)),
        Rule((FromThisNode(), Return())),
        Rule((RelatedError(), Return())),
        Rule((Drop(),), comment=_policies(gate)),
    ]
    body = Chain(f"{name}_rules", tuple(rules))
    head = [Rule((JumpTo(KEEP_PEER[gate.direction]),))] if needs_identity else []
    tail = [Rule((Keep(0),))] if needs_identity else []
    entry = Chain(
        name, (*head, Rule((JumpTo(body.name),)), *tail), comment=f"{gate.direction.value}: {_policies(gate)}"
    )
    return Layout(gate, tuple(sets.values()), (body, entry), tuple(rows))


def _policies(gate: Gate) -> str:
    return " + ".join(f"{ref.namespace}/{ref.name}" for ref in gate.policies)


def _row(gate: str, ports: Ports, sets: dict[str, SetSpec], ranges: dict[PortRange, str]) -> Iterator[tuple[str, Key]]:
    """Yields set and rest of the key (what follows the identity) that allow `ports`; notes which sets that needs."""
    if ports is None:
        spec = SetSpec(f"{gate}_any", (Field.IDENTITY,))
        yield spec.name, ()
    elif ports.whole:
        spec = SetSpec(f"{gate}_proto", (Field.IDENTITY, Field.PROTOCOL))
        yield spec.name, (ports.protocol,)
    elif ports.last - ports.first < MOST_SINGLES:
        spec = SetSpec(f"{gate}_port", (Field.IDENTITY, Field.PROTOCOL, Field.PORT))
        for port in range(ports.first, ports.last + 1):
            yield spec.name, (ports.protocol, port)
    else:
        spec = SetSpec(f"{gate}_p{ports.protocol}_{ports.first}_{ports.last}", (Field.IDENTITY,))
        ranges[ports] = spec.name
        yield spec.name, ()
    sets[spec.name] = spec


def _identity_rules(gate: str, sets: dict[str, SetSpec], ranges: dict[PortRange, str]) -> Iterator[Rule]:
    if f"{gate}_port" in sets:
        yield from _both_ways((Expr.SCRATCH, Expr.PROTOCOL), f"{gate}_port")
    if f"{gate}_proto" in sets:
        yield Rule((Lookup((Expr.SCRATCH, Expr.PROTOCOL), f"{gate}_proto"), Return()))
    if f"{gate}_any" in sets:
        yield Rule((Lookup((Expr.SCRATCH,), f"{gate}_any"), Return()))
    for ports, name in ranges.items():
        for reply in (False, True):
            yield Rule((*ports_of(ports, reply=reply), Lookup((Expr.SCRATCH,), name), Return()))


def _both_ways(fields: tuple[Expr, ...], name: str) -> Iterator[Rule]:
    yield Rule((InDirection(False), Lookup((*fields, Expr.DESTINATION_PORT), name), Return()))
    yield Rule((InDirection(True), Lookup((*fields, Expr.SOURCE_PORT), name), Return()))


def _allow(where: tuple[Statement, ...], ports: Ports) -> Iterator[Rule]:
    if ports is None:
        yield Rule((*where, Return()))
    elif ports.whole:
        yield Rule((*where, HasProtocol(ports.protocol), Return()))
    else:
        for reply in (False, True):
            yield Rule((*where, *ports_of(ports, reply=reply), Return()))


def _networks(gate: Gate) -> list[tuple[Ports, tuple[Network, ...]]]:
    """Returns, for each port range of the gate, the networks that may use it: holes cut out, neighbours merged."""
    by_ports: dict[Ports, list[Network]] = {}
    for opening in gate.openings:
        if isinstance(opening.peer, CidrPeer):
            pieces = _cut(opening.peer)
            for ports in opening.ports:
                by_ports.setdefault(ports, []).extend(pieces)
    return [(ports, _merge(networks)) for ports, networks in by_ports.items()]


def _cut(peer: CidrPeer) -> list[Network]:
    """Returns what is left of the network, in one pass over its holes in the order of their addresses."""
    first, last = int(peer.network.network_address), int(peer.network.broadcast_address)
    pieces: list[Network] = []
    for hole in sorted(peer.excepts, key=lambda hole: int(hole.network_address)):
        pieces += _networks_of(peer.network, first, int(hole.network_address) - 1)
        first = max(first, int(hole.broadcast_address) + 1)
    return pieces + _networks_of(peer.network, first, last)


def _networks_of(like: Network, first: int, last: int) -> list[Network]:
    if first > last:
        return []
    if like.version == 4:
        return list(summarize_address_range(IPv4Address(first), IPv4Address(last)))
    return list(summarize_address_range(IPv6Address(first), IPv6Address(last)))


def _merge(networks: Iterable[Network]) -> tuple[Network, ...]:
    four = [network for network in networks if network.version == 4]
    six = [network for network in networks if network.version == 6]
    return (*collapse_addresses(four), *collapse_addresses(six))
