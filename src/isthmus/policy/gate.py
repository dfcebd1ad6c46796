"""Gates: the compiled form of one distinct set of policies in one direction, before it is anybody's rule text.

Pods that the same policies isolate share a gate. A gate allows; what nothing in it allows is denied. Its content
follows from the policies alone (and, for ingress, from the numbers that the pod gives to port names), so an identity
or an address that comes or goes never changes a gate, only which peers of it match.
"""

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from isthmus.model.endpoint import NamedPort
from isthmus.policy.evaluate import resolve
from isthmus.policy.rules import Direction, IcmpType, ObjectRef, Peer, Policy, PortName, PortRange

Ports = PortRange | None
"""A range of one protocol, or None: any protocol and port."""


class Opening(msgspec.Struct, frozen=True):
    """What `peer` (None = anyone) may reach: `ports` by number, `names` as the destination pod resolves them."""

    peer: Peer | None
    ports: tuple[Ports, ...]
    names: tuple[PortName, ...] = ()


class Gate(msgspec.Struct, frozen=True):
    """The openings of a set of policies; `name` is stable for equal content."""

    name: str
    direction: Direction
    policies: tuple[ObjectRef, ...]
    openings: tuple[Opening, ...]

    @property
    def open(self) -> bool:
        """Tells whether anyone may use any port, so that the pod is isolated in name only."""
        return any(opening.peer is None and None in opening.ports for opening in self.openings)


def build(direction: Direction, policies: Sequence[Policy], *, named_ports: tuple[NamedPort, ...]) -> Gate:
    """Merges the rules that `policies` have for `direction`; `named_ports` are those of the subject (for ingress)."""
    ports: dict[Peer | None, dict[Ports, None]] = {}
    names: dict[Peer | None, dict[PortName, None]] = {}
    for policy in policies:
        for rule in policy.rules:
            if rule.direction is not direction:
                continue
            for peer in rule.peers if rule.peers is not None else (None,):
                mine = ports.setdefault(peer, {})
                for port in rule.ports if rule.ports is not None else (None,):
                    if isinstance(port, IcmpType):
                        continue
                    if not isinstance(port, PortName):
                        mine[port] = None
                    elif direction is Direction.INGRESS:
                        mine.update(dict.fromkeys(resolve(port, named_ports)))
                    else:
                        names.setdefault(peer, {})[port] = None
    openings = tuple(
        Opening(peer, _simplest(tuple(ports[peer])), tuple(sorted(names.get(peer, ()))))
        for peer in ports
        if ports[peer] or peer in names
    )
    refs = tuple(policy.ref for policy in policies)
    return Gate(_name(direction, refs, openings), direction, refs, openings)


def _simplest(ports: tuple[Ports, ...]) -> tuple[Ports, ...]:
    """Leaves out what another of `ports` covers."""
    if None in ports:
        return (None,)
    # By first port, the longest first: what covers a range comes before it.
    kept: list[PortRange] = []
    for one in sorted((p for p in ports if p is not None), key=lambda p: (p.protocol, p.first, -p.last)):
        if not kept or kept[-1].protocol != one.protocol or kept[-1].last < one.last:
            kept.append(one)
    return tuple(kept)


def _name(direction: Direction, refs: tuple[ObjectRef, ...], openings: tuple[Opening, ...]) -> str:
    digest = blake2b(repr((refs, openings)).encode(), digest_size=6).hexdigest()
    return ("in_" if direction is Direction.INGRESS else "eg_") + digest
