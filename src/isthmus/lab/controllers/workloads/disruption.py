"""PodDisruptionBudget: how many of its pods may be evicted now (policy/v1).

The API server spends what is told here and notes each eviction in `disruptedPods`; a pod noted there does not count as
healthy until it is gone, or until WAIT seconds have shown that its deletion did not happen.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from isthmus.kube.resources import Resource
from isthmus.lab.controllers.objects.meta import Object, seconds, stamp
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.selection import selects
from isthmus.lab.controllers.workloads.rollout import resolved

Json = dict[str, Any]
BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
WAIT = 120.0
"""Seconds for which an eviction is believed in."""
_ALLOWED = "DisruptionAllowed"


class BudgetSpec(msgspec.Struct, frozen=True, gc=False):
    """policy/v1 PodDisruptionBudgetSpec; without a selector nothing is meant."""

    selector: Json | None = None
    minAvailable: int | str | None = None
    maxUnavailable: int | str | None = None


class BudgetStatus(msgspec.Struct, frozen=True, gc=False):
    """policy/v1 PodDisruptionBudgetStatus."""

    observedGeneration: int = 0
    disruptedPods: dict[str, str] = {}
    disruptionsAllowed: int = 0
    currentHealthy: int = 0
    desiredHealthy: int = 0
    expectedPods: int = 0
    conditions: tuple[Json, ...] = ()


class Budget(Object, frozen=True, gc=False, kw_only=True):
    """policy/v1 PodDisruptionBudget."""

    spec: BudgetSpec = BudgetSpec()
    status: BudgetStatus = BudgetStatus()

    def covers(self, labels: Mapping[str, str]) -> bool:
        """Whether a pod with these labels is meant; an empty selector means all."""
        selector = self.spec.selector
        return selector is not None and (not selector or selects(selector, dict(labels)))


def sizes(spec: BudgetSpec, *, pods: int, scale: int) -> tuple[int, int]:
    """Returns (expected pods, pods that must stay healthy).

    `scale` is what the pods' controllers want in all: shares and `maxUnavailable` are of that, a plain number is of
    the pods that there are.
    """
    if spec.maxUnavailable is not None:
        return scale, max(scale - resolved(spec.maxUnavailable, scale, up=True), 0)
    if isinstance(spec.minAvailable, str):
        return scale, resolved(spec.minAvailable, scale, up=True)
    return pods, spec.minAvailable or 0


def status(item: Budget, pods: Sequence[Pod], *, scale: int, now: float) -> tuple[Json | None, float | None]:
    """Returns the change of the status (None if it is right), and after how many seconds to look again."""
    held = [pod for pod in pods if not pod.over]
    alive = {pod.metadata.name for pod in held if not pod.leaving}
    ends = {name: seconds(text) + WAIT for name, text in item.status.disruptedPods.items()}
    doomed = {name: item.status.disruptedPods[name] for name, end in ends.items() if name in alive and end > now}
    expected, desired = sizes(item.spec, pods=len(held), scale=scale)
    healthy = sum(pod.ready and not pod.leaving and pod.metadata.name not in doomed for pod in held)
    allowed = max(healthy - desired, 0) if expected else 0
    told = BudgetStatus(
        observedGeneration=item.metadata.generation,
        disruptedPods=doomed,
        disruptionsAllowed=allowed,
        currentHealthy=healthy,
        desiredHealthy=desired,
        expectedPods=expected,
        conditions=item.status.conditions,
    )
    again = min((ends[name] - now for name in doomed), default=None)
    condition = _condition(item, allowed=allowed, now=now)
    if told == item.status and condition in item.status.conditions:
        return None, again
    patch = {
        **{name: getattr(told, name) for name in told.__struct_fields__ if name != "conditions"},
        "disruptedPods": {**dict.fromkeys(item.status.disruptedPods), **doomed},
        "conditions": [*(one for one in item.status.conditions if one.get("type") != _ALLOWED), condition],
    }
    return patch, again


def _condition(item: Budget, *, allowed: int, now: float) -> Json:
    word = "True" if allowed else "False"
    before = next((one for one in item.status.conditions if one.get("type") == _ALLOWED), {})
    since = before.get("lastTransitionTime") if before.get("status") == word else None
    found = {"type": _ALLOWED, "status": word, "lastTransitionTime": since or stamp(now), "message": ""}
    found["reason"] = "SufficientPods" if allowed else "InsufficientPods"
    return {**found, "observedGeneration": item.metadata.generation}


def scale_of(pods: Iterable[Pod], replicas: Mapping[str, int]) -> int:
    """Returns what the controllers of pods want in all; `replicas` is uid -> size; others count what they have."""
    owners, total = set(), 0
    for pod in pods:
        uid = pod.controller.uid if pod.controller is not None else ""
        if uid not in replicas:
            total += not pod.over
        elif uid not in owners:
            owners.add(uid)
            total += replicas[uid]
    return total
