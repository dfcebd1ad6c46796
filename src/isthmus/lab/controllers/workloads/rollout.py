"""The arithmetic of rolling updates: surge and unavailability, shares of a scale, what old ReplicaSets give up.

Everything works on `Member`s, a ReplicaSet with the size it shall get, so that decisions build on each other within one
round and become one write per ReplicaSet.
"""

import math
from collections.abc import Sequence
from typing import Any

from isthmus.lab.controllers.objects.meta import seconds
from isthmus.lab.controllers.objects.workloads import Deployment, ReplicaSet

DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
ROLLING = "RollingUpdate"
DEFAULT = "25%"


class Member:
    """A ReplicaSet of a Deployment, and what shall become of it in this round."""

    def __init__(self, item: ReplicaSet) -> None:
        self.item = item
        self.replicas = item.spec.replicas
        self.annotations: dict[str, str] = {}
        """Those to be set."""
        self.extra: dict[str, Any] = {}
        """Other changes of the spec."""

    @property
    def available(self) -> int:
        """Its available pods."""
        return self.item.status.availableReplicas

    @property
    def age(self) -> tuple[float, str]:
        """What old comes before young by."""
        return seconds(self.item.metadata.creationTimestamp), self.item.metadata.name

    def annotation(self, key: str) -> str:
        """Returns an annotation as it will be."""
        return self.annotations.get(key, self.item.metadata.annotations.get(key, ""))

    def resize(self, replicas: int, deployment: Deployment) -> bool:
        """Sets its size and the annotations that go with it; returns whether the size is another one."""
        self.note(deployment)
        changed = self.replicas != replicas
        self.replicas = replicas
        return changed

    def note(self, deployment: Deployment) -> None:
        """Notes for which size of the Deployment this was decided."""
        for key, value in size_notes(deployment).items():
            if self.annotation(key) != value:
                self.annotations[key] = value


def size_notes(deployment: Deployment) -> dict[str, str]:
    """Returns the annotations that say for which size of the Deployment a ReplicaSet was scaled."""
    replicas = deployment.spec.replicas
    return {DESIRED: str(replicas), MAXIMUM: str(replicas + max_surge(deployment))}


def resolved(value: int | str | None, total: int, *, up: bool) -> int:
    """Returns a count or a percentage of `total`; what makes no sense counts as 0, as upstream."""
    if value is None:
        value = DEFAULT
    if isinstance(value, int):
        return max(value, 0)
    digits = value.removesuffix("%")
    if not digits.isdecimal():
        return 0
    share = int(digits) * total
    return -(-share // 100) if up else share // 100


def fenceposts(deployment: Deployment) -> tuple[int, int]:
    """Returns (surge, unavailable); both zero would never move, so then one may be unavailable."""
    rolling = deployment.spec.strategy.rollingUpdate
    replicas = deployment.spec.replicas
    surge = resolved(rolling.maxSurge, replicas, up=True)
    unavailable = resolved(rolling.maxUnavailable, replicas, up=False)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def max_surge(deployment: Deployment) -> int:
    """Returns how many pods there may be above what is wanted."""
    return fenceposts(deployment)[0] if deployment.spec.strategy.type == ROLLING else 0


def max_unavailable(deployment: Deployment) -> int:
    """Returns how many of the wanted pods may be unavailable."""
    if deployment.spec.strategy.type != ROLLING or not deployment.spec.replicas:
        return 0
    return min(fenceposts(deployment)[1], deployment.spec.replicas)


def new_size(deployment: Deployment, current: int, total: int) -> int:
    """Returns the size of the new ReplicaSet, which has `current` of the `total` replicas asked for now."""
    wanted = deployment.spec.replicas
    if deployment.spec.strategy.type != ROLLING or current >= wanted:
        return wanted
    room = wanted + max_surge(deployment) - total
    return current + min(room, wanted - current) if room > 0 else current


def shrink_old(deployment: Deployment, new: Member, old: Sequence[Member]) -> bool:
    """Takes from old ReplicaSets what may go: first what is not available anyway; returns whether anything changed."""
    everyone = [*old, new]
    if not sum(member.replicas for member in old):
        return False
    least = deployment.spec.replicas - max_unavailable(deployment)
    unborn = new.item.spec.replicas - new.available
    allowed = sum(member.replicas for member in everyone) - least - unborn
    if allowed <= 0:
        return False
    changed = False
    budget = allowed
    for member in sorted(old, key=lambda member: member.age):
        broken = min(budget, member.replicas - member.available)
        if member.replicas and broken > 0:
            changed |= member.resize(member.replicas - broken, deployment)
            budget -= broken
    # What a ReplicaSet reports may be late, what is asked of it is not: never give up more than was allowed above.
    spare = min(sum(member.available for member in everyone) - least, budget)
    for member in sorted(old, key=lambda member: member.age):
        gone = min(spare, member.replicas)
        if gone > 0:
            changed |= member.resize(member.replicas - gone, deployment)
            spare -= gone
    return changed


def is_scaling(deployment: Deployment, members: Sequence[Member]) -> bool:
    """Whether the Deployment was scaled since its active ReplicaSets were sized."""
    for member in members:
        if member.replicas > 0 and (desired := member.annotation(DESIRED)).isdecimal():
            if int(desired) != deployment.spec.replicas:
                return True
    return False


def spread_scale(deployment: Deployment, new: Member | None, old: Sequence[Member]) -> None:
    """Gives a scale of the Deployment to its ReplicaSets, in proportion while a rolling update is under way."""
    wanted = deployment.spec.replicas
    everyone = [*old, *([new] if new is not None else [])]
    active = [member for member in everyone if member.replicas > 0]
    only = active[0] if len(active) == 1 else None
    if not active:
        only = new or max(old, key=lambda member: member.age, default=None)
    if only is not None:
        if only.replicas != wanted:
            only.resize(wanted, deployment)
        else:
            only.note(deployment)
        return
    if new is not None and _saturated(deployment, new):
        for member in old:
            if member.replicas:
                member.resize(0, deployment)
        return
    if deployment.spec.strategy.type != ROLLING:
        return
    _spread(deployment, active)


def _spread(deployment: Deployment, active: list[Member]) -> None:
    wanted = deployment.spec.replicas
    total = sum(member.replicas for member in active)
    to_add = (wanted + max_surge(deployment) if wanted else 0) - total
    # Growth goes to the largest and newest first, loss to the largest and oldest.
    active.sort(key=lambda member: (-member.replicas, -member.age[0] if to_add > 0 else member.age[0]))
    added = 0
    sizes: list[int] = []
    for member in active:
        share = 0
        if to_add:
            share = _fraction(deployment, member)
            share = min(share, to_add - added) if to_add > 0 else max(share, to_add - added)
        added += share
        sizes.append(member.replicas + share)
    if to_add and sizes:
        sizes[0] = max(0, sizes[0] + to_add - added)
    for member, size in zip(active, sizes, strict=True):
        member.resize(max(0, size), deployment)


def _fraction(deployment: Deployment, member: Member) -> int:
    """Returns how much a ReplicaSet should grow (or shrink) to keep its share."""
    if not deployment.spec.replicas:
        return -member.replicas
    noted = member.annotation(MAXIMUM)
    before = int(noted) if noted.isdecimal() else deployment.status.replicas
    if not before:
        return 0
    after = deployment.spec.replicas + max_surge(deployment)
    return math.floor(member.replicas * after / before + 0.5) - member.replicas


def _saturated(deployment: Deployment, new: Member) -> bool:
    wanted = deployment.spec.replicas
    return new.annotation(DESIRED) == str(wanted) and new.replicas == wanted and new.available == wanted
