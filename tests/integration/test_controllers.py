"""The controllers as users of kubectl meet them: on an API server, with nodes that only say that they run pods."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from isthmus.kube.client import Client
from isthmus.kube.kubeconfig import load
from tests.support.apiserver import ApiServer, needs_kubectl
from tests.support.controllers import SERVERS, Controllers, running_controllers, running_server
from tests.support.kubelets import Kubelets

pytestmark = needs_kubectl
NODES = ("control", "worker", "worker2")
PATIENCE = 20.0
_numbers = itertools.count()


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_server(request.param, tmp_path_factory.mktemp("api")) as found:
        yield found


@pytest.fixture(scope="module")
def controllers(server: ApiServer) -> Iterator[Controllers]:
    with running_controllers(server) as found:
        yield found


@pytest.fixture
async def nodes(server: ApiServer, controllers: Controllers) -> AsyncIterator[Kubelets]:
    async with (
        Client(load(server.directory / "kubeconfig")) as client,
        Kubelets(client, NODES).running(beat=0.5) as found,
    ):
        await server.ok("wait", "--for=condition=Ready", "node", "--all", "--timeout=20s")
        yield found


class Place:
    """kubectl in a namespace of one's own."""

    def __init__(self, server: ApiServer, name: str) -> None:
        self.server = server
        self.name = name

    async def __call__(self, *words: str, stdin: Any = None) -> str:
        text = json.dumps(stdin) if stdin is not None else None
        return await self.server.ok("-n", self.name, *words, stdin=text)

    async def get(self, *words: str) -> Any:
        return await self.server.json("-n", self.name, "get", *words)

    async def apply(self, *objects: Any) -> None:
        await self("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": list(objects)})

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not await holds():
                await asyncio.sleep(0.1)


@pytest.fixture
async def place(server: ApiServer, nodes: Kubelets) -> AsyncIterator[Place]:
    found = Place(server, f"t{next(_numbers)}")
    await server.ok("create", "namespace", found.name)
    await found.until(lambda: has_account(found))
    yield found
    # The namespace goes with all that is in it: every test is one of the namespace controller, too.
    await server.ok("delete", "namespace", found.name, "--timeout=20s")


async def has_account(place: Place) -> bool:
    listed = await place.get("serviceaccounts,configmaps")
    return {item["metadata"]["name"] for item in listed["items"]} >= {"default", "kube-root-ca.crt"}


def workload(kind: str, name: str, *, image: str = "one", pod: dict[str, Any] | None = None, **spec: Any) -> Any:
    group = "batch/v1" if kind == "Job" else "apps/v1"
    template: Any = {"spec": {"containers": [{"name": "c", "image": image}], **(pod or {})}}
    if kind != "Job":
        template["metadata"] = {"labels": {"app": name}}
        spec["selector"] = {"matchLabels": {"app": name}}
    body = {"apiVersion": group, "kind": kind, "metadata": {"name": name}}
    return {**body, "spec": {**spec, "template": template}}


async def test_rollout_status_counts_as_users_know_it(place: Place, nodes: Kubelets) -> None:
    await place.apply(workload("Deployment", "rebel-base", replicas=0))
    await place("rollout", "status", "deployment/rebel-base")
    nodes.permits = 0
    await place("scale", "deployment", "rebel-base", "--replicas=2")
    await place("wait", "--for=jsonpath={.status.updatedReplicas}=2", "deployment/rebel-base", "--timeout=20s")
    process = await asyncio.create_subprocess_exec(
        "kubectl",
        *("-n", place.name, "rollout", "status", "deployment/rebel-base"),
        stdout=asyncio.subprocess.PIPE,
        env=place.server.environment(),
    )
    assert process.stdout is not None
    lines = []
    async with asyncio.timeout(PATIENCE):
        for permits in (1, 1, 0):
            lines.append((await process.stdout.readline()).decode().strip())
            nodes.permits = permits
            nodes.look_again()
        await process.wait()
    waiting = 'Waiting for deployment "rebel-base" rollout to finish:'
    assert lines == [
        f"{waiting} 0 of 2 updated replicas are available...",
        f"{waiting} 1 of 2 updated replicas are available...",
        'deployment "rebel-base" successfully rolled out',
    ]
    pods = (await place.get("pods"))["items"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2


async def test_history_undo_pause_and_restart(place: Place) -> None:
    await place.apply(workload("Deployment", "web", replicas=3))
    await place("rollout", "status", "deployment/web", "--timeout=20s")
    await place("set", "image", "deployment/web", "c=two")
    await place("rollout", "status", "deployment/web", "--timeout=20s")
    assert [line.split()[0] for line in (await place("rollout", "history", "deployment/web")).splitlines()[2:4]] == [
        "1",
        "2",
    ]
    assert "Image:\tone" in await place("rollout", "history", "deployment/web", "--revision=1")
    await place("rollout", "undo", "deployment/web")
    await place("rollout", "status", "deployment/web", "--timeout=20s")
    found = await place.get("deployment", "web")
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "one"
    assert found["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
    await place("rollout", "pause", "deployment/web")
    await place("set", "image", "deployment/web", "c=three")
    await place("rollout", "resume", "deployment/web")
    await place("rollout", "restart", "deployment/web")
    await place("rollout", "status", "deployment/web", "--timeout=20s")
    sets = (await place.get("replicasets"))["items"]
    assert sorted(one["spec"]["replicas"] for one in sets if one["spec"]["replicas"]) == [3]
    reasons = {event["reason"] for event in (await place.get("events"))["items"]}
    assert reasons >= {"ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete", "Scheduled"}


async def test_a_rollout_that_cannot_finish_keeps_what_works(place: Place, nodes: Kubelets) -> None:
    nodes.broken.add("bad")
    await place.apply(workload("Deployment", "web", replicas=4, progressDeadlineSeconds=2, minReadySeconds=1))
    await place("rollout", "status", "deployment/web", "--timeout=20s")
    await place("set", "image", "deployment/web", "c=bad")
    said = await place.server.fails("-n", place.name, "rollout", "status", "deployment/web", "--timeout=20s")
    assert 'deployment "web" exceeded its progress deadline' in said
    found = (await place.get("deployment", "web"))["status"]
    assert found["availableReplicas"] >= 3
    await place("rollout", "undo", "deployment/web")
    await place("rollout", "status", "deployment/web", "--timeout=20s")


async def test_a_killed_process_leaves_nothing_half_done(place: Place, controllers: Controllers) -> None:
    await place.apply(workload("Deployment", "web", replicas=6))
    await place("rollout", "status", "deployment/web", "--timeout=20s")
    await place("set", "image", "deployment/web", "c=two")
    await place("wait", "--for=jsonpath={.status.updatedReplicas}", "deployment/web", "--timeout=20s")
    controllers.kill()
    await place("scale", "deployment", "web", "--replicas=4")
    pods = (await place.get("pods"))["items"]
    await place("delete", "pod", pods[0]["metadata"]["name"], "--wait=false")
    controllers.start()
    await place("rollout", "status", "deployment/web", "--timeout=20s")

    async def settled() -> bool:
        images = [pod["spec"]["containers"][0]["image"] for pod in (await place.get("pods"))["items"]]
        return images == ["two"] * 4

    await place.until(settled)


async def test_stateful_sets_have_names_revisions_and_hostnames(place: Place) -> None:
    ports = [{"port": 80}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}
    service["spec"] = {"clusterIP": "None", "selector": {"app": "web"}, "ports": ports}
    await place.apply(service, workload("StatefulSet", "web", replicas=2, serviceName="web"))
    await place("rollout", "status", "statefulset/web", "--timeout=20s")
    names = [pod["metadata"]["name"] for pod in (await place.get("pods"))["items"]]
    assert names == ["web-0", "web-1"]

    async def known() -> bool:
        slices = (await place.get("endpointslices"))["items"]
        found = sorted(one.get("hostname", "") for item in slices for one in item.get("endpoints") or ())
        return found == names

    await place.until(known)
    await place("set", "image", "statefulset/web", "c=two")
    await place("rollout", "status", "statefulset/web", "--timeout=20s")
    await place("rollout", "undo", "statefulset/web")
    await place("rollout", "status", "statefulset/web", "--timeout=20s")
    images = {pod["spec"]["containers"][0]["image"] for pod in (await place.get("pods"))["items"]}
    assert images == {"one"}
    await place("scale", "statefulset", "web", "--replicas=1")
    await place("wait", "--for=delete", "pod/web-1", "--timeout=20s")


async def test_daemons_run_everywhere_and_update(place: Place) -> None:
    await place.apply(workload("DaemonSet", "agent"))
    await place("rollout", "status", "daemonset/agent", "--timeout=20s")
    pods = (await place.get("pods"))["items"]
    assert sorted(pod["spec"]["nodeName"] for pod in pods) == list(NODES)
    await place("set", "image", "daemonset/agent", "c=two")
    await place("rollout", "status", "daemonset/agent", "--timeout=20s")
    await place("rollout", "undo", "daemonset/agent")
    await place("rollout", "status", "daemonset/agent", "--timeout=20s")
    status = (await place.get("daemonset", "agent"))["status"]
    assert (status["desiredNumberScheduled"], status["updatedNumberScheduled"], status["numberReady"]) == (3, 3, 3)


async def test_jobs_complete_fail_and_expire(place: Place, nodes: Kubelets) -> None:
    nodes.finish = {"good": "Succeeded", "bad": "Failed"}
    never = {"restartPolicy": "Never"}
    await place.apply(
        workload("Job", "many", image="good", pod=never, completions=5, parallelism=2),
        workload("Job", "numbered", image="good", pod=never, completions=3, completionMode="Indexed"),
        workload("Job", "bad", image="bad", pod=never, backoffLimit=0, ttlSecondsAfterFinished=1),
        workload("Job", "late", pod=never, activeDeadlineSeconds=1),
    )
    await place("wait", "--for=condition=complete", "job/many", "job/numbered", "--timeout=20s")
    await place("wait", "--for=condition=failed", "job/late", "--timeout=20s")
    await place("wait", "--for=delete", "job/bad", "--timeout=20s")
    many = (await place.get("job", "many"))["status"]
    assert (many["succeeded"], many.get("failed", 0)) == (5, 0)
    assert (await place.get("job", "numbered"))["status"]["completedIndexes"] == "0-2"
    assert len((await place.get("pods", "-l", "job-name=many"))["items"]) == 5


async def test_endpoints_follow_pods_and_hand_made_ones_are_mirrored(place: Place) -> None:
    def service(name: str, **spec: Any) -> Any:
        body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}}
        return {**body, "spec": {"ports": [{"port": 80}], **spec}}

    by_hand = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db"}}
    by_hand["subsets"] = [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}]
    await place.apply(
        service("web", selector={"app": "web"}), service("db"), by_hand, workload("Deployment", "web", replicas=2)
    )
    await place("rollout", "status", "deployment/web", "--timeout=20s")

    async def addresses(name: str) -> list[str]:
        items = (await place.get("endpointslices", "-l", f"kubernetes.io/service-name={name}"))["items"]
        ready = [one for item in items for one in item.get("endpoints") or () if one["conditions"]["ready"]]
        return sorted(one["addresses"][0] for one in ready)

    async def shown() -> bool:
        pods = sorted(pod["status"].get("podIP", "") for pod in (await place.get("pods"))["items"])
        return await addresses("web") == pods and await addresses("db") == ["192.0.2.7"]

    await place.until(shown)
    await place("scale", "deployment", "web", "--replicas=1")
    await place("wait", "--for=jsonpath={.status.replicas}=1", "deployment/web", "--timeout=20s")
    await place.until(shown)
    await place("delete", "service", "web", "db")

    async def gone() -> bool:
        listed = await place.get("endpointslices,endpoints")
        return not listed["items"]

    await place.until(gone)


async def test_cascades(place: Place) -> None:
    await place.apply(workload("Deployment", "web", replicas=2))
    await place("rollout", "status", "deployment/web", "--timeout=20s")
    await place("delete", "deployment", "web", "--cascade=foreground", "--timeout=20s")
    assert (await place.get("replicasets,pods"))["items"] == []
    await place.apply(workload("Deployment", "web", replicas=1))
    await place("rollout", "status", "deployment/web", "--timeout=20s")
    await place("delete", "deployment", "web", "--cascade=orphan", "--timeout=20s")
    (left,) = (await place.get("replicasets"))["items"]
    assert not left["metadata"].get("ownerReferences")
    # A new Deployment of the same selector adopts what it finds.
    await place.apply(workload("Deployment", "web", replicas=1))
    await place("rollout", "status", "deployment/web", "--timeout=20s")
    (adopted,) = (await place.get("replicasets"))["items"]
    assert adopted["metadata"]["uid"] == left["metadata"]["uid"]
    assert adopted["metadata"]["ownerReferences"][0]["kind"] == "Deployment"
    await place("delete", "deployment", "web")

    async def empty() -> bool:
        return not (await place.get("replicasets,pods"))["items"]

    await place.until(empty)


async def test_custom_resources_are_collected_while_their_definition_comes_and_goes(place: Place) -> None:
    group = f"{place.name}.example.com"
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    }
    await place.apply(definition)
    await place("wait", "--for=condition=Established", f"crd/widgets.{group}", "--timeout=20s")
    owner = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "owner"}}

    async def served() -> bool:
        status, _, _ = await place.server.run("-n", place.name, "apply", "-f", "-", stdin=json.dumps(owner))
        return status == 0

    await place.until(served)
    uid = (await place.get(f"widgets.{group}", "owner"))["metadata"]["uid"]
    reference = {"apiVersion": f"{group}/v1", "kind": "Widget", "name": "owner", "uid": uid}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "ownerReferences": [reference]}}
    dependent = {**owner, "metadata": {"name": "owned", "ownerReferences": [reference]}}
    await place.apply(config, dependent)
    await place("delete", f"widgets.{group}", "owner")
    await place("wait", "--for=delete", "configmap/owned", f"widgets.{group}/owned", "--timeout=20s")
    await place.apply(dependent | {"metadata": {"name": "last"}})
    await place("delete", "crd", f"widgets.{group}", "--timeout=20s")


async def test_an_owner_in_another_namespace_is_told_as_such(place: Place) -> None:
    far = (await place.server.json("-n", "default", "get", "configmap", "kube-root-ca.crt"))["metadata"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": far["uid"]}
    meta = {"name": "owned", "ownerReferences": [reference]}
    await place.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
    await place("wait", "--for=delete", "configmap/owned", "--timeout=20s")

    async def told() -> bool:
        return "OwnerRefInvalidNamespace" in {event["reason"] for event in (await place.get("events"))["items"]}

    await place.until(told)


async def test_a_namespace_says_what_holds_it(place: Place) -> None:
    name = f"{place.name}-held"
    await place("create", "namespace", name)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "finalizers": ["example.com/hold"]}}
    await place.server.ok("-n", name, "apply", "-f", "-", stdin=json.dumps(config))
    await place("delete", "namespace", name, "--wait=false")
    await place("wait", "--for=condition=NamespaceFinalizersRemaining", f"namespace/{name}", "--timeout=20s")
    conditions = {one["type"]: one["message"] for one in (await place.get("namespace", name))["status"]["conditions"]}
    assert conditions["NamespaceContentRemaining"] == (
        "Some resources are remaining: configmaps has 1 resource instances"
    )
    assert conditions["NamespaceFinalizersRemaining"] == (
        "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
    )
    await place.server.ok(
        "-n", name, "patch", "configmap", "c", "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
    )
    await place("wait", "--for=delete", f"namespace/{name}", "--timeout=20s")


async def test_a_token_secret_is_filled_and_goes_with_its_account(place: Place) -> None:
    await place("create", "serviceaccount", "bob")
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token"}
    annotations = {"kubernetes.io/service-account.name": "bob"}
    await place.apply({**secret, "metadata": {"name": "bob", "annotations": annotations}})
    await place("wait", "--for=jsonpath={.data.token}", "secret/bob", "--timeout=20s")
    assert set((await place.get("secret", "bob"))["data"]) == {"ca.crt", "namespace", "token"}
    await place("delete", "serviceaccount", "bob")
    await place("wait", "--for=delete", "secret/bob", "--timeout=20s")


async def test_why_a_pod_has_no_node_is_said_once(place: Place) -> None:
    big = {"containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "500"}}}]}
    await place.apply(workload("Deployment", "big", replicas=1, pod=big))
    text = "0/3 nodes are available: 3 Insufficient cpu."

    async def told() -> bool:
        found = [event for event in (await place.get("events"))["items"] if event["reason"] == "FailedScheduling"]
        return [(event["message"], event["count"]) for event in found] == [(text, 1)]

    await place.until(told)
    (pod,) = (await place.get("pods"))["items"]
    (condition,) = [one for one in pod["status"]["conditions"] if one["type"] == "PodScheduled"]
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "Unschedulable", text)


async def test_a_cordoned_node_gets_no_pods_and_a_gate_holds_them(place: Place) -> None:
    await place("cordon", "worker")
    try:
        await place.apply(
            workload("Deployment", "web", replicas=4, pod={"schedulingGates": [{"name": "example.com/g"}]})
        )
        await place("wait", "--for=jsonpath={.status.replicas}=4", "replicaset", "-l", "app=web", "--timeout=20s")
        assert not any("nodeName" in pod["spec"] for pod in (await place.get("pods"))["items"])
        await place("patch", "deployment", "web", "--type=json", "-p", GATELESS)
        await place("rollout", "status", "deployment/web", "--timeout=20s")
        assert {pod["spec"]["nodeName"] for pod in (await place.get("pods"))["items"]} == {"control", "worker2"}
    finally:
        await place("uncordon", "worker")


GATELESS = '[{"op":"remove","path":"/spec/template/spec/schedulingGates"}]'


async def test_a_silent_node_loses_its_pods_and_is_forgiven(place: Place, nodes: Kubelets) -> None:
    quick = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
        for key in ("unreachable", "not-ready")
    ]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}
    service["spec"] = {"selector": {"app": "web"}, "ports": [{"port": 80}]}
    await place.apply(service, workload("Deployment", "web", replicas=3, pod={"tolerations": quick}))
    await place("rollout", "status", "deployment/web", "--timeout=20s")
    nodes.silent.add("worker2")
    await place("wait", "--for=condition=Ready=Unknown", "node/worker2", "--timeout=30s")

    async def moved() -> bool:
        slices = (await place.get("endpointslices"))["items"]
        ready = [one for item in slices for one in item["endpoints"] if one["conditions"]["ready"]]
        return len(ready) == 3 and all(one["nodeName"] != "worker2" for one in ready)

    await place.until(moved)
    taints = (await place.get("node", "worker2"))["spec"]["taints"]
    assert {(one["key"], one["effect"]) for one in taints} == {
        ("node.kubernetes.io/unreachable", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
    }
    nodes.silent.clear()
    await place("wait", "--for=condition=Ready", "node/worker2", "--timeout=20s")

    async def forgiven() -> bool:
        return "taints" not in (await place.get("node", "worker2"))["spec"]

    await place.until(forgiven)
    nodes.look_again()

    async def swept() -> bool:
        return len((await place.get("pods"))["items"]) == 3

    await place.until(swept)
