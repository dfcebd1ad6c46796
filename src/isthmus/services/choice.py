"""Whose backends a service may use, in which order, and what one of them counts for.

A Choice is what Settings mean in one cluster: tiers of clusters, of which the first that has somebody is used, and a
weight for each cluster. Which of them has somebody is the Pool's to know; a Choice changes when people change their
mind, not when backends come and go. Invariant: two Choices that mean the same are equal, so that telling one again is
no work. Rejected: a list of clusters in order of preference: `affinity: none` has no order, and new clusters join.
"""

from collections.abc import Mapping
from enum import Enum

import msgspec

from isthmus.model.sharing import FULL_WEIGHT
from isthmus.services.settings import MOST_WEIGHT, Affinity, Settings


class Rest(Enum):
    """The tier of all clusters that no other tier names."""

    REST = "rest"


REST = Rest.REST
Tier = frozenset[str] | Rest


class Choice(msgspec.Struct, frozen=True):
    """What a service of cluster `own` does with the clusters' backends.

    Clusters that no tier holds are not used at all. `weights` are in per cent of a normal backend, where they are not
    100; see `weight`.
    """

    own: str
    tiers: tuple[Tier, ...] = (REST,)
    weights: Mapping[str, int] = {}

    def weight(self, cluster: str) -> int:
        """Returns what a backend of a cluster counts for: 0 to 1000, 100 is normal."""
        return self.weights.get(cluster, FULL_WEIGHT)

    def tier(self, cluster: str) -> int | None:
        """Returns the place of a cluster's tier, 0 is used first; None if the cluster is not used."""
        rest = None
        for place, tier in enumerate(self.tiers):
            if isinstance(tier, Rest):
                rest = place
            elif cluster in tier:
                return place
        return rest


def choice(settings: Settings, *, own: str, told: Mapping[str, int], drained: Mapping[str, int]) -> Choice:
    """Returns what settings mean in cluster `own`.

    `told` is what other clusters say their backends count for (0 to 1000), `drained` how much of a cluster's weight is
    left (0 to 100 per cent). What is beyond these bounds counts as the bound.
    """
    if not settings.is_global:
        return Choice(own, (frozenset({own}),))
    base = {**told, own: settings.weight, **settings.weights}
    weights = {
        cluster: weight
        for cluster in {*base, *drained}
        if (weight := _left(base.get(cluster, FULL_WEIGHT), drained.get(cluster, 100))) != FULL_WEIGHT
    }
    return Choice(own, _tiers(settings, own), weights)


def _tiers(settings: Settings, own: str) -> tuple[Tier, ...]:
    if settings.order:
        return (*(frozenset({name}) for name in settings.order), REST)
    match settings.affinity:
        case Affinity.LOCAL:
            return frozenset({own}), REST
        case Affinity.REMOTE:
            return REST, frozenset({own})
        case _:
            return (REST,)


def _left(weight: int, per_cent: int) -> int:
    """Returns a weight of which only so much is left; nothing only where one of the two is nothing."""
    weight, per_cent = min(max(weight, 0), MOST_WEIGHT), min(max(per_cent, 0), 100)
    return -(-weight * per_cent // 100)
