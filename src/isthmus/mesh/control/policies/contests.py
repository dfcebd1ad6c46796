"""Policies of one tier and priority that may decide the same traffic in different ways, kept as they change. Pure.

Invariant: what a change costs is bounded by MOST, however many policies have the same priority; where there are more,
that is said instead of who they are. Rejected: all pairs on every change.
"""

from collections.abc import Iterable, Sequence

from isthmus.mesh.enforcement import Place
from isthmus.policy.ordered.ties import tie_between
from isthmus.policy.rules import Policy, Tier

MOST = 50
"""Policies of one tier and priority that are compared with each other."""

Rank = tuple[Tier, int]


class Contests:
    """What there is to say of each policy with a tier; `kind/name` are unique among them."""

    def __init__(self) -> None:
        self._policies: dict[Place, Policy] = {}
        self._at: dict[Rank, dict[Place, None]] = {}
        self._ties: dict[Place, dict[Place, str]] = {}

    def of(self, place: Place) -> str:
        """Returns what is to be said of a policy, "" if nothing is."""
        policy = self._policies.get(place)
        if policy is None:
            return ""
        if len(self._at[policy.tier, policy.priority]) > MOST:
            return (
                f"more than {MOST} policies of tier {policy.tier.value} have priority {policy.priority}; "
                "where they differ, the first by name decides"
            )
        found = self._ties.get(place, {})
        if not found:
            return ""
        more = len(found) - 1
        return next(iter(found.values())) + (f" (and {more} more)" if more else "")

    def put(self, place: Place, policies: Sequence[Policy]) -> set[Place]:
        """Takes what an object says; returns the others of which something else is to be said now."""
        changed = self.drop(place)
        if len(policies) != 1 or policies[0].tier is Tier.NORMAL:
            return changed
        policy = self._policies[place] = policies[0]
        rank = policy.tier, policy.priority
        others = self._at.setdefault(rank, {})
        if len(others) < MOST:
            changed |= self._compare(place, others)
        elif len(others) == MOST:
            changed.update(others)
        others[place] = None
        changed.discard(place)
        return changed

    def _compare(self, place: Place, others: Iterable[Place]) -> set[Place]:
        found = set()
        for other in others:
            tie = tie_between(self._policies[place], self._policies[other])
            if tie is not None:
                self._ties.setdefault(place, {})[other] = str(tie)
                self._ties.setdefault(other, {})[place] = str(tie)
                found.add(other)
        return found

    def drop(self, place: Place) -> set[Place]:
        """Takes a deletion; returns as `put` does."""
        policy = self._policies.pop(place, None)
        if policy is None:
            return set()
        rank = policy.tier, policy.priority
        rest = self._at[rank]
        del rest[place]
        changed = set(self._ties.pop(place, {}))
        for other in changed:
            del self._ties[other][place]
            if not self._ties[other]:
                del self._ties[other]
        if len(rest) == MOST:
            # Those that came into a crowd were compared with nobody.
            places = list(rest)
            for index, one in enumerate(places):
                self._compare(one, places[:index])
            changed.update(rest)
        if not rest:
            del self._at[rank]
        return changed
