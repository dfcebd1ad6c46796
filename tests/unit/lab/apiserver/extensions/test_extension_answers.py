"""The embedded server answers as kube-apiserver 1.33 was recorded to answer, on the definitions that we ship."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import isthmus.lab.addons
from tests.support.apihttp import Api

VECTORS_AT = Path(__file__).parents[4] / "vectors"
VECTORS = json.loads((VECTORS_AT / "custom-resources.json").read_text())
CASES = {case["id"]: case for case in VECTORS["cases"]}
SHIPPED = sorted((Path(isthmus.lab.addons.__file__).parent / "crds").glob("*.yaml"))
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ENGINE_TEXTS = {
    "definition-pattern-bad",
    "definition-pattern-lookahead",
}  # RE2 in C++ words errors otherwise than in Go


def causes_of(body: Any) -> list[list[str]]:
    found = body.get("details", {}).get("causes", [])
    return sorted([cause.get("reason", ""), cause.get("field", ""), cause.get("message", "")] for cause in found)


def comparable(case: Any, causes: list[list[str]]) -> list[list[str]]:
    """Leaves out what shows a structure of Go, or says the same of another place."""
    kept = []
    for reason, field, message in causes:
        if field in ("spec.version", "status.storedVersions"):
            continue
        shown = "" if field == "spec.versions" or case["id"] in ENGINE_TEXTS else message
        kept.append([reason, field, shown])
    return kept


async def test_every_recorded_answer_is_given(api: Api) -> None:
    for definition in [*(yaml.safe_load(path.read_text()) for path in SHIPPED), VECTORS["probe"]]:
        await api.create(DEFINITIONS, definition)
    wrong = []
    for name, case in CASES.items():
        path = f"{case['path']}?dryRun=All&fieldValidation={case['validation']}"
        code, body = await api.send("POST", path, case["object"])
        expected, given = (case["code"], comparable(case, case.get("causes", []))), (code, comparable(case, []))
        if code >= 300:
            given = (code, comparable(case, causes_of(body)))
            if "message" in case and body["message"].partition(": json:")[0] != case["message"].partition(": json:")[0]:
                wrong.append((name, case["message"], body["message"]))
        if expected != given:
            wrong.append((name, expected, given))
    assert wrong == []


def test_the_shipped_definitions_are_what_the_lab_needs() -> None:
    names = {yaml.safe_load(path.read_text())["metadata"]["name"] for path in SHIPPED}
    assert names == {
        "adminnetworkpolicies.policy.networking.k8s.io",
        "baselineadminnetworkpolicies.policy.networking.k8s.io",
        "ciliumcidrgroups.cilium.io",
        "ciliumclusterwidenetworkpolicies.cilium.io",
        "ciliumnetworkpolicies.cilium.io",
        "clusternetworkpolicies.policy.networking.k8s.io",
        "clusterproperties.about.k8s.io",
        "serviceexports.multicluster.x-k8s.io",
        "serviceimports.multicluster.x-k8s.io",
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
async def test_a_shipped_definition_is_accepted_strictly(api: Api, path: Path) -> None:
    definition = yaml.safe_load(path.read_text())
    code, body = await api.send("POST", f"{DEFINITIONS}?fieldValidation=Strict", definition)
    assert code == 201, body
    conditions = {held["type"]: held["status"] for held in body["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}


async def test_every_recorded_step_of_server_side_apply_ends_alike(api: Api) -> None:
    """Each manager applies in turn; objects, conflicts and owners are those of the real server."""
    steps = json.loads((VECTORS_AT / "custom-resource-apply.json").read_text())
    await api.create(DEFINITIONS, steps["definition"])
    for number, step in enumerate(steps["steps"]):
        force = "&force=true" if step["force"] else ""
        path = f"/apis/t.example.com/v1/namespaces/default/ssas/x?fieldManager={step['manager']}{force}"
        code, body = await api.patch(path, step["object"], "apply-patch+yaml")
        assert code == step["code"], (number, body)
        if code < 300:
            assert body["spec"] == step["spec"], number
            owners = {entry["manager"]: entry["fieldsV1"] for entry in body["metadata"]["managedFields"]}
            assert owners == step["owners"], number
        else:
            assert body["message"] == step["message"], number
