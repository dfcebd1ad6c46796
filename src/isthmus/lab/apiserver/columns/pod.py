"""The columns of pods: the one-word status that sums up phase, containers, init containers and deletion."""

import datetime
from typing import Any

from isthmus.lab.apiserver.columns.text import NONE, UNKNOWN, age, age_of
from isthmus.lab.apiserver.errors import Json


def _reason(state: Json, waiting_default: str = "") -> str:
    if "waiting" in state:
        return str(state["waiting"].get("reason") or waiting_default)
    ended = state.get("terminated")
    if ended is None:
        return ""
    if ended.get("reason"):
        return str(ended["reason"])
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"


def _restartable(value: Json, name: str) -> bool:
    specs = value.get("spec", {}).get("initContainers", ())
    return any(spec.get("name") == name and spec.get("restartPolicy") == "Always" for spec in specs)


def _init_reason(value: Json, statuses: list[Json]) -> str | None:
    """Returns what holds up the start, None if the init containers are through."""
    total = len(value.get("spec", {}).get("initContainers", ()))
    for index, status in enumerate(statuses):
        state = status.get("state", {})
        ended = state.get("terminated")
        if ended is not None and ended.get("exitCode") == 0:
            continue
        if _restartable(value, status.get("name", "")) and status.get("started"):
            continue
        if ended is not None:
            return f"Init:{_reason(state)}"
        waiting = _reason(state)
        return f"Init:{waiting}" if waiting not in ("", "PodInitializing") else f"Init:{index}/{total}"
    return None


def status_word(value: Json) -> str:
    """Returns the STATUS column of a pod."""
    status = value.get("status", {})
    word = status.get("reason") or status.get("phase", "")
    for condition in status.get("conditions", ()):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            word = "SchedulingGated"
    blocked = _init_reason(value, status.get("initContainerStatuses", []))
    if blocked is not None:
        word = blocked
    else:
        running = False
        for container in reversed(status.get("containerStatuses", [])):
            state = container.get("state", {})
            word = _reason(state) or word
            running |= bool(container.get("ready")) and "running" in state
        if word == "Completed" and running:
            ready = any(
                condition.get("type") == "Ready" and condition.get("status") == "True"
                for condition in status.get("conditions", ())
            )
            word = "Running" if ready else "NotReady"
    if "deletionTimestamp" in value["metadata"]:
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if status.get("phase") not in ("Succeeded", "Failed"):
            return "Terminating"
    return str(word)


def row(value: Json, now: datetime.datetime) -> list[Any]:
    """Returns the cells of one pod."""
    spec, status = value.get("spec", {}), value.get("status", {})
    statuses = status.get("containerStatuses", [])
    inits = status.get("initContainerStatuses", [])
    sidecars = [item for item in inits if _restartable(value, item.get("name", ""))]
    counted = [*sidecars, *statuses]
    total = len(spec.get("containers", ()))
    total += sum(item.get("restartPolicy") == "Always" for item in spec.get("initContainers", ()))
    ready = sum(bool(item.get("ready")) and "running" in item.get("state", {}) for item in counted)
    blocked = _init_reason(value, inits) is not None
    restarting = inits if blocked else counted
    restarts: Any = sum(item.get("restartCount", 0) for item in restarting)
    ends = [item.get("lastState", {}).get("terminated", {}).get("finishedAt", "") for item in restarting]
    if restarts and any(ends):
        restarts = f"{restarts} ({age(max(ends), now)} ago)"
    gates = [gate.get("conditionType") for gate in spec.get("readinessGates", ())]
    true = {item.get("type") for item in status.get("conditions", ()) if item.get("status") == "True"}
    addresses = [item.get("ip", "") for item in status.get("podIPs", ())]
    return [
        value["metadata"]["name"],
        f"{ready}/{total}",
        status_word(value) or UNKNOWN,
        str(restarts),
        age_of(value, now),
        (addresses[0] if addresses else status.get("podIP")) or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        f"{sum(gate in true for gate in gates)}/{len(gates)}" if gates else NONE,
    ]
