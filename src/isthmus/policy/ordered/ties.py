"""Policies of one tier and priority that could decide the same packet differently.

The API leaves it open which of them decides, and says that users cannot know (reference: policy-apis §1.4). We go by
name, always the same way, and say that it is so. Overlap is decided on the safe side: two selectors overlap unless some
label tells them apart, so a warning may be about packets that do not exist, and its absence is a promise.
Looking at the pods that exist now was rejected: the tie would come and go with them, and the warning after the fact.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import msgspec

from isthmus.policy.context import Parsed
from isthmus.policy.overlap import peers_overlap, ports_overlap
from isthmus.policy.rules import Grade, ObjectRef, Policy, Problem, Rule, Tier

MAX_STEPS = 100_000
"""Comparisons that are made for one pair of policies; one that needs more is taken to clash."""


class Tie(msgspec.Struct, frozen=True):
    """`first` (by name) decides where rule `first_field` and rule `second_field` of `second` both match."""

    tier: Tier
    priority: int
    first: ObjectRef
    second: ObjectRef
    first_field: str
    second_field: str

    def __str__(self) -> str:
        return (
            f"{self.first} ({self.first_field}) and {self.second} ({self.second_field}) have tier {self.tier.value}, "
            f"priority {self.priority}, and may match the same traffic with different actions; {self.first} is asked "
            "first, by its name"
        )


def ties(policies: Iterable[Policy]) -> list[Tie]:
    """Returns one tie for each pair of policies of one cluster that have one; quadratic in those of one priority."""
    groups: dict[tuple[Tier, int], list[Policy]] = {}
    for policy in policies:
        if policy.tier is not Tier.NORMAL:
            groups.setdefault((policy.tier, policy.priority), []).append(policy)
    return [
        tie for group in groups.values() for a, b in combinations(group, 2) if (tie := tie_between(a, b)) is not None
    ]


def with_ties(objects: Sequence[Parsed]) -> list[Parsed]:
    """Returns the objects, which are of one cluster, with a warning in each that has a tie with another of them."""
    said: dict[ObjectRef, list[Problem]] = {}
    for tie in ties(policy for parsed in objects for policy in parsed.policies):
        for ref in (tie.first, tie.second):
            said.setdefault(ref, []).append(Problem("spec.priority", str(tie), Grade.WARNING))
    return [
        msgspec.structs.replace(parsed, problems=(*parsed.problems, *said[parsed.ref]))
        if parsed.ref in said
        else parsed
        for parsed in objects
    ]


def tie_between(a: Policy, b: Policy) -> Tie | None:
    """Returns the first tie of two different policies, whichever way round they are given."""
    if a.tier is Tier.NORMAL or a.ref == b.ref or (a.tier, a.priority) != (b.tier, b.priority):
        return None
    first, second = sorted((a, b), key=lambda policy: policy.rank)
    pair = next(_clashes(first, second), None)
    if pair is None:
        return None
    return Tie(a.tier, a.priority, first.ref, second.ref, pair[0].field, pair[1].field)


def _clashes(first: Policy, second: Policy) -> Iterator[tuple[Rule, Rule]]:
    if not peers_overlap(first.subject, second.subject):
        return
    left = MAX_STEPS
    for one in first.rules:
        for other in second.rules:
            if one.direction is not other.direction or one.action is other.action:
                continue
            left -= len(one.peers or ()) * len(other.peers or ()) + len(one.ports or ()) * len(other.ports or ())
            if left < 0 or (_any_peers_overlap(one, other) and _any_ports_overlap(one, other)):
                yield one, other
                return


def _any_peers_overlap(one: Rule, other: Rule) -> bool:
    if one.peers is None or other.peers is None:
        return True
    return any(peers_overlap(a, b) for a in one.peers for b in other.peers)


def _any_ports_overlap(one: Rule, other: Rule) -> bool:
    if one.ports is None or other.ports is None:
        return True
    return any(ports_overlap(a, b) for a in one.ports for b in other.ports)
