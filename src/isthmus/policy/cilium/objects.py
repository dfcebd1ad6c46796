"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy -> Policies, one for each rule of `spec` and `specs`.

Semantics: reference cilium-policy §1-§3; validation §5. Invariant: what the object says of a direction isolates there,
even where nothing else of it can be read; an allowance that is not fully understood allows less, a denial denies more
(entries.py). Refusing the whole object on the first fault was rejected: a policy that nobody enforces opens its pods.
"""

from collections.abc import Iterator, Mapping

import msgspec

from isthmus.model.selector import Selector
from isthmus.policy.cilium.entries import SECTIONS, Asking, Entry, Section, read_entry
from isthmus.policy.cilium.reading import Reading
from isthmus.policy.cilium.selectors import for_init, subject
from isthmus.policy.context import Context, Parsed
from isthmus.policy.fields import MAX_ITEMS
from isthmus.policy.metadata import generation, required
from isthmus.policy.metadata import scope as scope_of
from isthmus.policy.rules import Action, Direction, EndpointPeer, ObjectRef, Policy, Rule

NAMESPACED = "CiliumNetworkPolicy"
CLUSTERWIDE = "CiliumClusterwideNetworkPolicy"
BOTH = frozenset(Direction)
MAX_LOG = 32  # characters of log.value
RULE_FIELDS = frozenset(
    {
        "endpointSelector",
        "nodeSelector",
        *(section.name for section in SECTIONS),
        "enableDefaultDeny",
        "labels",
        "description",
        "log",
    }
)
_LABEL = frozenset({"key", "value", "source"})


class Draft(msgspec.Struct, frozen=True):
    """A policy, and what its subjects may ask of DNS servers; `policy` is None for one that has no pods as subjects."""

    policy: Policy | None
    asking: tuple[Asking, ...] = ()


def read(obj: Mapping[str, object], context: Context) -> Parsed:
    """Reads an object of either kind; one without `kind` is taken by whether it has a namespace.

    Raises ValueError only if it has no name, or is of the namespaced kind and has no namespace.
    """
    ref, reading, drafts = read_drafts(obj, context)
    policies = tuple(draft.policy for draft in drafts if draft.policy is not None)
    return Parsed(ref, policies, tuple(reading.problems), frozenset(reading.uses), generation(obj))


def read_drafts(obj: Mapping[str, object], context: Context) -> tuple[ObjectRef, Reading, list[Draft]]:
    """Reads an object as `read` does, before what only a DNS proxy needs is dropped."""
    kind = obj.get("kind")
    if kind not in (NAMESPACED, CLUSTERWIDE):
        metadata = obj.get("metadata")
        kind = NAMESPACED if isinstance(metadata, Mapping) and metadata.get("namespace") else CLUSTERWIDE
    ref = required(obj, str(kind), namespaced=kind == NAMESPACED)
    reading = Reading([], context, ref.namespace)
    reading.scope = scope_of(obj, context.scope, reading)
    count = generation(obj)
    drafts = []
    for part, (value, field) in enumerate(_rules(obj, reading)):
        mine = msgspec.structs.replace(ref, part=part)
        before = len(reading.problems)
        draft = _Rule(mine, field, reading).read(value)
        if draft.policy is not None:
            problems = tuple(reading.problems[before:])
            draft = msgspec.structs.replace(
                draft, policy=msgspec.structs.replace(draft.policy, problems=problems, generation=count)
            )
        drafts.append(draft)
    return ref, reading, drafts


def _rules(obj: Mapping[str, object], reading: Reading) -> Iterator[tuple[object, str]]:
    spec, specs = obj.get("spec"), obj.get("specs")
    if spec is not None:
        yield spec, "spec"
    if specs is None or specs == []:
        if spec is None:
            reading.complain("spec", "empty policy: neither spec nor specs is given")
        return
    if isinstance(specs, list):
        yield from reading.items(specs, "specs")
    if not isinstance(specs, list) or len(specs) > MAX_ITEMS:
        yield specs, "specs"  # no rule: says so, and isolates


class _Rule:
    """One rule, `field` of the object, which becomes the policy `ref`."""

    def __init__(self, ref: ObjectRef, field: str, reading: Reading) -> None:
        self.ref, self.field, self.reading = ref, field, reading

    def read(self, value: object) -> Draft:
        """Reads the rule, whatever `value` is."""
        rule = self.reading.mapping(value, self.field)
        if rule is None:
            return self._draft(None, BOTH, [])
        known = self.reading.known(rule, RULE_FIELDS, self.field, "a rule")
        self._remarks(rule)
        found, pods = self._subject(rule)
        said, entries = self._entries(rule, for_init(found))
        isolates = self._isolates(rule.get("enableDefaultDeny"), said)
        if not pods:
            return Draft(None)
        return self._draft(found, isolates, entries if known else [one for one in entries if _denies(one)])

    def _draft(self, found: EndpointPeer | None, isolates: frozenset[Direction], entries: list[Entry]) -> Draft:
        """Makes the policy; for pods that cannot be told (`found` None) of all pods it could mean, allowing nothing."""
        if found is None:
            entries = [one for one in entries if _denies(one)]
        policy = Policy(
            self.ref,
            self.reading.namespace,
            found or EndpointPeer(Selector()),
            isolates,
            tuple(one.rule for one in entries if one.rule is not None),
            self.reading.scope,
        )
        return Draft(policy, tuple(asking for one in entries for asking in one.asking))

    def _subject(self, rule: Mapping[str, object]) -> tuple[EndpointPeer | None, bool]:
        """Returns the subjects (None if they cannot be told), and whether they are pods at all."""
        endpoints, nodes = rule.get("endpointSelector"), rule.get("nodeSelector")
        reading, field = self.reading, self.field
        found = None if endpoints is None else subject(endpoints, f"{field}.endpointSelector", reading)
        if endpoints is None and nodes is None:
            reading.complain(field, "rule must have one of endpointSelector or nodeSelector")
        elif nodes is not None:
            reading.selector(nodes, f"{field}.nodeSelector")
            if endpoints is not None:
                reading.complain(field, "rule cannot have both endpointSelector and nodeSelector")
            elif reading.namespace:
                reading.complain(f"{field}.nodeSelector", f"a {NAMESPACED} rule cannot have nodeSelector")
            else:
                reading.unenforced(f"{field}.nodeSelector", "policies for nodes are not enforced")
                if section := _above_ports(rule):
                    reading.complain(f"{field}.{section}", "policies for nodes do not support L7 rules yet")
        return found, endpoints is not None or nodes is None

    def _entries(self, rule: Mapping[str, object], init: bool) -> tuple[frozenset[Direction], list[Entry]]:
        """Returns the directions that the rule speaks of, and its entries."""
        entries: list[Entry] = []
        said: set[Direction] = set()
        empty: set[Direction] = set()
        for section in SECTIONS:
            value = rule.get(section.name)
            if value is None:
                continue
            if value == []:
                empty.add(section.direction)
                continue
            said.add(section.direction)
            entries += self._section(value, section, init)
        if not said:
            names = ", ".join(section.name for section in SECTIONS)
            self.reading.complain(self.field, f"rule must have at least one of {names}")
            said = empty  # nothing is allowed, and Cilium would leave it open
        return frozenset(said), entries

    def _section(self, value: object, section: Section, init: bool) -> list[Entry]:
        field = f"{self.field}.{section.name}"
        entries = [
            read_entry(item, index, section, path, self.reading, init=init)
            for index, (item, path) in enumerate(self.reading.items(value, field))
        ]
        if section.action is Action.DENY and not entries:
            return [
                Entry(Rule(section.direction, 0, action=Action.DENY, field=field))
            ]  # unread: denies whatever it may
        return [one for one in entries if _denies(one)] if any(one.demands for one in entries) else entries

    def _isolates(self, value: object, said: frozenset[Direction]) -> frozenset[Direction]:
        field = f"{self.field}.enableDefaultDeny"
        wanted = {} if value is None else self.reading.mapping(value, field)
        if wanted is None:
            return said
        self.reading.known(wanted, frozenset(one.value for one in Direction), field, "enableDefaultDeny")
        spared = {one for one in Direction if self.reading.flag(wanted.get(one.value), f"{field}.{one.value}") is False}
        return said - spared

    def _remarks(self, rule: Mapping[str, object]) -> None:
        """Looks at what has no effect here: labels, description, log."""
        reading, field = self.reading, self.field
        reading.text(rule.get("description"), f"{field}.description")
        if rule.get("labels") is not None:
            for item, path in reading.items(rule["labels"], f"{field}.labels"):
                label = reading.mapping(item, path)
                if label is not None and reading.known(label, _LABEL, path, "a label"):
                    for name in sorted(_LABEL):
                        reading.text(label.get(name), f"{path}.{name}")
        if rule.get("log") is not None:
            log = reading.mapping(rule["log"], f"{field}.log")
            if log is not None and reading.known(log, frozenset({"value"}), f"{field}.log", "a log"):
                text = reading.text(log.get("value"), f"{field}.log.value")
                if text is not None and (len(text) > MAX_LOG or not text.isprintable()):
                    reading.complain(f"{field}.log.value", f"must be at most {MAX_LOG} printable characters")


def _above_ports(rule: Mapping[str, object]) -> str:
    """Returns the section that has L7 rules, if one has; what is malformed has been, or will be, said elsewhere."""
    for section in SECTIONS:
        entries = rule.get(section.name)
        for entry in entries if isinstance(entries, list) else ():
            ports = entry.get("toPorts") if isinstance(entry, Mapping) else None
            for port in ports if isinstance(ports, list) else ():
                if isinstance(port, Mapping) and port.get("rules"):
                    return section.name
    return ""


def _denies(entry: Entry) -> bool:
    return entry.rule is not None and entry.rule.action is Action.DENY
