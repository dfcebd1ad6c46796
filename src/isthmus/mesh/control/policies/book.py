"""The policies of the own cluster, and what has to be written into their status. Pure; `now` is in Unix seconds.

What reading an object gave is kept, not the object, unless it refers to others. Invariants: an object is read again
only if its content or what it refers to changed, and never because a status was written; a condition that somebody else
keeps changing is theirs: where both say the same of the object their words stay, and where not, ours are put back ever
more rarely (`Contested`); a condition of an earlier life that says a policy is enforced is not taken back before agents
had time to say so again. Rejected: insisting, which with a second operator is a write a second for every policy.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from isthmus.kube.reflector import Change, Gone, Put, Snapshot
from isthmus.kube.resources import Resource
from isthmus.mesh.control import effects
from isthmus.mesh.control.policies import conditions
from isthmus.mesh.control.policies.conditions import ENFORCED, Verdict, Wanted
from isthmus.mesh.control.policies.contests import Contests
from isthmus.mesh.control.policies.rollout import Rollout
from isthmus.mesh.control.policies.subjects import NO_SUBJECT, Subjects
from isthmus.mesh.enforcement import Place, PolicyVersion, Standing, number_of, version_of
from isthmus.policy.cilium.groups import cidr_group
from isthmus.policy.context import CidrGroup, Context, Use
from isthmus.policy.metadata import SCOPE_ANNOTATION
from isthmus.policy.parsing import read

DOUBT = 75.0
"""Seconds after the start for which what an earlier life said of enforcement holds: an agent's heartbeat, and more."""

YIELD = 60.0
LONGEST_YIELD = 3600.0
"""Seconds for which a condition is left to somebody else who changed it; doubles up to the second."""

Object = dict[str, Any]


class Contested(msgspec.Struct):
    """A condition that somebody else changed after us: how often, and until when it is left to them."""

    times: int
    until: float


class Entry(msgspec.Struct):
    """An object: its resourceVersion, its conditions as they are stored, and what reading it gave."""

    resource: Resource
    version: PolicyVersion
    latest: str
    conditions: list[Any]
    verdict: Verdict
    scope: object
    source: Object | None = None
    """The object, where it refers to others."""
    trusted_until: float = 0.0
    deleting: bool = False
    sent: dict[str, Wanted] = {}
    """Conditions that were sent to the server, and may be stored there by now."""
    written: dict[str, Wanted] = {}
    """Those that were seen stored."""
    contested: dict[str, Contested] = {}


class Book:
    """All policies with a status. Methods that change something note what to look at again (`take`)."""

    def __init__(self, own: str) -> None:
        self.rollout = Rollout()
        self.subjects = Subjects(own)
        self._own = own
        self._groups: dict[str, CidrGroup] = {}
        self._context = Context(own, cidr_groups=self._groups)
        self._entries: dict[Place, Entry] = {}
        self._contests = Contests()
        self._dirty: set[Place] = set()
        self._in_time: set[Place] = set()
        self.contests = 0
        """How often somebody else changed what we wrote."""

    def __len__(self) -> int:
        return len(self._entries)

    def take(self) -> tuple[set[Place], set[Place]]:
        """Returns which policies to look at now, and which in time, since the last call."""
        dirty, everything = self.rollout.take()
        dirty |= self._dirty
        later = (set(self._entries) if everything else set()) | self._in_time
        self._dirty, self._in_time = set(), set()
        return dirty, later - dirty

    def touch_all(self) -> None:
        """Has everything looked at: more is known now than before."""
        self._dirty.update(self._entries)

    # -- what the watches say ----------------------------------------------------------------------------------

    def retain(self, resource: Resource, objects: Sequence[Object]) -> None:
        """Drops the policies of a kind that are not among `objects`: the first half of taking a snapshot."""
        found = [version_of(obj, resource.kind) for obj in objects]
        present = {version.place for version in found if version is not None}
        for place in self.rollout.places(resource.kind) - present:
            self._drop(place)

    def put_listed(self, resource: Resource, objects: Sequence[Object], *, now: float, loaded: bool) -> None:
        """Takes policies in: the second half of taking a snapshot, which may be done in pieces.

        `loaded` False says that what is stored was written by an earlier life.
        """
        for obj in objects:
            self.put(resource, obj, now=now, loaded=loaded, listed=True)

    def put(self, resource: Resource, obj: Object, *, now: float, loaded: bool = True, listed: bool = False) -> None:
        """Takes an object as it is stored; `listed` with all others, so that it may even be older than what is known.

        `loaded` is as for `put_listed`. An event that comes later than the answer to our own write is no news.
        """
        version = version_of(obj, resource.kind)
        if version is None:
            return
        place, known = version.place, self._entries.get(version.place)
        if known is not None and known.version.uid != version.uid:
            self._drop(place)
            known = None
        late = known is not None and 0 <= version.number < number_of(known.latest)
        if late and not listed:
            return
        stored, scope = _conditions(obj), _scope(obj)
        same = known is not None and known.version.generation == version.generation > 0 and known.scope == scope
        if known is not None and same:
            known.latest, known.deleting = version.version, _deleting(obj)
            if stored != known.conditions:
                known.conditions = stored
                if not late:
                    self._judge_others(known, now=now)
                self._dirty.add(place)
        else:
            entry = Entry(resource, version, version.version, stored, Verdict(), scope, deleting=_deleting(obj))
            if known is None and not loaded and _said(stored, ENFORCED) == "True":
                entry.trusted_until = now + DOUBT
            self._entries[place] = entry
            self._read(entry, obj)
            self._dirty.add(place)
        self.rollout.put_policy(version)

    def drop(self, resource: Resource, obj: Object) -> None:
        """Takes a deletion."""
        version = version_of(obj, resource.kind)
        if version is not None:
            self._drop(version.place)

    def answered(self, resource: Resource, obj: Object, *, now: float) -> None:
        """Takes what the server answered to a write of ours; the watch may have told of the object's end before."""
        version = version_of(obj, resource.kind)
        known = self._entries.get(version.place) if version is not None else None
        if version is not None and known is not None and known.version.uid == version.uid:
            self.put(resource, obj, now=now)

    def on_groups(self, change: Change[Object]) -> None:
        """Takes a change of the CIDR groups."""
        match change:
            case Put(obj):
                found = cidr_group(obj)
                if found is not None:
                    self._groups[found.name] = found
            case Gone(obj):
                found = cidr_group(obj)
                if found is not None:
                    self._groups.pop(found.name, None)
            case Snapshot(objects):
                self._groups.clear()
                self._groups.update((group.name, group) for group in map(cidr_group, objects) if group is not None)
        for place, entry in self._entries.items():
            if entry.source is not None:
                before = entry.verdict
                self._read(entry, entry.source)
                if entry.verdict != before:
                    self._dirty.add(place)

    def lacking(self, changed: Iterable[Place]) -> None:
        """Takes that policies select pods now, or none any more."""
        self._in_time |= {place for place in changed if place in self._entries}

    def _drop(self, place: Place) -> None:
        if self._entries.pop(place, None) is None:
            return
        self.rollout.drop_policy(place)
        self.subjects.drop(place)
        self._in_time |= self._contests.drop(place)
        self._dirty.discard(place)

    def _read(self, entry: Entry, obj: Object) -> None:
        place = entry.version.place
        try:
            parsed = read(obj, self._context, kind=entry.resource.kind)
        except ValueError as error:
            entry.verdict, entry.source = Verdict(errors=(str(error),)), None
            return
        entry.verdict = conditions.verdict_of(parsed)
        entry.source = obj if Use.CIDR_GROUPS in parsed.uses else None
        self.subjects.put(place, parsed.policies)
        self._in_time |= self._contests.put(place, parsed.policies)

    # -- what is written ---------------------------------------------------------------------------------------

    def plan(self, place: Place, *, now: float, enforcement: bool = True) -> tuple[effects.Change | None, float | None]:
        """Returns what to write, and after how many seconds to look again in any case.

        `enforcement` False says that too little is known of the nodes to speak of it.
        """
        entry = self._entries.get(place)
        if entry is None or entry.deleting:
            return None, None
        again: list[float] = []
        wanted: list[Wanted] = []
        for one in self._wanted(entry, now=now, enforcement=enforcement, again=again):
            contested = entry.contested.get(one.type)
            if contested is None:
                wanted.append(one)
            elif _said(entry.conditions, one.type) != one.status:
                if contested.until <= now:
                    wanted.append(one)
                else:
                    again.append(contested.until - now)
        merged = conditions.merged(entry.conditions, wanted, now=now)
        if merged is None:
            return None, min(again, default=None)
        _, namespace, name = place
        patch = {"status": {"conditions": merged}}
        return (
            effects.Change(entry.resource, namespace, name, patch, status=True, version=entry.latest),
            min(again, default=None),
        )

    def sending(self, place: Place, change: effects.Change) -> None:
        """Takes that a plan is about to be done: the watch may tell of it before the server answers."""
        entry = self._entries.get(place)
        if entry is not None:
            found = [one for one in change.patch["status"]["conditions"] if isinstance(one, Mapping)]
            entry.sent = {str(one["type"]): _as_wanted(one) for one in found if one.get("type") in _OURS}

    def _wanted(self, entry: Entry, *, now: float, enforcement: bool, again: list[float]) -> list[Wanted]:
        place, kind = entry.version.place, entry.resource.kind
        generation = entry.version.generation
        verdict = entry.verdict
        more = [self._contests.of(place), NO_SUBJECT if self.subjects.lacking(place) else ""]
        if any(more):
            verdict = msgspec.structs.replace(verdict, warnings=(*verdict.warnings, *filter(None, more)))
        wanted = [conditions.validity(kind, verdict, generation=generation)]
        if enforcement:
            summary = self.rollout.summary(place)
            pending = not verdict.errors and (summary.unknown or summary.counts.get(Standing.PENDING, 0) > 0)
            if pending and now < entry.trusted_until:
                again.append(entry.trusted_until - now)
            else:
                entry.trusted_until = 0.0
                wanted.append(conditions.enforced(kind, verdict, summary, generation=generation))
        return wanted

    def _judge_others(self, entry: Entry, *, now: float) -> None:
        """Finds out whether somebody else changed what we wrote."""
        by_type = {one.get("type"): one for one in entry.conditions if isinstance(one, Mapping)}
        for type in _OURS:
            stored, sent, written = by_type.get(type), entry.sent.get(type), entry.written.get(type)
            if stored is not None and sent is not None and sent.matches(stored):
                entry.written[type] = sent
            elif written is not None and (stored is None or not written.matches(stored)):
                del entry.written[type]
                if stored is not None:  # else it was taken away, as by a copy of the object from a file
                    self._contest(entry, type, now=now)

    def _contest(self, entry: Entry, type: str, *, now: float) -> None:
        times = entry.contested[type].times + 1 if type in entry.contested else 1
        pause = min(YIELD * 2.0 ** min(times - 1, 20), LONGEST_YIELD)
        entry.contested[type] = Contested(times, now + pause)
        self.contests += 1


_OURS = frozenset({conditions.VALID, conditions.ACCEPTED, ENFORCED})


def _as_wanted(stored: Mapping[str, Any]) -> Wanted:
    return Wanted(
        str(stored["type"]),
        str(stored.get("status")),
        stored.get("reason") or "",
        stored.get("message") or "",
        stored.get("observedGeneration") or 0,
    )


def _conditions(obj: Object) -> list[Any]:
    status = obj.get("status")
    found = status.get("conditions") if isinstance(status, dict) else None
    return found if isinstance(found, list) else []


def _said(stored: list[Any], type: str) -> object:
    return next((one.get("status") for one in stored if isinstance(one, Mapping) and one.get("type") == type), None)


def _scope(obj: Object) -> object:
    meta = obj.get("metadata")
    annotations = meta.get("annotations") if isinstance(meta, dict) else None
    return annotations.get(SCOPE_ANNOTATION) if isinstance(annotations, dict) else None


def _deleting(obj: Object) -> bool:
    meta = obj.get("metadata")
    return isinstance(meta, dict) and bool(meta.get("deletionTimestamp"))
