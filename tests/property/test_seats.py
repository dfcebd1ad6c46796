"""Seats: a cluster's share is what its weight says, whatever comes and goes, and little moves for it."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.service import Target
from isthmus.ruleset.seats import LEAST, MOST, SEATS, Seat, Seats, target_of

NAMES = ("east", "west", "south")


class _List:
    """A list of targets with its seats, as a line keeps it."""

    def __init__(self) -> None:
        self.seats = Seats()
        self.members: dict[Target, str] = {}
        self.items: set = set()
        self.moved = 0

    def change(self, *, gone=(), come=(), weights=None) -> None:
        come = dict(come)
        gone = [target for target in gone if target in self.members]
        for target in gone:
            del self.members[target]
        self.members |= come
        left, new = self.seats.change(
            gone=gone, come=list(come), members=self.members, weights=weights or {}, cluster=self.members.__getitem__
        )
        assert len({*left}) == len(left) and len({*new}) == len(new)
        assert {*left} <= self.items
        self.items -= {*left}
        assert not {*new} & self.items
        self.items |= {*new}
        self.moved = len(left) + len(new)

    def counts(self) -> Counter[Target]:
        counted = Counter(target_of(item) for item in self.items)
        assert counted.keys() <= self.members.keys()
        for target, count in counted.items():
            numbers = {item.number if isinstance(item, Seat) else 0 for item in self.items if target_of(item) == target}
            assert numbers == set(range(count)), "the target itself, and more seats without holes"
        return counted

    def shares(self) -> dict[str, float]:
        counted = Counter(self.members[target_of(item)] for item in self.items)
        return {name: counted[name] / len(self.items) for name in NAMES}

    def ideal(self, weights: dict[str, int]) -> dict[str, float]:
        sums = Counter()
        for name in self.members.values():
            sums[name] += weights[name]
        return {name: sums[name] / sums.total() for name in NAMES}


def _targets(name: str, count: int) -> dict[Target, str]:
    first = NAMES.index(name)
    return {Target(f"10.{first}.{n >> 8}.{n & 255}", 80): name for n in range(count)}


_weights = st.sampled_from([100, 100, 1, 3, 10, 25, 33, 50, 90, 97, 99, 250, 1000])


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.integers(0, 39), st.sampled_from(NAMES), max_size=12),
            st.sets(st.integers(0, 39), max_size=12),
            st.none() | st.tuples(_weights, _weights, _weights),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_happens_every_cluster_has_its_share_within_two_per_cent(steps):
    world, weights = _List(), dict.fromkeys(NAMES, 100)
    for come, gone, changed in steps:
        weights = dict(zip(NAMES, changed, strict=True)) if changed else weights
        gone = {Target("10.0.0.1", n) for n in gone}
        come = {Target("10.0.0.1", n): name for n, name in come.items()}
        told = weights if len(set(weights.values())) > 1 else {}
        there = world.members.keys() - gone
        world.change(gone=gone, come={t: name for t, name in come.items() if t not in there}, weights=told)
        counted = world.counts()
        if not told:
            assert set(counted.values()) <= {1} and counted.keys() == world.members.keys()
        elif world.members:
            for name, share in world.ideal(weights).items():
                assert abs(world.shares()[name] - share) <= 0.02, (name, weights)
            for name in NAMES:
                seats = [counted[target] for target, whose in world.members.items() if whose == name]
                assert not seats or max(seats) - min(seats) <= 1, "those of a cluster are alike, but for an odd seat"


@pytest.mark.parametrize(
    ("weights", "seats"),
    [
        ((100, 100, 100), [1]),
        ((40, 40, 40), [1]),
        ((100, 100, 50), [1, 2]),
        ((100, 100, 25), [1, 4]),
        ((100, 90, 90), [9, 10]),
        ((1000, 100, 10), [1, 10, 99]),
        ((100, 33, 33), [1, 3]),
    ],
)
def test_simple_ratios_take_the_fewest_seats_that_are_right(weights, seats):
    world, told = _List(), dict(zip(NAMES, weights, strict=True))
    world.change(
        come={t: name for name in NAMES for t, name in _targets(name, 1).items()},
        weights=told if len(set(weights)) > 1 else {},
    )
    assert sorted(set(world.counts().values())) == seats


def test_who_counts_for_next_to_nothing_has_a_seat_all_the_same():
    world = _List()
    world.change(come=_targets("east", 1) | _targets("west", 1), weights={"east": 1000, "west": 1})
    assert sorted(world.counts().values()) == [1, 128]


def test_fractions_of_seats_add_up_to_the_nearest_whole_number_for_a_cluster():
    world = _List()
    world.change(come=_targets("east", 10) | _targets("west", 10), weights={"east": 100, "west": 97})
    seats = Counter(world.members[target_of(item)] for item in world.items)
    assert seats == {"east": 80, "west": 78}, "7.76 for each of ten"

    # Who has more keeps more: the same ratio in other numbers moves nothing, whoever has the odd seats by now.
    middle = dict([sorted(_targets("west", 10).items())[8]])
    world.change(gone=middle, weights={"east": 100, "west": 97})
    world.change(come=middle, weights={"east": 100, "west": 97})
    world.change(weights={"east": 1000, "west": 970})
    assert world.moved == 0


def test_what_is_nearly_a_whole_seat_is_one_so_that_all_of_a_cluster_are_alike():
    world = _List()
    world.change(come=_targets("east", 100) | _targets("west", 100), weights={"east": 100, "west": 33})
    assert Counter(world.counts().values()) == {3: 100, 1: 100}, "and not one of the hundred without any"


@pytest.mark.parametrize("each", [1, 10, 100, 1000, 5000])
@pytest.mark.parametrize("weights", [(100, 25), (100, 90), (100, 97), (1000, 1), (1000, 333)])
def test_the_list_stays_in_its_bounds_and_the_shares_right_at_every_size(each, weights):
    world, told = _List(), dict(zip(NAMES, (*weights, 100), strict=False)) | {"south": weights[0]}
    told.pop("south")
    world.change(come=_targets("east", each) | _targets("west", each), weights=told)
    assert len(world.items) <= min(max(SEATS + 2, LEAST * 2 * each), MOST + 2 * each)
    ideal = world.ideal(told | {"south": 0})
    assert all(abs(world.shares()[name] - ideal[name]) <= 0.01 for name in NAMES)


@pytest.mark.parametrize("each", [10, 100, 1000])
@pytest.mark.parametrize("weights", [(100, 25), (100, 90), (1000, 7)])
def test_a_target_that_comes_and_goes_moves_its_own_seats_and_one_or_two_others(each, weights):
    world, told = _List(), dict(zip(NAMES, weights, strict=False))
    east = _targets("east", each + 40)
    come, rest = dict(list(east.items())[:each]), list(east.items())[each:]
    world.change(come=come | _targets("west", each), weights=told)
    most = max(world.counts().values())
    rewritten = 0
    for target, name in rest:
        for _ in range(3):
            world.change(come={target: name}, weights=told)
            rewritten += world.moved > most + 2
            world.change(gone=[target], weights=told)
            rewritten += world.moved > most + 2
        world.change(come={target: name}, weights=told)
        rewritten += world.moved > most + 2
    assert rewritten <= 2, "only where the list gets too long for so many seats each, and not to and fro"


def test_a_drain_in_steps_moves_no_more_than_the_seats_that_there_are():
    world = _List()
    world.change(come=_targets("east", 10) | _targets("west", 10))
    assert world.moved == 20
    for left in range(90, 0, -10):
        before = len(world.items)
        told = {"east": 100, "west": left}
        world.change(weights=told)
        assert world.moved <= max(before, len(world.items))
        assert abs(world.shares()["west"] - left / (100 + left)) < 0.005
    world.change(gone=_targets("west", 10))
    assert {*world.items} == {*_targets("east", 10)}


def test_the_same_changes_make_the_same_seats():
    rng = Random(3)
    steps = [(sorted(_targets(rng.choice(NAMES), 30))[:: rng.randint(1, 5)], rng.random()) for _ in range(20)]
    told = {"east": 100, "west": 33, "south": 71}
    found = []
    for _ in range(2):
        world = _List()
        for targets, chance in steps:
            names = {t: NAMES[int(t.address.split(".")[1])] for t in targets}
            if chance < 0.6:
                world.change(come={t: n for t, n in names.items() if t not in world.members}, weights=told)
            else:
                world.change(gone=reversed(targets), weights=told)
        found.append(world.counts())
    assert found[0] == found[1]
