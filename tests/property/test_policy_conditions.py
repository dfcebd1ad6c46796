"""Conditions put among those of others: theirs stay, ours are said once, and times change with the status alone."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from isthmus.mesh.control.clusters import stamp
from isthmus.mesh.control.policies.conditions import Wanted, merged
from isthmus.wire import kvstore
from isthmus.wire.kvstore import CodecError

NOW = 1_800_000_000.0
OURS = ("Valid", "isthmus.dev/Enforced")
statuses = st.sampled_from(["True", "False", "Unknown"])
words = st.sampled_from(["", "A", "B"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {"type": st.sampled_from([*OURS, "Theirs", "Other"])},
    optional={
        "status": statuses,
        "reason": words,
        "message": words,
        "lastTransitionTime": st.sampled_from(["2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z"]),
        "observedGeneration": st.integers(0, 2),
        "extra": json_values,
    },
)
stored_conditions = st.lists(entries | json_values, max_size=6)
wants = st.builds(Wanted, st.sampled_from(OURS), statuses, words, words, st.integers(0, 2))


def ours(found: list[Any], type: str) -> list[Any]:
    return [one for one in found if isinstance(one, dict) and one.get("type") == type]


@given(stored_conditions, st.lists(wants, max_size=2, unique_by=lambda one: one.type))
def test_others_stay_and_ours_are_as_wanted(stored: list[Any], wanted: list[Wanted]) -> None:
    before = json.dumps(stored)
    found = merged(stored, wanted, now=NOW)

    assert json.dumps(stored) == before, "what is stored is not touched"
    result = stored if found is None else found
    types = {one.type for one in wanted}
    kept = [one for one in stored if not (isinstance(one, dict) and one.get("type") in types)]
    assert [one for one in result if not (isinstance(one, dict) and one.get("type") in types)] == kept
    for one in wanted:
        first = ours(result, one.type)[0]
        assert one.matches(first)
        was = ours(stored, one.type)
        if was and was[0].get("status") == one.status and was[0].get("lastTransitionTime"):
            assert first["lastTransitionTime"] == was[0]["lastTransitionTime"]
        elif not was or was[0].get("status") != one.status:
            assert first["lastTransitionTime"] == stamp(NOW)
    assert merged(result, wanted, now=NOW + 60) is None, "what is done need not be done again"


@given(st.dictionaries(st.sampled_from(["properties", "later"]), json_values, max_size=2) | json_values)
def test_whatever_a_cluster_says_of_itself_is_read_in_bounds_or_refused(ours: Any) -> None:
    key = kvstore.config_key("c1")
    value = json.dumps({"id": 1, "isthmus": ours}).encode()
    try:
        cluster = kvstore.decode_membership(key, value, cluster="c1").cluster
    except CodecError as error:
        assert error.key == "cilium/cluster-config/c1"
        return
    assert len(cluster.properties) <= kvstore.MAX_PROPERTIES
    assert all(kvstore.property_fault(*item, cluster="c1") is None for item in cluster.properties.items())
    again = kvstore.encode_membership(kvstore.Membership(cluster))
    assert kvstore.decode_membership(key, again, cluster="c1").cluster == cluster
    assert msgspec.json.decode(again)["id"] == 1
