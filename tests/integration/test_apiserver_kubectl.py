"""Real kubectl against the real process: what people type, and what they read."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.apiserver import ApiServer, FakeNode, needs_kubectl, running_apiserver

pytestmark = [pytest.mark.kubectl, needs_kubectl]

IMAGE = "registry.k8s.io/e2e-test-images/agnhost:2.39"
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny-ingress}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
"""
ALLOW = """
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {cluster.clusterset.k8s.io: c1, kubernetes.io/metadata.name: demo-c1}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path_factory.mktemp("apiserver"), "--advertise=192.0.2.1:6443") as running:
        yield running


@pytest.fixture
async def space(server: ApiServer, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A namespace of the test's own."""
    name = request.node.name.replace("_", "-").lower()[:50].strip("-")
    await server.ok("create", "namespace", name)
    yield name


async def with_node(server: ApiServer, node: FakeNode, *, name: str) -> None:
    """Registers a node whose address is the fake's."""
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}}
    body["status"] = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": node.port}},
        "conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": {"kubeletVersion": "v1.32.0"},
    }
    await server.ok("create", "-f", "-", stdin=json.dumps(body))


async def set_running(server: ApiServer, space: str, pod: str, *, ip: str, node: str) -> None:
    """Plays scheduler and node: binds the pod and reports it running."""
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target}
    code, body = server.request("POST", f"/api/v1/namespaces/{space}/pods/{pod}/binding", binding)
    assert code == 201, body
    state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    status = {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [
            {"name": pod, "ready": True, "restartCount": 0, "image": "x", "imageID": "", "state": state}
        ],
    }
    headers = {"Content-Type": "application/merge-patch+json"}
    path = f"/api/v1/namespaces/{space}/pods/{pod}/status"
    code, body = server.request("PATCH", path, {"status": status}, headers=headers)
    assert code == 200, body


async def test_namespaces_are_created_labelled_and_shown(server: ApiServer) -> None:
    assert await server.ok("create", "ns", "demo-c1") == "namespace/demo-c1 created\n"
    assert await server.ok("label", "ns", "demo-c1", "cluster.clusterset.k8s.io=c1") == "namespace/demo-c1 labeled\n"
    found = await server.json("get", "ns", "demo-c1")
    assert found["metadata"]["labels"] == {
        "cluster.clusterset.k8s.io": "c1",
        "kubernetes.io/metadata.name": "demo-c1",
    }
    assert "already has a value" in await server.fails("label", "ns", "demo-c1", "cluster.clusterset.k8s.io=c2")
    table = await server.ok("get", "ns")
    assert table.split("\n")[0].split() == ["NAME", "STATUS", "AGE"]
    assert [line.split()[:2] for line in table.splitlines() if line.startswith("demo-c1")] == [["demo-c1", "Active"]]
    assert "already exists" in await server.fails("create", "ns", "demo-c1")
    assert "may not be deleted" in await server.fails("delete", "ns", "kube-system")


async def test_run_with_expose_makes_pod_and_service(server: ApiServer, space: str) -> None:
    words = ("--image", IMAGE, "--labels=app=web", "--expose", "--port=80", "--", "netexec", "--http-port=80")
    output = await server.ok("-n", space, "run", "web", *words)
    assert output == "service/web created\npod/web created\n"
    pod = await server.json("-n", space, "get", "pod", "web")
    assert pod["spec"]["containers"][0]["args"] == ["netexec", "--http-port=80"]
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert pod["status"]["phase"] == "Pending"
    address = await server.ok("-n", space, "get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}")
    assert address.startswith("10.96.")
    described = await server.ok("-n", space, "describe", "svc", "web")
    assert address in described
    assert "app=web" in described
    wide = await server.ok("-n", space, "get", "pods", "-o", "wide")
    assert wide.splitlines()[0].split() == [
        *("NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED", "NODE", "READINESS", "GATES")
    ]
    assert wide.splitlines()[1].split()[:4] == ["web", "0/1", "Pending", "0"]
    everything = await server.ok("-n", space, "get", "all")
    assert "pod/web" in everything
    assert "service/web" in everything
    assert await server.ok("-n", space, "get", "pod", "-l", "app=web", "-o", "name") == "pod/web\n"
    assert 'pod "web" deleted' in await server.ok("-n", space, "delete", "pod", "web")
    assert await server.ok("-n", space, "get", "pod", "-o", "name") == ""


async def test_a_running_pod_has_its_address_and_can_be_waited_for(server: ApiServer, space: str) -> None:
    async with FakeNode().running() as node:
        await with_node(server, node, name="waiting")
        await server.ok("-n", space, "run", "web", f"--image={IMAGE}", "--labels=app=web")
        waiting = asyncio.create_task(
            server.ok("-n", space, "wait", "--for=condition=Ready", "pod/web", "--timeout=20s")
        )
        await set_running(server, space, "web", ip="10.10.0.7", node="waiting")
        assert await waiting == "pod/web condition met\n"
        words = ("get", "pod", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}")
        assert await server.ok("-n", space, *words) == "10.10.0.7"
        row = (await server.ok("-n", space, "get", "pod", "web", "-o", "wide")).splitlines()[1].split()
        assert row[1:3] == ["1/1", "Running"]
        assert row[5:7] == ["10.10.0.7", "waiting"]
        assert "10.10.0.7" in await server.ok("-n", space, "describe", "pod", "web")
        selected = await server.ok("get", "pods", "-A", "--field-selector=spec.nodeName=waiting", "-o", "name")
        assert selected == "pod/web\n"
        nodes = (await server.ok("get", "nodes", "-o", "wide")).splitlines()
        assert nodes[1].split()[:2] == ["waiting", "Ready"]
        assert nodes[1].split()[4:6] == ["v1.32.0", "127.0.0.1"]
        # A pod that a node runs is first marked, and gone when the node says so.
        await server.ok("-n", space, "delete", "pod", "web", "--wait=false")
        row = (await server.ok("-n", space, "get", "pod", "web")).splitlines()[1].split()
        assert row[2] == "Terminating"
        deleting = asyncio.create_task(server.ok("-n", space, "delete", "pod", "web", "--timeout=20s"))
        code, _ = server.request("DELETE", f"/api/v1/namespaces/{space}/pods/web", {"gracePeriodSeconds": 0})
        assert code == 200
        await asyncio.wait([deleting])
        assert "not found" in await server.fails("-n", space, "get", "pod", "web")
        await server.ok("delete", "node", "waiting")


async def test_apply_twice_changes_what_changed(server: ApiServer, space: str) -> None:
    name = "networkpolicy.networking.k8s.io/default-deny-ingress"
    assert await server.ok("-n", space, "apply", "-f", "-", stdin=POLICY) == f"{name} created\n"
    assert await server.ok("-n", space, "apply", "-f", "-", stdin=POLICY) == f"{name} unchanged\n"
    assert await server.ok("-n", space, "apply", "-f", "-", stdin=POLICY + ALLOW) == f"{name} configured\n"
    found = await server.json("-n", space, "get", "netpol", "default-deny-ingress")
    assert found["metadata"]["generation"] == 2
    peer = found["spec"]["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"]
    assert peer == {"cluster.clusterset.k8s.io": "c1", "kubernetes.io/metadata.name": "demo-c1"}
    table = (await server.ok("-n", space, "get", "networkpolicies")).splitlines()
    assert table[0].split() == ["NAME", "POD-SELECTOR", "AGE"]
    assert table[1].split()[:2] == ["default-deny-ingress", "app=web"]
    described = await server.ok("-n", space, "describe", "netpol", "default-deny-ingress")
    assert "NamespaceSelector: cluster.clusterset.k8s.io=c1,kubernetes.io/metadata.name=demo-c1" in described
    status, difference, _ = await server.run("-n", space, "diff", "-f", "-", stdin=POLICY)
    assert status == 1
    assert "-  ingress:" in difference
    assert "resourceVersion" not in [line.strip("+- ") for line in difference.splitlines() if line[:1] in "+-"]
    assert await server.ok("-n", space, "apply", "-f", "-", stdin=POLICY) == f"{name} configured\n"
    found = await server.json("-n", space, "get", "netpol", "default-deny-ingress")
    assert "ingress" not in found["spec"]
    assert await server.ok("-n", space, "delete", "-f", "-", stdin=POLICY) == (
        'networkpolicy.networking.k8s.io "default-deny-ingress" deleted\n'
    )


async def test_server_side_apply_owns_fields_and_refuses_conflicts(server: ApiServer, space: str) -> None:
    first = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared}\ndata: {a: '1', b: '1'}\n"
    second = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared}\ndata: {a: '2'}\n"
    apply = ("-n", space, "apply", "--server-side", "-f", "-")
    assert await server.ok(*apply, stdin=first) == "configmap/shared serverside-applied\n"
    refused = await server.fails(*apply, "--field-manager=other", stdin=second)
    assert 'Apply failed with 1 conflict: conflict with "kubectl": .data.a' in refused
    await server.ok(*apply, "--field-manager=other", "--force-conflicts", stdin=second)
    found = await server.json("-n", space, "get", "cm", "shared", "--show-managed-fields")
    assert found["data"] == {"a": "2", "b": "1"}
    owned = {entry["manager"]: entry["fieldsV1"]["f:data"] for entry in found["metadata"]["managedFields"]}
    assert owned == {"kubectl": {"f:b": {}}, "other": {"f:a": {}}}
    # What its only owner no longer sends goes away.
    await server.ok(*apply, stdin="apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared}\ndata: {}\n")
    assert (await server.json("-n", space, "get", "cm", "shared"))["data"] == {"a": "2"}


async def test_the_three_plain_patch_types(server: ApiServer, space: str) -> None:
    await server.ok("-n", space, "run", "p", "--image=busybox:1", "--labels=a=b")
    patch = '{"spec":{"containers":[{"name":"p","image":"busybox:2"}]}}'
    assert await server.ok("-n", space, "patch", "pod", "p", "-p", patch) == "pod/p patched\n"
    operations = (
        '[{"op":"test","path":"/metadata/labels/a","value":"b"},{"op":"add","path":"/metadata/labels/c","value":"d"}]'
    )
    await server.ok("-n", space, "patch", "pod", "p", "--type=json", "-p", operations)
    merge = '{"metadata":{"labels":{"a":null},"annotations":{"note":"x"}}}'
    await server.ok("-n", space, "patch", "pod", "p", "--type=merge", "-p", merge)
    pod = await server.json("-n", space, "get", "pod", "p")
    assert pod["metadata"]["labels"] == {"c": "d"}
    assert pod["metadata"]["annotations"] == {"note": "x"}
    assert pod["spec"]["containers"][0]["image"] == "busybox:2"
    assert (
        await server.ok("-n", space, "patch", "pod", "p", "--type=merge", "-p", "{}") == "pod/p patched (no change)\n"
    )
    forbidden = '{"spec":{"nodeSelector":{"a":"b"}}}'
    assert "pod updates may not change fields" in await server.fails("-n", space, "patch", "pod", "p", "-p", forbidden)
    failed = '[{"op":"test","path":"/metadata/labels/c","value":"other"}]'
    assert "testing path" in await server.fails("-n", space, "patch", "pod", "p", "--type=json", "-p", failed)
    assert await server.ok("-n", space, "annotate", "pod", "p", "note-") == "pod/p annotated\n"
    assert "annotations" not in (await server.json("-n", space, "get", "pod", "p"))["metadata"]
    labels = await server.ok("-n", space, "get", "pod", "p", "--show-labels")
    assert labels.splitlines()[1].split()[-1] == "c=d"


async def test_watch_shows_every_step(server: ApiServer, space: str) -> None:
    watching = await asyncio.create_subprocess_exec(
        *("kubectl", "-n", space, "get", "cm", "-w", "--output-watch-events"),
        stdout=asyncio.subprocess.PIPE,
        env=server.environment(),
    )
    assert watching.stdout is not None
    steps = []
    try:
        async with asyncio.timeout(20):
            await server.ok("-n", space, "create", "cm", "seen", "--from-literal=a=b")
            assert (await watching.stdout.readline()).split() == [b"EVENT", b"NAME", b"DATA", b"AGE"]
            steps.append((await watching.stdout.readline()).split())
            await server.ok("-n", space, "label", "cm", "seen", "x=y")
            steps.append((await watching.stdout.readline()).split())
            await server.ok("-n", space, "delete", "cm", "seen")
            steps.append((await watching.stdout.readline()).split())
    finally:
        watching.kill()
        await watching.wait()
    assert [step[:3] for step in steps] == [[word, b"seen", b"1"] for word in (b"ADDED", b"MODIFIED", b"DELETED")]


async def test_tables_are_watched_as_tables(server: ApiServer, space: str) -> None:
    watching = await asyncio.create_subprocess_exec(
        *("kubectl", "-n", space, "get", "pods", "-w", "-o", "wide"),
        stdout=asyncio.subprocess.PIPE,
        env=server.environment(),
    )
    assert watching.stdout is not None
    try:
        async with asyncio.timeout(20):
            await server.ok("-n", space, "run", "seen", "--image=x")
            assert (await watching.stdout.readline()).split()[:3] == [b"NAME", b"READY", b"STATUS"]
            assert (await watching.stdout.readline()).split()[:3] == [b"seen", b"0/1", b"Pending"]
            await server.ok("-n", space, "label", "pod", "seen", "a=b")
            assert (await watching.stdout.readline()).split()[:3] == [b"seen", b"0/1", b"Pending"]
    finally:
        watching.kill()
        await watching.wait()


async def test_exec_attach_and_logs_go_through_the_node(server: ApiServer, space: str) -> None:
    async with FakeNode().running() as node:
        await with_node(server, node, name="talking")
        await server.ok("-n", space, "run", "p", "--image=busybox")
        assert "does not have a host assigned" in await server.fails("-n", space, "exec", "p", "--", "true")
        await set_running(server, space, "p", ip="10.10.0.8", node="talking")
        status, output, complaints = await server.run("-n", space, "exec", "p", "--", "echo", "a b")
        assert (status, output, complaints) == (0, "ran echo a b\n", "a complaint\n")
        assert node.requests[-1] == (
            f"/exec/{space}/p/p",
            [("command", "echo"), ("command", "a b"), ("output", "1"), ("error", "1")],
        )
        status, _, complaints = await server.run("-n", space, "exec", "p", "--", "false")
        assert status == 3
        assert "exit code 3" in complaints
        assert "exit code" not in await server.fails("-n", space, "exec", "p", "--", "die")
        output = await server.ok("-n", space, "exec", "-i", "p", "--", "cat", stdin="through both half-closes\n")
        assert output == "ran cat\nthrough both half-closes\n"
        output = await server.ok("-n", space, "attach", "p", "-i", stdin="typed\n")
        assert output.endswith("ran\ntyped\n")
        assert await server.ok("-n", space, "logs", "p", "--tail=5", "--timestamps") == "first line\nsecond line\n"
        assert node.requests[-1] == (f"/containerLogs/{space}/p/p", [("timestamps", "true"), ("tailLines", "5")])
        assert "previous terminated container" in await server.fails("-n", space, "logs", "p", "--previous")
        assert "container nope is not valid" in await server.fails("-n", space, "logs", "p", "-c", "nope")
    assert "error dialing backend" in await server.fails("-n", space, "exec", "p", "--", "true")
    assert "error dialing backend" in await server.fails("-n", space, "logs", "p")
    await server.ok("delete", "node", "talking")


async def test_run_rm_it_attaches_and_cleans_up(server: ApiServer, space: str) -> None:
    async with FakeNode().running() as node:
        await with_node(server, node, name="attaching")
        words = ("run", "tmp", "--rm", "-i", "--image=busybox", "--", "sh", "-c", "wget http://x")
        running = asyncio.create_task(server.ok("-n", space, *words, stdin="hello\n"))
        async with asyncio.timeout(20):
            while server.get(f"/api/v1/namespaces/{space}/pods/tmp", token="token-of-the-tests")[0] != 200:
                await asyncio.sleep(0.05)
        await set_running(server, space, "tmp", ip="10.10.0.9", node="attaching")
        async with asyncio.timeout(20):
            while True:
                _, body = server.get(f"/api/v1/namespaces/{space}/pods/tmp", token="token-of-the-tests")
                if b"deletionTimestamp" in body:
                    break
                await asyncio.sleep(0.05)
        server.request("DELETE", f"/api/v1/namespaces/{space}/pods/tmp", {"gracePeriodSeconds": 0})
        output = await running
    assert "hello" in output
    assert 'pod "tmp" deleted' in output
    await server.ok("delete", "node", "attaching")


async def test_deployments_are_scaled_and_changed(server: ApiServer, space: str) -> None:
    assert await server.ok("-n", space, "create", "deployment", "d", "--image=nginx", "--replicas=2") == (
        "deployment.apps/d created\n"
    )
    assert await server.ok("-n", space, "scale", "deploy/d", "--replicas=5") == "deployment.apps/d scaled\n"
    assert await server.ok("-n", space, "set", "image", "deploy/d", "nginx=nginx:2") == (
        "deployment.apps/d image updated\n"
    )
    found = await server.json("-n", space, "get", "deploy", "d")
    assert found["spec"]["replicas"] == 5
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:2"
    assert found["metadata"]["generation"] == 3
    assert (await server.ok("-n", space, "get", "deploy")).splitlines()[1].split()[:2] == ["d", "0/5"]
    refused = await server.fails("-n", space, "scale", "deploy/d", "--current-replicas=2", "--replicas=1")
    assert "Expected replicas to be 2, was 5" in refused
    assert await server.ok("-n", space, "expose", "deploy", "d", "--port=80") == "service/d exposed\n"


async def test_dry_runs_store_nothing(server: ApiServer, space: str) -> None:
    shown = await server.ok("-n", space, "run", "dry", "--image=x", "--dry-run=server", "-o", "yaml")
    assert "restartPolicy: Always" in shown
    assert "not found" in await server.fails("-n", space, "get", "pod", "dry")
    assert "(server dry run)" in await server.ok("-n", space, "apply", "--dry-run=server", "-f", "-", stdin=POLICY)
    assert await server.ok("-n", space, "get", "netpol", "-o", "name") == ""


async def test_unknown_fields_are_refused_or_told(server: ApiServer, space: str) -> None:
    wrong = POLICY + "  ingres: []\n"
    apply = ("-n", space, "apply", "-f", "-")
    assert 'strict decoding error: unknown field "spec.ingres"' in await server.fails(*apply, stdin=wrong)
    status, _, complaints = await server.run(*apply, "--validate=warn", stdin=wrong)
    assert (status, complaints) == (0, 'Warning: unknown field "spec.ingres"\n')
    assert "ingres" not in (await server.json("-n", space, "get", "netpol", "default-deny-ingress"))["spec"]


async def test_invalid_objects_are_refused_with_the_field(server: ApiServer, space: str) -> None:
    bad = POLICY + "  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]\n"
    refused = await server.fails("-n", space, "apply", "-f", "-", stdin=bad)
    assert 'spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.0.0.0/33"' in refused
    assert "is invalid" in await server.fails("-n", space, "run", "UPPER", "--image=x")
    number = '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":"none"}}'
    assert "cannot unmarshal string" in await server.fails("-n", space, "create", "-f", "-", stdin=number)
    assert "the server doesn't have a resource type" in await server.fails("get", "unicorns")
    assert "field label not supported" in await server.fails("get", "pods", "--field-selector=spec.colour=red")
    assert "not found" in await server.fails("-n", "nowhere", "run", "p", "--image=x")


async def test_configuration_kinds_and_typed_commands(server: ApiServer, space: str) -> None:
    await server.ok("-n", space, "create", "secret", "generic", "s", "--from-literal=key=value")
    secret = await server.ok("-n", space, "get", "secret", "s", "-o", "jsonpath={.data.key}")
    assert secret == "dmFsdWU="
    await server.ok("-n", space, "create", "configmap", "c", "--from-literal=key=value")
    assert (await server.ok("-n", space, "get", "cm", "c")).splitlines()[1].split()[:2] == ["c", "1"]
    await server.ok("-n", space, "create", "serviceaccount", "robot")
    token = await server.ok("-n", space, "create", "token", "robot")
    code, _ = server.get(f"/api/v1/namespaces/{space}/pods", token=token.strip())
    assert code == 200
    await server.ok("-n", space, "delete", "sa", "robot")
    assert server.get("/api/v1/pods", token=token.strip())[0] == 401
    assert await server.ok("-n", space, "create", "service", "clusterip", "none", "--clusterip=None") == (
        "service/none created\n"
    )
    await server.ok("-n", space, "create", "service", "nodeport", "np", "--tcp=80:8080")
    port = await server.ok("-n", space, "get", "svc", "np", "-o", "jsonpath={.spec.ports[0].nodePort}")
    assert 30000 <= int(port) <= 32767


async def test_discovery_openapi_and_explain(server: ApiServer) -> None:
    listed = (await server.ok("api-resources", "-o", "wide")).splitlines()
    assert any(line.split()[:2] == ["networkpolicies", "netpol"] for line in listed)
    assert "networking.k8s.io/v1" in (await server.ok("api-versions")).split()
    explained = await server.ok("explain", "networkpolicy.spec.ingress.from.ipBlock")
    assert "FIELD: ipBlock <IPBlock>" in explained
    assert "-required-" in explained
    assert "containerPort\t<integer> -required-" in await server.ok("explain", "pod.spec.containers.ports")
    old = await server.ok("explain", "pod.spec", "--output=plaintext-openapiv2")
    assert "nodeName\t<string>" in old
    assert "Server Version: v1.33" in await server.ok("version")
    assert await server.ok("auth", "can-i", "create", "pods") == "yes\n"
    assert "admin" in await server.ok("auth", "whoami")
    assert await server.ok("get", "--raw", "/readyz") == "ok"


async def test_callers_must_be_known(server: ApiServer) -> None:
    assert "testers" in await server.ok("--context=token", "auth", "whoami")
    refused = await server.fails("--context=nobody", "--token=wrong", "get", "ns")
    assert "You must be logged in to the server" in refused
    assert server.get("/api/v1/pods", token="wrong")[0] == 401
    assert server.get("/api/v1/pods")[0] == 401
    assert server.get("/version")[0] == 200


async def test_a_deleted_namespace_waits_for_its_finalizer(server: ApiServer, space: str) -> None:
    await server.ok("delete", "ns", space, "--wait=false")
    assert (await server.ok("get", "ns", space)).splitlines()[1].split()[1] == "Terminating"
    assert "because it is being terminated" in await server.fails("-n", space, "create", "cm", "late")
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}, "spec": {"finalizers": []}}
    assert server.request("PUT", f"/api/v1/namespaces/{space}/finalize", body)[0] == 200
    assert "not found" in await server.fails("get", "ns", space)


async def test_events_are_described_with_their_object(server: ApiServer, space: str) -> None:
    await server.ok("-n", space, "run", "p", "--image=x")
    uid = await server.ok("-n", space, "get", "pod", "p", "-o", "jsonpath={.metadata.uid}")
    about = {"kind": "Pod", "namespace": space, "name": "p", "uid": uid, "apiVersion": "v1"}
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "p."}, "involvedObject": about}
    event |= {"reason": "Pulled", "message": "image is here", "type": "Normal", "count": 1}
    event |= {"lastTimestamp": "2026-01-01T00:00:00Z", "source": {"component": "kubelet"}}
    assert server.request("POST", f"/api/v1/namespaces/{space}/events", event)[0] == 201
    assert "image is here" in await server.ok("-n", space, "describe", "pod", "p")
    assert "pod/p" in await server.ok("-n", space, "get", "events", "--field-selector=reason=Pulled")
    assert "Pulled" in await server.ok("-n", space, "events", "--for=pod/p")


async def test_the_cluster_has_its_own_service(server: ApiServer) -> None:
    assert await server.ok("get", "svc", "kubernetes", "-o", "jsonpath={.spec.clusterIP}") == "10.96.0.1"
    assert (await server.ok("get", "endpoints", "kubernetes")).splitlines()[1].split()[1] == "192.0.2.1:6443"
    assert "192.0.2.1" in await server.ok("get", "endpointslices")


async def test_replace_minds_the_version(server: ApiServer, space: str) -> None:
    await server.ok("-n", space, "create", "cm", "c", "--from-literal=a=b")
    old = await server.ok("-n", space, "get", "cm", "c", "-o", "json")
    assert (
        await server.ok("-n", space, "replace", "-f", "-", stdin=old.replace('"b"', '"c"')) == "configmap/c replaced\n"
    )
    assert "the object has been modified" in await server.fails("-n", space, "replace", "-f", "-", stdin=old)
    words = ("delete", "cm", "--all", "--cascade=background")
    assert await server.ok("-n", space, *words) == 'configmap "c" deleted\n'


async def test_malformed_policies_can_be_stored_on_demand(tmp_path: Path) -> None:
    bad = POLICY + "  ingress: [{from: [{ipBlock: {cidr: nonsense}}]}]\n"
    with running_apiserver(tmp_path, "--skip-validation-for=networkpolicies") as other:
        assert "created" in await other.ok("apply", "-f", "-", stdin=bad)
        assert "is invalid" in await other.fails("run", "UPPER", "--image=x")
        assert other.stop() == 0
