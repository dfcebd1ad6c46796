from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.apiserver.changes.patch import json_patch, merge_patch
from isthmus.lab.apiserver.changes.strategic import strategic_merge
from isthmus.lab.apiserver.errors import ApiError
from isthmus.lab.apiserver.schema.typetable import find

POD = find("Pod", package="io.k8s.api.core.v1")
DEPLOYMENT = find("Deployment", package="io.k8s.api.apps.v1")

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_follows_rfc_7386(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


@given(VALUES, VALUES)
def test_merge_patch_changes_neither_argument(target: Any, patch: Any) -> None:
    before = repr((target, patch))
    merge_patch(target, patch)
    assert repr((target, patch)) == before


@pytest.mark.parametrize(
    ("target", "operations", "result"),
    [
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": 1}], {"foo": "bar", "baz": 1}),
        ({"foo": ["a", "c"]}, [{"op": "add", "path": "/foo/1", "value": "b"}], {"foo": ["a", "b", "c"]}),
        ({"foo": ["a"]}, [{"op": "add", "path": "/foo/-", "value": "b"}], {"foo": ["a", "b"]}),
        ({"foo": ["a", "b"]}, [{"op": "remove", "path": "/foo/0"}], {"foo": ["b"]}),
        ({"a": 1}, [{"op": "replace", "path": "/a", "value": 2}], {"a": 2}),
        ({"a": {"b": 1}}, [{"op": "move", "from": "/a/b", "path": "/c"}], {"a": {}, "c": 1}),
        ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": [1], "b": [1]}),
        ({"a/b": 1, "m~n": 2}, [{"op": "test", "path": "/a~1b", "value": 1}], {"a/b": 1, "m~n": 2}),
        ({"m~n": 2}, [{"op": "remove", "path": "/m~0n"}], {}),
    ],
)
def test_json_patch_follows_rfc_6902(target: Any, operations: Any, result: Any) -> None:
    assert json_patch(target, operations) == result


@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ({"op": "add"}, 400),
        (["add"], 400),
        ([{"op": "fly", "path": "/a"}], 400),
        ([{"op": "add", "path": "a", "value": 1}], 400),
        ([{"op": "add", "path": "/a"}], 400),
        ([{"op": "remove", "path": "/nope"}], 422),
        ([{"op": "replace", "path": "/nope/further", "value": 1}], 422),
        ([{"op": "replace", "path": "/a/further", "value": 1}], 422),
        ([{"op": "test", "path": "/a", "value": 2}], 422),
        ([{"op": "test", "path": "/a", "value": True}], 422),
        ([{"op": "add", "path": "/list/9", "value": 1}], 422),
        ([{"op": "add", "path": "/list/01", "value": 1}], 422),
        ([{"op": "move", "from": "/list", "path": "/list/0"}], 422),
        ([{"op": "replace", "path": "", "value": 1}], 422),
        ([{"op": "add", "path": "/a", "value": 1}] * 10_001, 413),
    ],
)
def test_json_patches_that_do_not_fit_are_refused(operations: Any, code: int) -> None:
    target = {"a": 1, "list": [1]}
    with pytest.raises(ApiError) as found:
        json_patch(target, operations)
    assert found.value.code == code
    assert target == {"a": 1, "list": [1]}


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"containers": list(containers), **spec}}


def test_strategic_merge_merges_named_lists_by_their_key() -> None:
    target = pod({"name": "a", "image": "1"}, {"name": "b", "image": "1"})
    patch = {"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}}
    assert strategic_merge(target, patch, POD)["spec"]["containers"] == [
        {"name": "a", "image": "1"},
        {"name": "b", "image": "2"},
        {"name": "c", "image": "3"},
    ]


def test_strategic_merge_replaces_other_lists() -> None:
    target = pod({"name": "a", "command": ["x", "y"]})
    patch = {"spec": {"containers": [{"name": "a", "command": ["z"]}]}}
    assert strategic_merge(target, patch, POD)["spec"]["containers"] == [{"name": "a", "command": ["z"]}]


@pytest.mark.parametrize(
    ("patch", "names"),
    [
        ({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}, ["b"]),
        ({"spec": {"containers": [{"$patch": "replace"}, {"name": "c"}]}}, ["c"]),
        ({"spec": {"$patch": "replace", "containers": [{"name": "d"}]}}, ["d"]),
        ({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}, ["b", "a"]),
        (
            {
                "spec": {
                    "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
                    "containers": [{"name": "c"}],
                }
            },
            ["b", "c", "a"],
        ),
    ],
)
def test_strategic_directives_on_lists(patch: dict[str, Any], names: list[str]) -> None:
    target = pod({"name": "a"}, {"name": "b"})
    assert [item["name"] for item in strategic_merge(target, patch, POD)["spec"]["containers"]] == names
    assert target == pod({"name": "a"}, {"name": "b"})


def test_strategic_retain_keys_drops_the_other_kind_of_strategy() -> None:
    target = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge(target, patch, DEPLOYMENT)["spec"]["strategy"] == {"type": "Recreate"}


def test_strategic_primitive_lists() -> None:
    target = {"metadata": {"finalizers": ["a/1", "b/2"]}}
    added = strategic_merge(target, {"metadata": {"finalizers": ["b/2", "c/3"]}}, POD)
    assert added["metadata"]["finalizers"] == ["a/1", "b/2", "c/3"]
    removed = strategic_merge(target, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/1"]}}, POD)
    assert removed["metadata"]["finalizers"] == ["b/2"]


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"containers": [{"image": "no name"}]}},
        {"spec": {"containers": ["text"]}},
        {"spec": {"$patch": "burn"}},
        {"spec": {"$retainKeys": "x"}},
        {"spec": {"$setElementOrder/containers": "x"}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}},
    ],
)
def test_malformed_strategic_patches_are_bad_requests(patch: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as found:
        strategic_merge(pod({"name": "a"}), patch, POD)
    assert found.value.code == 400


@given(VALUES)
def test_no_strategic_patch_breaks_the_merge(value: Any) -> None:
    for patch in ({"spec": value}, {"spec": {"containers": value}}, {"metadata": {"labels": value}}):
        try:
            strategic_merge(pod({"name": "a"}), patch, POD)
        except ApiError as failure:
            assert failure.code == 400
