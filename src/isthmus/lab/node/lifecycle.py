"""What to do next with a pod: a pure function of its spec, its containers' records and the time.

The kubelet's rules: init containers run one after another, each to success, before the others start together; a
container that ended is started again as restartPolicy says, after a delay that doubles from 10 s to 5 min and is
forgotten after a run of 10 min; a pod whose containers are all over for good has Succeeded or Failed.
"""

from collections.abc import Mapping, Sequence

import msgspec

from isthmus.lab.node.pod import Container, Pod
from isthmus.lab.node.record import Ended, Record, Waiting

FIRST_RESTART = 1.0
"""Seconds. The kubelet's first restart has no delay; here somebody may still be about to attach to the first run."""
BACK_OFF = 10.0
BACK_OFF_CAP = 300.0
STEADY = 600.0
"""A run of this many seconds forgets earlier failures."""


class Step(msgspec.Struct, frozen=True):
    """Containers to start now, and when to look again (seconds since the epoch; None: only when something happens)."""

    start: tuple[str, ...] = ()
    wake_at: float | None = None


def next_step(pod: Pod, records: Mapping[str, Record], *, now: float) -> Step:
    """Returns what to do for a pod that is not being deleted."""
    current = _current(pod, records)
    start: list[str] = []
    wake: list[float] = []
    for container in current:
        record = records.get(container.name) or Record(container.name)
        if record.running or (record.ended is not None and not wants_restart(pod, container, record.ended)):
            continue
        if record.not_before <= now:
            start.append(container.name)
        else:
            wake.append(record.not_before)
    return Step(tuple(start), min(wake, default=None))


def after_exit(pod: Pod, container: Container, record: Record, *, ended: Ended) -> Record:
    """Returns the record of a container whose run has `ended`; decides when it may run again."""
    record = msgspec.structs.replace(record, process=None, ready=False, ended=ended, message="")
    if not wants_restart(pod, container, ended):
        return record
    failures = 0 if ended.finished_at - ended.started_at >= STEADY else record.failures
    delay = FIRST_RESTART if failures == 0 else min(BACK_OFF * 2 ** (failures - 1), BACK_OFF_CAP)
    return msgspec.structs.replace(record, failures=failures + 1, not_before=ended.finished_at + delay)


def wants_restart(pod: Pod, container: Container, ended: Ended) -> bool:
    """Tells whether restartPolicy asks for another run."""
    policy = pod.spec.restartPolicy
    if container in pod.spec.initContainers:
        return ended.exit_code != 0 and policy != "Never"
    return policy == "Always" or (policy == "OnFailure" and ended.exit_code != 0)


def phase(pod: Pod, records: Mapping[str, Record]) -> str:
    """Returns the pod's phase."""
    for container in pod.spec.initContainers:
        ended = _ended(records, container)
        if ended is None or ended.exit_code != 0:
            dead = ended is not None and not wants_restart(pod, container, ended)
            return "Failed" if dead else "Pending"
    states = [records.get(container.name) or Record(container.name) for container in pod.spec.containers]
    if any(state.attempt == 0 for state in states):
        return "Pending"
    over = [
        state.ended
        for container, state in zip(pod.spec.containers, states, strict=True)
        if state.ended is not None and not state.running and not wants_restart(pod, container, state.ended)
    ]
    if len(over) < len(states):
        return "Running"
    return "Succeeded" if all(ended.exit_code == 0 for ended in over) else "Failed"


def initialized(pod: Pod, records: Mapping[str, Record]) -> bool:
    """Tells whether every init container has succeeded."""
    return all(
        (ended := _ended(records, container)) is not None and ended.exit_code == 0
        for container in pod.spec.initContainers
    )


def waiting_reason(pod: Pod, container: Container, record: Record, *, now: float) -> tuple[Waiting, str]:
    """Returns why a container that neither runs nor is over for good waits, with a message."""
    if record.waiting in (Waiting.PULL_ERROR, Waiting.PULL_BACK_OFF, Waiting.CONFIG_ERROR):
        return record.waiting, record.message
    if record.ended is not None and record.failures > 1:
        delay = min(BACK_OFF * 2 ** (record.failures - 2), BACK_OFF_CAP)
        text = f"back-off {_go_duration(delay)} restarting failed container={container.name} pod={pod.where}"
        return Waiting.BACK_OFF, text
    if container not in pod.spec.initContainers and not record.attempt and pod.spec.initContainers:
        return Waiting.INITIALIZING, ""
    return Waiting.CREATING, ""


def _current(pod: Pod, records: Mapping[str, Record]) -> Sequence[Container]:
    """The containers whose turn it is: one init container, or all the others."""
    for container in pod.spec.initContainers:
        ended = _ended(records, container)
        if ended is None or ended.exit_code != 0:
            return (container,)
    return pod.spec.containers


def _ended(records: Mapping[str, Record], container: Container) -> Ended | None:
    record = records.get(container.name)
    return None if record is None or record.running else record.ended


def _go_duration(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"
