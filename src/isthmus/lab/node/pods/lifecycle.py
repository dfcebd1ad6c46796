"""What to do next with a pod: a pure function of its spec, its containers' records and the time.

The kubelet's rules: init containers run one after another, each to success, before the others start together; a
sidecar (an init container with restartPolicy Always) holds up its successors only until it has started, is restarted
whatever happens, and ends after the ordinary containers, the last one first (KEP-753); a container that ended is
started again as restartPolicy says, after a delay that doubles from 10 s to 5 min and is forgotten after a run of 10
min; a pod whose containers are all over for good has Succeeded or Failed.
"""

from collections.abc import Mapping

import msgspec

from isthmus.lab.node.pods.container import Container
from isthmus.lab.node.pods.record import Ended, Record, Waiting
from isthmus.lab.node.pods.spec import Pod

FIRST_RESTART = 1.0
"""Seconds. The kubelet's first restart has no delay; here somebody may still be about to attach to the first run."""
BACK_OFF = 10.0
BACK_OFF_CAP = 300.0
STEADY = 600.0
"""A run of this many seconds forgets earlier failures."""

_IMAGE_TROUBLE = (
    Waiting.PULL_ERROR,
    Waiting.PULL_BACK_OFF,
    Waiting.NEVER_PULL,
    Waiting.INVALID_IMAGE,
    Waiting.CONFIG_ERROR,
)


class Step(msgspec.Struct, frozen=True):
    """Containers to start and to stop now; when to look again, in seconds since the epoch (None: when woken)."""

    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    wake_at: float | None = None


def next_step(pod: Pod, records: Mapping[str, Record], *, now: float) -> Step:
    """Returns what to do for a pod that is not being deleted."""
    if is_over(pod, records):
        return Step(stop=sidecars_to_stop(pod, records))
    start: list[str] = []
    wake: list[float] = []
    for container in _turn(pod, records):
        record = records.get(container.name) or Record(container.name)
        if record.running or (record.ended is not None and not wants_restart(pod, container, record.ended)):
            continue
        if record.not_before <= now:
            start.append(container.name)
        else:
            wake.append(record.not_before)
    return Step(tuple(start), wake_at=min(wake, default=None))


def after_exit(pod: Pod, container: Container, record: Record, *, ended: Ended) -> Record:
    """Returns the record of a container whose run has `ended`; decides when it may run again."""
    record = msgspec.structs.replace(
        record, process=None, started=False, ready=False, ended=ended, message="", waiting=Waiting.CREATING
    )
    if not wants_restart(pod, container, ended):
        return record
    failures = 0 if ended.finished_at - ended.started_at >= STEADY else record.failures
    delay = FIRST_RESTART if failures == 0 else min(BACK_OFF * 2 ** (failures - 1), BACK_OFF_CAP)
    return msgspec.structs.replace(record, failures=failures + 1, not_before=ended.finished_at + delay)


def after_reboot(record: Record) -> Record:
    """Returns the record of a container whose node was started anew: what it waited for is forgotten.

    The kubelet keeps its back-off in memory.
    """
    waiting = Waiting.CREATING if record.waiting in _IMAGE_TROUBLE else record.waiting
    return msgspec.structs.replace(record, failures=0, not_before=0.0, waiting=waiting)


def wants_restart(pod: Pod, container: Container, ended: Ended) -> bool:
    """Tells whether restartPolicy asks for another run."""
    policy = pod.spec.restartPolicy
    if pod.is_sidecar(container):
        return True
    if container in pod.spec.initContainers:
        return ended.exit_code != 0 and policy != "Never"
    return policy == "Always" or (policy == "OnFailure" and ended.exit_code != 0)


def is_over(pod: Pod, records: Mapping[str, Record]) -> bool:
    """Tells whether nothing but sidecars is left to run."""
    if _init_failed(pod, records):
        return True
    return bool(pod.spec.containers) and all(
        (ended := _ended(records, container)) is not None and not wants_restart(pod, container, ended)
        for container in pod.spec.containers
    )


def sidecars_to_stop(pod: Pod, records: Mapping[str, Record]) -> tuple[str, ...]:
    """Returns the sidecar to stop next, once the ordinary containers are over: the last one that runs."""
    for container in reversed(pod.spec.initContainers):
        record = records.get(container.name)
        if pod.is_sidecar(container) and record is not None and record.running:
            return (container.name,)
    return ()


def phase(pod: Pod, records: Mapping[str, Record]) -> str:
    """Returns the pod's phase; a pod is not over before its sidecars are."""
    running = any(record.running for record in records.values())
    if _init_failed(pod, records):
        return "Pending" if running else "Failed"
    states = [records.get(container.name) or Record(container.name) for container in pod.spec.containers]
    if not initialized(pod, records) or any(state.attempt == 0 for state in states):
        return "Pending"
    if not is_over(pod, records) or running:
        return "Running"
    return "Succeeded" if all(state.ended and state.ended.exit_code == 0 for state in states) else "Failed"


def initialized(pod: Pod, records: Mapping[str, Record]) -> bool:
    """Tells whether every init container has succeeded and every sidecar has started; stays so afterwards."""
    if any(_attempted(records, container) for container in pod.spec.containers):
        return True
    return all(_done(pod, records, container) for container in pod.spec.initContainers)


def waiting_reason(pod: Pod, container: Container, record: Record) -> tuple[Waiting, str]:
    """Returns why a container that neither runs nor is over for good waits, with a message."""
    if record.waiting in _IMAGE_TROUBLE:
        return record.waiting, record.message
    if record.ended is not None and record.ended.reason == "StartError" and record.failures <= 1:
        return Waiting.RUN_ERROR, record.ended.message
    if record.ended is not None and record.failures > 1:
        delay = min(BACK_OFF * 2 ** (record.failures - 2), BACK_OFF_CAP)
        text = (
            f"back-off {_go_duration(delay)} restarting failed container={container.name} "
            f"pod={pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"
        )
        return Waiting.BACK_OFF, text
    if not record.attempt and pod.spec.initContainers and container != pod.spec.initContainers[0]:
        return Waiting.INITIALIZING, ""
    return Waiting.CREATING, ""


def _turn(pod: Pod, records: Mapping[str, Record]) -> list[Container]:
    """The containers that should run now: sidecars so far and one init container, or sidecars and all the others."""
    begun = any(_attempted(records, container) for container in pod.spec.containers)
    turn: list[Container] = []
    for container in pod.spec.initContainers:
        if pod.is_sidecar(container):
            turn.append(container)
        if begun or _done(pod, records, container):
            continue
        if not pod.is_sidecar(container):
            turn.append(container)
        return turn
    return [*turn, *pod.spec.containers]


def _done(pod: Pod, records: Mapping[str, Record], container: Container) -> bool:
    """Whether an init container lets its successors start."""
    if pod.is_sidecar(container):
        record = records.get(container.name)
        return record is not None and record.running and record.started
    ended = _ended(records, container)
    return ended is not None and ended.exit_code == 0


def _init_failed(pod: Pod, records: Mapping[str, Record]) -> bool:
    return any(
        (ended := _ended(records, container)) is not None
        and ended.exit_code != 0
        and not wants_restart(pod, container, ended)
        for container in pod.spec.initContainers
    )


def _attempted(records: Mapping[str, Record], container: Container) -> bool:
    record = records.get(container.name)
    return record is not None and record.attempt > 0


def _ended(records: Mapping[str, Record], container: Container) -> Ended | None:
    record = records.get(container.name)
    return None if record is None or record.running else record.ended


def _go_duration(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"
