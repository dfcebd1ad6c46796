"""What the status of a policy object says: valid or not and why, enforced or not and where not. Pure.

Each API has its own word for the first (`Valid` in Cilium's kinds, with Cilium's message and no reason; `Accepted` in
the kinds with tiers, which define none); the second is ours in all of them. Invariants: conditions of other types are
passed on as they are; the time of a condition changes only with its status (reference: cilium-policy, status); what is
as it should be makes no write. Numbers of nodes are said only where some lag, or a node more would rewrite the status
of every policy. Rejected: server-side apply, which on a list that is no map replaces what others wrote.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from isthmus.mesh.control.clusters import stamp
from isthmus.mesh.control.policies.rollout import Summary
from isthmus.mesh.enforcement import Standing
from isthmus.policy.context import Parsed
from isthmus.policy.rules import Grade, Problem

ENFORCED = "isthmus.dev/Enforced"
ACCEPTED = "Accepted"
VALID = "Valid"

VALID_MESSAGE = "Policy validation succeeded"
"""Cilium's words, by which people and scripts know it."""

MOST_PROBLEMS = 10
LONGEST = 2048
"""Characters of a message."""

CILIUM_KINDS = frozenset({"CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"})

Json = dict[str, Any]


class Verdict(msgspec.Struct, frozen=True):
    """What reading an object found: faults of it, parts that are not enforced, and what is perhaps not meant."""

    errors: tuple[str, ...] = ()
    unenforced: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Wanted(msgspec.Struct, frozen=True):
    """A condition without its time; `generation` 0 where the schema has no observedGeneration."""

    type: str
    status: str
    reason: str
    message: str
    generation: int = 0

    def matches(self, stored: Mapping[str, Any]) -> bool:
        """Tells whether a stored condition says this."""
        said = (stored.get("status"), stored.get("reason") or "", stored.get("message") or "")
        seen = stored.get("observedGeneration") or 0
        return said == (self.status, self.reason, self.message) and seen == self.generation


def verdict_of(parsed: Parsed) -> Verdict:
    """Returns what there is to say of an object by itself.

    Which Services there are is not known here, so what toServices selects is not judged.
    """

    def texts(grade: Grade) -> tuple[str, ...]:
        found = [problem for problem in parsed.problems if problem.grade is grade and not _unknowable(problem)]
        more = len(found) - MOST_PROBLEMS
        return (*map(str, found[:MOST_PROBLEMS]), *([f"and {more} more"] if more > 0 else ()))

    return Verdict(texts(Grade.INVALID), texts(Grade.UNENFORCED), texts(Grade.WARNING))


def _unknowable(problem: Problem) -> bool:
    return problem.grade is Grade.WARNING and "toServices" in problem.field


def validity(kind: str, verdict: Verdict, *, generation: int) -> Wanted:
    """Returns the condition that says whether an object is valid."""
    errors = _clip("; ".join(verdict.errors))
    if kind in CILIUM_KINDS:
        return Wanted(VALID, "False" if errors else "True", "", errors or VALID_MESSAGE)
    if errors:
        return Wanted(ACCEPTED, "False", "Invalid", errors, generation)
    return Wanted(ACCEPTED, "True", "Accepted", "The policy is valid", generation)


def enforced(kind: str, verdict: Verdict, summary: Summary, *, generation: int) -> Wanted:
    """Returns the condition that says whether every node enforces an object as it is written."""
    status, reason, message = _enforced(kind, verdict, summary)
    if verdict.warnings:
        message = f"{message}. Warning: {'; '.join(verdict.warnings)}"
    return Wanted(ENFORCED, status, reason, _clip(message), 0 if kind in CILIUM_KINDS else generation)


def _enforced(kind: str, verdict: Verdict, summary: Summary) -> tuple[str, str, str]:
    counts = summary.counts
    bad = [standing for standing in (Standing.REFUSED, Standing.INVALID, Standing.KEPT) if counts.get(standing)]
    if verdict.errors and not bad:
        return "False", "Refused", "The policy is not valid; no node has said yet what it does instead"
    if bad:
        return "False", "Refused", "; ".join(_refusal(kind, standing, summary) for standing in bad)
    if summary.unknown:
        return "Unknown", "Pending", "No node says which policies it enforces"
    if not summary.everywhere:
        having = sum(number for standing, number in counts.items() if standing.counts)
        names = [f"{one.node} ({one.message})" for one in summary.lagging if not one.standing.counts]
        more = summary.total - having - len(names)
        lagging = ", ".join(names) + (f" and {more} more" if more > 0 and names else "")
        return "False", "Pending", f"On {having} of {summary.total} nodes; not on {lagging or f'{more} nodes'}"
    parts = list(verdict.unenforced)
    if not parts and counts.get(Standing.PARTIAL):
        parts = [one.message for one in summary.lagging if one.standing is Standing.PARTIAL][:1]
    if parts:
        return "False", "PartiallyEnforced", f"Every node has it, but not: {'; '.join(parts)}"
    return "True", "Enforced", "Every node enforces it"


def _refusal(kind: str, standing: Standing, summary: Summary) -> str:
    number = summary.counts[standing]
    example = next((one.message for one in summary.lagging if one.standing is standing and one.message), "")
    where = f"on {number} of {summary.total} nodes"
    match standing:
        case Standing.KEPT:
            return f"Not valid; an earlier version stays in force {where}" + (f" ({example})" if example else "")
        case Standing.INVALID:
            if kind in CILIUM_KINDS:
                return f"Not valid, and no earlier version to keep: what it selects is isolated {where}"
            # In the ordered tiers nothing isolates, and the tiers after them still speak.
            instead = "accepting rules that are wrong match nothing, others that are wrong deny everything"
            return f"Not valid, and no earlier version to keep: {instead}, {where}"
    return f"The rules are refused {where}" + (f": {example}" if example else "")


def merged(stored: Sequence[Any], wanted: Sequence[Wanted], *, now: float) -> list[Any] | None:
    """Returns `stored` conditions with the wanted ones in their places, None if that is what they are."""
    by_type: dict[object, Wanted] = {one.type: one for one in wanted}
    found: list[Any] = []
    changed = False
    for condition in stored:
        one = by_type.pop(condition.get("type"), None) if isinstance(condition, Mapping) else None
        if one is None or one.matches(condition):
            found.append(condition)
            continue
        changed = True
        since = condition.get("lastTransitionTime") if condition.get("status") == one.status else None
        found.append(_condition(one, since or stamp(now)))
    found += [_condition(one, stamp(now)) for one in by_type.values()]
    return found if changed or by_type else None


def _condition(one: Wanted, since: str) -> Json:
    found: Json = {"type": one.type, "status": one.status, "lastTransitionTime": since, "message": one.message}
    if one.reason:
        found["reason"] = one.reason
    if one.generation:
        found["observedGeneration"] = one.generation
    return found


def _clip(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
