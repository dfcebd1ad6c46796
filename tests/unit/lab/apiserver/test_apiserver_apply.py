from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.apiserver.changes.apply import server_side_apply
from isthmus.lab.apiserver.changes.ownership import (
    Manager,
    after_update,
    decode_paths,
    encode_paths,
    leaves,
    read_managers,
    shown,
    write_managers,
)
from isthmus.lab.apiserver.errors import ApiError
from isthmus.lab.apiserver.schema.typetable import find

POD = find("Pod", package="io.k8s.api.core.v1")


def writer(name: str, operation: str = "Apply") -> Manager:
    return Manager(name, operation, "v1", "", "2026-01-01T00:00:00Z", frozenset())


def pod(*containers: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"metadata": metadata, "spec": {"containers": list(containers)}}


def apply(
    live: dict[str, Any], config: dict[str, Any], managers: list[Manager], name: str, *, force: bool = False
) -> tuple[dict[str, Any], list[Manager]]:
    return server_side_apply(live, config, shape=POD, managers=managers, writer=writer(name), force=force)


def test_the_first_apply_creates_and_owns_what_it_sends() -> None:
    config = pod({"name": "a", "image": "1"}, labels={"x": "y"})
    merged, managers = apply({}, config, [], "one")
    assert merged == config
    assert encode_paths(managers[0].paths) == {
        "f:metadata": {"f:labels": {"f:x": {}}},
        "f:spec": {"f:containers": {'k:{"name":"a"}': {".": {}, "f:image": {}, "f:name": {}}}},
    }


def test_lists_merge_by_key_and_managers_share_an_object() -> None:
    first, managers = apply({}, pod({"name": "a", "image": "1"}), [], "one")
    second, managers = apply(first, pod({"name": "b", "image": "2"}), managers, "two")
    assert [item["name"] for item in second["spec"]["containers"]] == ["a", "b"]
    assert [manager.name for manager in managers] == ["one", "two"]


def test_a_different_value_of_another_manager_is_a_conflict() -> None:
    live, managers = apply({}, pod({"name": "a", "image": "1"}, labels={"x": "1"}), [], "one")
    with pytest.raises(ApiError) as found:
        apply(live, pod({"name": "a", "image": "2"}, labels={"x": "2"}), managers, "two")
    assert found.value.code == 409
    assert found.value.message.startswith('Apply failed with 2 conflicts: conflicts with "one":\n')
    assert [cause["field"] for cause in (found.value.details or {})["causes"]] == [
        ".metadata.labels.x",
        '.spec.containers[name="a"].image',
    ]


def test_the_same_value_is_shared_and_force_takes_over() -> None:
    live, managers = apply({}, pod({"name": "a", "image": "1"}), [], "one")
    same, managers = apply(live, pod({"name": "a", "image": "1"}), managers, "two")
    assert same == live
    forced, managers = apply(same, pod({"name": "a", "image": "2"}), managers, "two", force=True)
    assert forced["spec"]["containers"][0]["image"] == "2"
    image = ("f:spec", "f:containers", 'k:{"name":"a"}', "f:image")
    assert [manager.name for manager in managers if image in manager.paths] == ["two"]


def test_what_its_only_owner_drops_is_removed() -> None:
    live, managers = apply({}, pod({"name": "a", "image": "1"}, labels={"x": "1", "y": "1"}), [], "one")
    live, managers = apply(live, pod({"name": "b", "image": "1"}, labels={"y": "1"}), managers, "two")
    live, managers = apply(live, pod(labels={}), managers, "one")
    assert live["metadata"]["labels"] == {"y": "1"}
    assert [item["name"] for item in live["spec"]["containers"]] == ["b"]


def test_an_item_that_another_manager_has_a_field_in_stays() -> None:
    live, managers = apply({}, pod({"name": "a", "image": "1"}), [], "one")
    live, managers = apply(live, pod({"name": "a", "tty": True}), managers, "two")
    live, managers = apply(live, pod(), managers, "one")
    assert live["spec"]["containers"] == [{"name": "a", "tty": True}]


def test_an_update_takes_ownership_of_what_it_changes() -> None:
    live, managers = apply({}, pod({"name": "a", "image": "1"}), [], "one")
    changed = pod({"name": "a", "image": "2"})
    managers = after_update(
        managers, old=leaves(live, POD), new=leaves(changed, POD), writer=writer("kubectl-edit", "Update")
    )
    with pytest.raises(ApiError, match=r'conflict with "kubectl-edit" using v1: \.spec\.containers'):
        apply(changed, pod({"name": "a", "image": "1"}), managers, "one")
    # A field that goes is owned by nobody.
    managers = after_update(managers, old=leaves(changed, POD), new={}, writer=writer("x", "Update"))
    assert managers == []


def test_an_unchanged_apply_changes_no_entry() -> None:
    config = pod({"name": "a", "ports": [{"containerPort": 80}]})
    live, managers = apply({}, config, [], "one")
    again, after = server_side_apply(
        live,
        config,
        shape=POD,
        managers=managers,
        writer=writer("one").__class__("one", "Apply", "v1", "", "2027-01-01T00:00:00Z", frozenset()),
        force=False,
    )
    assert (again, after) == (live, managers)


def test_ports_without_protocol_are_tcp() -> None:
    live, managers = apply({}, pod({"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}), [], "one")
    merged, _ = apply(live, pod({"name": "a", "ports": [{"containerPort": 80, "name": "x"}]}), managers, "two")
    assert merged["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP", "name": "x"}]


def test_entries_survive_being_written_and_read() -> None:
    _, managers = apply({}, pod({"name": "a", "image": "1"}, labels={"x": "y"}, finalizers=["a/b"]), [], "one")
    metadata: dict[str, Any] = {}
    write_managers(metadata, managers)
    assert read_managers(metadata) == managers
    assert shown(("f:metadata", "f:finalizers", 'v:"a/b"')) == '.metadata.finalizers[="a/b"]'


WORDS = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"1"'])


@given(st.frozensets(st.lists(WORDS, min_size=1, max_size=4).map(tuple), max_size=8))
def test_any_set_of_paths_survives_its_encoding(paths: frozenset[tuple[str, ...]]) -> None:
    assert decode_paths(encode_paths(paths)) == paths


@given(st.recursive(st.none() | st.text(max_size=2), lambda inner: st.dictionaries(st.text(max_size=3), inner)))
def test_malformed_field_sets_are_survived(tree: Any) -> None:
    decode_paths(tree)
