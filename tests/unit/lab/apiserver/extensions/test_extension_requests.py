"""Custom resources over HTTP: life, patches, versions, scale, watches, and the end of their kinds."""

import asyncio
from typing import Any

import pytest

from isthmus.lab.apiserver.extensions import serving
from tests.support.apihttp import Api
from tests.support.definitions import DEFINITIONS, SPEC, WIDGETS, definition, version, widget


async def gone(api: Api, path: str) -> None:
    """Waits until there is nothing at `path`."""
    async with asyncio.timeout(10):
        while (await api.send("GET", path))[0] != 404:
            await asyncio.sleep(0.01)


async def test_a_kind_is_served_as_soon_as_its_definition_is_answered(api: Api) -> None:
    await api.create(DEFINITIONS, definition(shortNames=["wg"], categories=["all"]))
    listed = await api.get("/apis/example.com/v1")
    assert [(row["name"], row.get("shortNames"), row.get("categories")) for row in listed["resources"]] == [
        ("widgets", ["wg"], ["all"]),
        ("widgets/status", None, None),
    ]
    assert (await api.get(WIDGETS))["kind"] == "WidgetList"
    schemas = (await api.get("/openapi/v3/apis/example.com/v1"))["components"]["schemas"]
    assert schemas["com.example.v1.Widget"]["properties"]["spec"]["properties"]["color"]["default"] == "red"


async def test_an_object_is_pruned_defaulted_and_numbered(api: Api) -> None:
    await api.create(DEFINITIONS, definition())
    sent = {**widget("a", size=1, bogus=2, open={"x": [1]}), "status": {"phase": "Up"}}
    made = await api.create(WIDGETS, sent)
    assert made["spec"] == {"size": 1, "open": {"x": [1]}, "color": "red"}
    assert "status" not in made and made["metadata"]["generation"] == 1
    code, changed = await api.patch(f"{WIDGETS}/a", {"spec": {"size": 2}})
    assert (code, changed["metadata"]["generation"]) == (200, 2)
    code, changed = await api.patch(f"{WIDGETS}/a/status", {"spec": {"size": 9}, "status": {"phase": "Up"}})
    assert (code, changed["spec"]["size"], changed["status"]) == (200, 2, {"phase": "Up"})
    assert changed["metadata"]["generation"] == 2


async def test_a_status_is_checked_like_the_rest(api: Api) -> None:
    made = version()
    made["schema"]["openAPIV3Schema"]["properties"]["status"]["x-kubernetes-validations"] = [
        {"rule": "!has(self.phase) || self.phase != 'Sideways'", "message": "not that way"}
    ]
    await api.create(DEFINITIONS, definition(made))
    await api.create(WIDGETS, widget("a"))
    for status, field in (({"phase": 1}, "status.phase"), ({"phase": "Sideways"}, "status")):
        code, refused = await api.patch(f"{WIDGETS}/a/status", {"status": status})
        assert (code, refused["details"]["causes"][0]["field"]) == (422, field)
    assert "status" not in await api.get(f"{WIDGETS}/a")


async def test_a_status_update_does_not_mind_what_it_did_not_write(api: Api) -> None:
    await api.create(DEFINITIONS, definition())
    await api.create(WIDGETS, widget("a", size=50))
    stricter = version()
    stricter["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]["maximum"] = 10
    code, _ = await api.patch(f"{DEFINITIONS}/widgets.example.com", {"spec": {"versions": [stricter]}})
    assert code == 200
    code, changed = await api.patch(f"{WIDGETS}/a/status", {"status": {"phase": "Up"}})
    assert (code, changed["spec"]["size"], changed["status"]) == (200, 50, {"phase": "Up"})


async def test_without_a_status_subresource_a_change_of_the_status_counts(api: Api) -> None:
    await api.create(DEFINITIONS, definition(version(subresources={})))
    await api.create(WIDGETS, {**widget("a"), "status": {"phase": "Up"}})
    _, changed = await api.patch(f"{WIDGETS}/a", {"status": {"phase": "Down"}})
    assert (changed["metadata"]["generation"], changed["status"]) == (2, {"phase": "Down"})


async def test_unknown_fields_are_refused_or_told_as_asked(api: Api) -> None:
    await api.create(DEFINITIONS, definition())
    body = widget("a", bogus=1, parts=[{"name": "x", "nope": 1}])
    code, refused = await api.send("POST", f"{WIDGETS}?fieldValidation=Strict", body)
    assert code == 400
    assert refused["message"].endswith('unknown field "spec.bogus", unknown field "spec.parts[0].nope"')
    headers = {"Authorization": "Bearer secret"}
    async with api.client.post(WIDGETS, json=body, headers=headers) as answer:
        warnings = answer.headers.getall("Warning")
    assert warnings == ['299 - "unknown field \\"spec.bogus\\""', '299 - "unknown field \\"spec.parts[0].nope\\""']


async def test_every_patch_but_the_strategic_one_is_taken(api: Api) -> None:
    await api.create(DEFINITIONS, definition())
    await api.create(WIDGETS, widget("a", size=1))
    code, body = await api.patch(f"{WIDGETS}/a", {"spec": {"size": 2}}, "strategic-merge-patch+json")
    assert (code, body["reason"]) == (415, "UnsupportedMediaType")
    operations = [{"op": "replace", "path": "/spec/size", "value": 3}]
    code, body = await api.patch(f"{WIDGETS}/a", operations, "json-patch+json")
    assert (code, body["spec"]["size"]) == (200, 3)
    code, body = await api.patch(f"{WIDGETS}/a", {"spec": {"size": 300}})
    assert (code, body["details"]["causes"][0]["field"]) == (422, "spec.size")


async def test_server_side_apply_merges_map_lists_and_sets_by_the_schema(api: Api) -> None:
    await api.create(DEFINITIONS, definition())

    async def apply(manager: str, query: str = "", **spec: Any) -> tuple[int, Any]:
        path = f"{WIDGETS}/a?fieldManager={manager}{query}"
        return await api.patch(path, widget("a", **spec), "apply-patch+yaml")

    code, _ = await apply("one", parts=[{"name": "x", "count": 1}, {"name": "y", "count": 2}], tags=["a"])
    assert code == 201
    code, body = await apply("two", parts=[{"name": "x", "note": "n"}], tags=["b"], limits={"m": {"a": 1}})
    assert code == 200
    assert body["spec"]["parts"] == [{"name": "x", "count": 1, "note": "n"}, {"name": "y", "count": 2}]
    assert body["spec"]["tags"] == ["a", "b"]
    code, body = await apply("two", parts=[{"name": "x", "count": 5}])
    assert code == 409
    assert body["message"] == 'Apply failed with 1 conflict: conflict with "one": .spec.parts[name="x"].count'
    code, body = await apply("one", parts=[{"name": "x", "count": 1}])
    assert code == 200
    assert body["spec"]["parts"] == [{"name": "x", "count": 1, "note": "n"}]
    assert body["spec"]["limits"] == {"m": {"a": 1}}
    fields = {entry["manager"]: entry["fieldsV1"]["f:spec"] for entry in body["metadata"]["managedFields"]}
    assert fields["two"]["f:limits"] == {"f:m": {".": {}, "f:a": {}}}
    assert "f:color" not in fields["one"]


async def test_a_definition_that_changes_is_followed_while_objects_exist(api: Api) -> None:
    await api.create(DEFINITIONS, definition())
    await api.create(WIDGETS, widget("a", size=50))
    changed = version()
    changed["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]["maximum"] = 10
    changed["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["weight"] = {
        "type": "integer",
        "default": 7,
    }
    async with (
        api.watch(f"{WIDGETS}?watch=1") as events,
        api.watch("/api/v1/namespaces?watch=1&resourceVersion=0") as others,
    ):
        assert (await events.next())[0] == "ADDED"
        code, body = await api.patch(f"{DEFINITIONS}/widgets.example.com", {"spec": {"versions": [changed]}})
        assert code == 200, body
        assert await events.ended()
        await api.create("/api/v1/namespaces", {"metadata": {"name": "later"}})
        names = [(await others.next())[1]["metadata"]["name"] for _ in range(5)]
        assert "later" in names
    assert (await api.get(f"{WIDGETS}/a"))["spec"] == {"size": 50, "color": "red", "weight": 7}
    code, _ = await api.patch(f"{WIDGETS}/a", {"spec": {"weight": 8}})
    assert code == 200  # what did not change is not judged again
    code, _ = await api.patch(f"{WIDGETS}/a", {"spec": {"size": 51}})
    assert code == 422
    again = await api.send("PUT", f"{DEFINITIONS}/widgets.example.com", definition(version(served=False)))
    assert again[0] == 200
    assert (await api.send("GET", WIDGETS))[0] == 404


async def test_versions_share_their_objects(api: Api) -> None:
    second = version("v2", storage=False)
    del second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["color"]
    await api.create(DEFINITIONS, definition(version(), second))
    await api.create(WIDGETS, widget("a", size=1))
    path = WIDGETS.replace("v1", "v2")
    seen = await api.get(f"{path}/a")
    assert (seen["apiVersion"], seen["spec"]) == ("example.com/v2", {"size": 1})
    assert [row["spec"] for row in (await api.get(path))["items"]] == [{"size": 1}]
    await api.create(path, widget("b", api_version="example.com/v2", size=2))
    assert (await api.get(f"{WIDGETS}/b"))["spec"]["size"] == 2
    groups = {row["name"]: row for row in (await api.get("/apis"))["groups"]}
    assert groups["example.com"]["preferredVersion"]["version"] == "v2"


async def test_the_scale_of_a_custom_resource_is_where_its_definition_says(api: Api) -> None:
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    await api.create(DEFINITIONS, definition(version(subresources={"status": {}, "scale": scale})))
    await api.create(WIDGETS, widget("a", replicas=2))
    await api.patch(f"{WIDGETS}/a/status", {"status": {"replicas": 1}})
    found = await api.get(f"{WIDGETS}/a/scale")
    assert (found["spec"], found["status"]) == ({"replicas": 2}, {"replicas": 1})
    code, found = await api.patch(f"{WIDGETS}/a/scale", {"spec": {"replicas": 5}})
    assert (code, found["spec"]) == (200, {"replicas": 5})
    assert (await api.get(f"{WIDGETS}/a"))["spec"]["replicas"] == 5


async def test_columns_and_selectable_fields_come_from_the_definition(api: Api) -> None:
    columns = [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Tags", "type": "string", "jsonPath": ".spec.tags", "priority": 1},
        {"name": "First", "type": "string", "jsonPath": ".spec.parts[?(@.name=='x')].count"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    fields = [{"jsonPath": ".spec.color"}]
    await api.create(DEFINITIONS, definition(version(additionalPrinterColumns=columns, selectableFields=fields)))
    await api.create(
        WIDGETS, widget("a", size=1, tags=["t"], parts=[{"name": "y", "count": 1}, {"name": "x", "count": 2}])
    )
    await api.create(WIDGETS, widget("b", color="blue"))
    table = await api.get(WIDGETS, Accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    assert [(held["name"], held["priority"]) for held in table["columnDefinitions"]] == [
        ("Name", 0),
        ("Size", 0),
        ("Tags", 1),
        ("First", 0),
        ("Age", 0),
    ]
    assert [row["cells"][:4] for row in table["rows"]] == [["a", 1, '["t"]', "2"], ["b", None, None, None]]
    found = await api.get(f"{WIDGETS}?fieldSelector=spec.color%3Dblue")
    assert [row["metadata"]["name"] for row in found["items"]] == ["b"]
    code, _ = await api.send("GET", f"{WIDGETS}?fieldSelector=spec.size%3D1")
    assert code == 400


async def test_names_that_are_taken_keep_a_kind_from_being_served(api: Api) -> None:
    await api.create(DEFINITIONS, definition(shortNames=["wg"]))
    other = await api.create(DEFINITIONS, definition(plural="gadgets", kind="Gadget", shortNames=["wg"]))
    conditions = {row["type"]: (row["status"], row["reason"]) for row in other["status"]["conditions"]}
    assert conditions == {
        "NamesAccepted": ("False", "ShortNamesConflict"),
        "Established": ("False", "NotAccepted"),
    }
    assert (await api.send("GET", WIDGETS.replace("widgets", "gadgets")))[0] == 404
    await api.send("DELETE", f"{DEFINITIONS}/widgets.example.com")
    async with asyncio.timeout(10):
        while (await api.send("GET", WIDGETS.replace("widgets", "gadgets")))[0] != 200:
            await asyncio.sleep(0.01)


async def test_deleting_a_definition_deletes_its_objects_and_waits_for_their_finalizers(api: Api) -> None:
    await api.create(DEFINITIONS, definition())
    held = widget("held", size=1)
    held["metadata"]["finalizers"] = ["example.com/keep"]
    await api.create(WIDGETS, held)
    await api.create(WIDGETS, widget("free"))
    code, body = await api.send("DELETE", f"{DEFINITIONS}/widgets.example.com")
    assert code == 200
    assert body["metadata"]["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]
    await gone(api, f"{WIDGETS}/free")
    code, body = await api.send("POST", WIDGETS, widget("late"))
    assert (code, body["message"]) == (405, "create not allowed while custom resource definition is terminating")
    assert "deletionTimestamp" in (await api.get(f"{WIDGETS}/held"))["metadata"]
    code, _ = await api.patch(f"{WIDGETS}/held", {"metadata": {"finalizers": None}})
    assert code == 200
    await gone(api, f"{DEFINITIONS}/widgets.example.com")
    assert (await api.send("GET", WIDGETS))[0] == 404
    assert (await api.send("GET", "/apis/example.com"))[0] == 404
    await api.create(DEFINITIONS, definition())
    assert (await api.get(WIDGETS))["items"] == []


async def test_what_is_served_of_a_kind_may_not_change(api: Api) -> None:
    await api.create(DEFINITIONS, definition())
    code, body = await api.patch(f"{DEFINITIONS}/widgets.example.com", {"spec": {"scope": "Cluster"}})
    assert code == 422
    assert body["details"]["causes"] == [
        {
            "reason": "FieldValueInvalid",
            "message": 'Invalid value: "Cluster": field is immutable',
            "field": "spec.scope",
        }
    ]
    renamed = definition(version("v2"))
    renamed["metadata"]["resourceVersion"] = (await api.get(f"{DEFINITIONS}/widgets.example.com"))["metadata"][
        "resourceVersion"
    ]
    code, body = await api.send("PUT", f"{DEFINITIONS}/widgets.example.com", renamed)
    assert (code, body["details"]["causes"][0]["field"]) == (422, "status.storedVersions[0]")


async def test_nothing_hostile_in_a_definition_breaks_the_server(api: Api) -> None:
    deep: Any = {"type": "object"}
    for _ in range(300):
        deep = {"type": "object", "properties": {"x": deep}}
    for schema in (
        deep,
        [],
        "x",
        {"type": "object", "properties": []},
        {"type": ["object"]},
        {"properties": {"a": None}},
    ):
        body = definition(version(schema={"openAPIV3Schema": schema}))
        code, answer = await api.send("POST", DEFINITIONS, body)
        assert code in (400, 422), answer
    spec = {"type": "object", "properties": {"x": {**SPEC, "required": "x"}}}
    code, answer = await api.send("POST", DEFINITIONS, definition(version(schema={"openAPIV3Schema": spec})))
    assert code == 400 and "json: cannot unmarshal string into Go struct field" in answer["message"]


async def test_a_deprecated_version_says_so_with_every_answer(api: Api) -> None:
    old = version("v1beta1", storage=False, deprecated=True)
    told = version("v1beta2", storage=False, deprecated=True, deprecationWarning='use "v1"')
    await api.create(DEFINITIONS, definition(version(), old, told))
    warnings = []
    for name in ("v1", "v1beta1", "v1beta2"):
        async with api.client.get(WIDGETS.replace("v1", name), headers={"Authorization": "Bearer secret"}) as answer:
            warnings.append(answer.headers.get("Warning"))
    assert warnings == [None, '299 - "example.com/v1beta1 Widget is deprecated"', '299 - "use \\"v1\\""']


async def test_a_kind_with_many_objects_goes_in_pieces(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_DELETED", 3)
    await api.create(DEFINITIONS, definition())
    for number in range(8):
        await api.create(WIDGETS, widget(f"w{number}"))
    await api.send("DELETE", f"{DEFINITIONS}/widgets.example.com")
    await gone(api, f"{DEFINITIONS}/widgets.example.com")
    assert (await api.send("GET", WIDGETS))[0] == 404


async def test_metadata_of_custom_objects_can_be_listed_and_watched(api: Api) -> None:
    """The garbage collector and the emptying of namespaces know kinds from discovery and nothing but metadata."""
    await api.create(DEFINITIONS, definition())
    await api.create(WIDGETS, widget("a", size=1))
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    found = await api.get(WIDGETS, Accept=accept)
    assert found["kind"] == "PartialObjectMetadataList"
    assert "spec" not in found["items"][0] and found["items"][0]["metadata"]["name"] == "a"
    code, _ = await api.send("DELETE", f"{WIDGETS}?labelSelector=a%3Db")
    assert (code, len((await api.get(WIDGETS))["items"])) == (200, 1)
    code, _ = await api.send("DELETE", WIDGETS)
    assert (code, (await api.get(WIDGETS))["items"]) == (200, [])


@pytest.mark.parametrize(
    "value",
    [
        "1" + "0" * 40,
        "-9223372036854775809",
        "1e308",
        "-0.0",
        "1e-400",
        '"\\u0000"',
        '"' + "x" * 100_000 + '"',
        "[" * 60 + "]" * 60,
        '{"": {"a.b/c": null, "\\ud83d\\ude00": 1}}',
    ],
    ids=["huge", "below-int64", "large", "minus-zero", "tiny", "nul", "long", "deep", "names"],
)
async def test_no_value_breaks_validation_rules_or_tables(api: Api, value: str) -> None:
    made = version(additionalPrinterColumns=[{"name": "V", "type": "integer", "jsonPath": ".spec.v"}])
    spec = made["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["v"] = {"x-kubernetes-preserve-unknown-fields": True, "multipleOf": 3}
    spec["x-kubernetes-validations"] = [{"rule": "!has(self.v) || type(self.v) != int || self.v + 1 > self.v"}]
    await api.create(DEFINITIONS, definition(made))
    body = f'{{"apiVersion":"example.com/v1","kind":"Widget","metadata":{{"name":"a"}},"spec":{{"v":{value}}}}}'
    code, answer = await api.send("POST", WIDGETS, body.encode())
    assert code in (201, 400, 422), answer
    for accept in ("application/json", "application/json;as=Table;v=v1;g=meta.k8s.io", "application/yaml"):
        code, answer = await api.send("GET", WIDGETS, Accept=accept)
        assert code == 200, answer
