"""`isthmus service` over HTTP, on two clusters of one mesh."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

import isthmus.mesh
from isthmus.cli import main
from isthmus.mesh.mcs.api import SERVICE_NAME, derived_name
from tests.support.apiserver import ApiServer, running_apiserver
from tests.support.etcd import free_port

MANIFEST = Path(isthmus.mesh.__file__).parent / "manifests" / "crds.yaml"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MESH = "/apis/isthmus.dev/v1alpha1"
CORE = "/api/v1/namespaces"
NAMES = ("tion", "koornacht")
SINCE = "2025-01-31T12:00:00Z"


class Clusters:
    """Two clusters and a kubeconfig with a context for each."""

    def __init__(self, servers: dict[str, ApiServer], directory: Path) -> None:
        self.servers = servers
        self.kubeconfig = directory / "both"
        self.write_kubeconfig()

    def write_kubeconfig(self, **more: str) -> None:
        """Writes the kubeconfig; `more` are other clusters by name and URL."""
        config: dict[str, Any] = {"clusters": [], "users": [], "contexts": []}
        for name, server in self.servers.items():
            own = json.loads((server.directory / "kubeconfig").read_text())
            config["clusters"].append({"name": name, "cluster": own["clusters"][0]["cluster"]})
            config["users"].append({"name": name, "user": own["users"][0]["user"]})
        for name, url in more.items():
            config["clusters"].append({"name": name, "cluster": {"server": url}})
            config["users"].append({"name": name, "user": {}})
        for name in (*self.servers, *more):
            context = {"cluster": name, "user": name}
            config["contexts"].append({"name": f"lab-{name}", "context": context})
        config["current-context"] = "lab-tion"
        self.kubeconfig.write_text(json.dumps(config))

    def put(self, cluster: str, path: str, body: dict[str, Any], *, status: dict[str, Any] | None = None) -> None:
        name = body["metadata"]["name"]
        self.servers[cluster].request("DELETE", f"{path}/{name}")
        code, answer = self.servers[cluster].request("POST", path, body)
        assert code == 201, answer
        if status is not None:
            patch = json.dumps({"status": status}).encode()
            code, answer = self.servers[cluster].request(
                "PATCH", f"{path}/{name}/status", patch, headers={"Content-Type": "application/merge-patch+json"}
            )
            assert code == 200, answer

    def get(self, cluster: str, path: str) -> Any:
        code, answer = self.servers[cluster].get(path, token="token-of-the-tests")
        return json.loads(answer) if code == 200 else None

    def drain(self, cluster: str, name: str = "koornacht") -> Any:
        found = self.get(cluster, f"{MESH}/meshclusters/{name}")
        return (found.get("spec") or {}).get("drain") if found else None

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["service", *words, "--kubeconfig", str(self.kubeconfig)])


def mesh_cluster(name: str, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    body = {"apiVersion": "isthmus.dev/v1alpha1", "kind": "MeshCluster", "metadata": {"name": name}}
    return body, {"id": number, "state": "Synced"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ApiServer]]:
    one, two = (tmp_path_factory.mktemp(name) for name in NAMES)
    with running_apiserver(one) as first, running_apiserver(two) as second:
        found = dict(zip(NAMES, (first, second), strict=True))
        for number, (name, server) in enumerate(found.items(), 1):
            for body in yaml.safe_load_all(MANIFEST.read_text()):
                assert server.request("POST", DEFINITIONS, body)[0] == 201
            data = {"cluster-name": name, "cluster-id": str(number)}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "isthmus-config"}, "data": data}
            assert server.request("POST", f"{CORE}/kube-system/configmaps", body)[0] == 201
        yield found


@pytest.fixture
def clusters(servers: dict[str, ApiServer], tmp_path: Path) -> Clusters:
    found = Clusters(servers, tmp_path)
    for cluster in NAMES:
        for number, name in enumerate(NAMES, 1):
            body, status = mesh_cluster(name, number)
            found.put(cluster, f"{MESH}/meshclusters", body, status=status)
    return found


def service(name: str, **annotations: str) -> dict[str, Any]:
    meta = {"name": name, "annotations": {f"service.cilium.io/{key.strip('_')}": v for key, v in annotations.items()}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 80}]}}


def global_service(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    body = {"apiVersion": "isthmus.dev/v1alpha1", "kind": "GlobalService", "metadata": {"name": name}}
    entries = [
        {"name": "tion", "own": True, "state": "Synced", "backends": 2, "ready": 2, "used": True, "share": 100},
        {"name": "koornacht", "state": "Synced", "backends": 2, "ready": 1, "used": False, "share": 0},
    ]
    return body, {"affinity": "none", "shared": True, "used": "tion", "clusters": entries}


def test_global_services_are_listed(clusters: Clusters) -> None:
    body, status = global_service("listed")
    clusters.put("tion", f"{MESH}/namespaces/default/globalservices", body, status=status)
    done = clusters.run("list", "-A")
    assert done.exit_code == 0, done.output
    head, *rows = done.output.splitlines()
    assert head.split() == ["NAMESPACE", "NAME", "AFFINITY", "SHARED", "CLUSTERS", "USED", "AGE"]
    assert any("listed" in row and "tion 2/2, koornacht 1/2" in row for row in rows)
    listed = json.loads(clusters.run("list", "-n", "default", "-o", "json").output)
    assert listed[0]["name"] == "listed"
    assert "No global services found in namespace kube-system." in clusters.run("list", "-n", "kube-system").output


def test_a_global_service_is_described(clusters: Clusters) -> None:
    clusters.put("tion", f"{CORE}/default/services", service("web", global_="true"))
    body, status = global_service("web")
    clusters.put("tion", f"{MESH}/namespaces/default/globalservices", body, status=status)
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "web.1"},
        "involvedObject": {"kind": "Service", "name": "web", "namespace": "default"},
        "type": "Warning",
        "reason": "PortMismatch",
        "message": "ports differ",
        "source": {"component": "isthmus-tracker"},
        "lastTimestamp": SINCE,
    }
    clusters.put("tion", f"{CORE}/default/events", event)
    done = clusters.run("describe", "web")
    assert done.exit_code == 0, done.output
    assert "Used:         tion" in done.output
    assert "PortMismatch" in done.output
    assert "Warning:" not in done.output.split("Events:")[0]
    described = json.loads(clusters.run("describe", "web", "-o", "json").output)
    assert described["cluster"] == "tion"
    assert described["events"][0]["reason"] == "PortMismatch"


def test_what_stands_for_an_import_is_listed_and_found_by_its_name(clusters: Clusters) -> None:
    derived = derived_name(("default", "shop"))
    standing = service(derived, global_="true")
    standing["metadata"]["labels"] = {SERVICE_NAME: "shop"}
    clusters.put("tion", f"{CORE}/default/services", standing)
    clusters.put("tion", f"{CORE}/default/services", service("shop"))  # exported, and not global itself
    body, status = global_service(derived)
    clusters.put("tion", f"{MESH}/namespaces/default/globalservices", body, status=status)
    assert "shop (import)" in clusters.run("list").output
    listed = json.loads(clusters.run("list", "-o", "json").output)
    assert ("shop", derived) in [(entry["import"], entry["name"]) for entry in listed]
    for name in ("shop", derived):
        done = clusters.run("describe", name)
        assert done.output.startswith(f"Name:         shop (import)\nService:      {derived}\n"), done.output
    clusters.put("tion", f"{CORE}/default/services", service("shop", global_="true"))
    body, status = global_service("shop")
    clusters.put("tion", f"{MESH}/namespaces/default/globalservices", body, status=status)
    assert clusters.run("describe", "shop").output.startswith("Name:         shop\nNamespace:")


def test_what_is_not_there_is_said_with_what_to_do(clusters: Clusters) -> None:
    for name, annotations in (
        ("plain", {}),
        ("typo", {"global_": "ture"}),
        ("fresh", {"global_": "true"}),
    ):
        clusters.put("tion", f"{CORE}/default/services", service(name, **annotations))
    for name, text in (
        ("nothing", "Error: context lab-tion: Service default/nothing does not exist"),
        ("plain", "is not global. To make it global in this cluster:\n  kubectl annotate service plain -n default"),
        ("typo", "'ture' is neither true nor false"),
        ("fresh", "nobody has described it yet: is the tracker of this cluster running?"),
    ):
        done = clusters.run("describe", name)
        assert done.exit_code == 1
        assert text in done.output
    assert "there is no context 'x'" in clusters.run("describe", "web", "--context", "x").output


def test_a_service_that_changed_since_is_described_with_a_warning(clusters: Clusters) -> None:
    clusters.put("tion", f"{CORE}/default/services", service("moved", global_="true", affinity="local"))
    body, status = global_service("moved")
    clusters.put("tion", f"{MESH}/namespaces/default/globalservices", body, status=status)
    assert clusters.run("describe", "moved").output.startswith("Warning: this does not say what the Service says now")


def test_a_drain_is_written_into_every_member_and_asking_again_changes_nothing(clusters: Clusters) -> None:
    done = clusters.run("drain", "koornacht", "--over", "1h30m")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "✅ koornacht: koornacht is draining over 1h30m, 100 % left",
        "✅ tion: koornacht is draining over 1h30m, 100 % left",
    ]
    written = clusters.drain("tion")
    assert written == clusters.drain("koornacht")
    assert written["over"] == "1h30m"
    again = clusters.run("drain", "koornacht", "--over", "1h30m", "-y")
    assert again.output.splitlines()[0] == "✅ koornacht: koornacht is draining, 100 % left already"
    assert clusters.drain("tion") == written
    assert clusters.run("drain", "koornacht").exit_code == 0
    assert clusters.drain("tion") == {"since": written["since"]}
    late = clusters.run("drain", "koornacht", "--over", "10m")
    assert "is drained already" in late.output
    assert clusters.drain("tion") == {"since": written["since"]}
    done = clusters.run("undrain", "koornacht")
    assert done.output.splitlines()[1] == "✅ tion: koornacht gets new connections again"
    assert clusters.drain("tion") is None
    assert clusters.run("undrain", "koornacht").output.splitlines()[0] == "✅ koornacht: koornacht is not drained"


def test_services_that_nobody_else_can_serve_are_named_when_a_cluster_is_drained(clusters: Clusters) -> None:
    body, status = global_service("only")
    entries = [{**entry, "ready": int(entry["name"] == "koornacht")} for entry in status["clusters"]]
    clusters.put("tion", f"{MESH}/namespaces/kube-public/globalservices", body, status={**status, "clusters": entries})
    done = clusters.run("drain", "koornacht", "--dry-run")
    assert done.output.splitlines()[-1] == (
        "ℹ️  tion: koornacht alone has ready backends of, and goes on serving: kube-public/only"
    )
    assert done.exit_code == 0


def test_a_dry_run_writes_nothing(clusters: Clusters) -> None:
    done = clusters.run("drain", "koornacht", "--dry-run")
    assert done.output.splitlines()[0] == "✅ koornacht: koornacht is drained (dry run)"
    assert clusters.drain("tion") is None


def test_a_drain_keeps_the_status_and_makes_an_object_where_there_is_none(clusters: Clusters) -> None:
    clusters.servers["tion"].request("DELETE", f"{MESH}/meshclusters/koornacht")
    assert clusters.run("drain", "koornacht").exit_code == 0
    assert clusters.drain("tion") is not None
    assert clusters.run("drain", "tion", "--context", "lab-tion").exit_code == 0
    assert clusters.drain("tion", "tion") is not None
    assert clusters.drain("koornacht", "tion") is None
    assert clusters.get("tion", f"{MESH}/meshclusters/tion")["status"]["id"] == 1


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("drain", "nowhere"), 1, "there is no cluster nowhere in the mesh; its members are koornacht, tion"),
        (("drain", "tion", "--over", "soon"), 2, "'soon' is no duration, as 90s, 10m or 1h30m"),
        (("drain", "tion", "--over", "5us"), 2, "'5us' is no duration"),
        (("drain", "tion", "--context", "x"), 1, "there is no context 'x'"),
        (("undrain", "nowhere"), 1, "there is no cluster nowhere"),
    ],
)
def test_what_cannot_be_drained_is_refused(clusters: Clusters, words: tuple[str, ...], code: int, text: str) -> None:
    done = clusters.run(*words)
    assert (done.exit_code, text in done.output) == (code, True), done.output
    assert clusters.drain("tion", "tion") is None


def test_a_context_that_does_not_answer_matters_only_if_a_member_is_behind_it(clusters: Clusters) -> None:
    clusters.write_kubeconfig(old=f"http://127.0.0.1:{free_port()}")
    done = clusters.run("drain", "koornacht")
    assert done.exit_code == 0, done.output
    assert "⚠️  context lab-old: " in done.output
    for cluster in NAMES:
        body, status = mesh_cluster("old", 3)
        clusters.put(cluster, f"{MESH}/meshclusters", body, status=status)
    done = clusters.run("drain", "koornacht")
    assert done.exit_code == 1
    assert "⚠️  old: no context that answers leads to it" in done.output
    for cluster in NAMES:
        clusters.servers[cluster].request("DELETE", f"{MESH}/meshclusters/old")


def test_definitions_that_are_missing_are_said_by_every_command(clusters: Clusters) -> None:
    kinds = [body["metadata"]["name"] for body in yaml.safe_load_all(MANIFEST.read_text())]
    for kind in kinds:
        clusters.servers["tion"].request("DELETE", f"{DEFINITIONS}/{kind}")
    asyncio.run(_gone(clusters))
    clusters.put("tion", f"{CORE}/default/services", service("web", global_="true"))
    for words in (("list",), ("describe", "web"), ("drain", "koornacht")):
        done = clusters.run(*words)
        assert done.exit_code == 1
        assert "run: isthmus clustermesh enable --context lab-tion" in done.output
    assert done.output.startswith("✅ koornacht: koornacht is drained")
    for body in yaml.safe_load_all(MANIFEST.read_text()):
        clusters.servers["tion"].request("POST", DEFINITIONS, body)


async def _gone(clusters: Clusters) -> None:
    while clusters.get("tion", f"{MESH}/meshclusters") is not None:
        await asyncio.sleep(0.02)
