"""`isthmus policy` over HTTP: two clusters of one mesh, one that is of none, and one that does not answer."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

import isthmus.mesh
from isthmus.cli import main
from tests.support.apiserver import ApiServer, running_apiserver

MANIFEST = Path(isthmus.mesh.__file__).parent / "manifests" / "crds.yaml"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MESH = "/apis/isthmus.dev/v1alpha1"
CORE = "/api/v1/namespaces/default"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
NAMES = ("koornacht", "tion")
DENY = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


class Clusters:
    """Two clusters, and a kubeconfig with a context for each."""

    def __init__(self, servers: dict[str, ApiServer], directory: Path) -> None:
        self.servers = servers
        self.kubeconfig = directory / "both"
        self.write(*servers)

    def write(self, *names: str, **more: str) -> None:
        """Writes contexts for clusters that are there, and for `more` by URL."""
        config: dict[str, Any] = {"clusters": [], "users": [], "contexts": []}
        for name in names:
            own = json.loads((self.servers[name].directory / "kubeconfig").read_text())
            config["clusters"].append({"name": name, "cluster": own["clusters"][0]["cluster"]})
            config["users"].append({"name": name, "user": own["users"][0]["user"]})
        for name, url in more.items():
            config["clusters"].append({"name": name, "cluster": {"server": url}})
            config["users"].append({"name": name, "user": {}})
        for name in (*names, *more):
            config["contexts"].append({"name": f"kind-{name}", "context": {"cluster": name, "user": name}})
        config["current-context"] = "kind-koornacht"
        self.kubeconfig.write_text(json.dumps(config))

    def put(
        self, cluster: str, path: str, body: dict[str, Any], status: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        server, name = self.servers[cluster], body["metadata"]["name"]
        code, answer = server.request("POST", path, body)
        assert code == 201, answer
        if status is None:
            return dict(json.loads(answer))
        patch = json.dumps({"status": status}).encode()
        media = {"Content-Type": "application/merge-patch+json"}
        code, answer = server.request("PATCH", f"{path}/{name}/status", patch, headers=media)
        assert code == 200, answer
        return dict(json.loads(answer))

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, [*words, "--kubeconfig", str(self.kubeconfig)])


def _fill(clusters: Clusters, name: str, number: int) -> None:
    for definition in yaml.safe_load_all(MANIFEST.read_text()):
        assert clusters.servers[name].request("POST", DEFINITIONS, definition)[0] == 201
    data = {"cluster-name": name, "cluster-id": str(number)}
    clusters.put(
        name, "/api/v1/namespaces/kube-system/configmaps", {"metadata": {"name": "isthmus-config"}, "data": data}
    )
    for other, own_number in zip(NAMES, (1, 2), strict=True):
        clusters.put(name, f"{MESH}/meshclusters", _mesh("MeshCluster", other), {"id": own_number, "state": "Synced"})
    node = {"metadata": {"name": f"{name}-worker"}, "spec": {"podCIDR": f"10.{number}.1.0/24"}}
    addresses = [{"type": "InternalIP", "address": f"172.18.0.{number}"}]
    clusters.put(name, "/api/v1/nodes", node, {"addresses": addresses})
    for index, (app, port) in enumerate({"x-wing": None, "rebel-base": 80}.items()):
        container: dict[str, Any] = {"name": "c", "image": "nginx"}
        if port:
            container["ports"] = [{"containerPort": port, "name": "http"}]
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{app}-abc", "uid": "u", "controller": True}
        pod = {
            "metadata": {
                "name": f"{app}-abc-1",
                "labels": {"name": app, "pod-template-hash": "abc"},
                "ownerReferences": [owner],
            },
            "spec": {"nodeName": f"{name}-worker", "containers": [container]},
        }
        ip = f"10.{number}.1.{index + 10}"
        clusters.put(name, f"{CORE}/pods", pod, {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]})
    service = {
        "metadata": {"name": "rebel-base", "annotations": {"service.cilium.io/global": "true"}},
        "spec": {"selector": {"name": "rebel-base"}, "ports": [{"port": 80}]},
    }
    clusters.put(name, f"{CORE}/services", service)
    clusters.put(name, POLICIES, _policy("default-deny", DENY))


def _mesh(kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "isthmus.dev/v1alpha1", "kind": kind, "metadata": {"name": name}}


def _policy(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ApiServer]]:
    one, two = (tmp_path_factory.mktemp(name) for name in NAMES)
    with running_apiserver(one) as first, running_apiserver(two) as second:
        found = dict(zip(NAMES, (first, second), strict=True))
        clusters = Clusters(found, tmp_path_factory.mktemp("config"))
        for number, name in enumerate(NAMES, 1):
            _fill(clusters, name, number)
        yield found


@pytest.fixture
def clusters(servers: dict[str, ApiServer], tmp_path: Path) -> Clusters:
    return Clusters(servers, tmp_path)


def explained(clusters: Clusters, *more: str) -> tuple[int, Any]:
    result = clusters.run(
        "policy", "explain", "--from", "koornacht:x-wing", "--to", "svc/rebel-base", "-o", "json", *more
    )
    return result.exit_code, json.loads(result.stdout) if result.exit_code in (0, 2) else result.stderr


def test_what_is_suggested_for_a_global_service_is_applied_until_it_is_allowed_in_both_clusters(
    clusters: Clusters,
) -> None:
    code, found = explained(clusters)
    assert code == 2
    by_cluster = {answer["to"]["cluster"]: answer for answer in found["answers"]}
    assert set(by_cluster) == {"koornacht", "tion"}
    remote = by_cluster["tion"]
    assert (remote["port"], remote["egress"]["node"], remote["ingress"]["node"]) == (
        80,
        "koornacht-worker",
        "tion-worker",
    )
    for _ in range(4):
        steps = [step for answer in found["answers"] for step in (answer["remedies"] or {"steps": []})["steps"]]
        if not steps:
            break
        step = steps[0]
        clusters.put(step["cluster"], POLICIES, step["manifest"])
        code, found = explained(clusters)
    assert code == 0, found
    assert [answer["allowed"] for answer in found["answers"]] == [True, True]


def test_a_cluster_of_the_mesh_without_a_context_is_named_and_left_out_only_on_demand(clusters: Clusters) -> None:
    clusters.write("koornacht", tion="http://127.0.0.1:1")
    code, said = explained(clusters)
    assert code == 1
    assert "cluster tion of the mesh cannot be read" in said
    assert "kind-tion" in said  # a context that does not answer may be the one
    result = clusters.run("policy", "matrix", "--partial", "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert "Warning: cluster tion" in result.stderr
    assert {group["cluster"] for group in json.loads(result.stdout)["groups"]} == {"koornacht", ""}


def test_contexts_that_are_named_are_all_that_is_read(clusters: Clusters) -> None:
    result = clusters.run("policy", "matrix", "--context", "kind-tion", "--no-outside", "-o", "json")
    assert {group["cluster"] for group in json.loads(result.stdout)["groups"]} == {"tion"}
    result = clusters.run("policy", "matrix", "--context", "kind-none")
    assert (result.exit_code, "kind-none" in result.stderr) == (1, True)


def test_a_cluster_of_no_mesh_is_looked_at_alone_under_the_name_of_its_context(clusters: Clusters) -> None:
    place = "/api/v1/namespaces/kube-system/configmaps"
    server = clusters.servers["koornacht"]
    kept = json.loads(server.get(f"{place}/isthmus-config", token="token-of-the-tests")[1])
    assert server.request("DELETE", f"{place}/isthmus-config")[0] == 200
    try:
        result = clusters.run("policy", "matrix", "--no-outside", "-o", "json")
    finally:
        clusters.put("koornacht", place, {"metadata": {"name": "isthmus-config"}, "data": kept["data"]})
    assert result.exit_code == 0, result.stderr
    assert "its cluster is of no mesh; it is looked at alone" in result.stderr
    assert {group["cluster"] for group in json.loads(result.stdout)["groups"]} == {"kind-koornacht"}


def test_what_if_reads_both_clusters_and_applies_nothing(clusters: Clusters, tmp_path: Path) -> None:
    file = tmp_path / "open.yaml"
    file.write_text(json.dumps(_policy("open", {"podSelector": {}, "ingress": [{}], "egress": [{}]})))
    result = clusters.run("policy", "what-if", "-f", str(file), "--cluster", "tion", "-o", "json")
    assert result.exit_code == 0, result.stderr
    pairs = {(one["from"]["name"], one["to"]["name"]) for one in json.loads(result.stdout)["changes"]}
    assert ("tion:default/x-wing", "tion:default/rebel-base") in pairs
    assert clusters.servers["tion"].get(f"{POLICIES}/open", token="token-of-the-tests")[0] == 404


def test_status_counts_nodes_that_enforce_a_policy(clusters: Clusters) -> None:
    body = _policy("counted", {"podSelector": {"matchLabels": {"none": "such"}}})
    stored = clusters.put("tion", POLICIES, body)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    arguments = ("policy", "status", "counted", "--context", "kind-tion")
    before = clusters.run(*arguments)
    assert before.exit_code == 2
    assert "enforced on 0/1 nodes of tion" in before.stdout
    assert "NoAgent" in before.stdout
    recent = {"kind": "NetworkPolicy", "namespace": "default", "name": "counted", "since": now}
    recent["generation"] = stored["metadata"]["generation"]
    told = {"total": 1, "since": now, "recent": [recent], "watermarks": {}}
    node = _mesh("MeshNode", "tion-worker")
    clusters.put("tion", f"{MESH}/meshnodes", node, {"ready": True, "heartbeat": now, "policies": told})
    after = clusters.run(*arguments)
    assert after.exit_code == 0, after.stdout
    assert "enforced on 1/1 nodes of tion since " in after.stdout
    listed = clusters.run("policy", "status", "-A", "--context", "kind-tion", "-o", "json")
    states = {entry["name"]: (entry["enforced"], entry["state"]) for entry in json.loads(listed.stdout)}
    assert (states["counted"], states["default-deny"]) == ((1, "Enforced"), (0, "Pending"))
    for kind in ("netpol", "networkpolicies", "networkpolicy.networking.k8s.io"):  # as kubectl takes and prints it
        asked = clusters.run("policy", "status", f"{kind}/counted", "--context", "kind-tion")
        assert "NetworkPolicy default/counted: enforced on 1/1 nodes" in asked.stdout, (kind, asked.stderr)
    missing = clusters.run("policy", "status", "nothing", "--context", "kind-tion")
    assert (missing.exit_code, "no policy nothing" in missing.stderr) == (1, True)


def test_the_namespace_of_the_context_is_meant_where_none_is_written(clusters: Clusters) -> None:
    config = json.loads(clusters.kubeconfig.read_text())
    for entry in config["contexts"]:
        entry["context"]["namespace"] = "elsewhere"
    clusters.kubeconfig.write_text(json.dumps(config))
    code, said = explained(clusters)
    assert (code, "in namespace elsewhere of cluster koornacht" in said) == (1, True)
    assert explained(clusters, "-n", "default")[0] in (0, 2)
    status = clusters.run("policy", "status", "default-deny")
    assert "no policy default-deny in namespace elsewhere of" in status.stderr


def test_policies_that_depend_on_the_scope_are_listed_as_cilium_lists_them(clusters: Clusters) -> None:
    peers = {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}
    clusters.put("koornacht", POLICIES, _policy("scoped", peers))
    summary = clusters.run("clustermesh", "inspect-policy-default-local-cluster", "-A", "--context", "kind-koornacht")
    assert summary.exit_code == 0, summary.stderr
    blocks = summary.stdout.split("\n\n")
    assert blocks[0] == "✅ CiliumNetworkPolicy 0/0"
    assert blocks[1] == "✅ CiliumClusterWideNetworkPolicy 0/0"
    assert blocks[2].startswith("⚠️ NetworkPolicy ")
    assert "\n\t⚠️ default/scoped" in blocks[2]
    assert "\n\t✅ default/default-deny" in blocks[2]
    told = clusters.run("clustermesh", "inspect-policy-default-local-cluster", "-n", "default", "-o", "json")
    assert json.loads(told.stdout)["networkPolicies"]["default/scoped"] is True
    ours = clusters.run("policy", "inspect-scope", "-o", "json")
    names = {policy["name"] for cluster in json.loads(ours.stdout) for policy in cluster["policies"]}
    assert "scoped" in names
