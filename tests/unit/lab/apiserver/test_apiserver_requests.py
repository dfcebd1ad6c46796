"""Verbs, versions, paging, deletion and errors, over HTTP."""

from typing import Any

import pytest

from isthmus.lab.apiserver import upkeep
from tests.support.apihttp import Api

MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "data": {"a": "b"}}


def pod(name: str = "p", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x:1"}], **spec}}


async def test_lists_leave_out_the_kind_of_their_items(api: Api) -> None:
    await api.create(MAPS, config_map("a"))
    found = await api.get(MAPS)
    assert (found["kind"], found["apiVersion"]) == ("ConfigMapList", "v1")
    assert "kind" not in found["items"][0]
    assert (await api.get(f"{MAPS}/a"))["kind"] == "ConfigMap"


async def test_pages_show_one_state_whatever_happens_between_them(api: Api) -> None:
    for name in "abcdef":
        await api.create(MAPS, config_map(name))
    first = await api.get(f"{MAPS}?limit=2")
    assert [item["metadata"]["name"] for item in first["items"]] == ["a", "b"]
    assert first["metadata"]["remainingItemCount"] == 4
    await api.send("DELETE", f"{MAPS}/c")
    await api.create(MAPS, config_map("cc"))
    await api.patch(f"{MAPS}/d", {"data": {"a": "changed"}})
    second = await api.get(f"{MAPS}?limit=3&continue={first['metadata']['continue']}")
    assert [item["metadata"]["name"] for item in second["items"]] == ["c", "d", "e"]
    assert second["items"][1]["data"] == {"a": "b"}
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    third = await api.get(f"{MAPS}?limit=3&continue={second['metadata']['continue']}")
    assert [item["metadata"]["name"] for item in third["items"]] == ["f"]
    assert "continue" not in third["metadata"]


async def test_lists_at_a_version(api: Api) -> None:
    version = (await api.create(MAPS, config_map("a")))["metadata"]["resourceVersion"]
    await api.create(MAPS, config_map("b"))
    exact = await api.get(f"{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact")
    assert [item["metadata"]["name"] for item in exact["items"]] == ["a"]
    assert len((await api.get(f"{MAPS}?resourceVersion={version}"))["items"]) == 2
    code, found = await api.send("GET", f"{MAPS}?resourceVersion=99999")
    assert (code, found["details"]["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=x", 400),
        ("limit=-1", 400),
        ("continue=nonsense", 400),
        ("resourceVersion=abc", 422),
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersion=1&resourceVersionMatch=Roughly", 422),
        ("labelSelector=a%20b", 400),
        ("fieldSelector=spec.x%3D1", 400),
        ("watch=maybe", 400),
        ("watch=1&sendInitialEvents=true", 422),
        ("watch=1&resourceVersion=1&resourceVersionMatch=NotOlderThan", 422),
        ("includeObject=Some", 400),
    ],
)
async def test_bad_queries_are_refused(api: Api, query: str, code: int) -> None:
    found, body = await api.send("GET", f"{MAPS}?{query}")
    assert (found, body["kind"], body["code"]) == (code, "Status", code)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/api/v1/unicorns", 404),
        ("GET", "/api/v2/pods", 404),
        ("GET", "/apis/apps/v1/namespaces/default/pods", 404),
        ("GET", "/api/v1/namespaces/default/nodes", 404),
        ("GET", f"{PODS}/p/unknown", 404),
        ("GET", f"{PODS}/p/status/more", 404),
        ("GET", f"{PODS}/nope", 404),
        ("GET", f"{PODS}/nope/status", 404),
        ("GET", f"{PODS}/nope/log", 404),
        ("GET", f"{PODS}/nope/exec?command=x&stdout=1", 404),
        ("DELETE", f"{PODS}/nope", 404),
        ("POST", f"{PODS}/p", 405),
        ("PUT", PODS, 405),
        ("PATCH", PODS, 405),
        ("DELETE", "/api/v1/namespaces", 405),
        ("POST", "/api/v1/pods", 405),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 405),
        ("OPTIONS", PODS, 405),
        ("POST", "/version/x", 405),
        ("GET", "/nothing/here", 404),
        ("GET", f"{PODS}/{'x' * 300}", 404),
    ],
)
async def test_wrong_paths_and_methods(api: Api, method: str, path: str, code: int) -> None:
    found, body = await api.send(method, path, {} if method in ("POST", "PUT") else None)
    assert (found, body["kind"]) == (code, "Status")


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"x", "text/plain", 415),
        (b"x", "application/vnd.kubernetes.protobuf", 400),
        (b'{"kind":"Pod"}', "application/json", 400),
        (b'{"metadata":{"name":"a","namespace":"other"}}', "application/json", 400),
        (b'{"metadata":{"name":"a","resourceVersion":"7"}}', "application/json", 400),
        (b'{"metadata":[]}', "application/json", 400),
        (b'{"data":"' + b"x" * (3 * 1024 * 1024) + b'"}', "application/json", 413),
    ],
)
async def test_bad_bodies_are_refused(api: Api, body: bytes, kind: str, code: int) -> None:
    found, status = await api.send("POST", MAPS, body, kind=kind)
    assert (found, status["kind"]) == (code, "Status")
    assert (await api.get(MAPS))["items"] == []


async def test_only_json_can_be_accepted(api: Api) -> None:
    code, body = await api.send("GET", MAPS, Accept="application/vnd.kubernetes.protobuf")
    assert (code, body["reason"]) == (406, "NotAcceptable")
    accept = "application/vnd.kubernetes.protobuf,application/json"
    assert (await api.get(MAPS, Accept=accept))["kind"] == "ConfigMapList"
    code, text = await api.send("GET", MAPS, Accept="application/yaml")
    assert text.startswith("kind: ConfigMapList")


async def test_names_are_generated(api: Api) -> None:
    found = await api.create(MAPS, {"metadata": {"generateName": "job-"}})
    assert found["metadata"]["name"].startswith("job-")
    assert len(found["metadata"]["name"]) == 9


async def test_a_taken_name_is_a_conflict(api: Api) -> None:
    await api.create(MAPS, config_map("a"))
    code, body = await api.send("POST", MAPS, config_map("a"))
    assert (code, body["reason"], body["message"]) == (409, "AlreadyExists", 'configmaps "a" already exists')
    assert body["details"] == {"name": "a", "kind": "configmaps"}


async def test_updates_mind_version_uid_and_names(api: Api) -> None:
    old = await api.create(MAPS, config_map("a"))
    code, new = await api.send("PUT", f"{MAPS}/a", {**old, "data": {"a": "c"}})
    assert code == 200
    assert int(new["metadata"]["resourceVersion"]) > int(old["metadata"]["resourceVersion"])
    code, body = await api.send("PUT", f"{MAPS}/a", {**old, "data": {"a": "d"}})
    assert (code, body["reason"]) == (409, "Conflict")
    other = {**new, "metadata": {**new["metadata"], "uid": "another"}}
    assert (await api.send("PUT", f"{MAPS}/a", other))[0] == 409
    renamed = {**new, "metadata": {**new["metadata"], "name": "b"}}
    assert (await api.send("PUT", f"{MAPS}/a", renamed))[0] == 400
    assert (await api.send("PUT", f"{MAPS}/none", {"metadata": {"name": "none"}}))[0] == 404


async def test_a_write_that_changes_nothing_is_none(api: Api) -> None:
    old = await api.create(MAPS, config_map("a"))
    _, same = await api.send("PUT", f"{MAPS}/a", old)
    _, patched = await api.patch(f"{MAPS}/a", {"data": {"a": "b"}})
    assert same == patched == old


async def test_the_server_owns_its_part_of_metadata(api: Api) -> None:
    old = await api.create(MAPS, config_map("a", uid="mine", creationTimestamp="2000-01-01T00:00:00Z", generation=7))
    assert old["metadata"]["uid"] != "mine"
    assert old["metadata"]["creationTimestamp"] > "2020"
    forged = {"metadata": {"creationTimestamp": None, "deletionTimestamp": "2000-01-01T00:00:00Z"}}
    _, new = await api.patch(f"{MAPS}/a", forged)
    assert new["metadata"]["creationTimestamp"] == old["metadata"]["creationTimestamp"]
    assert "deletionTimestamp" not in new["metadata"]


async def test_generation_counts_what_is_wanted(api: Api) -> None:
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    await api.create(path, {"metadata": {"name": "n"}, "spec": {"podSelector": {}}})
    _, labelled = await api.patch(f"{path}/n", {"metadata": {"labels": {"a": "b"}}})
    assert labelled["metadata"]["generation"] == 1
    _, changed = await api.patch(f"{path}/n", {"spec": {"policyTypes": ["Egress"]}})
    assert changed["metadata"]["generation"] == 2


async def test_status_and_the_rest_are_written_apart(api: Api) -> None:
    await api.create(PODS, {**pod(), "status": {"phase": "Running"}})
    _, found = await api.patch(f"{PODS}/p", {"status": {"phase": "Running"}, "metadata": {"labels": {"a": "b"}}})
    assert (found["status"]["phase"], found["metadata"]["labels"]) == ("Pending", {"a": "b"})
    code, found = await api.patch(f"{PODS}/p/status", {"status": {"phase": "Running"}, "spec": {"nodeName": "n"}})
    assert (code, found["status"]["phase"]) == (200, "Running")
    assert "nodeName" not in found["spec"]
    assert (await api.get(f"{PODS}/p/status"))["status"]["phase"] == "Running"
    entries = [(entry["manager"], entry.get("subresource")) for entry in found["metadata"]["managedFields"]]
    assert entries == [("tests", None), ("tests", "status")]


async def test_binding_puts_a_pod_on_a_node_once(api: Api) -> None:
    await api.create(PODS, pod())
    binding = {"target": {"kind": "Node", "name": "n1"}, "metadata": {"name": "p"}}
    code, body = await api.send("POST", f"{PODS}/p/binding", binding)
    assert (code, body["status"]) == (201, "Success")
    found = await api.get(f"{PODS}/p")
    assert found["spec"]["nodeName"] == "n1"
    assert found["status"]["conditions"][0]["type"] == "PodScheduled"
    code, body = await api.send("POST", "/api/v1/namespaces/default/bindings", binding)
    assert (code, body["reason"]) == (409, "Conflict")


async def test_a_bound_pod_is_deleted_in_two_steps(api: Api) -> None:
    await api.create(PODS, pod(nodeName="n1"))
    code, marked = await api.send("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 20})
    assert (code, marked["metadata"]["deletionGracePeriodSeconds"]) == (200, 20)
    _, again = await api.send("DELETE", f"{PODS}/p")
    assert again["metadata"]["deletionTimestamp"] == marked["metadata"]["deletionTimestamp"]
    _, sooner = await api.send("DELETE", f"{PODS}/p?gracePeriodSeconds=5")
    assert sooner["metadata"]["deletionGracePeriodSeconds"] == 5
    code, _ = await api.send("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert code == 200
    assert (await api.send("GET", f"{PODS}/p"))[0] == 404


async def test_finalizers_keep_a_deleted_object(api: Api) -> None:
    await api.create(MAPS, config_map("a", finalizers=["example.com/keep"]))
    code, found = await api.send("DELETE", f"{MAPS}/a")
    assert (code, "deletionTimestamp" in found["metadata"]) == (200, True)
    more = {"metadata": {"finalizers": ["example.com/keep", "example.com/more"]}}
    assert (await api.patch(f"{MAPS}/a", more))[0] == 422
    code, _ = await api.patch(f"{MAPS}/a", {"metadata": {"finalizers": None}})
    assert code == 200
    assert (await api.send("GET", f"{MAPS}/a"))[0] == 404


async def test_preconditions_and_propagation(api: Api) -> None:
    uid = (await api.create(MAPS, config_map("a")))["metadata"]["uid"]
    for precondition in ({"uid": "other"}, {"resourceVersion": "1"}):
        code, body = await api.send("DELETE", f"{MAPS}/a", {"preconditions": precondition})
        assert (code, "in the precondition" in body["message"]) == (409, True)
    assert (await api.send("DELETE", f"{MAPS}/a", {"propagationPolicy": "Sideways"}))[0] == 422
    _, found = await api.send("DELETE", f"{MAPS}/a", {"propagationPolicy": "Foreground"})
    assert found["metadata"]["finalizers"] == ["foregroundDeletion"]
    await api.patch(f"{MAPS}/a", {"metadata": {"finalizers": None}})
    await api.create(MAPS, config_map("a"))
    _, found = await api.send("DELETE", f"{MAPS}/a", {"preconditions": {}})
    assert (found["status"], found["details"]["name"]) == ("Success", "a")
    assert found["details"]["uid"] != uid


async def test_collections_are_deleted_by_selector(api: Api) -> None:
    for name, labels in (("a", {"x": "1"}), ("b", {"x": "2"}), ("c", {})):
        await api.create(MAPS, config_map(name, labels=labels))
    code, found = await api.send("DELETE", f"{MAPS}?labelSelector=x")
    assert (code, [item["metadata"]["name"] for item in found["items"]]) == (200, ["a", "b"])
    assert [item["metadata"]["name"] for item in (await api.get(MAPS))["items"]] == ["c"]


async def test_dry_runs_give_the_result_and_no_version(api: Api) -> None:
    before = (await api.get(MAPS))["metadata"]["resourceVersion"]
    found = await api.create(f"{MAPS}?dryRun=All", config_map("a"))
    assert "resourceVersion" not in found["metadata"]
    assert (await api.get(MAPS))["metadata"]["resourceVersion"] == before
    assert (await api.send("POST", f"{MAPS}?dryRun=Some", config_map("a")))[0] == 422
    await api.create(MAPS, config_map("a"))
    await api.send("DELETE", f"{MAPS}/a?dryRun=All")
    assert (await api.send("GET", f"{MAPS}/a"))[0] == 200


async def test_field_validation_levels(api: Api) -> None:
    wrong = {**config_map("a"), "dat": {}}
    code, body = await api.send("POST", f"{MAPS}?fieldValidation=Strict", wrong)
    assert (code, 'unknown field "dat"' in body["message"]) == (400, True)
    headers = {"Authorization": "Bearer secret"}
    async with api.client.post(f"{MAPS}?fieldValidation=Warn", json=wrong, headers=headers) as answer:
        assert answer.headers.getall("Warning") == ['299 - "unknown field \\"dat\\""']
    wrong["metadata"] = {"name": "b"}
    async with api.client.post(f"{MAPS}?fieldValidation=Ignore", json=wrong, headers=headers) as answer:
        assert (answer.status, "Warning" in answer.headers) == (201, False)
    assert (await api.send("POST", f"{MAPS}?fieldValidation=Maybe", wrong))[0] == 422


async def test_apply_needs_a_manager_and_plain_patches_no_force(api: Api) -> None:
    config = {**config_map("a"), "kind": "ConfigMap", "apiVersion": "v1"}
    assert (await api.patch(f"{MAPS}/a", config, "apply-patch+yaml"))[0] == 422
    code, _ = await api.patch(f"{MAPS}/a?fieldManager=m", config, "apply-patch+yaml")
    assert code == 201
    assert (await api.patch(f"{MAPS}/a?force=true", {}))[0] == 422
    assert (await api.send("PATCH", f"{MAPS}/a", {}, kind="application/json"))[0] == 415
    code, _ = await api.patch(f"{MAPS}/a", {"kind": "Secret"})
    assert code == 400


async def test_unknown_callers_see_only_health_and_version(api: Api) -> None:
    for path, code in (("/readyz", 200), ("/livez", 200), ("/version", 200), ("/api", 401), (PODS, 401)):
        async with api.client.get(path) as answer:
            assert answer.status == code
    code, body = await api.send("GET", PODS, Authorization="Bearer wrong")
    assert (code, body["reason"], body["message"]) == (401, "Unauthorized", "Unauthorized")


async def test_reviews_are_answered_and_not_stored(api: Api) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    found = await api.create(path, {"spec": {"resourceAttributes": {"verb": "get"}}})
    assert found["status"]["allowed"] is True
    found = await api.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert found["status"]["userInfo"] == {"username": "tester", "uid": "1", "groups": ["g", "system:authenticated"]}


async def test_discovery_in_both_forms(api: Api) -> None:
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    found = await api.get("/apis", Accept=accept)
    assert found["kind"] == "APIGroupDiscoveryList"
    assert "networking.k8s.io" in [item["metadata"]["name"] for item in found["items"]]
    core = await api.get("/api", Accept=accept)
    pods = next(row for row in core["items"][0]["versions"][0]["resources"] if row["resource"] == "pods")
    assert {sub["subresource"] for sub in pods["subresources"]} >= {"status", "exec", "log", "binding"}
    groups = {group["name"] for group in (await api.get("/apis"))["groups"]}
    assert groups == {item["metadata"]["name"] for item in found["items"]}
    listed = await api.get("/apis/apps/v1")
    assert "deployments/scale" in [row["name"] for row in listed["resources"]]


async def test_every_reference_of_the_openapi_documents_leads_somewhere(api: Api) -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*(references(item) for item in value.values()))
        return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()

    for place in (await api.get("/openapi/v3"))["paths"].values():
        document = await api.get(place["serverRelativeURL"])
        names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
        assert references(document) <= names
    document = await api.get("/openapi/v2")
    assert references(document) <= {f"#/definitions/{name}" for name in document["definitions"]}


async def test_old_events_are_removed(api: Api) -> None:
    path = "/api/v1/namespaces/default/events"
    await api.create(path, {"metadata": {"name": "e"}, "involvedObject": {"namespace": "default", "name": "x"}})
    assert await upkeep.sweep(api.state, api.life) == 0
    clock = api.life.source.now().replace(year=api.life.source.now().year + 1)
    api.life.source = type(api.life.source)(clock=clock)
    assert await upkeep.sweep(api.state, api.life) == 1
    assert (await api.get(path))["items"] == []
