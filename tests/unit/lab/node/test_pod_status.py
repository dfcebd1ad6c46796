"""A pod's status in the API."""

from typing import Any

from isthmus.lab.node.pods.container import Container
from isthmus.lab.node.pods.lifecycle import after_exit
from isthmus.lab.node.pods.record import Ended, Process, Record, Waiting
from isthmus.lab.node.pods.spec import Meta, Pod, PodSpec, ReadinessGate
from isthmus.lab.node.pods.status import pod_status

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
    return pod_status(pod, records, host_ips=("172.30.1.1",), pod_ips=(ip,) if ip else (), now=NOW, previous=previous)


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
        "message": "back-off 10s restarting failed container=a pod=p_n(u)",
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


def gated(previous: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    spec = PodSpec(containers=(A,), readinessGates=(ReadinessGate("example.org/open"),))
    pod = Pod(metadata=Meta(name="p", namespace="n", uid="u"), spec=spec)
    found = pod_status(pod, {"a": RUNNING}, host_ips=("172.30.1.1",), pod_ips=("10.1.0.2",), now=NOW, previous=previous)
    return next(condition for condition in found["conditions"] if condition["type"] == "Ready")


def test_a_readiness_gate_must_be_open() -> None:
    assert gated(())["reason"] == "ReadinessGatesNotReady"
    assert "does not exist" in gated(())["message"]
    shut = gated(({"type": "example.org/open", "status": "False"},))
    assert shut["message"] == 'the status of pod readiness gate "example.org/open" is not "True", but False'
    assert gated(({"type": "example.org/open", "status": "True"},))["status"] == "True"


def test_a_pod_of_two_families_has_an_address_of_each() -> None:
    pod = Pod(metadata=Meta(name="p", namespace="n", uid="u"), spec=PodSpec(containers=(A,)))
    found = pod_status(
        pod, {}, host_ips=("172.30.1.1", "fd00::1"), pod_ips=("10.1.0.2", "fd01::2"), now=NOW, previous=()
    )
    assert found["podIPs"] == [{"ip": "10.1.0.2"}, {"ip": "fd01::2"}]
    assert found["hostIPs"] == [{"ip": "172.30.1.1"}, {"ip": "fd00::1"}]


def test_a_program_that_could_not_be_executed_shows_first_why() -> None:
    pod = Pod(metadata=Meta(name="p", namespace="n", uid="u"), spec=PodSpec(containers=(A,)))
    failed = Ended(exit_code=128, started_at=NOW, finished_at=NOW, reason="StartError", message="no such file")
    entry = status({"a": after_exit(pod, A, Record("a", attempt=1), ended=failed)})["containerStatuses"][0]
    assert entry["state"] == {"waiting": {"reason": "RunContainerError", "message": "no such file"}}
    assert entry["lastState"]["terminated"]["exitCode"] == 128


def test_a_pod_that_its_node_has_ended_says_why() -> None:
    pod = Pod(metadata=Meta(name="p", namespace="n", uid="u"), spec=PodSpec(containers=(A,)))
    found = pod_status(
        pod,
        {"a": Record("a", attempt=1, ended=Ended(exit_code=137, started_at=NOW, finished_at=NOW))},
        host_ips=("172.30.1.1",),
        pod_ips=(),
        now=NOW,
        previous=(),
        failure=("DeadlineExceeded", "too long"),
    )
    assert (found["phase"], found["reason"], found["message"]) == ("Failed", "DeadlineExceeded", "too long")
