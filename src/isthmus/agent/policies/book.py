"""The policy objects of the own cluster, and what of each is in force.

Pure. An object is read when it comes, and again when something that it refers to changes. Invariants:
- an update that the owner of its API would refuse leaves the last valid version in force, for as long as the object is
  the same one (its UID); without such a version, what could be read is in force and fails closed;
- an object that refers to what is not known yet changes nothing until that is known: a rule that denies what a group
  holds would else deny nothing for a moment;
- a version that is kept outlives the book if somebody stores it (`kept_versions`): the next book is given it, and takes
  it for the version in force if its object is there, is the same one, and is invalid at a later version; it is read
  anew before anything of that object is in force, so no moment comes at which the invalid one isolates;
- a Snapshot is a difference. What came already is recognised by a digest of what policy depends on, so a relist, or a
  controller that writes conditions to a thousand objects, is not a thousand readings.

Only objects that refer to others are held as they came; of the others a pack (`isthmus.agent.policies.kept`) where
versions are stored. Rejected: holding them all, to be able to read everything again
on any change: that is a copy of what the API server has, on every node. Rejected too: storing every valid version, for
a mistake that is made while the agent is away: each change of a policy would be a write to the disk of each node.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2b

import msgspec

from isthmus.agent.policies.earlier import EarlierVersion, version_of
from isthmus.agent.policies.kept import Place as FullPlace
from isthmus.agent.policies.kept import pack
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


class Unseen(Snapshot[dict[str, object]], frozen=True):
    """A collection that the server does not show: it counts as empty, and its objects may be there all the same."""


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
    refers to. The sources are there only if they may have to be read again. `pack` is the version in force, if it is
    valid and versions are stored; `earlier` the pack of one that an earlier run kept, until it is decided whether that
    is to be in force.
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
    pack: bytes = b""
    earlier: bytes = b""

    @property
    def said(self) -> tuple[tuple[Problem, ...], bool]:
        """Returns what users were told of it."""
        return self.problems, self.kept


class PolicyBook:
    """All policy objects of one cluster. `context` is what they are read against.

    `earlier` are the versions that an earlier run kept, as packs by object; None if nobody stores versions.
    """

    def __init__(self, context: Context, earlier: Mapping[ObjectRef, bytes] | None = None) -> None:
        self.context = context
        self.keeping = 0
        """Grows with each change of `kept_versions`."""
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
        self._stored = earlier is not None
        self._earlier = {ref.place: (ref, packed) for ref, packed in (earlier or {}).items()}
        self._kept: dict[ObjectRef, Entry] = {}
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

    def kept_versions(self) -> dict[ObjectRef, bytes]:
        """Returns what the next run needs to know: packs of the versions that are in force instead of invalid ones.

        Also of those that an earlier run kept, until their objects have been told. b"" for one that has no pack.
        """
        found = {ref: entry.earlier or entry.pack for ref, entry in self._kept.items()}
        return found | dict(self._earlier.values())

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
                if not isinstance(change, Unseen):
                    for place in [place for place in self._earlier if place[0] == resource.kind]:
                        self._recall(place)
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
            known = self._recall(parsed.ref.place)
            if known is not None and known[0] == parsed.ref:
                entry.earlier = known[1]
        entry.generation, entry.digest = generation(obj), digest
        self._decide(entry, obj, parsed, outcome)
        self._note_change(entry)

    def _note_change(self, entry: Entry) -> None:
        if not entry.waiting:
            self.changed.pop(entry.ref, None)  # so that the latest change is the last
            self.changed[entry.ref] = entry.generation

    def _decide(self, entry: Entry, obj: Object, parsed: Parsed, outcome: Outcome) -> None:
        """Sets in force what follows from the latest version, which has just been read as `parsed`."""
        said = entry.said
        missing = parsed.uses - self.known
        if parsed.valid and not missing:
            entry.earlier = b""  # nothing has to be kept
        earlier = EarlierVersion(entry.earlier, self.context) if entry.earlier else None
        uses = parsed.uses | (earlier.parsed.uses if earlier is not None else frozenset())
        source = obj if uses else None
        entry.waiting = frozenset(uses - self.known)
        if not entry.waiting:
            entry.problems = parsed.problems
            if earlier is not None:
                fault = earlier.fault(obj)
                if fault is not None:
                    entry.problems += (fault,)
                else:
                    self._install(entry, earlier.parsed, earlier.source if earlier.parsed.uses else None, outcome)
                    entry.pack = entry.earlier
                entry.earlier = b""
            entry.kept = not parsed.valid and entry.in_force is not None and entry.in_force.valid
            if not entry.kept:
                self._install(entry, parsed, source, outcome)
                entry.pack = b""
                if self._stored and parsed.valid:
                    entry.pack = pack(obj, api_version=entry.resource.api_version, kind=entry.ref.kind)
        entry.source = source
        entry.uses = uses | (entry.in_force.uses if entry.in_force is not None else frozenset())
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
        if self._kept.pop(entry.ref, None) is not None:
            self.keeping += 1

    def _recall(self, place: FullPlace) -> tuple[ObjectRef, bytes] | None:
        """Returns what an earlier run kept at a place, of which the end is known now."""
        known = self._earlier.pop(place, None)
        if known is not None:
            self.keeping += 1
        return known

    def _index(self, entry: Entry) -> None:
        keeps = self._stored and (entry.kept or bool(entry.earlier))
        if keeps is not (entry.ref in self._kept):
            self.keeping += 1
            if keeps:
                self._kept[entry.ref] = entry
            else:
                del self._kept[entry.ref]
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
    version = version_of(obj)
    return version if version.isdecimal() and len(version) <= _MOST_DIGITS else ""


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
