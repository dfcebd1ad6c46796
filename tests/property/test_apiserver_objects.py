"""Well-typed objects of any content are stored or refused, by every kind and every kind of write."""

import contextlib
import ipaddress
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.lab.apiserver.changes import deletion, patching
from isthmus.lab.apiserver.changes.calls import Call, Source
from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.changes.ownership import leaves
from isthmus.lab.apiserver.columns import columns_for
from isthmus.lab.apiserver.errors import ApiError, Json
from isthmus.lab.apiserver.schema.kinds import Registry, Resource
from isthmus.lab.apiserver.schema.typetable import FieldType, ObjectType
from isthmus.lab.apiserver.storage.disk import Storage
from isthmus.lab.apiserver.storage.state import State, Transaction, _Batch, decode
from isthmus.lab.apiserver.strategies.base import Settings

REGISTRY = Registry()
NETWORKS = (ipaddress.ip_network("10.96.0.0/24"),)
WORDS = [
    "",
    "a",
    "b",
    "In",
    "Exists",
    "TCP",
    "None",
    "10.0.0.0/8",
    "10.0.0.1",
    "ClusterIP",
    "NodePort",
    "IPv4",
    "Recreate",
]
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "str": st.sampled_from(WORDS),
    "int": st.sampled_from([0, 1, 80, -1, 70000]),
    "long": st.sampled_from([0, 1, 30, -1]),
    "bool": st.booleans(),
    "num": st.floats(allow_nan=False, allow_infinity=False),
    "intstr": st.sampled_from([0, 80, "http", "", "25%"]),
    "qty": st.sampled_from(["1", "100m", "1Gi", "-1"]),
    "time": st.just("2026-01-01T00:00:00Z"),
    "mtime": st.just("2026-01-01T00:00:00.000000Z"),
    "bytes": st.sampled_from(["", "YQ=="]),
    "any": st.just({"f:x": {}}),
}


def of_field(field: FieldType, depth: int) -> st.SearchStrategy[Any]:
    one = SCALARS[field.type] if field.scalar else of_type(field.target(), depth + 1)
    if field.wrap == "[]":
        return st.lists(one, max_size=2)
    if field.wrap == "{}":
        return st.dictionaries(st.sampled_from(["a", "b", "x y"]), one, max_size=2)
    return one


def of_type(shape: ObjectType, depth: int = 0) -> st.SearchStrategy[Any]:
    if depth > 7:
        return st.just({})
    fields = [field for field in shape.fields.values() if field.name not in ("kind", "apiVersion", "metadata")]

    @st.composite
    def build(draw: st.DrawFn) -> Json:
        if not fields:
            return {}
        chosen = draw(st.lists(st.sampled_from(fields), max_size=4, unique_by=lambda field: field.name))
        return {field.name: draw(of_field(field, depth)) for field in chosen}

    return build()


METADATA = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "Bad"])},
    optional={
        "labels": st.dictionaries(st.sampled_from(["a", "b/c", "?"]), st.sampled_from(["", "x", "x y"]), max_size=2),
        "finalizers": st.lists(st.sampled_from(["x/y", "bad"]), max_size=2),
        "ownerReferences": st.lists(st.just({"uid": "u", "kind": "k", "name": "n", "apiVersion": "v1"}), max_size=1),
    },
)
STORED = [resource for resource in REGISTRY if resource.stored]


def attempt(action: Any) -> Any:
    """Runs an action; a refusal is a result, anything else is a fault."""
    with contextlib.suppress(ApiError):
        return action()
    return None


@pytest.mark.parametrize("resource", STORED, ids=lambda resource: resource.qualified)
@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
def test_any_object_is_stored_or_refused(resource: Resource, checked: bool) -> None:
    unvalidated = frozenset() if checked else frozenset({resource.plural})
    life = Lifecycle(
        registry=REGISTRY, settings=Settings(service_networks=NETWORKS, unvalidated=unvalidated), source=Source(seed=1)
    )
    namespace = "default" if resource.namespaced else ""
    columns = columns_for(resource)

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(st.lists(st.tuples(METADATA, of_type(resource.type())), min_size=1, max_size=3), st.randoms())
    def run(objects: list[tuple[Json, Json]], random: Any) -> None:
        transaction = Transaction(state, _Batch())
        spaces = REGISTRY.get("namespaces")
        life.create(transaction, Call(resource=spaces, name="default"), {"metadata": {"name": "default"}})
        for metadata, body in objects:
            call = Call(resource=resource, namespace=namespace, name=metadata["name"], manager="m", force=True)
            value = {"metadata": metadata, **body}

            def read(value: Json = value, call: Call = call) -> Json:
                return life.read_body(call, {**value, "metadata": dict(value["metadata"])})

            attempt(lambda read=read, call=call: life.create(transaction, call, read()))
            attempt(
                lambda read=read, call=call: life.update(transaction, call, read(), old=life.load(transaction, call))
            )
            for kind in (patching.MERGE_PATCH, patching.STRATEGIC_PATCH):
                attempt(
                    lambda kind=kind, call=call, body=body: patching.patch_object(
                        life, transaction, call, body, media_type=kind
                    )
                )
            config = {"kind": resource.kind, "apiVersion": resource.api_version, **value}
            attempt(lambda call=call, config=config: patching.apply_object(life, transaction, call, config))
            stored = transaction.get(resource, namespace=namespace, name=metadata["name"])
            if stored is not None:
                held = decode(resource, stored)
                assert len(columns.row(held, life.source.now())) == len(columns.definitions)
                leaves(held, resource.type())
                if random.random() < 0.5:
                    attempt(lambda call=call: deletion.delete(life, transaction, call, deletion.Options()))

    with tempfile.TemporaryDirectory() as directory:
        state = State(Storage(Path(directory) / "s"), REGISTRY)
        try:
            run()
        finally:
            state.close()
