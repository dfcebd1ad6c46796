"""The truth table of global and shared, and who is used out of whom, line by line."""

import pytest

from isthmus.model.service import Backend, Target
from isthmus.services.choice import REST, Choice, choice
from isthmus.services.pool import Pool, Reach, Turn
from isthmus.services.settings import AFFINITY, GLOBAL, ORDER, SHARED, WEIGHT, Settings, settings

OWN, OTHER, THIRD = "tion", "koornacht", "yavin"
NODE = "n1"


def _backend(name: str, number: int = 1, **flags: object) -> Backend:
    return Backend(name, Target(f"10.{[OWN, OTHER, THIRD].index(name)}.0.{number}", 80), **flags)


def _pool(chosen: Choice | None, *backends: Backend) -> Pool:
    pool = Pool(NODE, chosen)
    pool.change(come=backends)
    return pool


def _used(pool: Pool, reach: Reach = Reach.ALL) -> set[str]:
    return {[OWN, OTHER, THIRD][int(target.address.split(".")[1])] for target in pool.usable(reach)}


def _settings(is_global: bool, shared: bool) -> Settings:
    return settings({GLOBAL: str(is_global).lower(), SHARED: str(shared).lower()})


def _uses(own: Settings, other: Settings) -> set[str]:
    """Returns whose backends cluster OWN uses, if OTHER gives away what its own settings let it."""
    backends = [_backend(OWN)] + ([_backend(OTHER)] if other.shared else [])
    return _used(_pool(choice(own, own=OWN, told={}, drained={}), *backends))


BOTH, LOCAL = {OWN, OTHER}, {OWN}
_TRUTH = [  # global and shared here, global and shared there, what is used here, and (mirrored) there
    (True, True, True, True, BOTH, BOTH),
    (True, False, True, True, BOTH, LOCAL),
    (True, True, True, False, LOCAL, BOTH),
    (True, False, True, False, LOCAL, LOCAL),
    *((True, mine, False, theirs, LOCAL, LOCAL) for mine in (True, False) for theirs in (True, False)),
    *((False, mine, True, theirs, LOCAL, LOCAL) for mine in (True, False) for theirs in (True, False)),
    *((False, mine, False, theirs, LOCAL, LOCAL) for mine in (True, False) for theirs in (True, False)),
]


@pytest.mark.parametrize(("here_global", "here_shared", "there_global", "there_shared", "here", "there"), _TRUTH)
def test_what_is_used_follows_from_global_on_both_sides_and_shared_at_the_exporter(
    here_global, here_shared, there_global, there_shared, here, there
):
    mine, theirs = _settings(here_global, here_shared), _settings(there_global, there_shared)
    assert _uses(mine, theirs) == here
    assert _uses(theirs, mine) == there


READY, UNREADY = {}, {"ready": False, "serving": False}
ENDING = {"ready": False, "serving": True, "terminating": True}
ENDED = {"ready": False, "serving": False, "terminating": True}
LOST = {"reachable": False}
LOST_ENDING = {**ENDING, **LOST}

_LINES = [
    # not global: the own cluster alone, whatever others tell
    ({GLOBAL: "false"}, READY, READY, LOCAL),
    ({GLOBAL: "false"}, UNREADY, READY, set()),
    # no preference
    ({}, READY, READY, BOTH),
    ({}, UNREADY, READY, {OTHER}),
    ({}, READY, UNREADY, LOCAL),
    ({}, READY, ENDING, LOCAL),
    ({}, ENDING, ENDING, BOTH),
    ({}, ENDED, ENDED, set()),
    ({}, READY, None, LOCAL),
    ({}, None, READY, {OTHER}),
    # the own cluster first; one that only ends does not count, and keeps what it has
    ({AFFINITY: "local"}, READY, READY, LOCAL),
    ({AFFINITY: "local"}, UNREADY, READY, {OTHER}),
    ({AFFINITY: "local"}, ENDING, READY, {OTHER}),
    ({AFFINITY: "local"}, None, READY, {OTHER}),
    ({AFFINITY: "local"}, None, None, set()),
    ({AFFINITY: "local"}, ENDING, ENDING, LOCAL),
    # the others first
    ({AFFINITY: "remote"}, READY, READY, {OTHER}),
    ({AFFINITY: "remote"}, READY, UNREADY, LOCAL),
    ({AFFINITY: "remote"}, READY, ENDING, LOCAL),
    ({AFFINITY: "remote"}, READY, None, LOCAL),
    ({AFFINITY: "remote"}, ENDING, ENDING, {OTHER}),
    # the literal none, and what cannot be read, are no preference
    ({AFFINITY: "none"}, READY, READY, BOTH),
    ({AFFINITY: "lokal"}, READY, READY, BOTH),
    # somebody who is not reached is the last resort, after those that end
    ({}, READY, LOST, LOCAL),
    ({}, LOST, LOST, BOTH),
    ({}, ENDING, LOST, LOCAL),
    ({}, UNREADY, LOST, {OTHER}),
    ({}, LOST, LOST_ENDING, LOCAL),
    ({}, LOST_ENDING, LOST_ENDING, BOTH),
    ({AFFINITY: "local"}, LOST, READY, {OTHER}),
    ({AFFINITY: "local"}, LOST, ENDING, {OTHER}),
    ({AFFINITY: "local"}, LOST, LOST, LOCAL),
    ({AFFINITY: "remote"}, READY, LOST, LOCAL),
    ({AFFINITY: "remote"}, LOST, LOST, {OTHER}),
    # drained ones before those that end or are not reached, and only where nobody else is ready
    ({WEIGHT: f"{OTHER}=0"}, READY, READY, LOCAL),
    ({WEIGHT: f"{OTHER}=0"}, UNREADY, READY, {OTHER}),
    ({WEIGHT: f"{OTHER}=0"}, ENDING, READY, {OTHER}),
    ({WEIGHT: f"{OTHER}=0"}, LOST, READY, {OTHER}),
    ({WEIGHT: f"{OTHER}=0"}, ENDING, ENDING, LOCAL),
    ({WEIGHT: f"{OTHER}=0", AFFINITY: "remote"}, READY, READY, LOCAL),
    ({WEIGHT: "0", AFFINITY: "local"}, READY, READY, {OTHER}),
    ({WEIGHT: f"{OWN}=0,{OTHER}=0"}, READY, READY, BOTH),
    ({WEIGHT: f"{OWN}=0,{OTHER}=0", AFFINITY: "local"}, READY, READY, LOCAL),
    # an order of clusters
    ({ORDER: f"{OTHER},{OWN}"}, READY, READY, {OTHER}),
    ({ORDER: f"{OTHER},{OWN}"}, READY, UNREADY, LOCAL),
    ({ORDER: OTHER}, READY, READY, {OTHER}),
    ({ORDER: THIRD}, READY, READY, BOTH),
    ({ORDER: OTHER, AFFINITY: "local"}, READY, READY, {OTHER}),
]


@pytest.mark.parametrize(("annotations", "here", "there", "used"), _LINES)
def test_the_best_that_there_is_gets_new_connections(annotations, here, there, used):
    chosen = choice(settings({GLOBAL: "true", **annotations}), own=OWN, told={}, drained={})
    backends = [_backend(name, **flags) for name, flags in ((OWN, here), (OTHER, there)) if flags is not None]
    pool = _pool(chosen, *backends)
    assert _used(pool) == used
    assert pool.usable(Reach.ALL) <= pool.serving, "whoever gets connections may keep them"


@pytest.mark.parametrize(("states", "used"), [
    ((READY, READY, READY), {OTHER}), ((READY, UNREADY, READY), {THIRD}), ((READY, UNREADY, LOST), LOCAL),
    ((READY, LOST, LOST), LOCAL), ((LOST, LOST, LOST), {OTHER}), ((UNREADY, UNREADY, UNREADY), set()),
])  # fmt: skip
def test_an_order_goes_from_one_to_the_next_and_ends_with_all_the_rest(states, used):
    chosen = choice(settings({GLOBAL: "true", ORDER: f"{OTHER},{THIRD}"}), own=OWN, told={}, drained={})
    pool = _pool(chosen, *(_backend(name, **flags) for name, flags in zip((OWN, OTHER, THIRD), states, strict=True)))
    assert _used(pool) == used


def test_only_this_nodes_backends_of_the_own_cluster_are_near_and_nodes_of_other_clusters_may_have_its_name():
    chosen = choice(settings({GLOBAL: "true", AFFINITY: "remote"}), own=OWN, told={}, drained={})
    backends = (_backend(OWN, 1, node=NODE), _backend(OWN, 2, node="n2"), _backend(OTHER, 1, node=NODE))
    pool = _pool(chosen, *backends)
    assert pool.usable(Reach.NEAR) == {backends[0].target}
    assert _used(pool) == {OTHER}

    pool.set_choice(None)
    assert pool.usable(Reach.NEAR) == {backends[0].target, backends[2].target}, "of whoever there is, all are ours"


def test_a_connection_stays_where_it_is_unless_its_backend_is_gone_lost_or_not_used_any_more():
    local = choice(settings({GLOBAL: "true", AFFINITY: "local"}), own=OWN, told={}, drained={})
    here, there = _backend(OWN), _backend(OTHER)
    pool = _pool(local, here, there)
    assert pool.serving == {here.target, there.target}, "another is preferred, but it still answers"

    ending, lost = (_backend(OWN, **flags) for flags in (ENDING, LOST))
    pool.change(gone=[here], come=[ending])
    assert _used(pool) == {OTHER} and ending.target in pool.serving
    pool.change(gone=[ending], come=[lost])
    assert pool.serving == {there.target}
    pool.change(gone=[there])
    assert pool.serving == {lost.target}, "it is all that there is"
    pool.change(come=[there])

    drained = choice(settings({GLOBAL: "true"}), own=OWN, told={}, drained={OTHER: 0})
    pool.change(gone=[lost], come=[here])
    assert pool.set_choice(drained)[1] is False
    assert there.target in pool.serving, "a drain takes no connection away"
    _, astray = pool.set_choice(choice(settings({}), own=OWN, told={}, drained={}))
    assert astray and pool.serving == {here.target}


def test_telling_another_choice_that_means_the_same_order_moves_nobody():
    pool = _pool(Choice(OWN, (REST,), {OTHER: 50}), _backend(OWN), _backend(OTHER))
    assert pool.set_choice(Choice(OWN, (REST,), {OTHER: 40})) == ({}, False)
    assert pool.weights(Reach.ALL) == {OWN: 100, OTHER: 40}
    turns, _ = pool.set_choice(Choice(OWN, (REST,), {OTHER: 0}))
    assert turns[Reach.ALL] == Turn(gone=frozenset({_backend(OTHER).target}))
    assert pool.weights(Reach.ALL) == {}


@pytest.mark.parametrize(
    ("told", "drained", "annotation", "weights"),
    [
        ({}, {}, None, {}),
        ({OTHER: 20}, {}, None, {OTHER: 20}),
        ({OTHER: 20}, {}, f"{OTHER}=100", {}),
        ({OTHER: 20}, {}, f"{OTHER}=70,{OWN}=30", {OTHER: 70, OWN: 30}),
        ({OTHER: 20}, {}, "50", {OTHER: 20, OWN: 50}),
        ({OWN: 20}, {}, None, {}),
        ({OTHER: 20}, {OTHER: 50}, None, {OTHER: 10}),
        ({OTHER: 1}, {OTHER: 10}, None, {OTHER: 1}),
        ({}, {OTHER: 0, OWN: 100}, None, {OTHER: 0}),
        ({OTHER: 200}, {OTHER: 50}, None, {}),
        ({OTHER: 9999, THIRD: -5}, {OTHER: 200, THIRD: -1}, None, {OTHER: 1000, THIRD: 0}),
    ],
)
def test_a_weight_is_what_the_consumer_says_else_the_exporter_times_what_is_left(told, drained, annotation, weights):
    given = settings({GLOBAL: "true"} | ({WEIGHT: annotation} if annotation else {}))
    assert choice(given, own=OWN, told=told, drained=drained) == Choice(OWN, (REST,), weights)


def test_choices_that_mean_the_same_are_equal():
    given = settings({GLOBAL: "true"})
    assert choice(given, own=OWN, told={OTHER: 100}, drained={THIRD: 100}) == Choice(OWN)
    assert choice(settings({}), own=OWN, told={OTHER: 5}, drained={}) == Choice(OWN, (frozenset({OWN}),))


def test_a_target_that_two_clusters_tell_of_is_as_good_as_the_better_of_them():
    target = Target("10.9.9.9", 80)
    mine, theirs = Backend(OWN, target), Backend(OTHER, target)
    pool = _pool(Choice(OWN, (frozenset({OWN}), REST), {OTHER: 50}), mine, theirs, _backend(OWN))
    assert pool.usable(Reach.ALL) == {target, _backend(OWN).target} and pool.cluster(target) == OWN
    turns = pool.change(gone=[mine])
    assert turns[Reach.ALL] == Turn(gone=frozenset({target}))
    turns = pool.change(gone=[_backend(OWN)])
    assert turns[Reach.ALL] == Turn(frozenset({target}), frozenset({_backend(OWN).target}))

    pool = _pool(Choice(OWN, (REST,), {OTHER: 50}), mine, theirs)
    assert pool.change(gone=[mine])[Reach.ALL] == Turn(frozenset({target}), frozenset({target})), "another cluster's"


def test_clusters_of_another_tier_do_not_make_those_in_use_count_otherwise():
    pool = _pool(Choice(OWN, (frozenset({OWN}), REST), {OTHER: 20}), _backend(OWN), _backend(OTHER))
    assert pool.weights(Reach.ALL) == {}


def test_where_only_a_drained_cluster_is_left_weights_of_the_others_do_not_matter():
    chosen = Choice(OWN, (REST,), {OWN: 0, THIRD: 50})
    pool = _pool(chosen, _backend(OWN), _backend(OTHER, **UNREADY), _backend(THIRD, **UNREADY))
    assert _used(pool) == LOCAL and pool.weights(Reach.ALL) == {}


def test_a_target_that_is_another_clusters_when_another_level_comes_into_use_is_told_to_go_and_come():
    shared = Target("10.0.0.1", 80)
    mine, theirs = Backend(OWN, shared), Backend(OTHER, shared, **ENDING)
    pool = _pool(Choice(OWN, (REST,), {OTHER: 20}), mine, theirs, _backend(OWN, 2, **ENDING))
    assert pool.usable(Reach.ALL) == {shared} and pool.cluster(shared) == OWN

    turn = pool.change(gone=[mine])[Reach.ALL]
    assert pool.cluster(shared) == OTHER
    assert turn == Turn(frozenset({shared, Target("10.0.0.2", 80)}), frozenset({shared}))
