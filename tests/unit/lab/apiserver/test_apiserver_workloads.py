"""Sets, Jobs, Ingresses, roles: what is filled in, what is refused, what may not change."""

import copy
from typing import Any

import pytest

from tests.support.apihttp import Api

APPS = "/apis/apps/v1/namespaces/default"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
INGRESSES = "/apis/networking.k8s.io/v1/namespaces/default/ingresses"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
LABELS = {"app": "a"}
POD = {"containers": [{"name": "c", "image": "nginx"}]}


def workload(name: str = "w", *, pod: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": LABELS}, "spec": copy.deepcopy(pod or POD)}
    held = {"selector": {"matchLabels": LABELS}, "template": template, **spec}
    return {"metadata": {"name": name}, "spec": {key: item for key, item in held.items() if item is not None}}


def job(**spec: Any) -> dict[str, Any]:
    return workload("j", pod={**POD, "restartPolicy": "Never"}, **{"selector": None, **spec})


async def refused(api: Api, path: str, body: dict[str, Any]) -> str:
    code, found = await api.send("POST", path, body)
    assert code == 422, found
    return str(found["message"]).partition(" is invalid: ")[2]


async def test_a_stateful_set_gets_what_it_left_out(api: Api) -> None:
    spec = (await api.create(f"{APPS}/statefulsets", workload(serviceName="s")))["spec"]
    assert (spec["replicas"], spec["podManagementPolicy"], spec["revisionHistoryLimit"]) == (1, "OrderedReady", 10)
    assert spec["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    code, found = await api.patch(f"{APPS}/statefulsets/w", {"spec": {"serviceName": "t"}})
    assert code == 422 and "updates to statefulset spec for fields other than 'replicas'" in found["message"]
    code, found = await api.patch(f"{APPS}/statefulsets/w", {"spec": {"replicas": 3}})
    assert (code, found["metadata"]["generation"]) == (200, 2)


async def test_a_daemon_set_gets_what_it_left_out(api: Api) -> None:
    made = await api.create(f"{APPS}/daemonsets", workload())
    spec, count = made["spec"], "deprecated.daemonset.template.generation"
    assert made["metadata"]["annotations"][count] == "1"
    change = {"template": {"metadata": {"annotations": {"a": "b"}}}}
    code, found = await api.patch(f"{APPS}/daemonsets/w", {"spec": change, "metadata": {"annotations": None}})
    assert (code, found["metadata"]["annotations"][count]) == (200, "2")
    assert spec["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    path = f"{APPS}/daemonsets/w/status"
    status = {"currentNumberScheduled": 1, "numberMisscheduled": 0, "desiredNumberScheduled": 1, "numberReady": 1}
    code, found = await api.patch(path, {"status": {**status, "observedGeneration": 1}})
    assert (code, found["metadata"]["generation"], found["status"]["numberMisscheduled"]) == (200, 2, 0)
    code, found = await api.patch(path, {"status": {"numberReady": -1}})
    assert code == 422 and found["details"]["causes"][0]["field"] == "status.numberReady"


async def test_a_job_gets_a_selector_that_finds_only_its_own_pods(api: Api) -> None:
    made = await api.create(JOBS, job())
    uid, spec = made["metadata"]["uid"], made["spec"]
    assert made["metadata"]["labels"] == spec["template"]["metadata"]["labels"]
    assert spec["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert spec["template"]["metadata"]["labels"] == {
        **LABELS,
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": "j",
        "controller-uid": uid,
        "job-name": "j",
    }
    wanted = {"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": False}
    assert wanted.items() <= spec.items()
    for change in ({"completions": 2}, {"template": {"spec": {"restartPolicy": "OnFailure"}}}):
        code, found = await api.patch(f"{JOBS}/j", {"spec": change})
        assert code == 422 and "field is immutable" in found["message"], found
    code, _ = await api.patch(f"{JOBS}/j", {"spec": {"parallelism": 2, "suspend": True}})
    assert code == 200


@pytest.mark.parametrize(
    ("plural", "body", "told"),
    [
        ("deployments", workload(selector=None), "spec.selector: Required value"),
        (
            "deployments",
            workload(selector={"matchLabels": {"app": "b"}}),
            'labels: Invalid value: map[string]string{"app":"a"}: `selector` does not match template `labels`',
        ),
        ("deployments", workload(selector={}), "empty selector is invalid for deployment"),
        ("deployments", workload(replicas=-1), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        ("deployments", workload(pod={"containers": []}), "spec.template.spec.containers: Required value"),
        (
            "deployments",
            workload(pod={"containers": [{"name": "c"}]}),
            "spec.template.spec.containers[0].image: Required value",
        ),
        (
            "deployments",
            workload(strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        ("deployments", workload(strategy={"rollingUpdate": {"maxSurge": "x"}}), "a valid percent string must be"),
        ("deployments", workload(progressDeadlineSeconds=5, minReadySeconds=5), "must be greater than minReadySeconds"),
        ("replicasets", workload(pod={**POD, "restartPolicy": "Never"}), 'supported values: "Always"'),
        ("statefulsets", workload(podManagementPolicy="x"), "must be 'OrderedReady' or 'Parallel'"),
        ("statefulsets", workload(updateStrategy={"type": "OnDelete", "rollingUpdate": {}}), "only allowed for"),
        (
            "daemonsets",
            workload(updateStrategy={"rollingUpdate": {"maxSurge": 1}}),
            "maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
        ),
        ("controllerrevisions", {"metadata": {"name": "r"}, "revision": 1}, "data: Required value: data is mandatory"),
    ],
)
async def test_a_workload_that_cannot_be_is_refused_with_path_and_reason(
    api: Api, plural: str, body: dict[str, Any], told: str
) -> None:
    assert told in await refused(api, f"{APPS}/{plural}", body)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"template": {"spec": POD}}, 'restartPolicy: Required value: valid values: "OnFailure", "Never"'),
        ({"completionMode": "Indexed", "parallelism": 1}, "spec.completions: Required value: when completion mode is"),
        ({"backoffLimitPerIndex": 1}, "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"),
        ({"backoffLimit": -1}, "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0"),
        ({"podReplacementPolicy": "x"}, 'supported values: "Failed", "TerminatingOrFailed"'),
    ],
)
async def test_a_job_that_cannot_be_is_refused(api: Api, spec: dict[str, Any], told: str) -> None:
    assert told in await refused(api, JOBS, job(**spec))


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({}, "either `defaultBackend` or `rules` must be specified"),
        ({"rules": [{"host": "10.0.0.1"}]}, "must be a DNS name, not an IP address"),
        ({"rules": [{"host": "*"}]}, "a wildcard DNS-1123 subdomain must start with '*.'"),
        ({"rules": [{"http": {"paths": []}}]}, "spec.rules[0].http.paths: Required value"),
        ({"rules": [{"http": {"paths": [{"path": "/"}]}}]}, "paths[0].pathType: Required value: pathType must be"),
        (
            {"rules": [{"http": {"paths": [{"path": "x", "pathType": "Prefix", "backend": {}}]}}]},
            'path: Invalid value: "x": must be an absolute path',
        ),
        ({"defaultBackend": {"service": {"name": "s"}}}, "spec.defaultBackend: Required value: port name or number is"),
        ({"defaultBackend": {}}, "resource or service backend is required"),
    ],
)
async def test_an_ingress_that_cannot_be_is_refused(api: Api, spec: dict[str, Any], told: str) -> None:
    assert told in await refused(api, INGRESSES, {"metadata": {"name": "i"}, "spec": spec})


async def test_an_ingress_without_a_class_gets_the_default_one(api: Api) -> None:
    note = {"ingressclass.kubernetes.io/is-default-class": "true"}
    body = {"metadata": {"name": "web", "annotations": note}, "spec": {"controller": "example.com/web"}}
    await api.create("/apis/networking.k8s.io/v1/ingressclasses", body)
    backend = {"service": {"name": "s", "port": {"number": 80}}}
    made = await api.create(INGRESSES, {"metadata": {"name": "i"}, "spec": {"defaultBackend": backend}})
    assert made["spec"]["ingressClassName"] == "web"


async def test_roles_and_bindings(api: Api) -> None:
    rule = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}
    await api.create(f"{RBAC}/clusterroles", {"metadata": {"name": "system:r"}, "rules": [rule]})
    told = await refused(api, f"{RBAC}/clusterroles", {"metadata": {"name": "s"}, "rules": [{"verbs": []}]})
    assert "rules[0].verbs: Required value: verbs must contain at least one value" in told
    about = {"roleRef": {"kind": "ClusterRole", "name": "system:r"}, "subjects": [{"kind": "User", "name": "u"}]}
    made = await api.create(f"{RBAC}/clusterrolebindings", {"metadata": {"name": "b"}, **about})
    assert made["roleRef"]["apiGroup"] == made["subjects"][0]["apiGroup"] == "rbac.authorization.k8s.io"
    code, found = await api.patch(f"{RBAC}/clusterrolebindings/b", {"roleRef": {"name": "other"}})
    assert code == 422 and "cannot change roleRef" in found["message"]


async def test_a_scale_changes_replicas_and_nothing_else(api: Api) -> None:
    await api.create(f"{APPS}/statefulsets", workload())
    scale = await api.get(f"{APPS}/statefulsets/w/scale")
    assert (scale["spec"], scale["status"]) == ({"replicas": 1}, {"replicas": 0, "selector": "app=a"})
    stale = {**scale, "metadata": {**scale["metadata"], "resourceVersion": "1"}, "spec": {"replicas": 2}}
    code, found = await api.send("PUT", f"{APPS}/statefulsets/w/scale", stale)
    assert (code, found["reason"]) == (409, "Conflict")
    code, found = await api.patch(f"{APPS}/statefulsets/w/scale", {"spec": {"replicas": 3}})
    assert (code, found["spec"]) == (200, {"replicas": 3})
    code, found = await api.patch(f"{APPS}/statefulsets/w/scale", {"spec": {"replicas": -3}})
    assert code == 422
    assert (await api.get(f"{APPS}/statefulsets/w"))["metadata"]["generation"] == 2
