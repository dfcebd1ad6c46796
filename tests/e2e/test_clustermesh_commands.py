"""Clusters that the lab does not join are joined by `isthmus clustermesh`, as any other clusters would be."""

import json
import re
from collections.abc import Callable, Iterator
from time import monotonic, sleep

import pytest

from .conftest import Lab, new_lab, remove_lab

pytestmark = pytest.mark.kubectl

ONE, TWO = "koornacht", "tion"
PAUSE = "registry.k8s.io/pause:3.10"
LIMIT = 20.0
STATUS = ("clustermesh", "status", "--context", f"lab-{ONE}")
PROBE = """
import socket, sys
tried = socket.socket()
tried.settimeout(1.5)
try:
    tried.connect((sys.argv[1], 10250))
except ConnectionRefusedError:
    print("alive")
except OSError:
    print("silent")
else:
    print("alive")
"""


class Mesh:
    """`isthmus clustermesh` in a lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def __call__(self, command: str, cluster: str, *words: str) -> str:
        done = self.lab.isthmus("clustermesh", command, "--context", f"lab-{cluster}", *words)
        return done.stdout

    def refused(self, command: str, cluster: str, *words: str) -> str:
        done = self.lab.isthmus("clustermesh", command, "--context", f"lab-{cluster}", *words, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stderr

    def well(self, cluster: str) -> str:
        return self("status", cluster, "--wait", "--wait-duration", "60s")


@pytest.fixture(scope="module")
def mesh(kubectl_program: str) -> Iterator[Mesh]:
    made = new_lab()
    try:
        create(made)
        yield Mesh(made)
    finally:
        remove_lab(made)


@pytest.fixture
def connected(mesh: Mesh) -> Mesh:
    """Both clusters there, enabled and connected, whatever a test before has left."""
    if f"  - {TWO}: 1/1 configured" in mesh.lab.isthmus(*STATUS, check=False).stdout:
        mesh.well(ONE)
        return mesh
    create(mesh.lab)
    for name in (ONE, TWO):
        mesh("enable", name, "--service-type", "NodePort")
    mesh("connect", ONE, "--destination-context", f"lab-{TWO}")
    for name in (ONE, TWO):
        mesh.well(name)
    return mesh


def create(lab: Lab) -> None:
    """Creates the clusters that are not there."""
    there = {found["name"] for found in json.loads(lab.isthmus("lab", "list", "-o", "json").stdout or "[]")}
    for name in (ONE, TWO):
        if name not in there:
            lab.isthmus("lab", "create", name, "--no-connect", "--nodes", "1" if name == ONE else "2")


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for something that no call can be made to wait for."""
    deadline = monotonic() + LIMIT
    while not condition():
        assert monotonic() < deadline, f"not in {LIMIT} s: {what}"
        sleep(0.05)


def table(lab: Lab, cluster: str) -> str:
    return lab.isthmus("lab", "exec", cluster, "control-plane", "--", "nft", "list", "table", "inet", "isthmus").stdout


def has_address(lab: Lab, cluster: str, address: str) -> bool:
    return re.search(rf"\b{re.escape(address)}\b", table(lab, cluster)) is not None


def pod_address(lab: Lab, cluster: str) -> str:
    lab.kubectl(cluster, "run", "guest", f"--image={PAUSE}")
    lab.kubectl(cluster, "wait", "--for=condition=Ready", "pod/guest", "--timeout=60s")
    return lab.kubectl(cluster, "get", "pod", "guest", "-o", "jsonpath={.status.podIP}").stdout


def test_clusters_are_enabled_connected_parted_and_connected_again(mesh: Mesh) -> None:
    lab = mesh.lab
    for name in (ONE, TWO):
        said = mesh.refused("status", name)
        assert f"cluster mesh is not enabled in context lab-{name}" in said
        mesh("enable", name, "--service-type", "NodePort")
        assert "🔌 No cluster connected" in mesh.well(name)
    guest = pod_address(lab, TWO)

    for _twice in range(2):
        said = mesh("connect", ONE, "--destination-context", f"lab-{TWO}")
        assert said == f"✅ Connected cluster {ONE} <=> {TWO}!\n"
    for name, other, nodes in ((ONE, TWO, 1), (TWO, ONE, 2)):
        text = mesh.well(name)
        assert f"✅ All {nodes} nodes are connected to all clusters [min:1 / avg:1.0 / max:1]" in text
        counts = f"{nodes}/{nodes} configured, {nodes}/{nodes} connected"
        assert f"  - {other}: {counts} - tracker: 1/1 configured, 1/1 connected" in text
    assert has_address(lab, ONE, guest)

    assert mesh("disconnect", ONE, "--destination-context", f"lab-{TWO}").startswith("✅ Disconnected clusters")
    until(lambda: not has_address(lab, ONE, guest), f"{guest} is forgotten")
    until(lambda: "🔌 No cluster connected" in mesh.well(ONE), "no cluster connected")

    mesh("connect", TWO, "--destination-context", f"lab-{ONE}")
    mesh.well(ONE)
    assert has_address(lab, ONE, guest)


def test_what_is_connected_outlives_a_stop_of_the_lab(connected: Mesh) -> None:
    connected.lab.isthmus("lab", "stop")
    connected.lab.isthmus("lab", "start")
    found = json.loads(connected("status", ONE, "--wait", "--wait-duration", "60s", "-o", "json"))
    assert found["connectivity"]["clusters"] == {TWO: {"configured": 1, "connected": 1}}


def test_connecting_with_a_cluster_whose_api_server_is_stopped_says_so(connected: Mesh) -> None:
    connected.lab.isthmus("lab", "stop", "apiserver", TWO)
    try:
        said = connected.refused("connect", ONE, "--destination-context", f"lab-{TWO}")
        assert re.search(
            rf"^Error: context lab-{TWO}: GET https://127\.0\.0\.1:\d+/.*: Connect call failed", said, re.M
        )
    finally:
        connected.lab.isthmus("lab", "start", "apiserver", TWO)
    connected("connect", ONE, "--destination-context", f"lab-{TWO}")


def test_nodes_answer_at_the_kubelet_s_port_unless_stopped_or_cut_off(connected: Mesh) -> None:
    lab = connected.lab
    columns = "jsonpath={.status.addresses[?(@.type=='InternalIP')].address}"
    address = lab.kubectl(TWO, "get", "node", f"{TWO}-worker", "-o", columns).stdout

    def answer() -> str:
        words = ["lab", "exec", ONE, "control-plane", "--", "python3", "-c", PROBE, address]
        return lab.isthmus(*words).stdout.strip()

    assert answer() == "alive"
    lab.isthmus("lab", "partition", ONE, f"{TWO}-worker")
    assert answer() == "silent"
    lab.isthmus("lab", "heal")
    assert answer() == "alive"
    lab.isthmus("lab", "stop", "node", f"{TWO}-worker")
    assert answer() == "silent"
    lab.isthmus("lab", "start", "node", f"{TWO}-worker")
    assert answer() == "alive"


def test_a_deleted_cluster_is_forgotten_by_the_others(connected: Mesh) -> None:
    connected.lab.isthmus("lab", "delete", TWO)
    until(lambda: "🔌 No cluster connected" in connected.well(ONE), "no cluster connected")
    accounts = connected.lab.kubectl(ONE, "-n", "kube-system", "get", "serviceaccounts,secrets", "-o", "name").stdout
    assert "isthmus-remote" not in accounts
