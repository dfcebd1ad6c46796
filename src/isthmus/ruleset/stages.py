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

from isthmus.model.identity import HOST, UNKNOWN
from isthmus.policy.gate import Gate, Segment
from isthmus.policy.rules import Action, Direction, IdentityPeer
from isthmus.ruleset.layout import KEEP_ANYONE, KEEP_PEER, SELF, SOURCE, TARGET
from isthmus.ruleset.rules import (
    Chain,
    Drop,
    FromThisNode,
    GoTo,
    JumpTo,
    Keep,
    Lookup,
    PeerIs,
    RelatedError,
    Return,
    Rule,
    Statement,
    Translated,
    Unjudgeable,
)
from isthmus.ruleset.segments import Element, Rows, SegmentPlan
from isthmus.ruleset.sets import Field, SetSpec


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

    def weigh(self, peers: Iterable[IdentityPeer]) -> int:
        """Returns how many elements an identity has that `peers` match, those of two peers counted twice."""
        return sum(len(rows.by_identity.get(peer, ())) for peer in peers for rows in self.rows)

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

    def _segment(self, segment: Segment, verdict: Statement) -> Iterator[Rule]:
        many = len(self.gate.segments) > 1
        prefix = f"{self.gate.name}_{len(self.rows)}" if many else self.gate.name
        plan = SegmentPlan(prefix, segment, self.side, verdict)
        yield from plan.write()
        self.sets |= plan.sets
        self.rows.append(plan.rows)


def _policies(gate: Gate) -> str:
    return " + ".join(f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name for ref in gate.policies)


def _of_itself(*then: Statement) -> list[Rule]:
    return [Rule((Lookup((SOURCE[v], TARGET[v]), SELF[v].name), *then)) for v in (4, 6)]
