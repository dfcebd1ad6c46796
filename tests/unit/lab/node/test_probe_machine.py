"""What follows from the answers to a probe."""

import pytest

from isthmus.lab.node.pods.container import Probe
from isthmus.lab.node.probes.machine import Kind, ProbeMachine, Verdict


def machine(kind: Kind, **settings: int) -> ProbeMachine:
    return ProbeMachine(kind, Probe(**settings), began=100.0)


def answers(probe: ProbeMachine, *oks: bool) -> list[Verdict]:
    return [probe.answered(ok, now=probe.due) for ok in oks]


def test_the_first_question_waits_for_the_initial_delay_and_the_next_ones_for_the_period() -> None:
    probe = machine(Kind.READINESS, initialDelaySeconds=5, periodSeconds=3)
    assert probe.due == 105.0
    probe.answered(True, now=105.5)
    assert probe.due == 108.5


def test_a_failure_counts_only_after_as_many_in_a_row_as_the_threshold_says() -> None:
    probe = machine(Kind.LIVENESS, failureThreshold=3)
    assert answers(probe, False, False, True, False, False) == [Verdict.NOTHING] * 5
    assert answers(probe, False) == [Verdict.KILL]
    assert probe.over


def test_readiness_comes_and_goes() -> None:
    probe = machine(Kind.READINESS, successThreshold=2, failureThreshold=2)
    assert answers(probe, True, True, True) == [Verdict.NOTHING, Verdict.READY, Verdict.NOTHING]
    assert answers(probe, False, False, False) == [Verdict.NOTHING, Verdict.UNREADY, Verdict.NOTHING]
    assert answers(probe, True, True) == [Verdict.NOTHING, Verdict.READY]
    assert not probe.over


def test_a_container_that_was_never_ready_does_not_become_unready() -> None:
    assert answers(machine(Kind.READINESS, failureThreshold=1), False, False) == [Verdict.NOTHING] * 2


@pytest.mark.parametrize(("ok", "verdict"), [(True, Verdict.STARTED), (False, Verdict.KILL)])
def test_a_startup_probe_is_over_one_way_or_the_other(ok: bool, verdict: Verdict) -> None:
    probe = machine(Kind.STARTUP, failureThreshold=1)
    assert answers(probe, ok) == [verdict]
    assert probe.over
