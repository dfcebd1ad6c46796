"""Objects of any content and structural schemas of any form: pruning, defaulting, validation, server-side apply."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.apiserver.changes.apply import server_side_apply
from isthmus.lab.apiserver.changes.ownership import Manager, decode_paths, encode_paths, leaves
from isthmus.lab.apiserver.errors import ApiError
from isthmus.lab.apiserver.extensions import jsonpath, pruning, publishing, shapes, structural, values
from isthmus.lab.apiserver.extensions.schemaform import SchemaForm

NAMES = st.sampled_from(["a", "b", "c", "key", "x-y"])
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "a", "v"]) | st.floats(-2, 2),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(NAMES, below, max_size=3),
    max_leaves=8,
)
OPEN = {"x-kubernetes-preserve-unknown-fields": True}
SCALAR_SCHEMAS = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "default": "v"},
        {"type": "string", "nullable": True},
        {"type": "integer", "default": 5},
        {"type": "boolean"},
        {"type": "number"},
        {"x-kubernetes-int-or-string": True},
        {"type": "object", **OPEN},
        OPEN,
    ]
)


def objects(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(NAMES, below, min_size=1, max_size=3).map(
        lambda held: {"type": "object", "properties": held}
    )


def keyed(schema: Any) -> Any:
    """Returns a map list of objects of `schema`, with a key."""
    held = {**schema["properties"], "key": {"type": "string"}}
    items = {"type": "object", "required": ["key"], "properties": held}
    return {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["key"],
        "items": items,
    }


SCHEMAS = st.recursive(
    SCALAR_SCHEMAS,
    lambda below: (
        objects(below)
        | objects(below).map(keyed)
        | objects(below).map(lambda held: {**held, "default": {}})
        | objects(below).map(lambda held: {**held, "x-kubernetes-map-type": "atomic"})
        | below.map(lambda held: {"type": "array", "items": held})
        | below.map(lambda held: {"type": "object", "additionalProperties": held})
        | st.just({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}})
    ),
    max_leaves=8,
)
ROOTS = objects(SCHEMAS)


def values_of(schema: Any) -> st.SearchStrategy[Any]:
    """Returns values that a schema allows."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return st.dictionaries(NAMES, JUNK.filter(lambda item: item is not None), max_size=2)
    if schema.get("x-kubernetes-int-or-string"):
        return st.sampled_from([1, "5%"])
    kind = schema["type"]
    if kind == "array":
        items = st.lists(values_of(schema["items"]), max_size=3)
        if schema.get("x-kubernetes-list-type") == "map":
            return items.map(lambda held: list({item["key"]: item for item in held}.values()))
        if schema.get("x-kubernetes-list-type") == "set":
            return items.map(lambda held: list(dict.fromkeys(held)))
        return items
    if kind == "object":
        if "additionalProperties" in schema:
            return st.dictionaries(NAMES, values_of(schema["additionalProperties"]), max_size=2)
        needed = {name: values_of(schema["properties"][name]) for name in schema.get("required", ())}
        others = {name: values_of(held) for name, held in schema["properties"].items() if name not in needed}
        return st.fixed_dictionaries(needed, optional=others)
    plain = {"string": st.sampled_from(["a", "b", ""]), "integer": st.integers(-3, 3), "boolean": st.booleans()}
    return plain.get(kind, st.floats(-2, 2).filter(lambda number: not number.is_integer()))


CASES = ROOTS.flatmap(lambda schema: st.tuples(st.just(schema), values_of(schema), values_of(schema)))


def whole(value: Any) -> Any:
    return {"apiVersion": "example.com/v1", "kind": "X", "metadata": {"name": "x"}, **value}


def prune(value: Any, schema: Any) -> Any:
    return pruning.prune(value, schema, kind="X", version="v1")[0]


@given(schema=ROOTS, value=st.dictionaries(NAMES, JUNK, max_size=4))
def test_pruning_and_defaulting_are_idempotent_and_never_break(schema: Any, value: Any) -> None:
    assert structural.Structural("root").review(schema) == []
    before = copy.deepcopy(value)
    once = prune(whole(value), schema)
    assert value == before
    assert prune(once, schema) == once
    filled = copy.deepcopy(once)
    pruning.fill(filled, schema)
    again = copy.deepcopy(filled)
    pruning.fill(again, schema)
    assert again == filled
    assert prune(filled, schema) == filled
    for error in [*values.check(filled, schema), *values.check_lists(filled, schema)]:
        assert error.reason.startswith("FieldValue") and error.message
    assert values.check(filled, schema, old=copy.deepcopy(filled)) == []


@given(case=CASES)
def test_what_is_valid_stays_valid_when_it_is_applied(case: Any) -> None:
    schema, first, second = case
    shape = shapes.shape(schema, top=True)
    live: Any = {}
    managers: list[Manager] = []
    for name, spec in (("one", first), ("two", second), ("one", {})):
        config = prune(whole(spec), schema)
        writer = Manager(name=name, operation="Apply", api_version="v1", subresource="", time="", paths=frozenset())
        live, managers = server_side_apply(live, config, shape=shape, managers=managers, writer=writer, force=True)
        assert values.check(live, schema) == []
        assert values.check_lists(live, schema) == []
        assert prune(live, schema) == live
        for manager in managers:
            assert decode_paths(encode_paths(manager.paths)) == manager.paths
    assert all(manager.paths <= leaves(live, shape).keys() for manager in managers if manager.name == "two")


@given(schema=ROOTS)
def test_a_schema_is_read_as_it_is_written_and_can_be_published(schema: Any) -> None:
    form = SchemaForm()
    assert form.read(schema, "root") == schema
    assert form.unknown == []
    for number in (2, 3):
        shown = publishing.schema(schema, metadata={"$ref": "#/x"}, version=number)
        assert shown["properties"]["metadata"] == {
            "description": shown["properties"]["metadata"]["description"],
            "allOf": [{"$ref": "#/x"}],
        }


@given(
    schema=st.dictionaries(st.sampled_from(["type", "properties", "items", "not", "enum", "default", "anyOf"]), JUNK)
)
def test_nothing_that_calls_itself_a_schema_breaks_the_reader(schema: Any) -> None:
    try:
        read = SchemaForm().read(schema, "root")
    except ApiError as failure:
        assert failure.code == 400
        return
    for error in structural.Structural("root").review(read):
        assert error.path and error.message


@given(text=st.text(alphabet=".[]*?@()'\"=!<>abc019 \\-", max_size=20), value=JUNK)
def test_a_path_is_understood_or_refused(text: str, value: Any) -> None:
    try:
        steps = jsonpath.parse(text)
    except jsonpath.PathError:
        return
    assert len(jsonpath.find(value, steps)) <= jsonpath.MAX_FOUND
