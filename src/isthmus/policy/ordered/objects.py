"""Policies of the ordered tiers: what ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy share.

Their words differ, their rules do not: subject, then rules in order with an action, peers and ports (reference:
policy-apis §1.2-1.6). A `Dialect` has the words.

What cannot be read fails closed, by the API's own rule for peers of a newer version: an accepting rule matches nothing
of it, a denying or passing rule denies all. Where the subject, the tier or the priority cannot be read, accepting
rules are left out altogether: they would open pods, or come before policies, that nobody meant. Reading v1alpha1 by
translating it into v1alpha2 first was rejected: every problem would name a field that the user has never written.
"""

from collections.abc import Callable, Mapping

import msgspec

from isthmus.policy.context import Context, Parsed
from isthmus.policy.fields import MAX_ITEMS, Reader, show
from isthmus.policy.metadata import generation, required
from isthmus.policy.metadata import scope as scope_of
from isthmus.policy.ordered.peers import PeerReader, Peers
from isthmus.policy.rules import (
    Action,
    Direction,
    PodPeer,
    Policy,
    Port,
    PortName,
    Rule,
    Tier,
)

MAX_RULE_NAME = 100
FIRST = -1
"""Before every priority that can be written: where the denials of a policy go that does not say its place."""

_PEERS_KEY = {Direction.INGRESS: "from", Direction.EGRESS: "to"}


class Dialect(msgspec.Struct, frozen=True):
    """The words of one API: `limit` bounds its lists, `ports_key` has the ports of a rule, and `port` reads one."""

    kind: str
    actions: Mapping[str, Action]
    limit: int
    ports_key: str
    port: Callable[[Reader, Mapping[str, object], str], Port | None]
    egress_peers: frozenset[str]
    fields: frozenset[str]
    pods_need_namespaces: bool = False
    names_ports_of_networks: bool = False
    """Says that it lets a rule have both networks and port names, which then mean nothing together."""


class Place(msgspec.Struct, frozen=True):
    """Where a policy stands among the others; not `certain` if that could not be read."""

    tier: Tier
    priority: int
    certain: bool = True


UNKNOWN_PLACE = Place(Tier.ADMIN, FIRST, certain=False)


def read_ordered(
    obj: Mapping[str, object],
    context: Context,
    dialect: Dialect,
    place_of: Callable[[Mapping[str, object], Reader], Place],
) -> Parsed:
    """Reads an object of `dialect`, which is one policy; `place_of` reads its place from `spec`.

    Raises ValueError only if the object has no name. Everything else that is wrong is in `problems`.
    """
    ref = required(obj, dialect.kind, namespaced=False)
    reader = Reader([])
    scope = scope_of(obj, context.scope, reader)
    spec = reader.mapping(obj.get("spec"), "spec")
    subject, place = PodPeer(), UNKNOWN_PLACE
    if spec is None:
        rules = tuple(Rule(direction, 0, action=Action.DENY, field="spec") for direction in Direction)
    else:
        place = place_of(spec, reader)
        certain = place.certain
        for unknown in sorted(spec.keys() - dialect.fields):
            reader.complain(f"spec.{unknown}", "is not a known field")
            certain = False
        peers = PeerReader(reader, context, scope, dialect.egress_peers, dialect.pods_need_namespaces)
        read = _subject(spec.get("subject"), reader, peers)
        if read is None:
            certain = False
        else:
            subject = read
        rules = _Rules(reader, dialect, place.tier, peers).of(spec)
        if not certain:
            rules = tuple(filter(None, map(_denial, rules)))
    problems, count = tuple(reader.problems), generation(obj)
    policy = Policy(
        ref,
        "",
        subject,
        frozenset(),
        rules,
        scope,
        problems,
        tier=place.tier,
        priority=place.priority,
        generation=count,
    )
    return Parsed(ref, (policy,), problems, generation=count)


def number(spec: Mapping[str, object], key: str, reader: Reader, *, low: int, high: int) -> int | None:
    """Returns a number that must be there."""
    if spec.get(key) is None:
        reader.complain(f"spec.{key}", "Required value")
        return None
    return reader.number(spec[key], f"spec.{key}", low=low, high=high)


def _subject(value: object, reader: Reader, peers: PeerReader) -> PodPeer | None:
    if value is None:
        reader.complain("spec.subject", "Required value")
        return None
    entry = reader.mapping(value, "spec.subject")
    return peers.pods(entry, "spec.subject") if entry is not None else None


def _denial(rule: Rule) -> Rule | None:
    """Returns what is left of a rule where nothing may be allowed."""
    match rule.action:
        case Action.ALLOW:
            return None
        case Action.DENY:
            return rule
        case Action.PASS:
            return msgspec.structs.replace(rule, peers=None, ports=None, action=Action.DENY)


class _Rules:
    """Reads the rules of one object."""

    def __init__(self, reader: Reader, dialect: Dialect, tier: Tier, peers: PeerReader) -> None:
        self.reader, self.dialect, self.tier, self.peers = reader, dialect, tier, peers

    def of(self, spec: Mapping[str, object]) -> tuple[Rule, ...]:
        rules: list[Rule] = []
        for direction in Direction:
            value, field = spec.get(direction.value), f"spec.{direction.value}"
            if value is None:
                continue
            if not isinstance(value, list) or len(value) > MAX_ITEMS:
                list(self.reader.items(value, field))
                rules.append(Rule(direction, 0, action=Action.DENY, field=field))
                continue
            self._bound(value, field)
            for index, item in enumerate(value):
                rules += self._rule(item, f"{field}[{index}]", direction, index)
        return tuple(rules)

    def _bound(self, value: object, field: str, *, low: int = 0) -> None:
        if not isinstance(value, list):
            return
        if len(value) > self.dialect.limit:
            self.reader.complain(field, f"Too many: {len(value)}: must have at most {self.dialect.limit} items")
        elif len(value) < low:
            self.reader.complain(field, f"Invalid value: {len(value)}: should have at least {low} items")

    def _rule(self, item: object, field: str, direction: Direction, index: int) -> list[Rule]:
        """Returns what one rule comes to: usually one, two if its peers and ports do not go together, or none."""
        everything = Rule(direction, index, action=Action.DENY, field=field)
        entry = self.reader.mapping(item, field)
        if entry is None:
            return [everything]
        name = self._name(entry.get("name"), f"{field}.name")
        action = self._action(entry.get("action"), f"{field}.action")
        peers_key, ports_key = _PEERS_KEY[direction], self.dialect.ports_key
        unknown = sorted(entry.keys() - {"name", "action", peers_key, ports_key})
        for key in unknown:
            self.reader.complain(f"{field}.{key}", f"is not a field of a rule for {direction.value}")
        peers = self._peers(entry.get(peers_key), f"{field}.{peers_key}", direction, action)
        ports, sound = self._ports(entry.get(ports_key), f"{field}.{ports_key}")
        if action is Action.ALLOW:
            if unknown:
                return []
        elif unknown or not peers.sound:
            return [msgspec.structs.replace(everything, name=name)]
        elif not sound:
            action, ports = Action.DENY, None
        rule = Rule(direction, index, action=action or Action.DENY, field=field, name=name)
        return self._joined(rule, peers, ports)

    def _joined(self, rule: Rule, peers: Peers, ports: tuple[Port, ...] | None) -> list[Rule]:
        """Puts peers and ports together; a port has no name on what is no pod."""
        others = ports
        harsher = rule
        named = ports is not None and any(isinstance(port, PortName) for port in ports)
        if peers.others and ports is not None and named:
            others = tuple(port for port in ports if not isinstance(port, PortName))
            if not self.dialect.names_ports_of_networks:
                self.reader.complain(
                    rule.field,
                    "networks/nodes/domainNames peer cannot be set with namedPorts since there are no namedPorts for "
                    "networks/nodes/domainNames",
                )
                if rule.action is not Action.ALLOW:
                    others, harsher = None, msgspec.structs.replace(rule, action=Action.DENY)
        if others == ports and harsher.action is rule.action:
            found = [(rule, (*peers.pods, *peers.others), ports)]
        else:
            found = [(rule, peers.pods, ports), (harsher, peers.others, others)]
        found.append((msgspec.structs.replace(rule, action=Action.DENY), peers.denied, None if named else ports))
        return [
            msgspec.structs.replace(one, peers=tuple(dict.fromkeys(whom)), ports=which)
            for one, whom, which in found
            if whom and which != ()
        ]

    def _name(self, value: object, field: str) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            self.reader.complain(field, f"must be a string, is {show(value)}")
            return ""
        if len(value) > MAX_RULE_NAME:
            self.reader.complain(field, f"Too long: may not be more than {MAX_RULE_NAME} characters")
        return value[:MAX_RULE_NAME]

    def _action(self, value: object, field: str) -> Action | None:
        if value is None:
            self.reader.complain(field, "Required value")
            return None
        action = self.dialect.actions.get(value) if isinstance(value, str) else None
        if action is None:
            words = ", ".join(f'"{word}"' for word in self.dialect.actions)
            self.reader.complain(field, f"Unsupported value: {show(value)}: supported values: {words}")
        return action

    def _peers(self, value: object, field: str, direction: Direction, action: Action | None) -> Peers:
        if value is None:
            self.reader.complain(field, "Required value")
            return Peers(sound=False)
        self._bound(value, field, low=1)
        peers = Peers(sound=value != [])
        sound_before = len(self.reader.problems)
        entries = list(self.reader.items(value, field))
        peers.sound = peers.sound and len(self.reader.problems) == sound_before
        for item, path in entries:
            self.peers.add(peers, item, path, direction=direction, action=action, tier=self.tier)
        return peers

    def _ports(self, value: object, field: str) -> tuple[tuple[Port, ...] | None, bool]:
        """Returns the ports that could be read (None = any protocol and port), and whether that is all of them."""
        if value is None:
            return None, True
        self._bound(value, field, low=1)
        ports: list[Port] = []
        entries = list(self.reader.items(value, field))
        sound = bool(entries)
        for item, path in entries:
            entry = self.reader.mapping(item, path)
            port = self.dialect.port(self.reader, entry, path) if entry is not None else None
            if port is None:
                sound = False
            else:
                ports.append(port)
        return tuple(dict.fromkeys(ports)), sound
