import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.aio.backoff import Backoff


def test_delays_grow_to_the_cap_and_start_again_after_a_reset() -> None:
    backoff = Backoff(base=1, factor=2, cap=5, jitter=0)

    assert [backoff.next() for _ in range(5)] == [1, 2, 4, 5, 5]
    assert backoff.attempts == 5
    backoff.reset()
    assert backoff.next() == 1


def test_jitter_only_shortens() -> None:
    backoff = Backoff(base=8, factor=1, cap=8, jitter=0.5, rng=lambda: 0.999)

    assert 4 < backoff.next() < 4.01


@given(
    base=st.floats(0.001, 10),
    factor=st.floats(1, 10),
    jitter=st.floats(0, 1),
    draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=200),
)
def test_every_delay_is_positive_and_at_most_the_cap(
    base: float, factor: float, jitter: float, draws: list[float]
) -> None:
    chance = iter(draws)
    backoff = Backoff(base=base, factor=factor, cap=30, jitter=jitter, rng=lambda: next(chance))

    assert all(0 < backoff.next() <= 30 for _ in draws)


@pytest.mark.parametrize("bad", [{"base": 0}, {"factor": 0.5}, {"base": 3, "cap": 2}, {"jitter": 1.5}])
def test_numbers_that_make_no_series_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no delays"):
        Backoff(**bad)
