"""What users are told about policy objects: log lines of the agent, and Events on the objects.

Every agent speaks for its own node, and repetitions become counts (`isthmus.kube.events`), so the Events of a policy
that no node can enforce are one for each node. What is only a warning is not worth that where the tracker says it in a
condition. Invariant: bounded whatever an object holds: so many problems a line each, so many in an Event, and the rest
is a number.
"""

from collections.abc import Sequence

import structlog

from isthmus.agent.policies.reports import Report
from isthmus.kube.events import EventRecorder
from isthmus.kube.resources import NETWORK_POLICIES, POLICY_KINDS
from isthmus.kube.schema import ObjectReference
from isthmus.policy.rules import Grade, ObjectRef

MOST_NAMED = 20  # problems of one object in the log or in an Event

PROBLEM = "policy has a problem"
MENDED = "policy is well again"

REASONS = {
    Grade.INVALID: ("PolicyInvalid", "Fails closed where it restricts: "),
    Grade.UNENFORCED: ("PolicyNotEnforced", "Valid, but what is not enforced fails closed: "),
    Grade.WARNING: ("PolicyWarning", "Enforced as written, and perhaps not as meant: "),
}

_VERSIONS = {resource.kind: resource.api_version for resource in POLICY_KINDS}
_log = structlog.get_logger("isthmus.agent")


def about(ref: ObjectRef) -> ObjectReference:
    """Returns a policy object as Events name it."""
    return ObjectReference(ref.kind, ref.namespace, ref.name, ref.uid, _VERSIONS.get(ref.kind, ""))


class Telling:
    """Says what reports hold."""

    def __init__(self, events: EventRecorder) -> None:
        self._events = events

    def report(self, report: Report) -> None:
        """Says what has changed about an object."""
        ref, grade = report.ref, report.grade
        if grade is None:
            _log.info(MENDED, policy=str(ref))
            self._emit(ref, "PolicyValid", "Every part of the policy is enforced.", type="Normal")
            return
        more = len(report.problems) - MOST_NAMED
        log = _log.bind(policy=str(ref))
        if report.kept is not None:
            log = log.bind(in_force=f"generation {report.kept}")
        for problem in report.problems[:MOST_NAMED]:
            write = log.warning if problem.grade is Grade.WARNING else log.error
            write(PROBLEM, field=problem.field, problem=problem.message, grade=problem.grade.value)
        if more > 0:
            log.error(PROBLEM, field="", problem=f"and {more} more", grade=grade.value)
        text = "; ".join(map(str, report.problems[:MOST_NAMED])) + (f"; and {more} more" if more > 0 else "")
        reason, introduction = REASONS[grade]
        if report.kept is not None:
            reason = "PolicyKept"
            introduction = f"Generation {report.generation} is not valid, and generation {report.kept} stays in force: "
        if grade is not Grade.WARNING or ref.kind == NETWORK_POLICIES.kind:  # which has no status
            self._emit(ref, reason, introduction + text)

    def refused(self, refs: Sequence[ObjectRef], reason: str) -> None:
        """Says that these policies are shut, and why."""
        for ref in refs[:MOST_NAMED]:
            self._emit(ref, "PolicyRefused", f"The pods that it is for get no traffic that it could restrict: {reason}")

    def _emit(self, ref: ObjectRef, reason: str, message: str, *, type: str = "Warning") -> None:
        if ref.uid or ref.namespace:  # else there may be no such object
            self._events.emit(about(ref), reason=reason, message=message, type=type)
