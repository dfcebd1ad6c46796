"""What users hear of policies: the reason, the words, and how much of it."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from isthmus.agent.policies.reports import Report
from isthmus.agent.policies.telling import MENDED, MOST_NAMED, PROBLEM, Telling
from isthmus.kube.schema import ObjectReference
from isthmus.policy.rules import Grade, ObjectRef, Problem

PLAIN = ObjectRef("NetworkPolicy", "x", "p", "1")
CILIUM = ObjectRef("CiliumNetworkPolicy", "x", "p", "1")
CLUSTER = ObjectRef("ClusterNetworkPolicy", "", "p", "1")
BAD, NOT_DONE, ODD = (Problem(f"spec.{grade.name}", "is odd", grade) for grade in Grade)


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[ObjectReference, str, str, str]] = []

    def emit(self, about: ObjectReference, *, reason: str, message: str, type: str) -> None:
        self.events.append((about, type, reason, message))


def told(report: Report) -> tuple[list[Any], list[Any]]:
    recorder = Recorder()
    with capture_logs() as logs:
        Telling(recorder).report(report)
    return recorder.events, logs


@pytest.mark.parametrize(
    ("ref", "problems", "reason", "begins"),
    [
        (PLAIN, (BAD,), "PolicyInvalid", "Fails closed where it restricts: spec.INVALID: is odd"),
        (CLUSTER, (ODD, NOT_DONE), "PolicyNotEnforced", "Valid, but what is not enforced fails closed: spec.WARNING"),
        (CILIUM, (ODD, NOT_DONE, BAD), "PolicyInvalid", "Fails closed where it restricts: "),
        (PLAIN, (ODD,), "PolicyWarning", "Enforced as written, and perhaps not as meant: spec.WARNING: is odd"),
    ],
)
def test_the_worst_of_its_problems_names_the_event(ref, problems, reason, begins):
    ((about, type_, said, message),), logs = told(Report(ref, problems))

    assert (about.kind, about.name, about.uid) == (ref.kind, "p", "1")
    assert (type_, said) == ("Warning", reason)
    assert message.startswith(begins)
    assert [log["event"] for log in logs] == [PROBLEM] * len(problems)


def test_a_version_that_is_kept_is_named_with_the_one_that_is_not():
    ((_, _, reason, message),), _ = told(Report(CILIUM, (BAD,), generation=5, kept=4))

    assert reason == "PolicyKept"
    assert message == "Generation 5 is not valid, and generation 4 stays in force: spec.INVALID: is odd"


def test_events_name_the_version_of_the_api_where_users_look_for_them():
    for ref, version in ((PLAIN, "networking.k8s.io/v1"), (CILIUM, "cilium.io/v2")):
        ((about, *_),), _ = told(Report(ref, (BAD,)))
        assert about.apiVersion == version


def test_a_warning_is_an_event_only_where_no_condition_can_say_it():
    events, logs = told(Report(CILIUM, (ODD,)))

    assert events == []
    assert [(log["event"], log["log_level"]) for log in logs] == [(PROBLEM, "warning")]


def test_the_end_of_all_problems_is_good_news():
    ((_, type_, reason, _),), logs = told(Report(PLAIN, ()))

    assert (type_, reason) == ("Normal", "PolicyValid")
    assert [log["event"] for log in logs] == [MENDED]


def test_of_thousands_of_problems_some_are_told_and_the_rest_is_a_number():
    ((*_, message),), logs = told(Report(PLAIN, (BAD,) * 5000))

    assert len(logs) == MOST_NAMED + 1
    assert message.endswith("; and 4980 more")


def test_the_log_says_which_generation_stays_in_force():
    _, logs = told(Report(PLAIN, (BAD,), generation=3, kept=2))
    assert [(log["policy"], log["in_force"]) for log in logs] == [(str(PLAIN), "generation 2")]

    _, logs = told(Report(PLAIN, (BAD,), generation=3))
    assert ["in_force" in log for log in logs] == [False]


def test_an_object_that_has_no_name_gets_no_event():
    events, logs = told(Report(ObjectRef("NetworkPolicy", "", "(unnamed)"), (BAD,)))

    assert events == []
    assert len(logs) == 1


def test_a_refusal_is_told_of_each_policy_up_to_a_number():
    recorder = Recorder()
    Telling(recorder).refused([ObjectRef("NetworkPolicy", "x", f"p{n}", "1") for n in range(100)], "Message too long")

    assert len(recorder.events) == MOST_NAMED
    assert recorder.events[0][2] == "PolicyRefused"
    assert recorder.events[0][3].endswith(": Message too long")
