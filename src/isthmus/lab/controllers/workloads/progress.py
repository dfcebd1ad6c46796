"""What a Deployment's status says: counts, and how its rollout goes, in the words that `kubectl rollout status` reads.

Timestamps change only when something does; otherwise a status would be written for every look.
"""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from isthmus.lab.controllers.objects.meta import seconds, stamp
from isthmus.lab.controllers.objects.workloads import (
    Condition,
    Deployment,
    DeploymentStatus,
    ReplicaSet,
    condition_of,
)
from isthmus.lab.controllers.workloads.rollout import max_unavailable

NO_DEADLINE = 2**31 - 1
"""progressDeadlineSeconds that means none."""

AVAILABLE, PROGRESSING, FAILURE = "Available", "Progressing", "ReplicaFailure"
TIMED_OUT, COMPLETE = "ProgressDeadlineExceeded", "NewReplicaSetAvailable"


class News(msgspec.Struct, frozen=True):
    """What this round did that the Progressing condition should tell."""

    reason: str = ""
    message: str = ""
    ok: bool = True


def has_deadline(item: Deployment) -> bool:
    """Whether the rollout has to make progress in time."""
    return item.spec.progressDeadlineSeconds != NO_DEADLINE


def counted(item: Deployment, sets: Sequence[ReplicaSet], new: ReplicaSet | None, *, now: float) -> DeploymentStatus:
    """Returns the status with its counts and the Available condition."""
    available = sum(one.status.availableReplicas for one in sets)
    status = replace(
        item.status,
        observedGeneration=item.metadata.generation,
        replicas=sum(one.status.replicas for one in sets),
        updatedReplicas=new.status.replicas if new is not None else 0,
        readyReplicas=sum(one.status.readyReplicas for one in sets),
        availableReplicas=available,
        unavailableReplicas=max(0, sum(one.spec.replicas for one in sets) - available),
    )
    if available >= item.spec.replicas - max_unavailable(item):
        reason, message = "MinimumReplicasAvailable", "Deployment has minimum availability."
        return with_condition(status, AVAILABLE, "True", reason, message, now=now)
    reason, message = "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
    return with_condition(status, AVAILABLE, "False", reason, message, now=now)


def paused(item: Deployment, status: DeploymentStatus, *, now: float) -> DeploymentStatus:
    """Returns the status with what is said of pausing and resuming."""
    if not has_deadline(item):
        return status
    known = condition_of(status.conditions, PROGRESSING)
    if known is not None and known.reason == TIMED_OUT:
        return status
    was_paused = known is not None and known.reason == "DeploymentPaused"
    if item.spec.paused and not was_paused:
        return with_condition(status, PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused", now=now)
    if not item.spec.paused and was_paused:
        return with_condition(status, PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed", now=now)
    return status


def progressed(
    item: Deployment,
    status: DeploymentStatus,
    sets: Sequence[ReplicaSet],
    new: ReplicaSet | None,
    *,
    now: float,
) -> DeploymentStatus:
    """Returns the status with the Progressing and ReplicaFailure conditions of a rollout."""
    known = condition_of(status.conditions, PROGRESSING)
    if not has_deadline(item):
        status = without_condition(status, PROGRESSING)
    elif not (status.replicas == status.updatedReplicas and known is not None and known.reason == COMPLETE):
        what = f'ReplicaSet "{new.metadata.name}"' if new is not None else f'Deployment "{item.metadata.name}"'
        if is_complete(item, status):
            message = f"{what} has successfully progressed."
            status = with_condition(status, PROGRESSING, "True", COMPLETE, message, now=now)
        elif _moved(item.status, status):
            fresh = _condition(PROGRESSING, "True", "ReplicaSetUpdated", f"{what} is progressing.", now=now)
            if known is not None and known.status == "True":
                fresh = replace(fresh, lastTransitionTime=known.lastTransitionTime)
            status = _put(without_condition(status, PROGRESSING), fresh)
        elif _timed_out(item, known, now=now):
            message = f"{what} has timed out progressing."
            status = with_condition(status, PROGRESSING, "False", TIMED_OUT, message, now=now)
    return failing(status, sets, new)


def failing(status: DeploymentStatus, sets: Sequence[ReplicaSet], new: ReplicaSet | None) -> DeploymentStatus:
    """Returns the status with the ReplicaFailure of the new ReplicaSet, or else of an old one."""
    for one in (*((new,) if new is not None else ()), *sets):
        found = condition_of(one.status.conditions, FAILURE)
        if found is not None:
            known = condition_of(status.conditions, FAILURE)
            if known is not None and (known.status, known.reason) == (found.status, found.reason):
                return status
            return _put(status, replace(found, lastUpdateTime=found.lastTransitionTime))
    return without_condition(status, FAILURE)


def is_complete(item: Deployment, status: DeploymentStatus) -> bool:
    """Whether all wanted pods are of the new template and available, and no others are left."""
    wanted = item.spec.replicas
    return (
        status.updatedReplicas == wanted
        and status.replicas == wanted
        and status.availableReplicas == wanted
        and status.observedGeneration >= item.metadata.generation
    )


def deadline_in(item: Deployment, status: DeploymentStatus, *, now: float) -> float | None:
    """Returns in how many seconds the rollout will have taken too long; None if it is done or has no deadline."""
    known = condition_of(status.conditions, PROGRESSING)
    if known is None or not has_deadline(item) or item.spec.paused:
        return None
    if known.reason in (TIMED_OUT, COMPLETE) or is_complete(item, status):
        return None
    return max(seconds(known.lastUpdateTime) + item.spec.progressDeadlineSeconds - now, 0.0) + 1.0


def told(status: DeploymentStatus, news: News, *, now: float) -> DeploymentStatus:
    """Returns the status with news in its Progressing condition."""
    return with_condition(status, PROGRESSING, str(news.ok), news.reason, news.message, now=now)


def with_condition(
    status: DeploymentStatus, kind: str, value: str, reason: str, message: str, *, now: float
) -> DeploymentStatus:
    """Returns the status with a condition, which keeps its times if it says the same."""
    known = condition_of(status.conditions, kind)
    if known is not None and (known.status, known.reason) == (value, reason):
        return status
    fresh = _condition(kind, value, reason, message, now=now)
    if known is not None and known.status == value:
        fresh = replace(fresh, lastTransitionTime=known.lastTransitionTime)
    return _put(status, fresh)


def without_condition(status: DeploymentStatus, kind: str) -> DeploymentStatus:
    """Returns the status without a condition."""
    return replace(status, conditions=tuple(one for one in status.conditions if one.type != kind))


def _put(status: DeploymentStatus, fresh: Condition) -> DeploymentStatus:
    kept = tuple(one for one in status.conditions if one.type != fresh.type)
    return replace(status, conditions=(*kept, fresh))


def _condition(kind: str, value: str, reason: str, message: str, *, now: float) -> Condition:
    at = stamp(now)
    return Condition(type=kind, status=value, lastUpdateTime=at, lastTransitionTime=at, reason=reason, message=message)


def _moved(before: DeploymentStatus, after: DeploymentStatus) -> bool:
    return (
        after.updatedReplicas > before.updatedReplicas
        or after.replicas - after.updatedReplicas < before.replicas - before.updatedReplicas
        or after.readyReplicas > before.readyReplicas
        or after.availableReplicas > before.availableReplicas
    )


def _timed_out(item: Deployment, known: Condition | None, *, now: float) -> bool:
    if known is None or known.reason == COMPLETE:
        return False
    if known.reason == TIMED_OUT:
        return True
    return seconds(known.lastUpdateTime) + item.spec.progressDeadlineSeconds < now
