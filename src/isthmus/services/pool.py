"""Which of a port's backends get connections: the best that there are, by what they do and by whose they are.

Without a Choice the rule is kube-proxy's (KEP-1669): ready ones, and serving terminating ones if there are no others.
With one, the first tier of clusters that has somebody is used (see `isthmus.services.ranking`). Both are for everyone;
those who may only use this node's get those of its own cluster and by the first rule. Kept one change at a time,
because a port may have thousands of backends and one of them changes: only when another rank comes into use are all of
both looked at. Invariant: `usable` depends on the backends that are in the pool now and on the Choice, never on the
order in which they came. A backend that several slices tell of is in the pool until the last of them drops it, and is
as well as the best of them says.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum

import msgspec

from isthmus.model.service import Backend, Target
from isthmus.services.choice import Choice
from isthmus.services.ranking import Level, Rank, level


class Reach(Enum):
    """Whose backends may be used."""

    ALL = "all"
    NEAR = "near"  # those of this node


class Turn(msgspec.Struct, frozen=True, gc=False):
    """Targets that came into use and went out of it; one that is in both is another cluster's now."""

    come: frozenset[Target] = frozenset()
    gone: frozenset[Target] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.come or self.gone)


_Groups = dict[Rank, set[Target]]  # none of them empty
_Standing = tuple[Rank, int, str]  # of a target: rank, negative weight, cluster; the least that its backends give it


class Pool:
    """The backends of one port of a service, of one address family."""

    def __init__(self, node: str, choice: Choice | None = None) -> None:
        self._node = node
        self._choice = choice
        self._told: Counter[Backend] = Counter()
        self._by_target: dict[Target, tuple[Backend, ...]] = {}  # mostly one: a set takes five times as much
        self._clusters: Counter[str] = Counter()  # how many backends each has in the pool
        self._groups: dict[Reach, _Groups] = {reach: {} for reach in Reach}

    def __bool__(self) -> bool:
        return bool(self._told)

    @property
    def serving(self) -> frozenset[Target]:
        """Returns the targets that answer, in use or not: connections that they have may stay.

        Those of a cluster that is not used any more are none, nor are unreachable ones unless they are in use.
        """
        used = self.usable(Reach.ALL) | self.usable(Reach.NEAR)
        return frozenset(
            backend.target
            for backend in self._told
            if (backend.ready or backend.serving)
            and (backend.reachable or backend.target in used)
            and (self._choice is None or self._choice.tier(backend.cluster) is not None)
        )

    def usable(self, reach: Reach) -> set[Target]:
        """Returns the targets in use; not to be changed."""
        groups = self._groups[reach]
        return groups[min(groups)] if groups else set()

    @property
    def certain(self) -> bool:
        """Tells whether somebody is in use who is not said to be unreachable."""
        groups = self._groups[Reach.ALL]
        return bool(groups) and min(groups)[0] < Level.READY_UNREACHABLE

    def cluster(self, target: Target) -> str:
        """Returns whose a target in use is; "" if that makes no difference."""
        standing = self._standing(self._by_target.get(target, ()), Reach.ALL)
        return standing[2] if standing else ""

    def weights(self, reach: Reach) -> dict[str, int]:
        """Returns what the clusters' targets in use count for; empty if all count alike.

        Of the tier in use, also clusters that have only unready backends: one that flaps should not change the others.
        """
        choice, groups = self._choice, self._groups[reach]
        if choice is None or not choice.weights or reach is Reach.NEAR or not groups:
            return {}
        _, drained, tier = min(groups)
        if drained:
            return {}
        found = {c: weight for c in self._clusters if choice.tier(c) == tier and (weight := choice.weight(c))}
        return found if len(set(found.values())) > 1 else {}

    def change(self, *, gone: Iterable[Backend] = (), come: Iterable[Backend] = ()) -> dict[Reach, Turn]:
        """Takes backends out and in, and returns what that means for who is in use."""
        touched: dict[Target, tuple[Backend, ...]] = {}  # with what was told of them before
        for backend in gone:
            self._told[backend] -= 1
            if self._told[backend] <= 0:
                del self._told[backend]
                told = self._by_target.pop(backend.target)
                touched.setdefault(backend.target, told)
                left = tuple(other for other in told if other != backend)
                if left:
                    self._by_target[backend.target] = left
                self._clusters[backend.cluster] -= 1
                if not self._clusters[backend.cluster]:
                    del self._clusters[backend.cluster]
        for backend in come:
            self._told[backend] += 1
            if self._told[backend] == 1:
                told = self._by_target.get(backend.target, ())
                touched.setdefault(backend.target, told)
                self._by_target[backend.target] = (*told, backend)
                self._clusters[backend.cluster] += 1
        return {reach: self._move(reach, touched) for reach in Reach}

    def set_choice(self, choice: Choice | None) -> tuple[dict[Reach, Turn], bool]:
        """Follows another choice; returns what that means for who is in use, and whether anybody may not stay."""
        old, self._choice = self._choice, choice
        if old is not None and choice is not None and _ranks(old) == _ranks(choice):
            return {}, False
        held = self._groups
        self._groups = {reach: {} for reach in Reach}
        for reach, groups in self._groups.items():
            for target, told in self._by_target.items():
                standing = self._standing(told, reach)
                if standing is not None:
                    groups.setdefault(standing[0], set()).add(target)
        turns = {}
        for reach in Reach:
            before, after = (groups[min(groups)] if groups else set() for groups in (held[reach], self._groups[reach]))
            turns[reach] = Turn(frozenset(after - before), frozenset(before - after))
        everyone, now = (set().union(*groups[Reach.ALL].values()) for groups in (held, self._groups))
        return turns, bool(everyone - now)

    def _move(self, reach: Reach, touched: Mapping[Target, tuple[Backend, ...]]) -> Turn:
        """Puts targets into the groups where they belong now."""
        groups = self._groups[reach]
        lead = min(groups, default=None)
        old_lead: dict[Target, bool] = {}  # who joined (true) or left the group that was in use
        changed: dict[Target, tuple[Rank | None, Rank | None]] = {}
        for target, told in touched.items():
            before, after = self._standing(told, reach), self._standing(self._by_target.get(target, ()), reach)
            if before == after:
                continue
            was, now = before and before[0], after and after[0]
            changed[target] = was, now
            if was == now:
                continue
            if was is not None:
                groups[was].discard(target)
                if not groups[was]:
                    del groups[was]
            if now is not None:
                groups.setdefault(now, set()).add(target)
            if lead is not None and lead in (was, now):
                old_lead[target] = now == lead
        if not changed:
            return Turn()
        new = min(groups, default=None)
        if lead == new:
            came = frozenset(target for target, (_, now) in changed.items() if now is not None and now == new)
            return Turn(came, frozenset(target for target, (was, _) in changed.items() if was and was == lead))
        left = set(groups.get(lead, ())) if lead is not None else set()
        left -= {target for target, joined in old_lead.items() if joined}
        left |= {target for target, joined in old_lead.items() if not joined}
        here = groups[new] if new is not None else set()
        again = left & here & changed.keys() if self._choice is not None else set()  # may be another cluster's now
        return Turn(frozenset(here - left | again), frozenset(left - here | again))

    def _standing(self, told: tuple[Backend, ...], reach: Reach) -> _Standing | None:
        """Returns how good a target is of which this is told; None if it is not to be used."""
        best: _Standing | None = None
        choice = self._choice
        for backend in told:
            found = level(backend)
            if found is None:
                continue
            tier, weight, cluster = 0, 1, ""
            if choice is not None and reach is Reach.ALL:
                place = choice.tier(backend.cluster)
                if place is None:
                    continue
                tier, weight, cluster = place, choice.weight(backend.cluster), backend.cluster
            elif reach is Reach.NEAR and (
                backend.node != self._node or (choice is not None and backend.cluster != choice.own)
            ):
                continue
            standing = ((found, not weight, tier), -weight, cluster)
            if best is None or standing < best:
                best = standing
        return best


def _ranks(choice: Choice) -> tuple[object, ...]:
    """Returns all of a choice that ranks depend on."""
    return choice.own, choice.tiers, {cluster for cluster, weight in choice.weights.items() if not weight}
