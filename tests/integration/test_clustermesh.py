"""`isthmus clustermesh` against API servers: what it writes, what that lets others do, and what it refuses.

Against the embedded API server, and the real one (with RBAC) where its programs are.
"""

import base64
import itertools
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from isthmus.cli import main
from isthmus.kube.client import Client
from isthmus.kube.errors import BadAnswer
from isthmus.mesh.joining.members import Member
from isthmus.mesh.membership import read_peers
from isthmus.mesh.source.kubernetes import KubernetesSource
from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterSynced
from tests.support.apiserver import ApiServer
from tests.support.controllers import SERVERS, running_controllers, running_server
from tests.support.etcd import free_port

NAMES = ("koornacht", "tion")
KUBE_SYSTEM = "/api/v1/namespaces/kube-system"
ROLES = "/apis/rbac.authorization.k8s.io/v1"
LIMIT = 60.0
"""Seconds for a command."""


class World:
    """Two clusters and a kubeconfig with a context for each, and one for an API server that nobody runs."""

    def __init__(self, directory: Path, servers: dict[str, ApiServer]) -> None:
        self.servers = servers
        self.kubeconfig = directory / "kubeconfig"
        self.calls = 0
        ports = {name: server.url for name, server in servers.items()} | {"stopped": f"https://127.0.0.1:{free_port()}"}
        any_server = next(iter(servers.values()))
        clusters, users, contexts = [], [], []
        for name, url in ports.items():
            place = servers.get(name, any_server).directory
            clusters.append({"name": name, "cluster": {"server": url, "certificate-authority": str(place / "ca.crt")}})
            user = {"client-certificate": str(place / "admin.crt"), "client-key": str(place / "admin.key")}
            users.append({"name": name, "user": user})
            contexts.append({"name": name, "context": {"cluster": name, "user": name}})
        config = {"apiVersion": "v1", "kind": "Config", "clusters": clusters, "users": users, "contexts": contexts}
        self.kubeconfig.write_text(json.dumps(config))

    def run(self, *words: str) -> tuple[int, str, str]:
        """Runs a command in this process; returns exit code, output and errors."""
        done = CliRunner().invoke(main, ["clustermesh", *words, "--kubeconfig", str(self.kubeconfig)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    def ok(self, *words: str) -> str:
        code, output, errors = self.run(*words)
        assert code == 0, output + errors
        return output

    def refused(self, *words: str) -> str:
        code, output, errors = self.run(*words)
        assert code == 1, output + errors
        assert "Traceback" not in errors
        return errors

    def enable(self, name: str, number: int | None = None) -> None:
        self.ok(
            "enable", "--context", name, "--cluster-name", name, "--service-type", "ClusterIP",
            "--cluster-id", str(number or NAMES.index(name) + 1),
        )  # fmt: skip

    def connect(self, *words: str) -> str:
        ways = ["--source-endpoint", self.servers["koornacht"].url, "--destination-endpoint", self.servers["tion"].url]
        return self.ok("connect", "--context", "koornacht", "--destination-context", "tion", *ways, *words)

    def send(self, name: str, method: str, path: str, body: Any = None, *, media: str = "application/json") -> Any:
        """Speaks as an administrator; returns the decoded body, None if there is no such object."""
        server = self.servers[name]
        tls = server.tls()
        tls.load_cert_chain(server.directory / "admin.crt", server.directory / "admin.key")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(server.url + path, data=data, method=method, headers={"Content-Type": media})
        try:
            with urllib.request.urlopen(request, context=tls, timeout=LIMIT) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as failure:
            with failure:
                if failure.code == 404:
                    return None
                raise AssertionError(failure.read()) from failure

    def entries(self, name: str) -> dict[str, bytes]:
        secret = self.send(name, "GET", f"{KUBE_SYSTEM}/secrets/isthmus-clustermesh") or {}
        return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}

    def ours(self, name: str) -> set[str]:
        """Returns kind and name of everything of ours in a cluster."""
        places = [f"{KUBE_SYSTEM}/{plural}" for plural in ("configmaps", "secrets", "services", "serviceaccounts")]
        places += [f"/apis/apps/v1/namespaces/kube-system/{plural}" for plural in ("deployments", "daemonsets")]
        places += [f"{ROLES}/clusterroles", f"{ROLES}/clusterrolebindings"]
        places += [f"{ROLES}/namespaces/kube-system/{plural}" for plural in ("roles", "rolebindings")]
        places += ["/apis/apiextensions.k8s.io/v1/customresourcedefinitions"]
        return {
            f"{place.rpartition('/')[2]}/{item['metadata']['name']}"
            for place in places
            for item in self.send(name, "GET", place)["items"]
            if "isthmus" in item["metadata"]["name"]
        }


@pytest.fixture(scope="module", params=SERVERS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("mesh")
    places = {name: directory / name for name in NAMES}
    for place in places.values():
        place.mkdir()
    with running_server(request.param, places[NAMES[0]]) as one, running_server(request.param, places[NAMES[1]]) as two:
        with running_controllers(one), running_controllers(two):
            yield World(directory, dict(zip(NAMES, (one, two), strict=True)))


@pytest.fixture
def joined(world: World) -> Iterator[World]:
    """Both clusters enabled and connected; disabled afterwards."""
    for name in NAMES:
        world.enable(name)
    world.connect()
    yield world
    for name in NAMES:
        world.ok("disable", "--context", name, "--force")


def tracker_version(world: World) -> list[str]:
    """The resourceVersions of what a second `enable` must not touch."""
    places = [
        "/apis/apps/v1/namespaces/kube-system/deployments/isthmus-tracker",
        "/apis/apps/v1/namespaces/kube-system/daemonsets/isthmus-agent",
    ]
    places += [f"{KUBE_SYSTEM}/secrets/{name}" for name in ("isthmus-ca", "isthmus-tracker-server")]
    places += [f"{KUBE_SYSTEM}/configmaps/isthmus-config", f"{KUBE_SYSTEM}/services/isthmus-tracker"]
    found = [world.send("tion", "GET", place) for place in places]
    return [str(item["metadata"].get("generation") or item["metadata"]["resourceVersion"]) for item in found]


def test_enabling_twice_changes_nothing_and_disabling_leaves_nothing(world: World) -> None:
    before = world.ours("tion")
    world.enable("tion")
    made = world.ours("tion")
    assert made > before
    assert {
        "configmaps/isthmus-config",
        "secrets/isthmus-tracker-server",
        "services/isthmus-tracker",
        "deployments/isthmus-tracker",
        "daemonsets/isthmus-agent",
        "clusterroles/isthmus-remote",
        "customresourcedefinitions/meshnodes.isthmus.dev",
    } <= made
    versions = tracker_version(world)
    world.ok("enable", "--context", "tion")
    assert tracker_version(world) == versions
    world.ok("enable", "--context", "tion", "--service-type", "NodePort", "--image", "example.org/isthmus:2")
    assert world.send("tion", "GET", f"{KUBE_SYSTEM}/services/isthmus-tracker")["spec"]["type"] == "NodePort"
    world.ok("enable", "--context", "tion")
    daemon_set = world.send("tion", "GET", "/apis/apps/v1/namespaces/kube-system/daemonsets/isthmus-agent")
    assert daemon_set["spec"]["template"]["spec"]["containers"][0]["image"] == "example.org/isthmus:2"
    assert world.ok("disable", "--context", "tion") == ""
    assert world.ours("tion") == before
    assert "nothing to take away" in world.run("disable", "--context", "tion")[2]


def test_disabling_that_failed_half_way_is_repeated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.ours("koornacht")
    world.enable("koornacht")
    remove = Member.remove

    async def failing(member: Member, manifests: Iterable[dict[str, Any]]) -> None:
        await remove(member, itertools.islice(manifests, steps))
        raise BadAnswer("cut off")

    for steps in (5, 12, 1000):
        with monkeypatch.context() as patch:
            patch.setattr(Member, "remove", failing)
            assert "cut off" in world.refused("disable", "--context", "koornacht")
        if steps < 1000:
            assert "services/isthmus-tracker" in world.ours("koornacht")
    world.ok("disable", "--context", "koornacht")
    assert world.ours("koornacht") == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say --service-type LoadBalancer|NodePort|ClusterIP"),
        (["--service-type", "NodePort"], "the cluster has no name in the mesh yet; say --cluster-name"),
        (["--service-type", "NodePort", "--cluster-name", "tion"], "cluster ID 0"),
        (["--service-type", "NodePort", "--cluster-name", "tion", "--cluster-id", "0"], "cluster ID 0"),
        (["--service-type", "NodePort", "--cluster-name", "tion", "--cluster-id", "256"], "256 is not in 1-255"),
        (["--service-type", "NodePort", "--cluster-name", "default", "--cluster-id", "2"], "'default' is reserved"),
        (["--service-type", "NodePort", "--cluster-name", "Tion", "--cluster-id", "2"], "lower-case letters"),
        (["--service-type", "NodePort", "--cluster-name", "t", "--cluster-id", "2", "--image", "a b"], "--image"),
    ],
)
def test_what_cannot_be_enabled_is_refused_before_anything_is_written(
    world: World, words: list[str], says: str
) -> None:
    before = world.ours("tion")
    assert says in world.refused("enable", "--context", "tion", *words)
    assert world.ours("tion") == before


def test_connecting_gives_each_a_way_to_read_the_other_and_twice_is_once(joined: World) -> None:
    entries = {name: joined.entries(name) for name in NAMES}
    assert {name: list(found) for name, found in entries.items()} == {"koornacht": ["tion"], "tion": ["koornacht"]}
    assert yaml.safe_load(entries["koornacht"]["tion"])["id"] == 2
    assert "Connected cluster koornacht <=> tion!" in joined.connect()
    assert {name: joined.entries(name) for name in NAMES} == entries


async def test_what_is_granted_is_enough_for_a_tracker_and_holds_no_secrets(joined: World) -> None:
    (peer,) = read_peers(joined.entries("koornacht"), own="koornacht").peers
    async with Client(peer.access) as client:
        source = KubernetesSource(client, Cluster("tion", 2))
        batches = source.events()
        async for batch in batches:
            if any(isinstance(event, ClusterSynced) for event in batch):
                break
        # What has no definition in this cluster is not served, and that is no trouble.
        assert [text for text in source.health.trouble.values() if "forbidden" in text.lower()] == []
        await batches.aclose()


def test_disconnecting_takes_entries_accounts_and_tokens_away(joined: World) -> None:
    (peer,) = read_peers(joined.entries("koornacht"), own="koornacht").peers
    words = ["disconnect", "--context", "koornacht", "--destination-context", "tion"]
    assert joined.ok(*words) == "✅ Disconnected clusters koornacht <x> tion!\n"
    assert joined.entries("koornacht") == joined.entries("tion") == {}
    for name in NAMES:
        assert not [item for item in joined.ours(name) if "isthmus-remote-" in item]
    headers = {"Authorization": f"Bearer {peer.access.material.token}"}
    assert joined.servers["tion"].get("/api/v1/nodes", token="", headers=headers)[0] == 401
    assert joined.ok(*words) == "✅ Disconnected clusters koornacht <x> tion!\n"


def test_unicast_is_one_half(world: World) -> None:
    for name in NAMES:
        world.enable(name)
    assert world.connect("--connection-mode", "unicast").endswith("✅ Connected cluster koornacht => tion!\n")
    assert list(world.entries("koornacht")) == ["tion"]
    assert world.entries("tion") == {}
    assert "clusters are connected: koornacht" in world.refused("disable", "--context", "tion")
    words = ["disconnect", "--context", "koornacht", "--destination-cluster", "tion"]
    assert world.ok(*words) == "✅ Disconnected clusters koornacht x> tion!\n"
    assert world.entries("koornacht") == {}
    assert "knows no cluster tion: there is no entry to take away" in world.run(*words)[2]
    for name in NAMES:
        world.ok("disable", "--context", name, "--force")


def test_mesh_mode_speaks_of_all_of_them(joined: World) -> None:
    assert joined.connect("--connection-mode", "mesh").endswith("✅ Connected clusters tion and koornacht!\n")


def test_who_is_connected_is_not_disabled_nor_renamed(joined: World) -> None:
    assert "clusters are connected: tion" in joined.refused("disable", "--context", "koornacht")
    assert "connected to it as such: tion" in joined.refused(
        "enable", "--context", "koornacht", "--cluster-name", "other"
    )


def test_clusters_that_cannot_be_joined_are_refused_before_anything_is_written(world: World) -> None:
    world.enable("koornacht")
    words = ["connect", "--context", "koornacht", "--destination-context", "tion"]
    said = world.refused(*words)
    assert "cluster mesh is not enabled in context tion; run 'isthmus clustermesh enable --context tion'" in said
    world.enable("tion", 1)
    assert "clusters koornacht and tion have the same ID 1" in world.refused(*words)
    world.ok("enable", "--context", "tion", "--cluster-name", "koornacht", "--cluster-id", "2")
    assert "both clusters are called koornacht" in world.refused(*words)
    assert world.entries("koornacht") == world.entries("tion") == {}
    world.enable("tion")
    world.send("koornacht", "POST", f"{KUBE_SYSTEM}/secrets", rival_secret())
    assert "connected to rival, which has ID 2 as tion has" in world.refused(*words)
    for name in NAMES:
        world.ok("disable", "--context", name, "--force")


def rival_secret() -> dict[str, Any]:
    cluster = {"name": "r", "cluster": {"server": "https://10.9.9.9:6443"}}
    context = {"name": "r", "context": {"cluster": "r", "user": ""}}
    kubeconfig = {"clusters": [cluster], "contexts": [context], "current-context": "r"}
    entry = yaml.safe_dump({"name": "rival", "id": 2, "kubeconfig": kubeconfig})
    return {
        "metadata": {"name": "isthmus-clustermesh", "namespace": "kube-system"},
        "data": {"rival": base64.b64encode(entry.encode()).decode()},
    }


def test_a_peer_whose_api_server_does_not_answer_is_a_clear_error(joined: World) -> None:
    said = joined.refused("connect", "--context", "koornacht", "--destination-context", "stopped")
    assert said.splitlines()[-1].startswith("Error: context stopped: GET https://127.0.0.1:")
    said = joined.refused("connect", "--context", "koornacht", "--destination-context", "nowhere")
    assert "there is no context 'nowhere'" in said


def test_a_half_that_fails_is_told_beside_the_one_that_is_made_and_repeating_completes_it(world: World) -> None:
    for name in NAMES:
        world.enable(name)
    frozen = {"metadata": {"name": "isthmus-clustermesh", "namespace": "kube-system"}, "immutable": True}
    world.send("tion", "POST", f"{KUBE_SYSTEM}/secrets", frozen)
    words = ["connect", "--context", "koornacht", "--destination-context", "tion"]
    words += ["--source-endpoint", world.servers["koornacht"].url, "--destination-endpoint", world.servers["tion"].url]
    said = world.refused(*words)
    assert "cluster tion is not connected to koornacht: context tion: " in said
    assert "immutable" in said
    assert "cluster koornacht is connected to tion, and stays so" in said
    assert "repeat the same 'isthmus clustermesh connect'" in said
    assert list(world.entries("koornacht")) == ["tion"]
    world.send("tion", "DELETE", f"{KUBE_SYSTEM}/secrets/isthmus-clustermesh")
    assert "Connected cluster koornacht <=> tion!" in world.ok(*words)
    assert list(world.entries("tion")) == ["koornacht"]
    for name in NAMES:
        world.ok("disable", "--context", name, "--force")


def test_the_status_is_judged_from_what_agents_and_tracker_say(joined: World) -> None:
    group = "/apis/isthmus.dev/v1alpha1"
    place = f"{KUBE_SYSTEM}/configmaps/isthmus-config"
    now = datetime.now(UTC)
    node = {"metadata": {"name": "worker"}, "spec": {}}
    joined.send("tion", "POST", "/api/v1/nodes", node)
    try:
        code, output, _ = joined.run("status", "--context", "tion")
        assert code == 1
        assert "❌ Deployment isthmus-tracker is not ready: only 0 of 1 replicas are available" in output
        assert "❌ worker: its agent has not been heard of" in output
        assert "  - koornacht: 0/1 configured, 0/1 connected - tracker: status not available" in output
        code, _, errors = joined.run("status", "--context", "tion", "--wait", "--wait-duration", "1s")
        assert code == 1
        assert "⌛ Waiting (0s) for deployment isthmus-tracker to become ready" in errors
        assert "Error: timeout after 1s, still waiting for deployment isthmus-tracker" in errors
        status = {"ready": True, "heartbeat": stamp(now), "clusters": [{"name": "koornacht", "ready": True}]}
        joined.send("tion", "POST", f"{group}/meshnodes", resource("MeshNode", "worker"))
        told(joined, f"{group}/meshnodes/worker", status)
        for name in NAMES:
            joined.send("tion", "POST", f"{group}/meshclusters", resource("MeshCluster", name))
            told(joined, f"{group}/meshclusters/{name}", {"own": name == "tion", "state": "Synced"})
        # Nobody makes the Deployment's pods ready here; a tracker that somebody else runs says for itself how it is.
        change = {"data": {"tracker": "lab"}}
        joined.send("tion", "PATCH", place, change, media="application/merge-patch+json")
        found = joined.ok("status", "--context", "tion", "--wait", "--wait-duration", "10s")
        assert "✅ All 1 nodes are connected to all clusters [min:1 / avg:1.0 / max:1]" in found
        assert "  - koornacht: 1/1 configured, 1/1 connected - tracker: 1/1 configured, 1/1 connected" in found
        told(joined, f"{group}/meshnodes/worker", {**status, "heartbeat": stamp(now - timedelta(minutes=10))})
        code, output, _ = joined.run("status", "--context", "tion", "-o", "json")
        assert code == 1
        assert json.loads(output)["connectivity"]["not_ready"] == 1
    finally:
        joined.send("tion", "DELETE", "/api/v1/nodes/worker")
        change = {"data": {"tracker": "deployment"}}
        joined.send("tion", "PATCH", place, change, media="application/merge-patch+json")


def resource(kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "isthmus.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": {}}


def told(world: World, place: str, status: dict[str, Any]) -> None:
    world.send("tion", "PATCH", f"{place}/status", {"status": status}, media="application/merge-patch+json")


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
