"""What people are told of each cluster's backends, and that it is what the pool does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.service import Backend, Target
from isthmus.services.choice import REST, Choice, choice
from isthmus.services.explaining import Counts, Share, explain
from isthmus.services.pool import Pool, Reach
from isthmus.services.settings import AFFINITY, GLOBAL, ORDER, WEIGHT, settings

OWN, OTHER = "koornacht", "tion"
NONE, LOCAL, REMOTE = {}, {AFFINITY: "local"}, {AFFINITY: "remote"}
TWO, ONE_OF_TWO, NO_ONE = Counts(2, 2), Counts(2, 1), Counts()
UNREADY, ENDING, LOST, STALE = Counts(2), Counts(2, 0, 2), Counts(2, 2, 0, 2), Counts(2, 2, 0, 2, stale=True)


def _explain(annotations: dict[str, str], here: Counts, there: Counts, **drained: int) -> list[tuple[int, str]]:
    chosen = choice(settings({GLOBAL: "true", **annotations}), own=OWN, told={}, drained=drained)
    shares = explain(chosen, {OWN: here, OTHER: there})
    assert [share.cluster for share in shares] == [OWN, OTHER]
    assert all(share.used == share.why.startswith(("used: ", "last resort: ")) for share in shares)
    return [(share.percent, share.why) for share in shares]


def _not(why: str) -> tuple[int, str]:
    return 0, f"not used: {why}"


_SAID = [
    (NONE, TWO, TWO, (50, "used: 2 ready backends"), (50, "used: 2 ready backends")),
    (NONE, TWO, ONE_OF_TWO, (67, "used: 2 ready backends"), (33, "used: 1 ready backend")),
    (NONE, TWO, NO_ONE, (100, "used: 2 ready backends"), _not("no backends")),
    (NONE, TWO, UNREADY, (100, "used: 2 ready backends"), _not("none of its backends is ready")),
    (NONE, TWO, Counts(1), (100, "used: 2 ready backends"), _not("its backend is not ready")),
    (NONE, NO_ONE, NO_ONE, _not("no backends"), _not("no backends")),
    (NONE, TWO, LOST, (100, "used: 2 ready backends"),
     _not("its nodes do not answer, and koornacht has ready backends")),
    (NONE, TWO, STALE, (100, "used: 2 ready backends"),
     _not("nothing is heard of it, and koornacht has ready backends")),
    (NONE, Counts(3, 3, 0, 1), TWO, (50, "used: 2 ready backends, 1 unreachable"), (50, "used: 2 ready backends")),
    (NONE, NO_ONE, LOST, _not("no backends"),
     (100, "last resort: its nodes do not answer, and nobody else has ready backends")),
    (NONE, LOST, LOST, (50, "last resort: its nodes do not answer, and nobody has ready backends"),
     (50, "last resort: its nodes do not answer, and nobody has ready backends")),
    (NONE, ENDING, LOST, (100, "last resort: its backends are terminating, and nobody else has ready ones"),
     _not("its nodes do not answer, and koornacht has backends that still serve")),
    (NONE, UNREADY, Counts(1, 0, 1, 1), _not("none of its backends is ready"),
     (100, "last resort: its nodes do not answer, its backends are terminating, and nobody else has ready backends")),
    (LOCAL, TWO, TWO, (100, "used: affinity local, 2 ready backends"),
     _not("affinity local and koornacht has ready backends")),
    (LOCAL, NO_ONE, TWO, _not("no backends"),
     (100, "used: affinity local, but koornacht has no usable backends; 2 ready backends")),
    (LOCAL, ENDING, TWO, _not("its backends are terminating, and tion has ready backends"),
     (100, "used: affinity local, but koornacht has no usable backends; 2 ready backends")),
    (REMOTE, TWO, TWO, _not("affinity remote and tion has ready backends"),
     (100, "used: affinity remote, 2 ready backends")),
    (REMOTE, TWO, NO_ONE,
     (100, "used: affinity remote, but the other clusters have no usable backends; 2 ready backends"),
     _not("no backends")),
    ({WEIGHT: "tion=50"}, TWO, TWO, (67, "used: 2 ready backends"), (33, "used: 2 ready backends, weight 50")),
    ({WEIGHT: "tion=0"}, TWO, TWO, (100, "used: 2 ready backends"),
     _not("drained (weight 0), and koornacht has ready backends")),
    ({WEIGHT: "tion=0"}, NO_ONE, TWO, _not("no backends"),
     (100, "last resort: drained (weight 0), but nobody else has ready backends")),
    ({ORDER: "yavin,tion"}, TWO, TWO, _not("affinity yavin,tion and tion has ready backends"),
     (100, "used: affinity yavin,tion, but yavin has no usable backends; 2 ready backends")),
    ({ORDER: "a,b,c,d"}, TWO, NO_ONE,
     (100, "used: affinity a,b,c,..., but a, b, c and 1 more have no usable backends; 2 ready backends"),
     _not("no backends")),
    ({GLOBAL: "false"}, TWO, TWO, (100, "used: 2 ready backends"), _not("the service is not global here")),
]  # fmt: skip


@pytest.mark.parametrize(("annotations", "here", "there", "own", "other"), _SAID)
def test_each_cluster_is_explained(annotations, here, there, own, other):
    assert _explain(annotations, here, there) == [own, other]


def test_a_drain_shows_as_the_weight_that_is_left():
    assert _explain(NONE, TWO, TWO, tion=50)[1] == (33, "used: 2 ready backends, weight 50")
    assert _explain(NONE, TWO, TWO, tion=0)[1] == _not("drained (weight 0), and koornacht has ready backends")


def test_nothing_told_is_nothing_said():
    assert explain(Choice(OWN), {}) == ()


_counts = st.tuples(*[st.integers(0, 3)] * 4).map(
    lambda n: Counts(n[0] + n[1] + n[3], n[0], n[1], min(n[2], n[0] + n[1]))
)
_names = st.sampled_from(["a", "b", "c", "d"])
_choices = st.builds(
    Choice,
    st.just("a"),
    st.sampled_from([
        (REST,), (frozenset("a"),), (frozenset("a"), REST), (REST, frozenset("a")),
        (frozenset("c"), frozenset("b"), REST),
    ]),
    st.dictionaries(_names, st.sampled_from([0, 1, 25, 50, 1000])),
)  # fmt: skip


@given(_choices, st.dictionaries(_names, _counts))
def test_what_is_said_to_be_used_is_what_the_pool_uses_and_the_shares_add_up(chosen, told):
    pool = Pool("n1", chosen)
    for name, counts in told.items():
        lost = counts.unreachable
        for number in range(counts.backends):
            ready = number < counts.ready
            ending = not ready and number < counts.ready + counts.terminating
            target = Target(f"10.0.{ord(name)}.{number}", 80)
            backend = Backend(name, target, "", ready, ready or ending, ending, reachable=number >= lost)
            pool.change(come=[backend])
    used = {chr(int(target.address.split(".")[2])) for target in pool.usable(Reach.ALL)}

    shares: tuple[Share, ...] = explain(chosen, told)

    assert {share.cluster for share in shares if share.used} == used
    assert sum(share.percent for share in shares) == (100 if used else 0)
    assert all(share.why and (share.used or not share.percent) for share in shares)
