"""What annotations mean, and what is said about those that cannot be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.services.settings import (
    AFFINITY,
    ALIASES,
    GLOBAL,
    MOST_CLUSTERS,
    NAMESPACE_GLOBAL,
    ORDER,
    SHARED,
    SYNC_SLICES,
    WEIGHT,
    Affinity,
    Settings,
    namespace_is_global,
    settings,
)

_KEYS = (GLOBAL, SHARED, AFFINITY, SYNC_SLICES, ORDER, WEIGHT, *ALIASES.values())


def _said(found: Settings) -> dict[str, str]:
    return {problem.field.removeprefix("metadata.annotations[").removesuffix("]"): problem.message
            for problem in found.problems}  # fmt: skip


def test_a_service_without_annotations_has_nothing_to_do_with_other_clusters():
    assert settings({"unrelated": "true"}) == Settings()


@pytest.mark.parametrize("word", ["true", "True", "TRUE", " true "])
def test_a_global_service_is_shared_and_prefers_nobody_by_default(word):
    found = settings({GLOBAL: word})
    assert found == Settings(is_global=True, shared=True)


def test_shared_and_synced_slices_mean_nothing_without_global():
    found = settings({SHARED: "true", SYNC_SLICES: "true", GLOBAL: "false"})
    assert not found.shared and not found.sync_slices and not found.problems


def test_what_is_not_shared_still_uses_the_others():
    found = settings({GLOBAL: "true", SHARED: "FALSE"})
    assert found.is_global and not found.shared


@pytest.mark.parametrize(("headless", "word", "synced"), [
    (False, None, False), (True, None, True), (False, "true", True), (True, "false", False), (True, "x", True),
])  # fmt: skip
def test_slices_are_synced_by_default_for_headless_services_alone(headless, word, synced):
    annotations = {GLOBAL: "true"} | ({SYNC_SLICES: word} if word else {})
    assert settings(annotations, headless=headless).sync_slices is synced


@pytest.mark.parametrize("affinity", Affinity)
def test_the_affinity_is_read_in_any_case(affinity):
    found = settings({GLOBAL: "true", AFFINITY: affinity.value.upper()})
    assert found.affinity is affinity and found.preference == affinity.value and not found.problems


@pytest.mark.parametrize("key", ALIASES)
def test_the_older_names_are_known_and_the_newer_ones_win(key):
    value = "local" if key == AFFINITY else "true"
    other = "remote" if key == AFFINITY else "false"
    base = {} if key == GLOBAL else {GLOBAL: "true"}
    assert settings({**base, ALIASES[key]: value}) == settings({**base, key: value})
    assert settings({**base, ALIASES[key]: other, key: value}) == settings({**base, key: value})


@pytest.mark.parametrize("key", [GLOBAL, SHARED, AFFINITY, SYNC_SLICES, *ALIASES.values()])
@pytest.mark.parametrize("value", ["", "yes", "1", "ture", "local,remote", "\u0000", "x" * 10_000])
def test_a_wrong_value_is_named_by_its_key_and_counts_as_the_default(key, value):
    base = {} if key in (GLOBAL, ALIASES[GLOBAL]) else {GLOBAL: "true"}
    found = settings({**base, key: value})
    assert _said(found).keys() == {key}
    assert len(_said(found)[key]) < 600
    assert found == Settings(**{**_fields(settings(base)), "problems": found.problems})


def _fields(found: Settings) -> dict[str, object]:
    return {name: getattr(found, name) for name in found.__struct_fields__}


@pytest.mark.parametrize(
    ("value", "order", "wrong"),
    [
        ("tion,koornacht", ("tion", "koornacht"), 0),
        (" tion , koornacht ", ("tion", "koornacht"), 0),
        ("tion", ("tion",), 0),
        ("tion,Koornacht", ("tion",), 1),
        ("tion,,koornacht", ("tion", "koornacht"), 1),
        ("tion,koornacht,tion", ("tion", "koornacht"), 1),
        ("", (), 1),
        ("-tion,tion-," + "x" * 33, (), 3),
    ],
)
def test_an_order_of_clusters_counts_as_far_as_it_can_be_read(value, order, wrong):
    found = settings({GLOBAL: "true", ORDER: value})
    assert found.order == order and len(found.problems) == wrong
    assert found.preference == (",".join(order) or "none")


@pytest.mark.parametrize("key", [AFFINITY, ALIASES[AFFINITY]])
def test_an_order_wins_over_the_affinity_and_that_is_said(key):
    found = settings({GLOBAL: "true", ORDER: "tion", key: "local"})
    assert found.order == ("tion",) and found.preference == "tion"
    assert ORDER in _said(found)[key]


def test_an_order_that_cannot_be_read_leaves_the_affinity():
    found = settings({GLOBAL: "true", ORDER: "?", AFFINITY: "local"})
    assert found.preference == "local" and _said(found).keys() == {ORDER}


@pytest.mark.parametrize(
    ("value", "weight", "weights", "wrong"),
    [
        ("0", 0, {}, 0),
        ("1000", 1000, {}, 0),
        (" 50 ", 50, {}, 0),
        ("1001", 100, {}, 1),
        ("-1", 100, {}, 1),
        ("1.5", 100, {}, 1),
        ("5e2", 100, {}, 1),
        ("50%", 100, {}, 1),
        ("٣", 100, {}, 1),
        ("", 100, {}, 1),
        ("tion,koornacht", 100, {}, 1),
        ("tion=20,koornacht=100", 100, {"tion": 20, "koornacht": 100}, 0),
        (" tion = 20 ", 100, {"tion": 20}, 0),
        ("tion=20,koornacht=lots", 100, {"tion": 20}, 1),
        ("tion=20,tion=30", 100, {"tion": 20}, 1),
        ("tion=20,50", 100, {"tion": 20}, 1),
        ("=20,tion=", 100, {}, 2),
        ("tion=20=30", 100, {}, 1),
    ],
)
def test_a_weight_is_a_number_or_a_list_by_cluster(value, weight, weights, wrong):
    found = settings({GLOBAL: "true", WEIGHT: value})
    assert (found.weight, found.weights, len(found.problems)) == (weight, weights, wrong)
    assert _said(found).keys() <= {WEIGHT}


def test_lists_are_bounded_and_that_is_said_once():
    names = [f"c{n}" for n in range(10_000)]
    found = settings({GLOBAL: "true", ORDER: ",".join(names), WEIGHT: ",".join(f"{name}=5" for name in names)})
    assert found.order == tuple(names[:MOST_CLUSTERS])
    assert list(found.weights) == names[:MOST_CLUSTERS]
    assert len(found.problems) == 2


@pytest.mark.parametrize(("annotations", "expected", "wrong"), [
    ({}, True, 0), ({NAMESPACE_GLOBAL: "true"}, True, 0), ({NAMESPACE_GLOBAL: "False"}, False, 0),
    ({NAMESPACE_GLOBAL: "no"}, True, 1),
])  # fmt: skip
def test_a_namespace_is_global_unless_it_says_that_it_is_not(annotations, expected, wrong):
    found, problems = namespace_is_global(annotations)
    assert found is expected and len(problems) == wrong


def test_in_a_namespace_that_is_not_global_nothing_is_but_mistakes_are_still_told():
    found = settings({GLOBAL: "true", AFFINITY: "x", SYNC_SLICES: "true"}, namespace_global=False)
    assert not found.is_global and not found.shared and not found.sync_slices
    assert _said(found).keys() == {AFFINITY}


@given(st.dictionaries(st.sampled_from(_KEYS), st.text(max_size=40), max_size=6), st.booleans(), st.booleans())
def test_any_text_at_all_gives_settings_within_their_bounds(annotations, headless, namespace_global):
    found = settings(annotations, headless=headless, namespace_global=namespace_global)
    assert all(0 <= weight <= 1000 for weight in (found.weight, *found.weights.values()))
    assert _said(found).keys() <= annotations.keys()
    assert found.is_global or not found.shared
