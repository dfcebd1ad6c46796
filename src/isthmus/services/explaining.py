"""What each cluster's backends of a service are used for, and why, in words for people.

The same order as the pool's (see `isthmus.services.ranking`), asked of whole clusters: what a node does with a cluster
follows from the best that it has. Invariants: a Share is used exactly if the pool uses some of its backends; the shares
of those that are used add up to 100. Rejected: letting each writer of a status find the words; `service describe` and
GlobalService would say two things.
"""

from collections.abc import Mapping

import msgspec

from isthmus.model.sharing import FULL_WEIGHT
from isthmus.services.choice import Choice, Rest
from isthmus.services.ranking import Level, Rank

MOST_NAMED = 3
"""Clusters in one sentence."""


class Counts(msgspec.Struct, frozen=True):
    """The backends of a service in one cluster.

    `ready` is what their conditions say; `terminating` are those that are not ready, but still serve until they end.
    `unreachable` of all `backends` are not reached, ready ones first; `stale` says that this is because nothing is
    heard of the cluster, and not because its nodes do not answer.
    """

    backends: int = 0
    ready: int = 0
    terminating: int = 0
    unreachable: int = 0
    stale: bool = False

    @property
    def levels(self) -> dict[Level, int]:
        """Returns how many backends do what, best first; only what there is."""
        lost = min(self.ready, self.unreachable)
        lost_ending = min(self.terminating, self.unreachable - lost)
        found = {
            Level.READY: self.ready - lost,
            Level.TERMINATING: self.terminating - lost_ending,
            Level.READY_UNREACHABLE: lost,
            Level.TERMINATING_UNREACHABLE: lost_ending,
        }
        return {level: count for level, count in found.items() if count > 0}


class Share(msgspec.Struct, frozen=True):
    """What becomes of a cluster's backends: `percent` of new connections (0 to 100, whole), and why."""

    cluster: str
    used: bool
    percent: int
    why: str


def explain(choice: Choice, told: Mapping[str, Counts]) -> tuple[Share, ...]:
    """Returns a Share for each cluster in `told`, in its order."""
    ranks = {name: rank for name, counts in told.items() if (rank := _rank(choice, name, counts)) is not None}
    lead = min(ranks.values(), default=None)
    used = [name for name, rank in ranks.items() if rank == lead]
    percents = _percents({name: _count(told[name]) * (choice.weight(name) or 1) for name in used})
    return tuple(
        Share(name, name in used, percents.get(name, 0), _why(choice, name, counts, ranks, lead))
        for name, counts in told.items()
    )


def _rank(choice: Choice, name: str, counts: Counts) -> Rank | None:
    tier = choice.tier(name)
    if tier is None or not counts.levels:
        return None
    return next(iter(counts.levels)), not choice.weight(name), tier


def _count(counts: Counts) -> int:
    return next(iter(counts.levels.values()))


def _percents(parts: Mapping[str, int]) -> dict[str, int]:
    """Returns parts of a hundred: rounded down, and what is missing goes to who lost most by that."""
    whole = sum(parts.values())
    found = {name: 100 * part // whole for name, part in parts.items()}
    order = sorted(parts, key=lambda name: -(100 * parts[name] % whole))
    for name in order[: 100 - sum(found.values()) if parts else 0]:
        found[name] += 1
    return found


def _why(choice: Choice, name: str, counts: Counts, ranks: Mapping[str, Rank], lead: Rank | None) -> str:
    rank = ranks.get(name)
    if choice.tier(name) is None:
        return "not used: the service is not global here"
    if rank is None or lead is None:
        return f"not used: {_nobody(counts)}"
    if rank == lead:
        return _used(choice, name, counts, ranks, rank)
    others = [other for other, found in ranks.items() if found == lead]
    if rank[0] != lead[0]:
        what = _trouble(rank[0], counts)
        return f"not used: {what}, and {_having(others, lead[0])}"
    if rank[1] != lead[1]:
        return f"not used: drained (weight 0), and {_having(others, lead[0])}"
    return f"not used: {_preference(choice)} and {_having(others, lead[0])}"


def _used(choice: Choice, name: str, counts: Counts, ranks: Mapping[str, Rank], rank: Rank) -> str:
    level, drained, tier = rank
    alone = sum(found == rank for found in ranks.values()) == 1
    nobody = "nobody else has" if alone else "nobody has"
    if level is not Level.READY:
        better = "ready backends" if level is not Level.TERMINATING else "ready ones"
        return f"last resort: {_trouble(level, counts)}, and {nobody} {better}"
    if drained:
        return f"last resort: drained (weight 0), but {nobody} ready backends"
    levels = counts.levels
    said = [_plural(levels[level], "ready backend")]
    if lost := levels.get(Level.READY_UNREACHABLE):
        said.append(f"{lost} unreachable")
    weight = choice.weight(name)
    if weight != FULL_WEIGHT:
        said.append(f"weight {weight}")
    if len(choice.tiers) == 1:
        return f"used: {', '.join(said)}"
    missing = _before(choice, tier)
    preference = f"{_preference(choice)}, but {missing} no usable backends;" if missing else f"{_preference(choice)},"
    return f"used: {preference} {', '.join(said)}"


def _before(choice: Choice, tier: int) -> str:
    """Returns which tiers are preferred to one and have nobody, to begin a sentence; "" if there are none."""
    names: list[str] = []
    for found in choice.tiers[:tier]:
        if isinstance(found, Rest):
            return "the other clusters have"
        names += sorted(found)
    return f"{_several(names)} {'has' if len(names) == 1 else 'have'}" if names else ""


def _nobody(counts: Counts) -> str:
    if not counts.backends:
        return "no backends"
    return "none of its backends is ready" if counts.backends > 1 else "its backend is not ready"


def _trouble(level: Level, counts: Counts) -> str:
    if level is Level.TERMINATING:
        return "its backends are terminating"
    lost = "nothing is heard of it" if counts.stale else "its nodes do not answer"
    return lost if level is Level.READY_UNREACHABLE else f"{lost}, its backends are terminating"


def _having(names: list[str], level: Level) -> str:
    what = {
        Level.READY: "ready backends",
        Level.TERMINATING: "backends that still serve",
        Level.READY_UNREACHABLE: "backends that may",
    }.get(level, "others")
    return f"{_several(names)} {'has' if len(names) == 1 else 'have'} {what}"


def _several(names: list[str]) -> str:
    shown = names[:MOST_NAMED]
    more = len(names) - len(shown)
    if more:
        return f"{', '.join(shown)} and {more} more"
    return " and ".join([*([", ".join(shown[:-1])] if len(shown) > 1 else []), *shown[-1:]])


def _preference(choice: Choice) -> str:
    own = frozenset({choice.own})
    if choice.tiers[0] == own and len(choice.tiers) <= 2:
        return "affinity local"
    if choice.tiers[-1] == own and len(choice.tiers) == 2:
        return "affinity remote"
    names = [name for tier in choice.tiers if not isinstance(tier, Rest) for name in sorted(tier)]
    return f"affinity {','.join(names[:MOST_NAMED])}{',...' * (len(names) > MOST_NAMED)}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
