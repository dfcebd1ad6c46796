"""What a node does next with a pod."""

import pytest
from msgspec.structs import replace

from isthmus.lab.node.pods.container import Container
from isthmus.lab.node.pods.lifecycle import (
    after_exit,
    after_reboot,
    initialized,
    next_step,
    phase,
    waiting_reason,
    wants_restart,
)
from isthmus.lab.node.pods.record import Ended, Process, Record, Waiting
from isthmus.lab.node.pods.spec import Meta, Pod, PodSpec

NOW = 1_000_000.0
A, B, INIT = Container(name="a"), Container(name="b"), Container(name="init")
RUNNING = Process(pid=5, start_time=1)


def pod(*, policy: str = "Always", init: tuple[Container, ...] = (), containers: tuple[Container, ...] = (A,)) -> Pod:
    spec = PodSpec(containers=containers, initContainers=init, restartPolicy=policy)
    return Pod(metadata=Meta(name="p", namespace="n", uid="u"), spec=spec)


def running(name: str) -> Record:
    return Record(name, attempt=1, process=RUNNING, started_at=NOW, ready=True)


def ended(name: str, code: int, *, lasted: float = 1.0) -> Record:
    return Record(name, attempt=1, ended=Ended(exit_code=code, started_at=NOW - lasted, finished_at=NOW))


def test_containers_start_together_and_once() -> None:
    both = pod(containers=(A, B))
    assert next_step(both, {}, now=NOW).start == ("a", "b")
    assert next_step(both, {"a": running("a"), "b": running("b")}, now=NOW).start == ()


def test_init_containers_run_one_after_another_before_the_others() -> None:
    other = Container(name="other")
    waits = pod(init=(INIT, other))
    assert next_step(waits, {}, now=NOW).start == ("init",)
    assert next_step(waits, {"init": running("init")}, now=NOW).start == ()
    assert next_step(waits, {"init": ended("init", 0)}, now=NOW).start == ("other",)
    assert next_step(waits, {"init": ended("init", 0), "other": ended("other", 0)}, now=NOW).start == ("a",)


def test_a_failed_init_container_ends_a_pod_that_never_restarts() -> None:
    stuck = pod(policy="Never", init=(INIT,))
    records = {"init": ended("init", 1)}
    assert next_step(stuck, records, now=NOW).start == ()
    assert phase(stuck, records) == "Failed"
    assert phase(pod(init=(INIT,)), records) == "Pending"


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_restart_policy(policy: str, code: int, again: bool) -> None:
    assert wants_restart(pod(policy=policy), A, Ended(exit_code=code, started_at=0, finished_at=1)) is again


def test_delays_double_up_to_five_minutes() -> None:
    record, delays = Record("a", attempt=1), []
    for _ in range(9):
        record = after_exit(pod(), A, record, ended=Ended(exit_code=1, started_at=NOW - 1, finished_at=NOW))
        delays.append(record.not_before - NOW)
    assert delays == [1, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_long_run_forgets_earlier_failures() -> None:
    record = Record("a", attempt=7, failures=6)
    record = after_exit(pod(), A, record, ended=Ended(exit_code=1, started_at=NOW - 601, finished_at=NOW))
    assert record.not_before - NOW == 1


def test_a_delay_is_waited_for() -> None:
    record = replace(ended("a", 1), not_before=NOW + 10)
    step = next_step(pod(), {"a": record}, now=NOW)
    assert (step.start, step.wake_at) == ((), NOW + 10)
    assert next_step(pod(), {"a": record}, now=NOW + 10).start == ("a",)


@pytest.mark.parametrize(
    ("policy", "records", "expected"),
    [
        ("Always", {}, "Pending"),
        ("Always", {"a": running("a")}, "Pending"),
        ("Always", {"a": running("a"), "b": running("b")}, "Running"),
        ("Always", {"a": ended("a", 1), "b": ended("b", 0)}, "Running"),
        ("Never", {"a": ended("a", 0), "b": running("b")}, "Running"),
        ("Never", {"a": ended("a", 0), "b": ended("b", 0)}, "Succeeded"),
        ("Never", {"a": ended("a", 0), "b": ended("b", 2)}, "Failed"),
        ("OnFailure", {"a": ended("a", 0), "b": ended("b", 2)}, "Running"),
    ],
)
def test_phase(policy: str, records: dict[str, Record], expected: str) -> None:
    assert phase(pod(policy=policy, containers=(A, B)), records) == expected


SIDECAR = Container(name="side", restartPolicy="Always")
LATER = Container(name="later", restartPolicy="Always")


def begun(name: str, *, started: bool = True) -> Record:
    return replace(running(name), started=started)


def test_a_sidecar_holds_up_its_successors_until_it_has_started() -> None:
    waits = pod(init=(SIDECAR, INIT))
    assert next_step(waits, {}, now=NOW).start == ("side",)
    assert next_step(waits, {"side": begun("side", started=False)}, now=NOW).start == ()
    assert next_step(waits, {"side": begun("side")}, now=NOW).start == ("init",)
    assert not initialized(waits, {"side": begun("side")})
    records = {"side": begun("side"), "init": ended("init", 0)}
    assert initialized(waits, records)
    assert next_step(waits, records, now=NOW).start == ("a",)


@pytest.mark.parametrize("policy", ["Always", "OnFailure", "Never"])
def test_a_sidecar_is_restarted_whatever_the_policy_says(policy: str) -> None:
    guarded = pod(policy=policy, init=(SIDECAR,))
    records = {"side": ended("side", 0), "a": running("a")}
    assert next_step(guarded, records, now=NOW).start == ("side",)
    assert phase(guarded, records) == "Running"
    assert initialized(guarded, records)


def test_sidecars_end_after_the_others_the_last_one_first() -> None:
    guarded = pod(policy="Never", init=(SIDECAR, LATER))
    records = {"side": begun("side"), "later": begun("later"), "a": running("a")}
    assert next_step(guarded, records, now=NOW).stop == ()
    records["a"] = ended("a", 0)
    assert next_step(guarded, records, now=NOW).stop == ("later",)
    assert phase(guarded, records) == "Running"
    records["later"] = ended("later", 137)
    assert next_step(guarded, records, now=NOW).stop == ("side",)
    records["side"] = ended("side", 137)
    step = next_step(guarded, records, now=NOW)
    assert (step.start, step.stop) == ((), ())
    assert phase(guarded, records) == "Succeeded"


def test_a_failed_init_container_ends_the_sidecars_before_it() -> None:
    guarded = pod(policy="Never", init=(SIDECAR, INIT))
    records = {"side": begun("side"), "init": ended("init", 1)}
    assert next_step(guarded, records, now=NOW).stop == ("side",)
    records["side"] = ended("side", 143)
    assert phase(guarded, records) == "Failed"


def test_a_node_that_was_started_anew_has_forgotten_how_long_to_wait() -> None:
    crashed = pod()
    record = replace(ended("a", 1), failures=4, not_before=NOW + 80)
    assert next_step(crashed, {"a": record}, now=NOW).start == ()
    again = after_reboot(record)
    assert next_step(crashed, {"a": again}, now=NOW).start == ("a",)
    assert waiting_reason(crashed, A, again)[0] is Waiting.CREATING
    assert again.restarts == record.restarts
