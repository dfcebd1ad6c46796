"""Which policies concern which pods of this node, and the gates that follow.

Policies and pods are filed under handles, namespace by namespace ("" for policies of the cluster), so that a change of
a policy looks at the pods that it may select, and a pod at the policies that may select it. What a policy comes to in
one direction is kept: a gate of a thousand policies of which one changes is put together from 999 known pieces.
Invariant: a policy that changes in nothing that decides (its problems, its generation) changes no gate.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from isthmus.model.endpoint import NamedPort
from isthmus.model.identity import Identity
from isthmus.policy.evaluate import restricts
from isthmus.policy.gate import Gate, Piece, build, piece
from isthmus.policy.rules import Direction, ObjectRef, Policy, PortName
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.handles import Files, Handle, of_identity, of_peer

_Object = tuple[str, str, str]
Built = dict[tuple[Direction, tuple[ObjectRef, ...], tuple[NamedPort, ...]], Gate]
"""Gates that were built for other pods under the same policies, in the course of one change."""


class _Held(msgspec.Struct):
    """A policy with what is known of it."""

    policy: Policy
    directions: frozenset[Direction]
    handles: tuple[Handle, ...]
    by_name: bool
    pieces: dict[tuple[Direction, tuple[NamedPort, ...]], Piece]


class Subjects:
    """The policies of a world and the pods of its node. Writes `world.policies`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._objects: dict[_Object, dict[ObjectRef, _Held]] = {}
        self._held: dict[ObjectRef, _Held] = {}
        self._policies: Files[ObjectRef] = Files()
        self._subjects: dict[str, Identity] = {}
        self._pods: Files[str] = Files()
        self._restricting: Counter[Direction] = Counter()

    @property
    def restricted(self) -> frozenset[Direction]:
        """Returns the directions in which some policy could forbid anything."""
        return frozenset(direction for direction, count in self._restricting.items() if count)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Returns how much is held: of policies, pods, and what finds them."""
        return len(self._held), len(self._objects), len(self._policies), len(self._subjects), len(self._pods)

    def change(self, *, put: Iterable[Policy], drop: Iterable[ObjectRef]) -> set[str]:
        """Removes and then adds objects; returns the keys of the pods that this concerns."""
        objects: dict[_Object, dict[ObjectRef, Policy]] = {_object(ref): {} for ref in drop}
        for policy in put:
            objects.setdefault(_object(policy.ref), {})[policy.ref] = policy
        concerned: set[str] = set()
        for key, policies in objects.items():
            before = self._objects.pop(key, {})
            now: dict[ObjectRef, _Held] = {}
            for ref, policy in policies.items():
                held = before.get(ref)
                if held is None or _content(held.policy) != _content(policy):
                    held = _hold(policy)
                    concerned |= self._selected(held)
                else:
                    held.policy = policy
                now[ref] = held
            for ref, held in before.items():
                if now.get(ref) is not held:
                    self._forget(ref, held)
                    concerned |= self._selected(held)
            for ref, held in now.items():
                self._world.policies[ref] = held.policy
                if before.get(ref) is not held:
                    self._held[ref] = held
                    self._policies.add(ref, held.handles)
                    self._restricting.update(one for one in Direction if restricts(held.policy, one))
            if now:
                self._objects[key] = now
        return concerned

    def _forget(self, ref: ObjectRef, held: _Held) -> None:
        del self._held[ref], self._world.policies[ref]
        self._policies.discard(ref, held.handles)
        self._restricting.subtract(one for one in Direction if restricts(held.policy, one))

    def _selected(self, held: _Held) -> set[str]:
        return {key for key in self._pods.under(held.handles) if held.policy.selects(self._subjects[key])}

    def put_pod(self, pod: LocalPod) -> None:
        """Adds a pod that is not known."""
        subject = self._subjects[pod.key] = pod.subject
        self._pods.add(pod.key, _of_pod(subject))

    def drop_pod(self, key: str) -> None:
        """Removes a pod."""
        self._pods.discard(key, _of_pod(self._subjects.pop(key)))

    def gates(self, pod: LocalPod, built: Built) -> dict[Direction, Gate | None]:
        """Returns the gates of a known pod; None where it needs none."""
        subject = self._subjects[pod.key]
        found = [self._held[ref] for ref in self._policies.under(_of_pod(subject))]
        selecting = sorted((one for one in found if one.policy.selects(subject)), key=lambda one: one.policy.ref)
        gates: dict[Direction, Gate | None] = {}
        for direction in Direction:
            mine = [held for held in selecting if direction in held.directions]
            gate = self._gate(direction, mine, pod.named_ports, built) if mine else None
            gates[direction] = None if gate is None or gate.open else gate
        return gates

    def _gate(self, direction: Direction, held: list[_Held], named_ports: tuple[NamedPort, ...], built: Built) -> Gate:
        ports = named_ports if direction is Direction.INGRESS and any(one.by_name for one in held) else ()
        content = (direction, tuple(one.policy.ref for one in held), ports)
        gate = built.get(content)
        if gate is None:
            pieces = []
            for one in held:
                key = (direction, ports if one.by_name else ())
                known = one.pieces.get(key)
                if known is None:
                    known = one.pieces[key] = piece(one.policy, direction, named_ports=key[1])
                pieces.append(known)
            gate = built[content] = build(direction, pieces)
        return gate


def _hold(policy: Policy) -> _Held:
    handles = tuple((policy.namespace, *handle) for handle in of_peer(policy.subject))
    by_name = any(isinstance(port, PortName) for rule in policy.rules for port in rule.ports or ())
    return _Held(policy, policy.directions, handles, by_name, {})


def _of_pod(subject: Identity) -> list[Handle]:
    handles = list(of_identity(subject))
    return [("", *handle) for handle in handles] + [(subject.namespace, *handle) for handle in handles]


def _object(ref: ObjectRef) -> _Object:
    return ref.kind, ref.namespace, ref.name


def _content(policy: Policy) -> Policy:
    return msgspec.structs.replace(policy, problems=(), generation=0)
