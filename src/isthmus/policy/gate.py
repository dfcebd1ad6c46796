"""Gates: the compiled form of one distinct set of policies in one direction, before it is anybody's rule text.

Pods that the same policies concern share a gate. A gate is what the evaluator asks, in its order: three stages (Admin,
Normal, Baseline) of segments; a segment is a run of rules of one action, in which order does not matter. Its content
follows from the policies alone (and, for ingress, from the numbers that the pod gives to port names), so an identity
or an address that comes or goes never changes a gate, only which peers of it match. What a change of one policy costs
is its own part and the merging: `piece` is kept by the compiler for each policy.
Rejected: one flat list of rules with verdicts, which would have the datapath try thousands of them one by one.
"""

from collections.abc import Iterable
from hashlib import blake2b
from itertools import groupby

import msgspec

from isthmus.model.endpoint import NamedPort
from isthmus.policy.evaluate import resolve
from isthmus.policy.precedence import Meaning, steps
from isthmus.policy.rules import (
    Action,
    CidrPeer,
    Direction,
    IcmpType,
    ObjectRef,
    Peer,
    PodPeer,
    Policy,
    PortName,
    PortRange,
    Rule,
    Tier,
)

Ports = PortRange | IcmpType | None
"""A range of one protocol, a type of ICMP, or None: any protocol and port."""

_ANY: tuple[Ports, ...] = (None,)
_UNORDERED = (Action.DENY, Action.ALLOW)


class Opening(msgspec.Struct, frozen=True):
    """What of `peer` (None = anyone) is meant: `ports` by number, `names` as the destination pod resolves them."""

    peer: Peer | None
    ports: tuple[Ports, ...]
    names: tuple[PortName, ...] = ()


class Segment(msgspec.Struct, frozen=True):
    """Does `action` for whatever any of `openings` means."""

    action: Action
    openings: tuple[Opening, ...]

    @property
    def total(self) -> bool:
        """Tells whether everything is meant."""
        return any(opening.peer is None and None in opening.ports for opening in self.openings)


class Piece(msgspec.Struct, frozen=True):
    """What one policy says in one direction; equal content has an equal `digest`."""

    policy: Policy
    digest: bytes
    segments: tuple[Segment, ...]


class Gate(msgspec.Struct, frozen=True):
    """The segments of a set of policies; `name` is stable for equal content.

    `isolates` says that the normal tier denies what it does not allow (then nothing gets to Baseline), `spares_node`
    that the pod's own node is not denied by that (see `Policy.spares_own_node`; in ingress it always is spared).
    """

    name: str
    direction: Direction
    policies: tuple[ObjectRef, ...]
    admin: tuple[Segment, ...] = ()
    normal: tuple[Segment, ...] = ()
    baseline: tuple[Segment, ...] = ()
    isolates: bool = False
    spares_node: bool = False

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Returns all segments, in the order in which they are asked."""
        return self.admin + self.normal + self.baseline

    @property
    def denies(self) -> bool:
        """Tells whether some segment denies."""
        return any(segment.action is Action.DENY for segment in self.segments)

    @property
    def open(self) -> bool:
        """Tells whether it never denies anything: then the pod needs none."""
        allows_all = any(segment.action is Action.ALLOW and segment.total for segment in self.normal)
        return not self.denies and (not self.isolates or allows_all)

    @property
    def plain(self) -> bool:
        """Tells whether it is as NetworkPolicies make it: it never matters whether a peer is the node or the world."""
        return (
            not self.admin
            and not self.baseline
            and not self.denies
            and (self.spares_node or not self.isolates)
            and all(_plain(opening.peer) for segment in self.normal for opening in segment.openings)
        )

    @property
    def judges_node(self) -> bool:
        """Tells whether it may deny the pod to call its own node."""
        return self.direction is Direction.EGRESS and (self.denies or (self.isolates and not self.spares_node))


def _plain(peer: Peer | None) -> bool:
    return peer is None or isinstance(peer, PodPeer) or (isinstance(peer, CidrPeer) and not peer.outside)


def closed(gate: Gate) -> Gate:
    """Returns a gate of the same name that lets nothing through, but the own node where `gate` never judges it."""
    return Gate(gate.name, gate.direction, gate.policies, isolates=True, spares_node=not gate.judges_node)


def piece(policy: Policy, direction: Direction, *, named_ports: tuple[NamedPort, ...] = ()) -> Piece:
    """Compiles what `policy` says in `direction`; `named_ports` are those of the subject (for ingress)."""
    rules = [rule for rule in policy.rules if rule.direction is direction]
    if policy.tier is Tier.NORMAL:
        runs = [(action, [rule for rule in rules if rule.action is action]) for action in _UNORDERED]
    else:
        runs = [(action, list(run)) for action, run in groupby(rules, key=lambda rule: rule.action)]
    segments = []
    for action, run in runs:
        openings = _openings(run, direction, named_ports)
        if openings:
            segments.append(Segment(action, openings))
    content = (
        policy.ref,
        policy.tier,
        policy.priority,
        direction in policy.isolates,
        policy.spares_own_node,
        segments,
    )
    return Piece(policy, blake2b(repr(content).encode(), digest_size=12).digest(), tuple(segments))


def _openings(rules: Iterable[Rule], direction: Direction, named_ports: tuple[NamedPort, ...]) -> tuple[Opening, ...]:
    ports: dict[Peer | None, dict[Ports, None]] = {}
    names: dict[Peer | None, dict[PortName, None]] = {}
    for rule in rules:
        numbers: dict[Ports, None] = {}
        words: dict[PortName, None] = {}
        for port in rule.ports if rule.ports is not None else _ANY:
            if not isinstance(port, PortName):
                numbers[port] = None
            elif direction is Direction.INGRESS:
                numbers.update(dict.fromkeys(resolve(port, named_ports)))
            else:
                words[port] = None
        for peer in rule.peers if rule.peers is not None else (None,):
            if numbers or words:
                ports.setdefault(peer, {}).update(numbers)
            if words:
                names.setdefault(peer, {}).update(words)
    return tuple(Opening(peer, simplest(mine), tuple(names.get(peer, ()))) for peer, mine in ports.items())


def build(direction: Direction, pieces: Iterable[Piece]) -> Gate:
    """Merges what policies (of any tiers) say in `direction`."""
    pieces = sorted(pieces, key=lambda one: one.policy.rank)
    name = blake2b(b"".join(one.digest for one in pieces), digest_size=6).hexdigest()
    normal = [one for one in pieces if one.policy.tier is Tier.NORMAL]
    isolating = [one.policy for one in normal if direction in one.policy.isolates]
    unordered = [
        Segment(
            action,
            _merged(
                opening
                for one in normal
                for segment in one.segments
                if segment.action is action
                for opening in segment.openings
            ),
        )
        for action in (_UNORDERED if isolating else (Action.DENY,))
    ]
    return Gate(
        ("in_" if direction is Direction.INGRESS else "eg_") + name,
        direction,
        tuple(one.policy.ref for one in pieces),
        admin=_ordered(one for one in pieces if one.policy.tier is Tier.ADMIN),
        normal=tuple(segment for segment in unordered if segment.openings),
        baseline=() if isolating else _ordered(one for one in pieces if one.policy.tier is Tier.BASELINE),
        isolates=bool(isolating),
        spares_node=bool(isolating)
        and (direction is Direction.INGRESS or any(policy.spares_own_node for policy in isolating)),
    )


def _ordered(pieces: Iterable[Piece]) -> tuple[Segment, ...]:
    """Returns the segments of a tier in which the first match decides; what comes after a match of all is left out."""
    rules: list[tuple[Action, Meaning]] = []
    for segment in (segment for one in pieces for segment in one.segments):
        rules += ((segment.action, (one.peer, one.ports, one.names)) for one in segment.openings)
        if segment.total:
            break
    found: list[Segment] = []
    for step in steps(rules):
        found.append(Segment(step.action, _merged(Opening(*meaning) for meaning in step.meanings)))
        if found[-1].total:
            break
    return tuple(found)


def _merged(openings: Iterable[Opening]) -> tuple[Opening, ...]:
    by_peer: dict[Peer | None, list[Opening]] = {}
    for opening in openings:
        by_peer.setdefault(opening.peer, []).append(opening)
    return tuple(_joined(mine) if len(mine) > 1 else mine[0] for mine in by_peer.values())


def _joined(openings: list[Opening]) -> Opening:
    ports = simplest(dict.fromkeys(port for opening in openings for port in opening.ports))
    names = dict.fromkeys(name for opening in openings for name in opening.names)
    return Opening(openings[0].peer, ports, tuple(names))


def simplest(ports: Iterable[Ports]) -> tuple[Ports, ...]:
    """Leaves out what another of `ports` covers."""
    ports = tuple(ports)
    if len(ports) < 2:
        return ports
    if None in ports:
        return _ANY
    # By first port, the longest first: what covers a range comes before it.
    kept: list[PortRange] = []
    for one in sorted((p for p in ports if isinstance(p, PortRange)), key=lambda p: (p.protocol, p.first, -p.last)):
        if not kept or kept[-1].protocol != one.protocol or kept[-1].last < one.last:
            kept.append(one)
    whole = {one.protocol for one in kept if one.whole}
    types = sorted({one for one in ports if isinstance(one, IcmpType) and one.protocol not in whole})
    return (*kept, *types)
