"""Which clusters a new one is joined with, while several come up at the same time.

Invariant: of two clusters that come up together exactly one, the later, has the other among those it meets. Apart from
the joining itself because that imports much, and is not needed before API servers are up.
"""

import threading
from collections.abc import Iterable

from isthmus.lab.plan import ClusterPlan


class JoinError(Exception):
    """Clusters could not be joined; the message says which and why."""


class Meeting:
    """The clusters that can be joined now: those that run already, and each new one when it is ready for it."""

    def __init__(self, running: Iterable[ClusterPlan]) -> None:
        self._there = [plan for plan in running if plan.connect]
        self._lock = threading.Lock()

    def come(self, plan: ClusterPlan) -> list[ClusterPlan]:
        """Says that a cluster is ready for it; returns those it is to be joined with."""
        if not plan.connect:
            return []
        with self._lock:
            others = [other for other in self._there if other.name != plan.name]
            self._there.append(plan)
        return others

    def leave(self, plan: ClusterPlan) -> None:
        """A cluster did not come up after all: nobody new meets it."""
        with self._lock:
            self._there = [other for other in self._there if other.name != plan.name]
