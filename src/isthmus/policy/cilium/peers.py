"""The peers of one entry of a policy: fromX of an ingress entry, toX of an egress one.

Invariant: an entry that names no peers, and one that names an empty list of them, are told apart from the object to the
rule: the first means anyone if it has ports, the second nobody. Kinds of peers cannot be combined in one entry, as
upstream has it.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from isthmus.policy.cilium import entities
from isthmus.policy.cilium.cidrs import cidr, cidr_set
from isthmus.policy.cilium.l7 import names_of
from isthmus.policy.cilium.reading import Reading
from isthmus.policy.cilium.selectors import nodes, peer
from isthmus.policy.cilium.services import service
from isthmus.policy.context import NO_NAMES
from isthmus.policy.fields import show
from isthmus.policy.rules import Direction, NamePeer, Peer

KINDS = {
    Direction.INGRESS: ("fromEndpoints", "fromCIDR", "fromCIDRSet", "fromEntities", "fromNodes", "fromGroups"),
    Direction.EGRESS: (
        "toEndpoints",
        "toCIDR",
        "toCIDRSet",
        "toEntities",
        "toNodes",
        "toGroups",
        "toServices",
        "toFQDNs",
    ),
}
NAMES = "toFQDNs"
_HAZARDS = frozenset({NAMES, "toGroups", "toServices"})


class Peers(NamedTuple):
    """Whom an entry means: `found` is None for anyone, `named` says whether it names any peers at all; `clear` that
    nothing of them is unread or unenforced.
    """

    found: tuple[Peer, ...] | None
    named: bool = True
    clear: bool = True


def read_peers(entry: Mapping[str, object], field: str, reading: Reading, direction: Direction, *, init: bool) -> Peers:
    """Returns the peers of an ingress or egress entry; with problems, those that could be read."""
    given = [kind for kind in KINDS[direction] if entry.get(kind) is not None]
    if not given:
        return Peers(None, named=False)
    before = reading.faults
    full = [kind for kind in given if entry[kind] != []]
    if len(full) > 1:
        reading.complain(field, f"combining {full[0]} and {full[1]} is not supported yet")
    found: dict[Peer, None] = {}
    anyone = False
    for kind in given:
        path = f"{field}.{kind}"
        if entry[kind] == []:
            if kind in _HAZARDS:
                reading.warn(path, "is empty: it selects nothing")
            continue
        anyone |= _kind(kind, entry[kind], path, reading, found, init=init)
    if len(full) > 1:
        return Peers((), clear=False)
    return Peers(None if anyone else tuple(found), clear=reading.faults == before)


def _kind(kind: str, value: object, field: str, reading: Reading, found: dict[Peer, None], *, init: bool) -> bool:
    """Adds the peers in one list to `found`; returns whether it means anyone."""
    match kind.removeprefix("from").removeprefix("to"):
        case "FQDNs":
            patterns = names_of(value, field, reading, exclusive=True)
            if patterns:
                found[NamePeer(tuple(patterns))] = None
            if not reading.context.dns_proxy:
                reading.unenforced(field, NO_NAMES)
            return False
        case "Groups":
            for item, path in reading.items(value, field):
                reading.mapping(item, path)
            reading.unenforced(field, "groups of cloud providers are not looked up")
            return False
        case "Entities":
            words = [item for item, path in reading.items(value, field) if _entity(item, path, reading, found)]
            return entities.EVERYONE in words
    one: Iterable[Peer | None]
    for item, path in reading.items(value, field):
        match kind.removeprefix("from").removeprefix("to"):
            case "Endpoints":
                one = [peer(item, path, reading, init=init)]
            case "Nodes":
                one = [nodes(item, path, reading)]
            case "CIDR":
                one = [cidr(item, path, reading)]
            case "CIDRSet":
                one = cidr_set(item, path, reading) or ()
            case _:
                one = service(item, path, reading)
        found.update((each, None) for each in one if each is not None)
    return False


def _entity(value: object, field: str, reading: Reading, found: dict[Peer, None]) -> bool:
    mine = entities.entity(value, reading.context.cluster) if isinstance(value, str) else None
    if mine is None:
        reading.complain(field, f"unsupported entity: {show(value)}")
        return False
    if value in entities.ABSENT:
        reading.warn(field, f"nothing is {show(value)} here: it selects nothing")
    found.update(dict.fromkeys(mine))
    return True
