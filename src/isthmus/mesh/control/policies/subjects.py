"""Policies that select no pod of the cluster: almost always a label that is written wrong. Pure.

Judged by the identities that the cluster's source tells. Invariants: of a subject that selects by labels which are left
out of identities nothing is said, nor before the source has told everything; a policy holds on to one identity that it
selects, so that only when this one goes the others are asked. Rejected: looking at pods, of which there are far more.
"""

from collections.abc import Sequence

import msgspec

from isthmus.mesh.enforcement import Place
from isthmus.mesh.source.identities import LabelFilter
from isthmus.model.identity import Identity
from isthmus.model.mesh import ClusterLeft, ClusterSynced, IdentityGone, IdentityTold, MeshEvent
from isthmus.policy.rules import EndpointPeer, PodPeer, Policy

NO_SUBJECT = "it selects no pod"

_filter = LabelFilter()


class Subjects:
    """The identities of cluster `own`, and which policies select one."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._known = False
        self._identities: dict[int, Identity] = {}
        self._in: dict[str, set[int]] = {}
        """Numbers by namespace."""
        self._policies: dict[Place, tuple[Policy, ...]] = {}
        self._witness: dict[Place, int] = {}
        self._witnessing: dict[int, set[Place]] = {}
        self._without: set[Place] = set()

    def lacking(self, place: Place) -> bool:
        """Tells whether a policy selects nobody, as far as is known."""
        return self._known and place in self._without

    def put(self, place: Place, policies: Sequence[Policy]) -> None:
        """Takes the policies of an object."""
        self.drop(place)
        if any(_beyond(policy) for policy in policies):
            return
        # Of thousands of policies the rules would be most of what is held.
        self._policies[place] = tuple(msgspec.structs.replace(policy, rules=(), problems=()) for policy in policies)
        self._search(place)

    def drop(self, place: Place) -> None:
        """Takes a deletion."""
        self._policies.pop(place, None)
        self._without.discard(place)
        self._forget(place)

    def apply(self, events: Sequence[MeshEvent]) -> set[Place]:
        """Takes what is told of all clusters; returns the policies that this may be said or unsaid of."""
        changed: set[Place] = set()
        for event in events:
            match event:
                case IdentityTold(identity) if identity.cluster == self._own:
                    changed |= self._drop_identity(identity.number)
                    self._put_identity(identity)
                    changed |= self._find(identity)
                case IdentityGone(self._own, number):
                    changed |= self._drop_identity(number)
                case ClusterSynced(self._own) if not self._known:
                    self._known = True
                    changed |= self._without
                case ClusterLeft(self._own):
                    self._known = False
                    for number in list(self._identities):
                        changed |= self._drop_identity(number)
        return changed

    def _put_identity(self, identity: Identity) -> None:
        self._identities[identity.number] = identity
        self._in.setdefault(identity.namespace, set()).add(identity.number)

    def _drop_identity(self, number: int) -> set[Place]:
        identity = self._identities.pop(number, None)
        if identity is None:
            return set()
        siblings = self._in[identity.namespace]
        siblings.discard(number)
        if not siblings:
            del self._in[identity.namespace]
        orphans = self._witnessing.pop(number, set())
        for place in orphans:
            del self._witness[place]
            self._search(place)
        return {place for place in orphans if place in self._without}

    def _find(self, identity: Identity) -> set[Place]:
        """Gives an identity to the policies that had none."""
        found = {place for place in self._without if _selects(self._policies[place], identity)}
        for place in found:
            self._without.discard(place)
            self._hold(place, identity.number)
        return found

    def _search(self, place: Place) -> None:
        policies = self._policies[place]
        namespace = place[1]
        numbers = self._in.get(namespace, ()) if namespace else self._identities
        for number in numbers:
            if _selects(policies, self._identities[number]):
                self._hold(place, number)
                return
        self._without.add(place)

    def _hold(self, place: Place, number: int) -> None:
        self._witness[place] = number
        self._witnessing.setdefault(number, set()).add(place)

    def _forget(self, place: Place) -> None:
        number = self._witness.pop(place, None)
        if number is not None:
            self._witnessing[number].discard(place)
            if not self._witnessing[number]:
                del self._witnessing[number]


def _selects(policies: Sequence[Policy], identity: Identity) -> bool:
    return any(policy.selects(identity) for policy in policies)


def _beyond(policy: Policy) -> bool:
    """Whether a policy selects its subjects by labels that identities may lack."""
    match policy.subject:
        case EndpointPeer(selector) | PodPeer(selector):
            return bool(_filter.selecting(term.key for term in selector.terms).selected)
