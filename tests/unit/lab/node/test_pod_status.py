"""A pod's status in the API."""

from typing import Any

from isthmus.lab.node.lifecycle import after_exit
from isthmus.lab.node.pod import Container, Meta, Pod, PodSpec
from isthmus.lab.node.record import Ended, Process, Record, Waiting
from isthmus.lab.node.status import pod_status

NOW = 1_700_000_000.0
STAMP = "2023-11-14T22:13:20Z"
A = Container(name="a", image="busybox:1.36")


def status(
    records: dict[str, Record],
    *,
    policy: str = "Always",
    ip: str = "10.1.0.2",
    previous: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    pod = Pod(metadata=Meta(name="p", namespace="n", uid="u"), spec=PodSpec(containers=(A,), restartPolicy=policy))
    return pod_status(pod, records, host_ip="172.30.1.1", pod_ip=ip, now=NOW, previous=previous)


def conditions(found: dict[str, Any]) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in found["conditions"]}


RUNNING = Record("a", attempt=1, process=Process(pid=1, start_time=1), started_at=NOW, ready=True)


def test_an_address_is_told_before_anything_runs() -> None:
    found = status({})
    assert found["podIP"] == "10.1.0.2"
    assert found["podIPs"] == [{"ip": "10.1.0.2"}]
    assert found["phase"] == "Pending"
    assert conditions(found)["PodReadyToStartContainers"] == "True"
    assert conditions(found)["Ready"] == "False"
    assert found["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}


def test_a_running_pod_is_ready() -> None:
    found = status({"a": RUNNING})
    entry = found["containerStatuses"][0]
    assert (found["phase"], conditions(found)["Ready"]) == ("Running", "True")
    assert entry["state"] == {"running": {"startedAt": STAMP}}
    assert (entry["ready"], entry["restartCount"], entry["imageID"]) == (True, 0, "lab/busybox")
    assert entry["containerID"] == "lab://u/a/1"


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    before = ({"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},)
    found = {c["type"]: c for c in status({"a": RUNNING}, previous=before)["conditions"]}
    assert found["Ready"]["lastTransitionTime"] == "2020-01-01T00:00:00Z"
    assert found["ContainersReady"]["lastTransitionTime"] == STAMP


def test_conditions_of_others_are_kept() -> None:
    before = ({"type": "PodScheduled", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},)
    assert before[0] in status({}, previous=before)["conditions"]


def test_a_crash_loop_shows_why_and_the_last_end() -> None:
    pod = Pod(metadata=Meta(name="p", namespace="n", uid="u"), spec=PodSpec(containers=(A,)))
    record = Record("a", attempt=3, failures=1)
    record = after_exit(pod, A, record, ended=Ended(exit_code=2, started_at=NOW - 1, finished_at=NOW))
    entry = status({"a": record})["containerStatuses"][0]
    assert entry["state"]["waiting"] == {
        "reason": "CrashLoopBackOff",
        "message": "back-off 10s restarting failed container=a pod=n/p",
    }
    assert entry["lastState"]["terminated"]["exitCode"] == 2
    assert entry["restartCount"] == 2


def test_a_pod_that_succeeded_is_complete_and_owns_no_ready_condition() -> None:
    record = Record("a", attempt=1, ended=Ended(exit_code=0, started_at=NOW - 1, finished_at=NOW))
    found = status({"a": record}, policy="Never")
    ready = next(c for c in found["conditions"] if c["type"] == "Ready")
    assert found["phase"] == "Succeeded"
    assert (ready["status"], ready["reason"]) == ("False", "PodCompleted")
    assert found["containerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"


def test_an_image_that_cannot_be_had_says_so() -> None:
    record = Record("a", waiting=Waiting.PULL_BACK_OFF, message="no such image")
    assert status({"a": record})["containerStatuses"][0]["state"] == {
        "waiting": {"reason": "ImagePullBackOff", "message": "no such image"}
    }
