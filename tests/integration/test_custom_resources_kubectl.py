"""Real kubectl, definitions and their objects: what people type, and what they read; and what survives a restart."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import isthmus.lab.addons
from tests.support.apiserver import ApiServer, needs_kubectl, running_apiserver
from tests.support.definitions import definition, version, widget

pytestmark = [pytest.mark.kubectl, needs_kubectl]

CRDS = Path(isthmus.lab.addons.__file__).parent / "crds"
DEFAULT_DENY = """
apiVersion: "cilium.io/v2"
kind: CiliumNetworkPolicy
metadata:
  name: "default-deny"
spec:
  description: "Default Deny"
  endpointSelector: {}
  ingress:
    - {}
  egress:
    - toEndpoints:
        - matchLabels:
            io.kubernetes.pod.namespace: kube-system
            k8s-app: kube-dns
      toPorts:
        - ports:
            - port: "53"
              protocol: UDP
          rules:
            dns:
              - matchPattern: "*"
"""
X_WING = """
apiVersion: "cilium.io/v2"
kind: CiliumNetworkPolicy
metadata:
  name: "x-wing-to-rebel-base"
spec:
  endpointSelector:
    matchLabels:
      name: x-wing
      io.cilium.k8s.policy.cluster: koornacht
  egress:
  - toEndpoints:
    - matchLabels:
        name: rebel-base
"""
COLUMNS = [
    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
    {"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path_factory.mktemp("apiserver")) as running:
        yield running


@pytest.fixture
async def policies(server: ApiServer) -> AsyncIterator[ApiServer]:
    """The server with the definitions that the lab ships."""
    await server.ok("apply", "-f", str(CRDS))
    yield server


@pytest.fixture
async def widgets(server: ApiServer) -> AsyncIterator[ApiServer]:
    """The server with a kind of the test's own."""
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    made = version(additionalPrinterColumns=COLUMNS, subresources={"status": {}, "scale": scale})
    text = json.dumps(definition(made, shortNames=["wg"], categories=["all"]))
    await server.ok("apply", "-f", "-", stdin=text)
    yield server
    await server.ok("delete", "crd", "widgets.example.com")


async def test_the_definitions_of_the_lab_are_applied_twice_and_established(policies: ApiServer) -> None:
    again = await policies.ok("apply", "-f", str(CRDS))
    assert again.count(" unchanged\n") == len(list(CRDS.glob("*.yaml")))
    await policies.ok("wait", "--for=condition=Established", "crd", "--all", "--timeout=10s")
    listed = await policies.ok("api-resources", "--api-group=cilium.io", "--no-headers")
    assert [line.split() for line in listed.splitlines()] == [
        ["ciliumcidrgroups", "ccg", "cilium.io/v2", "false", "CiliumCIDRGroup"],
        ["ciliumclusterwidenetworkpolicies", "ccnp", "cilium.io/v2", "false", "CiliumClusterwideNetworkPolicy"],
        ["ciliumnetworkpolicies", "cnp,ciliumnp", "cilium.io/v2", "true", "CiliumNetworkPolicy"],
    ]


async def test_policies_are_applied_shown_explained_and_deleted(policies: ApiServer) -> None:
    assert await policies.ok("apply", "-f", "-", stdin=DEFAULT_DENY) == (
        "ciliumnetworkpolicy.cilium.io/default-deny created\n"
    )
    assert (await policies.ok("apply", "-f", "-", stdin=X_WING)).endswith("x-wing-to-rebel-base created\n")
    assert (await policies.ok("apply", "-f", "-", stdin=DEFAULT_DENY)).endswith("unchanged\n")
    lines = (await policies.ok("get", "ciliumnp")).splitlines()
    assert lines[0].split() == ["NAME", "AGE", "VALID"]
    assert [line.split()[0] for line in lines[1:]] == ["default-deny", "x-wing-to-rebel-base"]
    status = {"status": {"conditions": [{"type": "Valid", "status": "True", "message": "fine"}]}}
    await policies.ok(
        "patch", "ciliumnp", "default-deny", "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}"
    )
    assert (await policies.ok("get", "ciliumnp", "default-deny", "--no-headers")).split()[2] == "True"
    await policies.ok("wait", "--for=condition=Valid", "ciliumnp/default-deny", "--timeout=10s")
    described = await policies.ok("describe", "ciliumnp", "default-deny")
    assert "Match Pattern:  *" in described
    explained = await policies.ok("explain", "ciliumnp.spec.egress.toPorts.rules.dns")
    assert "matchPattern\t<string>" in explained
    assert "ENUM:" in await policies.ok("explain", "clusternetworkpolicy.spec.tier")
    assert (await policies.ok("delete", "ciliumnp", "--all")).count("deleted") == 2


async def test_a_malformed_policy_is_refused_with_the_path_of_the_field(policies: ApiServer) -> None:
    told = await policies.fails("apply", "-f", "-", stdin=DEFAULT_DENY.replace('port: "53"', 'port: "dns!"'))
    assert 'spec.egress[0].toPorts[0].ports[0].port: Invalid value: "dns!"' in told
    told = await policies.fails("apply", "-f", "-", stdin=DEFAULT_DENY.replace("toEndpoints", "toEndpoint"))
    assert 'strict decoding error: unknown field "spec.egress[0].toEndpoint"' in told
    told = await policies.fails("apply", "-f", "-", stdin=DEFAULT_DENY.replace("UDP", "udp"))
    assert 'protocol: Unsupported value: "udp": supported values: "TCP", "UDP"' in told
    quiet = DEFAULT_DENY.replace("toEndpoints", "toEndpoint")
    _, output, complaints = await policies.run("apply", "--validate=warn", "--dry-run=server", "-f", "-", stdin=quiet)
    assert "created (server dry run)" in output
    assert 'Warning: unknown field "spec.egress[0].toEndpoint"' in complaints


async def test_the_rules_of_the_network_policy_api_are_told(policies: ApiServer) -> None:
    baseline = {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": "BaselineAdminNetworkPolicy",
        "metadata": {"name": "other"},
        "spec": {"subject": {"namespaces": {}}},
    }
    told = await policies.fails("create", "-f", "-", stdin=json.dumps(baseline))
    assert 'Only one baseline admin network policy with metadata.name="default" can be created' in told
    baseline["metadata"] = {"name": "default"}
    await policies.ok("create", "-f", "-", stdin=json.dumps(baseline))
    assert "default" in await policies.ok("get", "banp")


async def test_kubectl_works_on_a_kind_of_ones_own(widgets: ApiServer) -> None:
    await widgets.ok("create", "-f", "-", stdin=json.dumps(widget("a", size=1, replicas=1)))
    assert [line.split()[:2] for line in (await widgets.ok("get", "wg")).splitlines()] == [["NAME", "SIZE"], ["a", "1"]]
    assert (await widgets.ok("get", "widget", "-o", "wide")).splitlines()[0].split() == ["NAME", "SIZE", "COLOR", "AGE"]
    assert "widget.example.com/a" in await widgets.ok("get", "all")
    assert await widgets.ok("scale", "wg/a", "--replicas=3") == "widget.example.com/a scaled\n"
    assert (await widgets.json("get", "wg", "a"))["spec"]["replicas"] == 3
    await widgets.ok("label", "wg", "a", "l=v")
    await widgets.ok("annotate", "wg", "a", "n=v")
    told = await widgets.fails("patch", "wg", "a", "--type=strategic", "-p", '{"spec":{"size":2}}')
    assert "accepted media types include: application/json-patch+json, application/merge-patch+json" in told
    await widgets.ok("patch", "wg", "a", "--type=json", "-p", '[{"op":"add","path":"/spec/size","value":7}]')
    applied = widget("a", parts=[{"name": "x", "count": 1}])
    await widgets.ok("apply", "--server-side", "--field-manager=me", "-f", "-", stdin=json.dumps(applied))
    shown = await widgets.json("get", "wg", "a", "--show-managed-fields")
    owners = {entry["manager"]: entry["fieldsV1"] for entry in shown["metadata"]["managedFields"]}
    assert owners["me"] == {"f:spec": {"f:parts": {'k:{"name":"x"}': {".": {}, "f:count": {}, "f:name": {}}}}}
    assert shown["spec"] == {"size": 7, "replicas": 3, "color": "red", "parts": [{"name": "x", "count": 1}]}
    code, output, _ = await widgets.run("diff", "-f", "-", stdin=json.dumps(widget("a", size=8)))
    assert code == 1 and "+  size: 8" in output


async def test_kubectl_edit_changes_an_object(widgets: ApiServer, tmp_path: Path) -> None:
    await widgets.ok("create", "-f", "-", stdin=json.dumps(widget("edited", size=1)))
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/size: 1/size: 2/' \"$1\"\n")
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    environment = {**widgets.environment(), "KUBE_EDITOR": str(editor)}
    process = await asyncio.create_subprocess_exec(
        "kubectl",
        "edit",
        "wg",
        "edited",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        output, complaints = await process.communicate()
    assert process.returncode == 0, complaints
    assert output.decode() == "widget.example.com/edited edited\n"
    assert (await widgets.json("get", "wg", "edited"))["spec"]["size"] == 2


async def test_kinds_and_objects_survive_a_killed_server(tmp_path: Path) -> None:
    with running_apiserver(tmp_path) as server:
        await server.ok("apply", "-f", "-", stdin=json.dumps(definition(version(additionalPrinterColumns=COLUMNS))))
        await server.ok("apply", "-f", "-", stdin=json.dumps(widget("a", size=1)))
        server.kill()
        server.start()
        assert (await server.ok("get", "widgets", "--no-headers")).split()[:2] == ["a", "1"]
        await server.ok("apply", "-f", "-", stdin=json.dumps(widget("a", size=2)))
        await server.ok("delete", "crd", "widgets.example.com")
        assert "could not find the requested resource" in await server.fails("get", "widgets")
        server.kill()
        server.start()
        await server.ok("apply", "-f", "-", stdin=json.dumps(definition()))
        assert (await server.json("get", "widgets"))["items"] == []


@pytest.mark.skipif(not os.environ.get("KUBEBUILDER_ASSETS"), reason="no kube-apiserver: KUBEBUILDER_ASSETS is not set")
async def test_a_real_api_server_accepts_the_shipped_definitions_and_answers_alike() -> None:
    """Kept here and not in the unit test of the same answers: it needs two programs and ten seconds."""
    from tests.support.realserver import real_answers

    assert await asyncio.to_thread(real_answers, Path(os.environ["KUBEBUILDER_ASSETS"]), CRDS) == []
