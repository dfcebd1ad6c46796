"""Faults on demand, in the session's lab: every test leaves it whole."""

import json
from collections.abc import Iterator

import pytest

from .conftest import ONE, TWO, Lab

pytestmark = pytest.mark.kubectl

HERE, THERE = f"{ONE}-worker2", f"{TWO}-worker"
THERE_ADDRESS = "172.30.2.2"


@pytest.fixture(autouse=True)
def whole(lab: Lab) -> Iterator[None]:
    """Undoes what a test that failed has left."""
    yield
    left = json.loads(lab.isthmus("lab", "status", "-o", "json", check=False).stdout)
    if left["healthy"] and not left["partitions"]:
        return
    lab.isthmus("lab", "heal")
    for kind, name in (("node", HERE), ("agent", ONE), ("tracker", ONE)):
        lab.isthmus("lab", "start", kind, name)
    lab.isthmus("lab", "status", "--wait")


def reaches(lab: Lab, address: str = THERE_ADDRESS) -> bool:
    """Tells whether a packet of HERE comes back from another node."""
    done = lab.isthmus(
        "lab", "exec", ONE, HERE, "--", "curl", "-s", "-o", "/dev/null", "--max-time", "1", f"http://{address}:9441/",
        check=False,
    )  # fmt: skip
    return done.returncode == 0


def partitions(lab: Lab) -> list[list[str]]:
    found: list[list[str]] = json.loads(lab.isthmus("lab", "status", "-o", "json", check=False).stdout)["partitions"]
    return found


def test_a_partition_of_clusters_stops_packets_until_it_is_healed(lab: Lab) -> None:
    assert reaches(lab)
    for ends in ((ONE, TWO), (TWO, ONE)):
        lab.isthmus("lab", "partition", *ends)
    assert not reaches(lab)
    assert reaches(lab, "172.30.1.1")
    assert partitions(lab) == [[ONE, TWO]]
    assert f"partition: {ONE} and {TWO} do not hear each other" in lab.isthmus("lab", "status", check=False).stdout
    lab.isthmus("lab", "heal", TWO, ONE)
    assert reaches(lab)
    assert "They were not cut off" in lab.isthmus("lab", "heal", ONE, TWO).stderr


def test_a_partition_of_nodes_outlives_their_agents_and_their_own_restart(lab: Lab) -> None:
    lab.isthmus("lab", "partition", HERE, THERE)
    lab.isthmus("lab", "stop", "agent", HERE)
    lab.isthmus("lab", "start", "agent", HERE)
    lab.isthmus("lab", "status", "--wait")
    assert not reaches(lab)
    assert reaches(lab, "172.30.2.1")
    lab.isthmus("lab", "stop", "node", HERE)
    lab.isthmus("lab", "start", "node", HERE)
    lab.isthmus("lab", "status", "--wait")
    assert not reaches(lab)
    lab.isthmus("lab", "heal")
    assert reaches(lab)


def test_a_stopped_node_is_off_the_net_and_comes_back_with_its_pods(lab: Lab, namespace: str) -> None:
    pin = json.dumps({"spec": {"nodeName": HERE}})
    lab.kubectl(ONE, "-n", namespace, "run", "web", "--image=agnhost", f"--overrides={pin}", "--", "netexec")
    lab.kubectl(ONE, "-n", namespace, "wait", "--for=condition=Ready", "pod/web", "--timeout=30s")
    for _ in range(2):
        lab.isthmus("lab", "stop", "node", HERE)
    done = lab.isthmus("lab", "status", check=False)
    assert done.returncode == 1
    assert f"stopped nodes: {HERE}" in done.stdout
    refused = lab.isthmus("lab", "start", "agent", HERE, check=False)
    assert f'node "{HERE}" is stopped; start it with: isthmus lab start node {HERE}' in refused.stderr
    lab.isthmus("lab", "start", "node", HERE)
    lab.isthmus("lab", "status", "--wait")
    assert lab.kubectl(ONE, "-n", namespace, "exec", "web", "--", "hostname").stdout == "web\n"


def test_a_stopped_tracker_is_shown_and_its_agents_go_on_enforcing(lab: Lab) -> None:
    lab.isthmus("lab", "stop", "tracker", ONE)
    found = json.loads(lab.isthmus("lab", "status", "-o", "json", check=False).stdout)["clusters"][0]
    assert found["stoppedUnits"] == ["tracker"]
    lab.isthmus("lab", "start", "tracker", ONE)
    lab.isthmus("lab", "status", "--wait")
