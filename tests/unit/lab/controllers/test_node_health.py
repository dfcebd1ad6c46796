"""What a node's health means for its taints and its pods."""

from msgspec.structs import replace

from isthmus.lab.controllers.nodes.health import OUT_OF_SERVICE, eviction, lost_conditions, remains, taints
from isthmus.lab.controllers.objects.meta import stamp
from isthmus.lab.controllers.objects.nodes import Taint
from isthmus.lab.controllers.objects.pods import Toleration
from tests.support.clusterobjects import NOW, node, pod

UNREACHABLE = "node.kubernetes.io/unreachable"
MINE = Taint(key="mine", effect="NoSchedule", value="1")


def keys(found: tuple[Taint, ...]) -> list[tuple[str, str]]:
    return [(taint.key.removeprefix("node.kubernetes.io/"), taint.effect) for taint in found]


def test_a_silent_node_becomes_unknown_once() -> None:
    conditions = lost_conditions(node("a"), now=NOW)
    assert {one["type"]: one["reason"] for one in conditions} == {
        "Ready": "NodeStatusUnknown",
        "MemoryPressure": "NodeStatusNeverUpdated",
        "DiskPressure": "NodeStatusNeverUpdated",
        "PIDPressure": "NodeStatusNeverUpdated",
    }
    assert [one["type"] for one in lost_conditions(node("a", ready="Unknown"), now=NOW)] == [
        "MemoryPressure",
        "DiskPressure",
        "PIDPressure",
    ]


def test_taints_come_and_go_with_the_state() -> None:
    both = [("unreachable", "NoSchedule"), ("unreachable", "NoExecute")]
    assert keys(taints(node("a", ready="Unknown"), evicting=True, now=NOW)) == both
    assert keys(taints(node("a", ready="False"), evicting=True, now=NOW))[0] == ("not-ready", "NoSchedule")
    lost = node("a", ready="Unknown", taints=(MINE, *taints(node("a", ready="Unknown"), evicting=True, now=NOW)))
    back = replace(lost, status=node("a").status)
    assert taints(back, evicting=True, now=NOW) == (MINE,)
    assert taints(node("a"), evicting=True, now=NOW) == ()
    assert keys(taints(node("a", cordoned=True), evicting=True, now=NOW)) == [("unschedulable", "NoSchedule")]


def test_a_taint_that_stays_keeps_its_time() -> None:
    held = taints(node("a", ready="Unknown"), evicting=True, now=NOW)
    assert taints(node("a", ready="Unknown", taints=held), evicting=True, now=NOW + 99) == held


def test_nobody_is_sent_away_when_no_node_is_well() -> None:
    assert keys(taints(node("a", ready="Unknown"), evicting=False, now=NOW)) == [("unreachable", "NoSchedule")]


def test_evictions_wait_as_long_as_is_tolerated() -> None:
    lost = node("a", taints=(Taint(key=UNREACHABLE, effect="NoExecute", timeAdded=stamp(NOW - 100)),))
    patient = pod("p", tolerations=(Toleration(UNREACHABLE, "Exists", effect="NoExecute", tolerationSeconds=300),))
    assert eviction(patient, lost, since=NOW, now=NOW).after == 200
    assert eviction(patient, lost, since=NOW, now=NOW + 200).now
    assert eviction(pod("p"), lost, since=NOW, now=NOW).now
    forever = pod("p", tolerations=(Toleration(operator="Exists"),))
    verdict = eviction(forever, lost, since=NOW, now=NOW + 9999)
    assert (verdict.now, verdict.after) == (False, None)


def test_pods_that_nobody_will_finish() -> None:
    here = node("n1")
    assert remains(pod("ok"), here) is None
    assert remains(pod("ending", leaving=True), here) is None
    assert remains(pod("lost", on="gone"), None) == "PodGC: node no longer exists"
    assert remains(pod("early", on="", leaving=True), None) == ""
    assert remains(pod("waits", on=""), None) is None
    down = node("n1", ready="Unknown", taints=(Taint(key=OUT_OF_SERVICE, effect="NoExecute"),))
    assert remains(pod("stays"), down) is None
    assert remains(pod("stuck", leaving=True), down) == "PodGC: node is out of service"
