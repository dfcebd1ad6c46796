"""The policy objects of the own cluster, and what of each is in force.

Pure. An object is read when it comes, and again when something that it refers to changes. Invariants:
- an update that the owner of its API would refuse leaves the last valid version in force, for as long as the object is
  the same one (its UID); without such a version, what could be read is in force and fails closed;
- an object that refers to what is not known yet changes nothing until that is known: a rule that denies what a group
  holds would else deny nothing for a moment;
- a Snapshot is a difference. What came already is recognised by a digest of what policy depends on, so a relist, or a
  controller that writes conditions to a thousand objects, is not a thousand readings.

Only objects that refer to others are held as they came. Rejected: holding them all, to be able to read everything again
on any change: that is a copy of what the API server has, on every node.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2b

import msgspec

from isthmus.agent.policies.reports import Report
from isthmus.kube.reflector import Change, Gone, Put, Snapshot
from isthmus.kube.resources import Resource
from isthmus.model.labels import names_clusters
from isthmus.policy.context import Context, Parsed, Use
from isthmus.policy.metadata import generation
from isthmus.policy.parsing import identify, read
from isthmus.policy.rules import Grade, NodePeer, ObjectRef, Policy, Problem

Object = Mapping[str, object]
Place = tuple[str, str]
"""Namespace ("" where the kind has none) and name."""

_SELECTORS = {Use.CIDR_GROUPS: '"cidrGroupSelector"', Use.SERVICES: '"k8sServiceSelector"'}
_MOST_DIGITS = 20  # of a resourceVersion: 64 bits
_NOT_POLICY = frozenset(("status", "kind", "apiVersion"))
_NOT_POLICY_METADATA = frozenset(("resourceVersion", "managedFields"))


class Outcome(msgspec.Struct):
    """What follows from a change: for the compiler, which drops before it puts, and for people."""

    put: dict[ObjectRef, Policy] = {}
    drop: dict[ObjectRef, None] = {}
    reports: list[Report] = []

    def replace(self, old: Iterable[Policy], new: Iterable[Policy]) -> None:
        """Takes the policies of one object out, and others in."""
        for policy in old:
            if self.put.pop(policy.ref, None) is None:
                self.drop[policy.ref] = None
        for policy in new:
            self.put[policy.ref] = policy


class Entry(msgspec.Struct):
    """One object: its latest version, and the version in force.

    `problems` are those of the latest version; `kept` says that an earlier one is in force; `waiting` for what it
    refers to. The sources are there only if they may have to be read again.
    """

    ref: ObjectRef
    resource: Resource
    generation: int = 0
    digest: bytes = b""
    problems: tuple[Problem, ...] = ()
    in_force: Parsed | None = None
    kept: bool = False
    uses: frozenset[Use] = frozenset()
    waiting: frozenset[Use] = frozenset()
    source: Object | None = None
    force_source: Object | None = None

    @property
    def said(self) -> tuple[tuple[Problem, ...], bool]:
        """Returns what users were told of it."""
        return self.problems, self.kept


class PolicyBook:
    """All policy objects of one cluster. `context` is what they are read against."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.known: set[Use] = set()
        """What of that which policies may refer to has been told."""
        self.node_keys: Counter[str] = Counter()
        """The label keys of nodes that policies in force ask for."""
        self.grades: Counter[Grade] = Counter()
        """How many objects have problems of each grade."""
        self.changed: dict[ObjectRef, int] = {}
        """Objects whose version was taken in since somebody cleared this, and the generation."""
        self.faulty: dict[ObjectRef, Entry] = {}
        """Objects with problems."""
        self._entries: dict[str, dict[Place, Entry]] = {}
        self._latest: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        self._waiting: dict[ObjectRef, Entry] = {}
        self._referring: dict[ObjectRef, Entry] = {}

    @property
    def uses(self) -> frozenset[Use]:
        """Returns what policies refer to."""
        return frozenset(use for entry in self._referring.values() for use in entry.uses)

    @property
    def waiting(self) -> frozenset[Use]:
        """Returns what must be known before all objects are in force."""
        return frozenset(use for entry in self._waiting.values() for use in entry.waiting)

    @property
    def counts(self) -> dict[str, int]:
        """Returns how many objects of each kind there are."""
        return {kind: len(entries) for kind, entries in self._entries.items()}

    @property
    def total(self) -> int:
        """Returns how many objects there are."""
        return sum(map(len, self._entries.values()))

    def entry(self, ref: ObjectRef) -> Entry | None:
        """Returns what is known of an object (whatever part of it `ref` names) if it is there."""
        found = self._entries.get(ref.kind, {}).get(_place(ref))
        return found if found is not None and found.ref.uid == ref.uid else None

    @property
    def versions(self) -> dict[str, str]:
        """Returns the resourceVersion of each kind up to which everything is taken in, where that is known."""
        return dict(self._versions)

    def take(self, resource: Resource, change: Change[dict[str, object]]) -> Outcome:
        """Takes in a change of the objects of one kind."""
        outcome = Outcome()
        entries = self._entries.setdefault(resource.kind, {})
        match change:
            case Put(obj):
                self._put(resource, obj, outcome)
                self._advance(resource.kind, (obj,))
            case Gone(obj):
                ref = identify(obj, resource.kind)
                entry = entries.get(_place(ref)) if ref is not None else None
                # The late end of an object of which the successor is known already.
                if entry is not None and ref is not None and ref.uid in ("", entry.ref.uid):
                    self._drop(entry, outcome)
                self._advance(resource.kind, (obj,))
            case Snapshot(objects):
                present = {_place(ref) for ref in (identify(obj, resource.kind) for obj in objects) if ref is not None}
                for entry in [entry for place, entry in entries.items() if place not in present]:
                    self._drop(entry, outcome)
                for obj in objects:
                    self._put(resource, obj, outcome)
                self._latest.pop(resource.kind, None)
                self._versions.pop(resource.kind, None)
                self._advance(resource.kind, objects)
        return outcome

    def refer(self, use: Use, names: Collection[str] = ()) -> Outcome:
        """Takes in that the context's objects of `use` with these names changed, or that they are known now.

        Only policies that may mean one of them are read again: by name, or because they select by labels.
        """
        first = use not in self.known
        self.known.add(use)
        words = [_SELECTORS[use], *(f'"{name}"' for name in names)]
        outcome = Outcome()
        for entry in [entry for entry in self._referring.values() if use in entry.uses]:
            if first or _mentions(entry, words):
                self._read_again(entry, outcome)
        for kind in self._latest:
            self._advance(kind, ())
        return outcome

    # -- one object --------------------------------------------------------------------------------------------

    def _put(self, resource: Resource, obj: Object, outcome: Outcome) -> None:
        digest = _digest(obj)
        ref = identify(obj, resource.kind)
        entry = self._entries[resource.kind].get(_place(ref)) if ref is not None else None
        if entry is not None and entry.digest == digest != b"":
            return
        try:
            parsed = read(obj, self.context, kind=resource.kind)
        except ValueError as error:
            unnamed = ObjectRef(resource.kind, "", "(unnamed)")
            outcome.reports.append(Report(unnamed, (Problem("metadata", str(error)),), resource.api_version))
            return
        if entry is not None and entry.ref.uid != parsed.ref.uid:
            self._drop(entry, outcome)  # another object: what the one before it meant does not count
            entry = None
        if entry is None:
            entry = Entry(parsed.ref, resource)
            self._entries[resource.kind][_place(parsed.ref)] = entry
        entry.generation, entry.digest = generation(obj), digest
        self._decide(entry, obj, parsed, outcome)
        self._note_change(entry)

    def _note_change(self, entry: Entry) -> None:
        if not entry.waiting:
            self.changed.pop(entry.ref, None)  # so that the latest change is the last
            self.changed[entry.ref] = entry.generation

    def _decide(self, entry: Entry, obj: Object, parsed: Parsed, outcome: Outcome) -> None:
        """Sets in force what follows from the latest version, which has just been read as `parsed`."""
        said, force = entry.said, entry.in_force
        source = obj if parsed.uses else None
        entry.waiting = frozenset(parsed.uses - self.known)
        if not entry.waiting:
            entry.kept = not parsed.valid and force is not None and force.valid
            entry.problems = parsed.problems
            if not entry.kept:
                self._install(entry, parsed, source, outcome)
        entry.source = source
        entry.uses = parsed.uses | (entry.in_force.uses if entry.in_force is not None else frozenset())
        self._index(entry)
        self._recount(said[0], entry.problems)
        if entry.said != said:
            outcome.reports.append(self._report(entry))

    def _read_again(self, entry: Entry, outcome: Outcome) -> None:
        waited = bool(entry.waiting)
        if entry.force_source is not None and entry.force_source is not entry.source:
            parsed = read(entry.force_source, self.context, kind=entry.ref.kind)
            if parsed.valid:
                self._install(entry, parsed, entry.force_source, outcome)
        if entry.source is not None:
            self._decide(entry, entry.source, read(entry.source, self.context, kind=entry.ref.kind), outcome)
        if waited:
            self._note_change(entry)

    def _install(self, entry: Entry, parsed: Parsed | None, source: Object | None, outcome: Outcome) -> None:
        old = entry.in_force.policies if entry.in_force is not None else ()
        new = parsed.policies if parsed is not None else ()
        if old != new:
            outcome.replace(old, new)
            self.node_keys.subtract(_node_keys(old))
            self.node_keys.update(_node_keys(new))
            self.node_keys += Counter()  # without those that nobody asks for any more
        entry.in_force, entry.force_source = parsed, source

    def _drop(self, entry: Entry, outcome: Outcome) -> None:
        self._install(entry, None, None, outcome)
        self._recount(entry.problems, ())
        del self._entries[entry.ref.kind][_place(entry.ref)]
        for index in (self.faulty, self._waiting, self._referring, self.changed):
            index.pop(entry.ref, None)

    def _index(self, entry: Entry) -> None:
        for index, wanted in (
            (self.faulty, bool(entry.problems)),
            (self._waiting, bool(entry.waiting)),
            (self._referring, entry.source is not None or entry.force_source is not None),
        ):
            if wanted:
                index[entry.ref] = entry
            else:
                index.pop(entry.ref, None)

    def _recount(self, before: tuple[Problem, ...], after: tuple[Problem, ...]) -> None:
        if before is not after:
            self.grades.subtract({problem.grade for problem in before})
            self.grades.update({problem.grade for problem in after})

    @staticmethod
    def _report(entry: Entry) -> Report:
        kept = entry.in_force.generation if entry.kept and entry.in_force is not None else None
        return Report(entry.ref, entry.problems, entry.resource.api_version, entry.generation, kept)

    def _advance(self, kind: str, objects: Iterable[Object]) -> None:
        """Notes how far the kind is taken in; while one of its objects waits, no further than before."""
        versions = [version for version in map(_version, objects) if version]
        if versions:
            self._latest[kind] = max(versions, key=int)
        if kind in self._latest and not any(ref.kind == kind for ref in self._waiting):
            self._versions[kind] = self._latest[kind]


def _place(ref: ObjectRef) -> Place:
    return ref.namespace, ref.name


def _version(obj: Object) -> str:
    """Returns the resourceVersion if it is a number, as it is of every API server that keeps its objects in etcd."""
    metadata = obj.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
    if not isinstance(version, str) or not version.isdecimal() or len(version) > _MOST_DIGITS:
        return ""
    return version


def _digest(obj: Object) -> bytes:
    """Returns a digest of all that policy can depend on; empty (equal to none) for what JSON cannot say."""
    content = {key: value for key, value in obj.items() if key not in _NOT_POLICY}
    metadata = content.get("metadata")
    if isinstance(metadata, Mapping):
        content["metadata"] = {key: value for key, value in metadata.items() if key not in _NOT_POLICY_METADATA}
    try:
        return blake2b(msgspec.json.encode(content), digest_size=16).digest()
    except (ValueError, OverflowError, TypeError, RecursionError):
        return b""


def _mentions(entry: Entry, words: Iterable[str]) -> bool:
    """Tells whether an object as it was written has one of `words`; one that cannot be looked at may have."""
    try:
        texts = [msgspec.json.encode(one).decode() for one in (entry.source, entry.force_source) if one is not None]
    except (ValueError, OverflowError, TypeError, RecursionError):
        return True
    return any(word in text for text in texts for word in words)


def _node_keys(policies: Iterable[Policy]) -> list[str]:
    return [
        term.key
        for policy in policies
        for rule in policy.rules
        for peer in rule.peers or ()
        if isinstance(peer, NodePeer)
        for term in peer.selector.terms
        if not names_clusters(term.key)
    ]
