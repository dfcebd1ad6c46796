"""Taints and who tolerates them (core/v1 semantics; an empty effect tolerates every effect)."""

from collections.abc import Iterable, Sequence

from isthmus.lab.controllers.objects.nodes import Node, Taint
from isthmus.lab.controllers.objects.pods import Toleration

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
NO_SCHEDULE, PREFER_NO_SCHEDULE, NO_EXECUTE = "NoSchedule", "PreferNoSchedule", "NoExecute"


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether one toleration covers one taint."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    match toleration.operator or "Equal":
        case "Exists":
            return True
        case "Equal":
            return bool(toleration.key) and toleration.value == taint.value
        case _:
            return False


def tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    """Whether any of the tolerations covers a taint."""
    return any(tolerates(toleration, taint) for toleration in tolerations)


def effective(node: Node) -> Sequence[Taint]:
    """Returns a node's taints, and the one that it will get as soon as somebody notices that it is not ready."""
    taints = node.spec.taints
    if node.ready == "True" or any(taint.key in (NOT_READY, UNREACHABLE) for taint in taints):
        return taints
    return (*taints, Taint(key=NOT_READY, effect=NO_SCHEDULE))


def forbids(node: Node, tolerations: Sequence[Toleration]) -> Taint | None:
    """Returns the first taint that keeps a pod off a node."""
    for taint in effective(node):
        if taint.effect in (NO_SCHEDULE, NO_EXECUTE) and not tolerated(taint, tolerations):
            return taint
    return None
