"""What a node says of itself."""

from isthmus.lab.apiserver.changes.strategic import strategic_merge
from isthmus.lab.apiserver.schema.typetable import find
from isthmus.lab.node.registration import NodeFacts, node_object, node_status, status_patch

FACTS = NodeFacts(name="a-worker", address="172.30.1.2", pod_cidr="10.1.1.0/24", control_plane=False, tainted=False)
NOW = 1_700_000_000.0
STAMP = "2023-11-14T22:13:20Z"
LONG_AGO = "2020-01-01T00:00:00Z"


def ready(known: list[dict[str, str]]) -> dict[str, str]:
    conditions = node_status(FACTS, now=NOW, known=known)["conditions"]
    return next(condition for condition in conditions if condition["type"] == "Ready")


def test_a_node_is_found_at_its_address_and_port() -> None:
    status = node_status(FACTS, now=NOW, known=[])
    assert {"type": "InternalIP", "address": "172.30.1.2"} in status["addresses"]
    assert status["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}


def test_readiness_keeps_the_time_of_its_last_change() -> None:
    assert ready([])["lastTransitionTime"] == STAMP
    kept = ready([{"type": "Ready", "status": "True", "lastTransitionTime": LONG_AGO}])
    assert (kept["lastTransitionTime"], kept["lastHeartbeatTime"]) == (LONG_AGO, STAMP)
    back = ready([{"type": "Ready", "status": "Unknown", "lastTransitionTime": LONG_AGO}])
    assert back["lastTransitionTime"] == STAMP


def test_a_control_plane_is_marked_and_keeps_ordinary_pods_away() -> None:
    worker = node_object(FACTS)
    assert worker["spec"] == {"podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24"]}
    control = node_object(
        NodeFacts(name="a", address="172.30.1.1", pod_cidr="10.1.0.0/24", control_plane=True, tainted=True)
    )
    assert control["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] == ""
    assert control["spec"]["taints"] == [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]


def test_a_node_of_two_families_says_so_everywhere() -> None:
    facts = NodeFacts(
        name="a", address="172.30.1.2", address6="fd00::2", pod_cidr="10.1.1.0/24", pod_cidr6="fd01::/64",
        control_plane=False, tainted=False,
    )  # fmt: skip
    assert node_object(facts)["spec"]["podCIDRs"] == ["10.1.1.0/24", "fd01::/64"]
    addresses = [entry["address"] for entry in node_status(facts, now=NOW, known=[])["addresses"]]
    assert addresses == ["172.30.1.2", "fd00::2", "a"]


def test_both_addresses_of_a_node_are_there_after_its_status_was_written_again() -> None:
    facts = NodeFacts(
        name="a", address="172.30.1.2", address6="fd00::2", pod_cidr="10.1.1.0/24", pod_cidr6="fd01::/64",
        control_plane=False, tainted=False,
    )  # fmt: skip
    status = node_status(facts, now=NOW, known=[])
    node = {"status": status}
    for _ in range(2):
        node = strategic_merge(node, {"status": status_patch(status)}, find("Node", package="io.k8s.api.core.v1"))
        assert node["status"]["addresses"] == status["addresses"]
