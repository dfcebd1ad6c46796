"""Entries of ingress, egress, ingressDeny and egressDeny: each becomes one rule, or none.

How an entry fails closed: an allowance allows only what is understood and can be done, so what is not drops out of it
(one bad item of a list of peers or ports, or the entry); a denial denies at least what it says, so what is not
understood of its peers means everyone, and of its ports every port. Both then mean what they say once it is put right.
"""

from collections.abc import Mapping

import msgspec

from isthmus.policy.cilium.l7 import Names, above_ports, everything
from isthmus.policy.cilium.peers import KINDS, NAMES, read_peers
from isthmus.policy.cilium.ports import icmp_types, ports
from isthmus.policy.cilium.reading import Reading
from isthmus.policy.context import NO_NAMES
from isthmus.policy.fields import show
from isthmus.policy.rules import Action, Direction, Peer, Port, Rule

DENYING_PORT_FIELDS = frozenset({"ports"})
_MODES = ("disabled", "required", "test-always-fail")


class Section(msgspec.Struct, frozen=True):
    """One of the four lists of a rule."""

    name: str
    direction: Direction
    action: Action

    @property
    def requires(self) -> str:
        """Returns the name of the field that Cilium has given up, and keeps for old objects."""
        return "fromRequires" if self.direction is Direction.INGRESS else "toRequires"

    @property
    def fields(self) -> frozenset[str]:
        """Returns what an entry may have."""
        kinds = [kind for kind in KINDS[self.direction] if self.action is Action.ALLOW or kind != NAMES]
        more = ("authentication",) if self.action is Action.ALLOW else ()
        return frozenset((*kinds, self.requires, "toPorts", "icmps", *more))


SECTIONS = (
    Section("ingress", Direction.INGRESS, Action.ALLOW),
    Section("ingressDeny", Direction.INGRESS, Action.DENY),
    Section("egress", Direction.EGRESS, Action.ALLOW),
    Section("egressDeny", Direction.EGRESS, Action.DENY),
)


class Asking(msgspec.Struct, frozen=True):
    """Which names may be asked of `peers` (None = anyone) on `ports` (None = any); `names` None = every name."""

    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None
    names: Names | None = None


class Entry(msgspec.Struct, frozen=True):
    """What came of an entry: a rule, and for a DNS proxy what may be asked.

    `demands` says that it wants a condition on every allowance of its direction, which is not enforced.
    """

    rule: Rule | None = None
    asking: tuple[Asking, ...] = ()
    demands: bool = False


class Reach(msgspec.Struct, frozen=True):
    """Where an entry leads: `parts` are ports and the names that may be asked there, None = any protocol and port."""

    parts: tuple[tuple[tuple[Port, ...], Names | None], ...] | None
    clear: bool = True

    @property
    def ports(self) -> tuple[Port, ...] | None:
        """Returns all the ports."""
        if self.parts is None:
            return None
        return tuple(dict.fromkeys(port for found, _ in self.parts for port in found))


def read_entry(value: object, index: int, section: Section, field: str, reading: Reading, *, init: bool) -> Entry:
    """Reads item `index` of a section, at `field`; `init` if the subject selector is for pods that have no identity."""
    denial = section.action is Action.DENY
    rule = Rule(section.direction, index, action=section.action, field=field)
    item = reading.mapping(value, field)
    if item is None:
        return Entry(rule if denial else None)
    known = reading.known(item, section.fields, field, f"an {section.name} rule")
    who = read_peers(item, field, reading, section.direction, init=init)
    where = _reach(item, field, reading, denial=denial, egress=section.direction is Direction.EGRESS)
    demands = _demands(item.get(section.requires), f"{field}.{section.requires}", reading)
    if denial:
        peers = who.found if who.clear and known else None
        ports = where.ports if where.clear else None
        if known and who.clear and where.clear and not who.named and ports is None:
            return Entry()
    else:
        peers, ports = who.found, where.ports
        if not _unauthenticated(item.get("authentication"), f"{field}.authentication", reading) or not known:
            return Entry(demands=demands)
        if not who.named and ports is None:
            return Entry(demands=demands)
    if peers == () or ports == ():
        return Entry(demands=demands)
    rule = msgspec.structs.replace(rule, peers=peers, ports=ports)
    if denial or section.direction is Direction.INGRESS:
        return Entry(rule, demands=demands)
    parts = ((None, None),) if where.parts is None else where.parts
    return Entry(rule, tuple(Asking(peers, found, names) for found, names in parts), demands)


def _reach(item: Mapping[str, object], field: str, reading: Reading, *, denial: bool, egress: bool) -> Reach:
    before = reading.faults
    listed = {name: item[name] for name in ("toPorts", "icmps") if item.get(name) not in (None, [])}
    if len(listed) > 1:
        reading.complain(f"{field}.icmps", "may only be present without toPorts; a separate rule may have toPorts")
        return Reach((), clear=False)
    parts: list[tuple[tuple[Port, ...], Names | None]] = []
    if "icmps" in listed:
        parts.append((tuple(icmp_types(listed["icmps"], f"{field}.icmps", reading)), None))
    elif "toPorts" in listed:
        for part, path in reading.items(listed["toPorts"], f"{field}.toPorts"):
            found = _port_rule(part, path, reading, denial=denial, egress=egress)
            if found is not None:
                parts.append(found)
    else:
        return Reach(None)
    return Reach(tuple(parts), clear=reading.faults == before)


def _port_rule(
    value: object, field: str, reading: Reading, *, denial: bool, egress: bool
) -> tuple[tuple[Port, ...], Names | None] | None:
    part = reading.mapping(value, field)
    if part is None:
        return None
    found = tuple(ports(part.get("ports"), f"{field}.ports", reading))
    before = reading.faults
    if denial:
        reading.known(part, DENYING_PORT_FIELDS, field, "a port rule that denies")
        return found, None
    names = above_ports(part, field, reading, egress=egress)
    if names is not None and not everything(names) and not reading.context.dns_proxy:
        reading.unenforced(f"{field}.rules.dns", NO_NAMES)
    return (found, names) if reading.faults == before else None


def _demands(value: object, field: str, reading: Reading) -> bool:
    """Tells whether a fromRequires or toRequires wants anything; an empty one wants nothing."""
    if value is None:
        return False
    if value == []:
        reading.warn(field, "is no longer a field of Cilium, and is ignored")
        return False
    reading.unenforced(field, "is no longer a field of Cilium, and is not enforced")
    return True


def _unauthenticated(value: object, field: str, reading: Reading) -> bool:
    """Tells whether no authentication is asked for."""
    if value is None:
        return True
    wanted = reading.mapping(value, field)
    if wanted is None or not reading.known(wanted, frozenset({"mode"}), field, "authentication"):
        return False
    mode = wanted.get("mode")
    if mode not in _MODES:
        reading.complain(f"{field}.mode", f"{show(mode)} is not {', '.join(_MODES)}")
    elif mode != "disabled":
        reading.unenforced(field, "peers are not authenticated")
    return mode == "disabled"
