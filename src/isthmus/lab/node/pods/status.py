"""A pod's status as the API shows it, from the node's records: a pure function.

Invariants: a condition keeps its lastTransitionTime as long as its status stays; conditions that others wrote
(PodScheduled, readiness gates) are kept; a pod is Ready only if every container runs and is ready, and every readiness
gate is open.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from isthmus.lab.images.catalog import image_id
from isthmus.lab.node.pods.conditions import conditions
from isthmus.lab.node.pods.container import Container
from isthmus.lab.node.pods.lifecycle import phase, waiting_reason, wants_restart
from isthmus.lab.node.pods.quantity import qos_class
from isthmus.lab.node.pods.record import Ended, Record
from isthmus.lab.node.pods.spec import Pod
from isthmus.lab.quantity import QuantityError

Json = dict[str, Any]


def pod_status(
    pod: Pod,
    records: Mapping[str, Record],
    *,
    host_ips: Sequence[str],
    pod_ips: Sequence[str],
    now: float,
    previous: tuple[Json, ...],
    failure: tuple[str, str] = ("", ""),
) -> Json:
    """Returns status fields for a merge patch.

    `host_ips` and `pod_ips` have one address per family, the pod's own family first; `previous` are the conditions
    last known; `failure` is (reason, message) of a pod that its node has ended.
    """
    word = phase(pod, records)
    if failure[0]:
        word = "Running" if any(record.running for record in records.values()) else "Failed"
    over = word in ("Succeeded", "Failed")
    status: Json = {
        "phase": word,
        "conditions": conditions(pod, records, word=word, has_ip=bool(pod_ips), stamp=stamp(now), previous=previous),
        "hostIP": host_ips[0],
        "hostIPs": [{"ip": ip} for ip in host_ips],
        "startTime": pod.status.startTime or stamp(now),
        "containerStatuses": [
            container_status(pod, container, records.get(container.name), over=over)
            for container in pod.spec.containers
        ],
    }
    if pod.spec.initContainers:
        status["initContainerStatuses"] = [
            container_status(pod, container, records.get(container.name), over=over)
            for container in pod.spec.initContainers
        ]
    if not pod.status.qosClass:
        try:
            status["qosClass"] = qos_class(pod.all_containers)
        except QuantityError:
            status["qosClass"] = "BestEffort"
    if pod_ips:
        status["podIP"] = pod_ips[0]
        status["podIPs"] = [{"ip": ip} for ip in pod_ips]
    if failure[0]:
        status["reason"], status["message"] = failure
    return status


def container_status(pod: Pod, container: Container, record: Record | None, *, over: bool) -> Json:
    """Returns the ContainerStatus of one container; in a pod that is `over` nothing waits any more."""
    record = record or Record(container.name)
    state, last = _states(pod, container, record, over=over)
    initial = container in pod.spec.initContainers and not pod.is_sidecar(container)
    done = initial and record.ended is not None and not record.running and record.ended.exit_code == 0
    return {
        "name": container.name,
        "image": container.image,
        "imageID": image_id(container.image) if record.attempt else "",
        "containerID": container_id(pod, container, record.attempt) if record.attempt else None,
        "restartCount": record.restarts,
        "ready": done or (record.running and record.ready and not initial),
        "started": record.running and (initial or record.started),
        "state": state,
        "lastState": last,
    }


def container_id(pod: Pod, container: Container, attempt: int) -> str:
    """Returns the ID of a run of a container."""
    return f"lab://{pod.metadata.uid}/{container.name}/{attempt}"


def stamp(moment: float) -> str:
    """Returns seconds since the epoch as the API writes times."""
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _states(pod: Pod, container: Container, record: Record, *, over: bool) -> tuple[Json, Json]:
    if record.running:
        last = {"terminated": _terminated(record.before)} if record.before else {}
        return {"running": {"startedAt": stamp(record.started_at)}}, last
    if record.ended is not None:
        final = not wants_restart(pod, container, record.ended)
        # Between two runs the API shows the end of the first one until the back-off begins.
        if final or over or (record.failures <= 1 and record.ended.reason != "StartError"):
            last = {"terminated": _terminated(record.before)} if record.before else {}
            return {"terminated": _terminated(record.ended)}, last
    reason, message = waiting_reason(pod, container, record)
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
