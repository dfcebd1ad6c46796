"""The life of a lab: creating, refusing, killing, cleaning up."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from .conftest import Lab, new_lab, remove_lab

pytestmark = pytest.mark.kubectl

LIMIT = 20.0


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for something that no call can be made to wait for."""
    deadline = monotonic() + LIMIT
    while not condition():
        assert monotonic() < deadline, f"not in {LIMIT} s: {what}"
        sleep(0.05)


def processes_of(lab: Lab) -> list[str]:
    """Returns the command lines on this machine that name the lab's directory."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(lab.directory) in line:
                found.append(line)
    return found


def machine_network() -> str:
    return subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def small(kubectl_program: str) -> Iterator[Lab]:
    """A lab of its own with one cluster of one node and no agents."""
    lab = new_lab()
    try:
        lab.isthmus("lab", "create", "solo", "--nodes", "1", "--policy", "none")
        yield lab
    finally:
        remove_lab(lab)


@pytest.fixture(scope="module")
def shared(kubectl_program: str) -> Iterator[Lab]:
    """One such lab for the tests that leave it as it was."""
    lab = new_lab()
    try:
        lab.isthmus("lab", "create", "solo", "--nodes", "1", "--policy", "none")
        yield lab
    finally:
        remove_lab(lab)


def start_pod(lab: Lab, name: str) -> None:
    lab.kubectl("solo", "run", name, "--image=agnhost", "--", "netexec")
    lab.kubectl("solo", "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=30s")


def test_deleting_the_last_cluster_leaves_nothing(small: Lab) -> None:
    before = machine_network()
    start_pod(small, "web")
    small.isthmus("lab", "delete", "solo")
    until(lambda: not processes_of(small), "all processes are gone")
    left = {path.name for path in small.directory.iterdir()}
    assert left <= {"lock", "supervisor.log", "clusters.yaml"}
    assert machine_network() == before
    assert json.loads(small.isthmus("lab", "list", "-o", "json").stdout) == []


def test_a_killed_supervisor_takes_everything_along_and_the_lab_comes_back(small: Lab) -> None:
    start_pod(small, "web")
    os.kill(small.processes()["", "supervisor"], signal.SIGKILL)
    until(lambda: not processes_of(small), "all processes are gone")
    assert str(small.directory) not in Path("/proc/mounts").read_text()
    refused = small.isthmus("lab", "create", "other", "--nodes", "1", "--policy", "none", check=False)
    assert "the lab is not running, and it holds solo: bring it back with `isthmus lab start`" in refused.stderr
    assert "The lab is stopped; it holds solo" in small.isthmus("lab", "status", check=False).stdout
    assert 'Cluster "solo" is back' in small.isthmus("lab", "start").stderr
    small.kubectl("solo", "wait", "--for=condition=Ready", "pod/web", "--timeout=30s")
    assert small.kubectl("solo", "exec", "web", "--", "hostname").stdout == "web\n"


def test_a_lab_whose_directory_is_removed_ends_by_itself(small: Lab) -> None:
    start_pod(small, "web")
    shutil.rmtree(small.directory, ignore_errors=True)
    until(lambda: not processes_of(small), "all processes are gone")


def test_a_killed_node_process_finds_its_pods_again(shared: Lab) -> None:
    start_pod(shared, "web")
    shared.kubectl(
        "solo", "run", "brief", "--image=busybox", "--restart=Never", "--", "sh", "-c", "sleep 2; echo late; exit 5"
    )
    shared.kubectl("solo", "wait", "--for=jsonpath={.status.phase}=Running", "pod/brief", "--timeout=30s")
    killed = shared.processes()["solo", "node-solo-control-plane"]
    os.kill(killed, signal.SIGKILL)
    shared.kubectl("solo", "wait", "--for=jsonpath={.status.phase}=Failed", "pod/brief", "--timeout=30s")
    code = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}"
    assert shared.kubectl("solo", "get", "pod", "brief", "-o", code).stdout == "5"
    assert shared.kubectl("solo", "logs", "brief").stdout == "late\n"
    restarts = "jsonpath={.status.containerStatuses[0].restartCount}"
    assert shared.kubectl("solo", "get", "pod", "web", "-o", restarts).stdout == "0"
    assert shared.kubectl("solo", "exec", "web", "--", "hostname").stdout == "web\n"
    assert shared.processes()["solo", "node-solo-control-plane"] not in (0, killed)


def test_a_killed_api_server_comes_back_on_its_port_with_its_objects(shared: Lab) -> None:
    start_pod(shared, "before")
    os.kill(shared.processes()["solo", "apiserver"], signal.SIGKILL)
    assert "pod/before\n" in shared.kubectl("solo", "get", "pods", "-o", "name").stdout
    start_pod(shared, "after")


def test_a_stopped_lab_comes_back_with_objects_addresses_ports_and_credentials(shared: Lab) -> None:
    start_pod(shared, "kept")
    before = shared.kubectl("solo", "get", "node,configmap,pod", "-A", "-o", "json").stdout
    assert 'Stopped cluster "solo"' in shared.isthmus("lab", "stop").stderr
    until(lambda: not processes_of(shared), "all processes are gone")
    assert "No lab is running" in shared.isthmus("lab", "stop").stderr
    assert json.loads(shared.isthmus("lab", "list", "-o", "json").stdout)[0]["state"] == "stopped"
    words = [sys.executable, "-m", "isthmus", "lab", "start"]
    both = [subprocess.Popen(words, env=shared.environ, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=60)[1].splitlines()[-1] for process in both)
    assert said == [' ✓ Cluster "solo" is back', ' ✓ Cluster "solo" runs']
    # The kubeconfig is that of before: same port, same certificates.
    after = shared.kubectl("solo", "get", "node,configmap,pod", "-A", "-o", "json").stdout
    assert names_and_uids(after) >= names_and_uids(before)
    shared.kubectl("solo", "wait", "--for=condition=Ready", "pod/kept", "--timeout=30s")
    assert shared.kubectl("solo", "exec", "kept", "--", "hostname").stdout == "kept\n"


def names_and_uids(listed: str) -> set[tuple[str, str]]:
    return {(item["metadata"]["name"], item["metadata"]["uid"]) for item in json.loads(listed)["items"]}


def test_a_port_that_was_taken_meanwhile_is_named_and_nothing_is_lost(small: Lab) -> None:
    server = json.loads(small.isthmus("lab", "list", "-o", "json").stdout)[0]["server"]
    port = int(server.rpartition(":")[2])
    small.isthmus("lab", "stop")
    with socket.create_server(("127.0.0.1", port)):
        done = small.isthmus("lab", "start", check=False)
        message = (
            f'Error: cluster "solo" had API server port {port}: cannot listen on 127.0.0.1:{port}: Address already'
        )
        assert message in done.stderr
    small.isthmus("lab", "start")
    assert small.kubectl("solo", "get", "nodes", "-o", "name").stdout == "node/solo-control-plane\n"


def test_a_stopped_process_stays_stopped_until_it_is_started(shared: Lab) -> None:
    try:
        for _ in range(2):
            shared.isthmus("lab", "stop", "apiserver")
        assert "was refused" in shared.kubectl("solo", "get", "nodes", check=False).stderr
        done = shared.isthmus("lab", "status", check=False)
        assert done.returncode == 1
        assert "stopped: apiserver" in done.stdout
        assert shared.processes()["solo", "apiserver"] == 0
    finally:
        shared.isthmus("lab", "start", "apiserver")
    shared.isthmus("lab", "start", "apiserver")
    shared.isthmus("lab", "status", "--wait")


def test_two_commands_that_create_the_same_cluster_make_one(shared: Lab) -> None:
    words = [sys.executable, "-m", "isthmus", "lab", "create", "twin", "--nodes", "1", "--policy", "none"]
    both = [subprocess.Popen(words, env=shared.environ, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert sum('cluster already exists: "twin"' in text for text in said) == 1
    shared.isthmus("lab", "delete", "twin")


@pytest.mark.parametrize("size", ["200k", "1m"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, size: str) -> None:
    place = tmp_path / "lab"
    place.mkdir()
    script = 'mount -t tmpfs -o "size=$1" none "$2" && shift 2 && exec "$@"'
    inside = [sys.executable, "-m", "isthmus", "lab", "--state-dir", str(place), "create", "full", "--policy", "none"]
    enter = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    words = [*enter, "sh", "-c", script, "sh", size, str(place), *inside]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


KIND_FILE = """
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: both
networking:
  ipFamily: dual
  podSubnet: 10.9.0.0/16,fd00:9::/56
  disableDefaultCNI: true
nodes:
- role: control-plane
- role: worker
  image: kindest/node:v1.33.0
  labels:
    tier: front
"""


def test_a_kind_file_makes_a_cluster_of_both_families_with_labels(shared: Lab, tmp_path: Path) -> None:
    file = tmp_path / "kind.yaml"
    file.write_text(KIND_FILE)
    words = ["lab", "create", "--config", str(file), "--context-prefix", "kind-", "--policy", "none"]
    done = shared.isthmus(*words)
    try:
        assert f"! {file}: nodes[1].image ignored" in done.stderr
        ask = ["kubectl", "--context", "kind-both", "get", "nodes", "-l", "tier=front", "-o"]
        path = "jsonpath={.items[0].metadata.name} {.items[0].spec.podCIDRs}"
        found = subprocess.run([*ask, path], env=shared.environ, capture_output=True, text=True, check=True).stdout
        assert found == 'both-worker ["10.9.1.0/24","fd00:9:0:1::/64"]'
        number = next(
            row["id"] for row in json.loads(shared.isthmus("lab", "list", "-o", "json").stdout) if row["name"] == "both"
        )
        inside = ["lab", "exec", "both", "worker", "--"]
        shared.isthmus(*inside, "busybox", "ping", "-6", "-c", "1", "-W", "2", f"fd00:172:30::{number}:1")
        routes = shared.isthmus(*inside, "ip", "-6", "route").stdout
        assert f"fd00:9::/64 via fd00:172:30::{number}:1 dev eth0" in routes
        assert f"fd00:172:20:{number}::/112 dev eth0" in routes
        assert f"172.20.{number}.0/24 dev eth0" in shared.isthmus(*inside, "ip", "route").stdout
    finally:
        shared.isthmus("lab", "delete", "both")


def test_a_creator_that_is_killed_leaves_no_half_made_cluster(shared: Lab) -> None:
    words = [sys.executable, "-m", "isthmus", "lab", "create", "half", "--policy", "none"]
    process = subprocess.Popen(words, env=shared.environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    until(lambda: "Network" in process.stderr.readline(), "the network is made")
    process.kill()
    process.communicate()
    until(lambda: not (shared.directory / "clusters" / "half").exists(), "the half-made cluster is gone")
    assert [row["name"] for row in json.loads(shared.isthmus("lab", "list", "-o", "json").stdout)] == ["solo"]
    until(lambda: not any("half" in line for line in processes_of(shared)), "its processes are gone")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["solo"], 'Error: cluster already exists: "solo"'),
        (["b", "--id", "1"], 'Error: --id 1: already the ID of cluster "solo"'),
        (
            ["b", "--pod-subnet", "10.1.128.0/17"],
            'Error: pod subnet 10.1.128.0/17 of cluster "b" overlaps pod subnet 10.1.0.0/16 of cluster "solo"',
        ),
        (["b", "--pod-subnet", "10.1.0.1/16"], "Error: --pod-subnet 10.1.0.1/16: 10.1.0.1/16 has host bits set"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(shared: Lab, arguments: list[str], message: str) -> None:
    done = shared.isthmus("lab", "create", *arguments, check=False)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_port_that_is_taken_is_named(shared: Lab) -> None:
    server = json.loads(shared.isthmus("lab", "list", "-o", "json").stdout)[0]["server"]
    port = server.rpartition(":")[2]
    done = shared.isthmus("lab", "create", "b", "--api-port", port, check=False)
    assert f"Error: --api-port {port}: cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr


def test_a_program_runs_on_a_node(shared: Lab) -> None:
    done = shared.isthmus("lab", "exec", "solo", "control-plane", "--", "hostname")
    assert done.stdout == "solo-control-plane\n"
    done = shared.isthmus("lab", "exec", "solo", "nowhere", "--", "true", check=False)
    assert 'no node "nowhere" in cluster "solo"; there are: solo-control-plane' in done.stderr


def test_contexts_are_merged_into_ones_own_kubeconfig_and_taken_out_again(small: Lab, tmp_path: Path) -> None:
    own = tmp_path / "config"
    own.write_text("apiVersion: v1\nkind: Config\ncontexts: [{name: mine, context: {cluster: c, user: u}}]\n")
    small.environ["KUBECONFIG"] = str(own)
    small.isthmus("lab", "kubeconfig", "--merge")
    names = ["kubectl", "config", "get-contexts", "-o", "name"]
    listed = subprocess.run(names, env=small.environ, capture_output=True, text=True, check=True).stdout
    assert listed.split() == ["lab-solo", "mine"]
    small.isthmus("lab", "delete", "--all")
    listed = subprocess.run(names, env=small.environ, capture_output=True, text=True, check=True).stdout
    assert listed.split() == ["mine"]


def test_logs_and_status_are_there(shared: Lab) -> None:
    assert "node started" in shared.isthmus("lab", "logs", "solo", "node-control-plane").stdout
    assert "✓ solo: API server ready; 1 of 1 nodes ready" in shared.isthmus("lab", "status", "--wait").stdout
