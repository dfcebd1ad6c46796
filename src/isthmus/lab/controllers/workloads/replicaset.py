"""ReplicaSet: so many pods of one template, no more and no fewer.

Rejected: counting pods that are on their way out as replicas (KEP-3973, alpha in 1.33): a slow end of one pod would
hold up its successor.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from isthmus.kube.resources import PODS, REPLICA_SETS
from isthmus.lab.controllers.effects import Create, Effect, delete
from isthmus.lab.controllers.objects.meta import reference, stamp
from isthmus.lab.controllers.objects.pods import Pod, soonest_available
from isthmus.lab.controllers.objects.workloads import Condition, ReplicaSet, condition_of
from isthmus.lab.controllers.workloads.ranking import to_delete
from isthmus.lab.controllers.workloads.templates import Suffix, new_pod, prefixed

BURST = 500
"""Pods made or deleted in one round."""

FAILURE = "ReplicaFailure"


def plan(item: ReplicaSet, pods: Sequence[Pod], *, crowd: Mapping[str, int], fresh: Suffix) -> list[Effect]:
    """Returns the pods to make or to delete; `crowd` counts related pods by node."""
    if item.leaving:
        return []
    active = [pod for pod in pods if pod.active]
    missing = item.spec.replicas - len(active)
    about = reference(item, REPLICA_SETS)
    if missing < 0:
        return [delete(pod, PODS, owner=about) for pod in to_delete(active, min(-missing, BURST), crowd=crowd)]
    effects: list[Effect] = []
    for _ in range(min(missing, BURST)):
        prefix, name = prefixed(item.metadata.name, fresh)
        body = new_pod(item, REPLICA_SETS, item.spec.template, name=name, generate_name=prefix)
        effects.append(Create(PODS, body, owner=about))
    return effects


def status(item: ReplicaSet, pods: Sequence[Pod], *, failure: str, now: float) -> dict[str, Any] | None:
    """Returns the new status; None if it would say the same. `failure` is why pods could not be made or deleted."""
    active = [pod for pod in pods if pod.active]
    wanted = (item.spec.template.get("metadata") or {}).get("labels") or {}
    labelled = sum(wanted.items() <= pod.metadata.labels.items() for pod in active)
    found = {
        "replicas": len(active),
        "fullyLabeledReplicas": labelled,
        "readyReplicas": sum(pod.ready for pod in active),
        "availableReplicas": sum(pod.available(item.spec.minReadySeconds, now=now) for pod in active),
        "observedGeneration": item.metadata.generation,
    }
    conditions = tuple(known for known in item.status.conditions if known.type != FAILURE)
    known = condition_of(item.status.conditions, FAILURE)
    if failure:
        reason = "FailedCreate" if item.spec.replicas > len(active) else "FailedDelete"
        if known is not None and (known.status, known.reason) == ("True", reason):
            conditions = (*conditions, known)
        else:
            at = stamp(now)
            conditions = (
                *conditions,
                Condition(type=FAILURE, status="True", lastTransitionTime=at, reason=reason, message=failure),
            )
    before = {key: getattr(item.status, key) for key in found}
    if before == found and conditions == item.status.conditions:
        return None
    shown: dict[str, Any] = {key: value or None for key, value in found.items()}
    return {**shown, "replicas": len(active), "conditions": list(conditions) or None}


def recheck(item: ReplicaSet, pods: Sequence[Pod], *, now: float) -> float | None:
    """Returns in how many seconds a pod becomes available by waiting."""
    if not item.spec.minReadySeconds:
        return None
    return soonest_available([pod for pod in pods if pod.active], item.spec.minReadySeconds, now=now)
