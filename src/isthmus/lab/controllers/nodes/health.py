"""What the health of a node means for its conditions, its taints and its pods: pure functions.

A node whose kubelet is silent becomes Unknown and unreachable; one that says so itself is not ready. Both keep new
pods away (NoSchedule) and send pods away that do not tolerate it (NoExecute) - except when no node at all is well:
then it is more likely this side that is cut off, and nobody is sent away (upstream's full disruption).
"""

from typing import Any

import msgspec

from isthmus.lab.controllers.objects.meta import seconds, stamp
from isthmus.lab.controllers.objects.nodes import Node, Taint
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.scheduling.taints import (
    NO_EXECUTE,
    NO_SCHEDULE,
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    tolerates,
)

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
_KINDS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
_PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
_OURS = (NOT_READY, UNREACHABLE, UNSCHEDULABLE, *_PRESSURES.values())


def lost_conditions(node: Node, *, now: float) -> list[dict[str, Any]]:
    """Returns the conditions of a node that fell silent, as a strategic merge; empty if it says so already."""
    known = {condition.type: condition.status for condition in node.status.conditions}
    if all(known.get(kind) == "Unknown" for kind in _KINDS):
        return []
    return [
        {
            "type": kind,
            "status": "Unknown",
            "reason": "NodeStatusUnknown" if kind in known else "NodeStatusNeverUpdated",
            "message": "Kubelet stopped posting node status." if kind in known else "Kubelet never posted node status.",
            "lastTransitionTime": stamp(now),
        }
        for kind in _KINDS
        if known.get(kind) != "Unknown"
    ]


def taints(node: Node, *, evicting: bool, now: float) -> tuple[Taint, ...]:
    """Returns the taints a node should have; those of others stay, and those that stay keep their time."""
    wanted: list[tuple[str, str]] = []
    if node.ready == "False" or node.ready == "":
        wanted.append((NOT_READY, NO_SCHEDULE))
    elif node.ready == "Unknown":
        wanted.append((UNREACHABLE, NO_SCHEDULE))
    if node.spec.unschedulable:
        wanted.append((UNSCHEDULABLE, NO_SCHEDULE))
    wanted += [
        (_PRESSURES[condition.type], NO_SCHEDULE)
        for condition in node.status.conditions
        if condition.status == "True" and condition.type in _PRESSURES
    ]
    if evicting and node.ready in ("False", "Unknown"):
        wanted.append((NOT_READY if node.ready == "False" else UNREACHABLE, NO_EXECUTE))
    kept = [taint for taint in node.spec.taints if taint.key not in _OURS or (taint.key, taint.effect) in wanted]
    present = {(taint.key, taint.effect) for taint in kept}
    added = [
        Taint(key=key, effect=effect, timeAdded=stamp(now)) for key, effect in wanted if (key, effect) not in present
    ]
    return (*kept, *added)


class Verdict(msgspec.Struct, frozen=True):
    """Whether a pod has to go now, or in how many seconds; neither if it may stay."""

    now: bool = False
    after: float | None = None


def eviction(pod: Pod, node: Node, *, since: float, now: float) -> Verdict:
    """Judges a pod by its node's NoExecute taints. `since` is when they were first seen, for those without a time."""
    left: float | None = None
    for taint in node.spec.taints:
        if taint.effect != NO_EXECUTE:
            continue
        matching = [toleration for toleration in pod.spec.tolerations if tolerates(toleration, taint)]
        if not matching:
            return Verdict(now=True)
        limits = [one.tolerationSeconds for one in matching if one.tolerationSeconds is not None]
        if limits:
            rest = (seconds(taint.timeAdded) or since) + max(min(limits), 0) - now
            left = rest if left is None else min(left, rest)
    if left is None:
        return Verdict()
    return Verdict(now=True) if left <= 0 else Verdict(after=left)


def remains(pod: Pod, node: Node | None) -> str | None:
    """Returns why nobody will ever finish a pod: its `node` is gone, or (empty) it never had one; None if one may."""
    if not pod.spec.nodeName:
        return "" if pod.leaving else None
    if node is None:
        return "PodGC: node no longer exists"
    if pod.leaving and node.ready != "True" and any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints):
        return "PodGC: node is out of service"
    return None
