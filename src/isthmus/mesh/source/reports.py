"""What must be said about an object that was not taken as it is. Pure.

Invariants: each problem of an object is told once for as long as the object exists and has it; what waits to be told
is bounded, and what did not fit is counted.
"""

from collections.abc import Collection

import msgspec

MAX_WAITING = 1000


class Report(msgspec.Struct, frozen=True):
    """A problem: `key` is the label key or the field, `value` what was found there (clipped)."""

    kind: str
    namespace: str
    name: str
    key: str
    value: str
    reason: str


FOREIGN_CLAIM = "claims to be of another cluster; the claim is ignored"
BAD_ADDRESS = "is not an address that a pod or a node can have; it is ignored"
BAD_NETWORK = "is not a pod network; it is ignored"
BAD_LABEL = "is not a valid label; it is ignored"
TOO_MANY = "has more addresses than allowed; the rest are ignored"
SHARED_ADDRESS = "is claimed by two pods; the younger one has it"
NO_IDENTITY = "gets no identity and counts as world"
OVERLAPPING_ADDRESS = "is held by another cluster; the endpoint is withheld"
OVERLAPPING_NETWORK = "overlaps a pod network of another cluster; it is withheld"


class Reports:
    """Problems by object, and those that were not yet told."""

    def __init__(self) -> None:
        self._known: dict[str, dict[tuple[str, str], dict[str, frozenset[Report]]]] = {}
        self._waiting: list[Report] = []
        self.lost = 0

    def tell(
        self, kind: str, namespace: str, name: str, problems: list[tuple[str, str, str]], *, aspect: str = ""
    ) -> None:
        """States all problems that one aspect of an object has now, as (key, value, reason)."""
        objects = self._known.setdefault(kind, {})
        aspects = objects.get((namespace, name), {})
        known = aspects.get(aspect, frozenset())
        if not problems and not known:
            return
        now = frozenset(Report(kind, namespace, name, key, value[:128], reason) for key, value, reason in problems)
        for report in sorted(now - known, key=lambda r: (r.key, r.value, r.reason)):
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(report)
            else:
                self.lost += 1
        if now:
            objects.setdefault((namespace, name), {})[aspect] = now
        else:
            del aspects[aspect]
            if not aspects:
                del objects[namespace, name]

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """The object is gone."""
        self._known.get(kind, {}).pop((namespace, name), None)

    def retain(self, kind: str, present: Collection[tuple[str, str]]) -> None:
        """Forgets the objects of a kind that are not in `present`, as (namespace, name)."""
        objects = self._known.get(kind, {})
        for place in [place for place in objects if place not in present]:
            del objects[place]

    def take(self) -> list[Report]:
        """Returns what was not yet told."""
        waiting, self._waiting = self._waiting, []
        return waiting
