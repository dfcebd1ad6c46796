"""A pod's status as the API shows it, from the node's records: a pure function.

Invariants: a condition keeps its lastTransitionTime as long as its status stays; conditions that others wrote
(PodScheduled, readiness gates) are kept; a pod is Ready only if every container runs and is ready.
"""

import datetime
from collections.abc import Mapping
from typing import Any

from isthmus.lab.images.catalog import UnknownImage, find_image
from isthmus.lab.node.lifecycle import initialized, phase, waiting_reason, wants_restart
from isthmus.lab.node.pod import Container, Pod
from isthmus.lab.node.record import Ended, Record

Json = dict[str, Any]
_OURS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")


def pod_status(
    pod: Pod,
    records: Mapping[str, Record],
    *,
    host_ip: str,
    pod_ip: str,
    now: float,
    previous: tuple[Json, ...],
    failure: tuple[str, str] = ("", ""),
) -> Json:
    """Returns status fields for a merge patch.

    `previous` are the conditions last known; `failure` is (reason, message) of a pod that cannot run at all.
    """
    word = "Failed" if failure[0] else phase(pod, records)
    over = word in ("Succeeded", "Failed")
    status: Json = {
        "phase": word,
        "conditions": _conditions(pod, records, word=word, has_ip=bool(pod_ip), now=now, previous=previous),
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": pod.status.startTime or stamp(now),
        "containerStatuses": [
            container_status(pod, container, records.get(container.name), now=now, over=over)
            for container in pod.spec.containers
        ],
    }
    if pod.spec.initContainers:
        status["initContainerStatuses"] = [
            container_status(pod, container, records.get(container.name), now=now, over=over)
            for container in pod.spec.initContainers
        ]
    if not pod.status.qosClass:
        status["qosClass"] = "BestEffort"
    if pod_ip:
        status["podIP"] = pod_ip
        status["podIPs"] = [{"ip": pod_ip}]
    if failure[0]:
        status["reason"], status["message"] = failure
    return status


def container_status(pod: Pod, container: Container, record: Record | None, *, now: float, over: bool) -> Json:
    """Returns the ContainerStatus of one container; in a pod that is `over` nothing waits any more."""
    record = record or Record(container.name)
    state, last = _states(pod, container, record, now=now, over=over)
    initial = container in pod.spec.initContainers
    done = initial and record.ended is not None and record.ended.exit_code == 0
    status: Json = {
        "name": container.name,
        "image": container.image,
        "imageID": _image_id(container.image) if record.attempt else "",
        "containerID": container_id(pod, container, record.attempt) if record.attempt else None,
        "restartCount": record.restarts,
        "ready": done or (record.running and record.ready),
        "started": record.running and (initial or record.ready),
        "state": state,
        "lastState": last,
    }
    return status


def container_id(pod: Pod, container: Container, attempt: int) -> str:
    """Returns the ID of a run of a container."""
    return f"lab://{pod.metadata.uid}/{container.name}/{attempt}"


def stamp(moment: float) -> str:
    """Returns seconds since the epoch as the API writes times."""
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _states(pod: Pod, container: Container, record: Record, *, now: float, over: bool) -> tuple[Json, Json]:
    if record.running:
        last = {"terminated": _terminated(record.before)} if record.before else {}
        return {"running": {"startedAt": stamp(record.started_at)}}, last
    if record.ended is not None:
        final = not wants_restart(pod, container, record.ended)
        # Between two runs the API shows the end of the first one until the back-off begins.
        if final or over or record.failures <= 1:
            last = {"terminated": _terminated(record.before)} if record.before else {}
            return {"terminated": _terminated(record.ended)}, last
    reason, message = waiting_reason(pod, container, record, now=now)
    waiting: Json = {"reason": reason.value}
    if message:
        waiting["message"] = message
    last_end = record.ended or record.before
    return {"waiting": waiting}, {"terminated": _terminated(last_end)} if last_end else {}


def _terminated(ended: Ended) -> Json:
    result: Json = {
        "exitCode": ended.exit_code,
        "reason": ended.reason or ("Completed" if ended.exit_code == 0 else "Error"),
        "startedAt": stamp(ended.started_at),
        "finishedAt": stamp(ended.finished_at),
        "containerID": ended.container_id,
    }
    if ended.message:
        result["message"] = ended.message
    return result


def _conditions(
    pod: Pod, records: Mapping[str, Record], *, word: str, has_ip: bool, now: float, previous: tuple[Json, ...]
) -> list[Json]:
    unready = [c.name for c in pod.spec.containers if not _is_ready(records.get(c.name))]
    over = word in ("Succeeded", "Failed")
    if not unready:
        ready = ("True", "", "")
    elif word == "Succeeded":
        ready = ("False", "PodCompleted", "")
    elif word == "Failed":
        ready = ("False", "PodFailed", "")
    else:
        ready = ("False", "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    begun = initialized(pod, records)
    wanted = {
        "PodReadyToStartContainers": ("True" if has_ip and not over else "False", "", ""),
        "Initialized": (
            ("True", "PodCompleted" if word == "Succeeded" else "", "")
            if begun
            else ("False", "ContainersNotInitialized", "containers with incomplete status")
        ),
        "Ready": ready,
        "ContainersReady": ready,
    }
    before = {condition.get("type"): condition for condition in previous}
    conditions: list[Json] = []
    for name in _OURS:
        status, reason, message = wanted[name]
        known = before.get(name, {})
        same = known.get("status") == status
        condition: Json = {
            "type": name,
            "status": status,
            "lastProbeTime": None,
            "lastTransitionTime": known["lastTransitionTime"] if same and "lastTransitionTime" in known else stamp(now),
        }
        if reason:
            condition["reason"] = reason
        if message:
            condition["message"] = message
        conditions.append(condition)
    conditions += [condition for condition in previous if condition.get("type") not in _OURS]
    return conditions


def _is_ready(record: Record | None) -> bool:
    return record is not None and record.running and record.ready


def _image_id(reference: str) -> str:
    try:
        return find_image(reference).id
    except UnknownImage:
        return ""
