"""A pod's conditions, with the reasons and messages that kubelets give."""

from collections.abc import Mapping, Sequence
from typing import Any

from isthmus.lab.node.pods.lifecycle import initialized
from isthmus.lab.node.pods.record import Record
from isthmus.lab.node.pods.spec import Pod

Json = dict[str, Any]

OURS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")
_Wanted = tuple[str, str, str]
"""Status, reason, message."""


def conditions(
    pod: Pod, records: Mapping[str, Record], *, word: str, has_ip: bool, stamp: str, previous: Sequence[Json]
) -> list[Json]:
    """Returns all conditions of a pod in the phase `word`: ours, and what others wrote as it was in `previous`."""
    before = {condition.get("type"): condition for condition in previous}
    over = word in ("Succeeded", "Failed")
    containers = _containers_ready(pod, records, word=word)
    wanted = {
        "PodReadyToStartContainers": ("True" if has_ip and not over else "False", "", ""),
        "Initialized": _initialized(pod, records, word=word),
        "Ready": _ready(pod, containers, before),
        "ContainersReady": containers,
    }
    result: list[Json] = []
    for name in OURS:
        status, reason, message = wanted[name]
        known = before.get(name, {})
        same = known.get("status") == status
        condition: Json = {
            "type": name,
            "status": status,
            "lastProbeTime": None,
            "lastTransitionTime": known["lastTransitionTime"] if same and "lastTransitionTime" in known else stamp,
        }
        if reason:
            condition["reason"] = reason
        if message:
            condition["message"] = message
        result.append(condition)
    result += [condition for condition in previous if condition.get("type") not in OURS]
    if "PodScheduled" not in before:
        # Of a pod that was created for this node nobody else says so.
        result.append({"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": stamp})
    return result


def _containers_ready(pod: Pod, records: Mapping[str, Record], *, word: str) -> _Wanted:
    if word == "Succeeded":
        return "False", "PodCompleted", ""
    if word == "Failed":
        return "False", "PodFailed", ""
    counted = [
        container for container in pod.all_containers if container in pod.spec.containers or pod.is_sidecar(container)
    ]
    unready = []
    for container in counted:
        record = records.get(container.name)
        if record is None or not record.running or not record.ready:
            unready.append(container.name)
    if unready:
        return "False", "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    return "True", "", ""


def _ready(pod: Pod, containers: _Wanted, before: Mapping[Any, Json]) -> _Wanted:
    if containers[0] != "True":
        return containers
    problems = []
    for gate in pod.spec.readinessGates:
        known = before.get(gate.conditionType)
        if known is None:
            problems.append(f'corresponding condition of pod readiness gate "{gate.conditionType}" does not exist.')
        elif known.get("status") != "True":
            problems.append(
                f'the status of pod readiness gate "{gate.conditionType}" is not "True", but {known.get("status")}'
            )
    if problems:
        return "False", "ReadinessGatesNotReady", ", ".join(problems)
    return "True", "", ""


def _initialized(pod: Pod, records: Mapping[str, Record], *, word: str) -> _Wanted:
    if word == "Succeeded":
        return "True", "PodCompleted", ""
    if initialized(pod, records):
        return "True", "", ""
    waiting = []
    for container in pod.spec.initContainers:
        record = records.get(container.name)
        if pod.is_sidecar(container):
            done = record is not None and record.running and record.started
        else:
            done = (
                record is not None and not record.running and record.ended is not None and record.ended.exit_code == 0
            )
        if not done:
            waiting.append(container.name)
    return "False", "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(waiting)}]"
