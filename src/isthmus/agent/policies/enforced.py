"""Which policy objects the kernel has, since when, and which of them not as they are written: for MeshNode's status.

Pure; the caller says when it is. What is taken in is *pending* until the transaction that holds it is committed
(`taken`, then `written`), so nothing is told before it is true; a transaction that fails leaves it pending. Invariants:
every list and text is bounded; objects that are gone appear nowhere; an object whose change means nothing to this node
counts as enforced when the next look at the table finds nothing to write. Rejected: a list of all objects: the status
of a node would grow with the cluster's policies, and be written whole for every one that changes.
"""

import datetime
from collections.abc import Mapping

from isthmus.agent.policies.book import Entry, PolicyBook
from isthmus.kube.meshobjects import PoliciesOnNode, PolicyException, RecentPolicy
from isthmus.policy.rules import Grade, ObjectRef

MOST = 64
"""Changes, and exceptions, that are told."""

MOST_TEXT = 240
"""Characters of a message; the rest is in the Events of the object, and in its conditions."""

INVALID, KEPT, REFUSED, PARTIAL = "Invalid", "Kept", "Refused", "PartiallyEnforced"


class Enforced:
    """What of a book is in the kernel."""

    def __init__(self, book: PolicyBook) -> None:
        self._book = book
        self._since = ""
        """Since when all is in force that is not among the recent changes, at the latest."""
        self._recent: dict[ObjectRef, RecentPolicy] = {}
        self._pending: dict[ObjectRef, int] = {}
        self._watermarks: dict[str, str] = {}
        self._next: dict[str, str] = {}

    def taken(self) -> None:
        """Says that what the book holds now is about to be written."""
        for ref, generation in self._book.changed.items():
            self._pending.pop(ref, None)
            self._pending[ref] = generation
        self._book.changed.clear()
        # A kernel that refuses for days must not make this grow with what came and went meanwhile.
        self._pending = {ref: one for ref, one in self._pending.items() if self._book.entry(ref) is not None}
        self._next = self._book.versions

    def written(self, now: float) -> None:
        """Says that the kernel has what was taken, since `now` (Unix seconds)."""
        if not self._pending and self._since and self._watermarks == self._next:
            return
        stamp = _stamp(now)
        if self._since:
            for ref, generation in self._pending.items():
                self._recent.pop(ref, None)
                self._recent[ref] = RecentPolicy(ref.kind, ref.namespace, ref.name, generation, stamp)
            self._cut()
        self._since = self._since or stamp  # what was there at the start is in force since then
        self._pending.clear()
        self._watermarks = self._next

    def _cut(self) -> None:
        """Keeps the latest changes of objects that are there."""
        if len(self._recent) <= MOST:
            return
        self._recent = {ref: one for ref, one in self._recent.items() if self._book.entry(ref) is not None}
        while len(self._recent) > MOST:
            self._since = self._recent.pop(next(iter(self._recent))).since

    def status(self, refused: Mapping[ObjectRef, str]) -> PoliciesOnNode | None:
        """Returns what is to be told, None before anything was written; `refused` says why policies are shut."""
        if not self._since:
            return None
        refusals = {ref: reason for ref, reason in _objects(refused).items() if self._book.entry(ref) is not None}
        exceptions: list[PolicyException] = []
        more = 0
        for ref, reason in refusals.items():
            if len(exceptions) < MOST:
                exceptions.append(self._exception(ref, REFUSED, reason))
            else:
                more += 1
        for ref, entry in self._book.faulty.items():
            state = _state(entry)
            if state is None or ref in refusals:
                continue
            if len(exceptions) < MOST:
                exceptions.append(self._exception(ref, state, _message(entry)))
            else:
                more += 1
        return PoliciesOnNode(
            total=self._book.total,
            watermarks=self._watermarks,
            recent=tuple(recent for ref, recent in self._recent.items() if self._book.entry(ref) is not None),
            exceptions=tuple(exceptions),
            moreExceptions=more,
            since=self._since,
        )

    def _exception(self, ref: ObjectRef, state: str, message: str) -> PolicyException:
        entry = self._book.entry(ref)
        generation = entry.generation if entry is not None else 0
        return PolicyException(ref.kind, ref.namespace, ref.name, generation, state, _clip(message))


def _state(entry: Entry) -> str | None:
    if entry.kept:
        return KEPT
    grades = {problem.grade for problem in entry.problems}
    if Grade.INVALID in grades:
        return INVALID
    return PARTIAL if Grade.UNENFORCED in grades else None


def _message(entry: Entry) -> str:
    worst = Grade.INVALID if entry.kept or _state(entry) == INVALID else Grade.UNENFORCED
    text = "; ".join(str(problem) for problem in entry.problems if problem.grade is worst)
    if entry.kept and entry.in_force is not None:
        return f"generation {entry.in_force.generation} stays in force: {text}"
    return text


def _objects(refused: Mapping[ObjectRef, str]) -> dict[ObjectRef, str]:
    """Returns the refusals by object, whichever part of it was refused."""
    return {ObjectRef(ref.kind, ref.namespace, ref.name, ref.uid): reason for ref, reason in refused.items()}


def _clip(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 3] + "..."


def _stamp(now: float) -> str:
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"
