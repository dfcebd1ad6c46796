"""Which identities each peer in use matches, and which gates want to know: kept as identities come and go.

Invariant: for every peer that some gate wants, `numbers` are exactly the known identities that it matches. Three are
always known: the node itself, the world and the API server; what is told of them replaces what they are otherwise.
"""

from collections.abc import Iterable

import msgspec

from isthmus.model.identity import HOST, THE_API_SERVER, THE_WORLD, Identity
from isthmus.policy.rules import IdentityPeer
from isthmus.ruleset.handles import Files, of_identity, of_peer


class _Wanted(msgspec.Struct):
    """What is known of one peer."""

    numbers: set[int]
    gates: set[str]


class Turn(msgspec.Struct, frozen=True):
    """What a change of one identity changes: the wanted peers that matched it before and do now, and their gates."""

    before: frozenset[IdentityPeer]
    after: frozenset[IdentityPeer]
    gates: frozenset[str]


class Matches:
    """All wanted peers and all identities."""

    def __init__(self, cluster: str) -> None:
        host = Identity(HOST, cluster, "", {}, {}, reserved=("host",))
        self._standing = {identity.number: identity for identity in (host, THE_WORLD, THE_API_SERVER)}
        self._identities: dict[int, Identity] = {}
        self._filed: Files[int] = Files()
        self._wanted: dict[IdentityPeer, _Wanted] = {}
        self._peers: Files[IdentityPeer] = Files()
        for identity in self._standing.values():
            self._file(identity)

    def __len__(self) -> int:
        return len(self._wanted)

    def _file(self, identity: Identity) -> None:
        self._identities[identity.number] = identity
        self._filed.add(identity.number, of_identity(identity))

    def candidates(self, peer: IdentityPeer) -> set[int]:
        """Returns the identities that `peer` could match: those that share a handle with it."""
        return self._filed.under(of_peer(peer))

    def numbers(self, peer: IdentityPeer) -> set[int]:
        """Returns the identities that a wanted peer matches; not to be changed."""
        return self._wanted[peer].numbers

    def count(self, peer: IdentityPeer) -> int:
        """Returns how many identities a peer matches, as far as that is known: none if no gate wants to know."""
        wanted = self._wanted.get(peer)
        return len(wanted.numbers) if wanted is not None else 0

    def want(self, peer: IdentityPeer, gate: str) -> set[int]:
        """Notes that `gate` wants to know of `peer`; returns the identities that it matches, not to be changed."""
        wanted = self._wanted.get(peer)
        if wanted is None:
            handles = of_peer(peer)
            numbers = {number for number in self._filed.under(handles) if peer.matches(self._identities[number])}
            wanted = self._wanted[peer] = _Wanted(numbers, set())
            self._peers.add(peer, handles)
        wanted.gates.add(gate)
        return wanted.numbers

    def release(self, peers: Iterable[IdentityPeer], gate: str) -> None:
        """Takes `want` back."""
        for peer in peers:
            wanted = self._wanted[peer]
            wanted.gates.discard(gate)
            if not wanted.gates:
                del self._wanted[peer]
                self._peers.discard(peer, of_peer(peer))

    def change(self, number: int, identity: Identity | None) -> Turn:
        """Takes in what an identity is now (None = it is gone, or what it always is)."""
        old, new = self._identities.pop(number, None), identity or self._standing.get(number)
        handles = {handle for one in (old, new) if one is not None for handle in of_identity(one)}
        if old is not None:
            self._filed.discard(number, of_identity(old))
        if new is not None:
            self._file(new)
        before, after, gates = set(), set(), set()
        for peer in self._peers.under(handles):
            wanted = self._wanted[peer]
            did, does = number in wanted.numbers, new is not None and peer.matches(new)
            if did:
                before.add(peer)
            if does:
                after.add(peer)
            if did is not does:
                gates |= wanted.gates
                (wanted.numbers.add if does else wanted.numbers.discard)(number)
        return Turn(frozenset(before), frozenset(after), frozenset(gates))
