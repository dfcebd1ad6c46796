"""What is left of a cluster while it is drained."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.services.draining import moment, next_step, percent_left

SINCE = "2025-01-31T12:00:00Z"
BEGAN = moment(SINCE) or 0.0


@pytest.mark.parametrize(
    ("passed", "left"), [(-5, 100), (0, 100), (59, 100), (60, 90), (299, 60), (300, 50), (599, 10), (600, 0), (9e9, 0)]
)
def test_a_drain_takes_a_tenth_at_a_time(passed: float, left: int) -> None:
    assert percent_left(SINCE, "10m", now=BEGAN + passed) == (left, ())


def test_a_drain_without_a_time_is_at_once() -> None:
    assert percent_left(SINCE, "", now=BEGAN) == (0, ())
    assert percent_left(SINCE, "0s", now=BEGAN) == (0, ())


@pytest.mark.parametrize(
    ("since", "over", "field"),
    [
        ("yesterday", "", "spec.drain.since"),
        ("2025-01-31T12:00:00", "", "spec.drain.since"),
        (SINCE, "ten", "spec.drain.over"),
    ],
)
def test_what_cannot_be_read_drains_at_once_and_is_said(since: str, over: str, field: str) -> None:
    left, problems = percent_left(since, over, now=BEGAN)
    assert left == 0
    assert [problem.field for problem in problems] == [field]


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 10**6))
def test_what_is_left_never_grows(one: float, other: float, length: int) -> None:
    early, late = sorted((one, other))
    at = [percent_left(SINCE, f"{length}s", now=BEGAN + passed)[0] for passed in (early, late)]
    assert 100 >= at[0] >= at[1] >= 0
    assert at[0] % 10 == 0


@given(st.floats(-100, 1e4), st.integers(0, 10**4))
def test_the_next_step_is_where_what_is_left_changes_and_not_before(passed: float, length: int) -> None:
    now, over = BEGAN + passed, f"{length}s"
    left, _ = percent_left(SINCE, over, now=now)
    step = next_step(SINCE, over, now=now)
    if step is None:
        assert left == 0
    else:
        assert percent_left(SINCE, over, now=max(now, step - 0.001))[0] == left
        assert percent_left(SINCE, over, now=step + 0.001)[0] < left


@pytest.mark.parametrize("fields", [("yesterday", ""), (SINCE, "ten")])
def test_what_cannot_be_read_has_no_next_step(fields: tuple[str, str]) -> None:
    assert next_step(*fields, now=BEGAN) is None
