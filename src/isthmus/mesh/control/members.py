"""How the clusters of the fleet are, in the words and clocks of the API.

Invariant: one moment of the fleet's clock is always the same wall-clock time, so that looking twice changes nothing.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from isthmus.mesh.control.control import Set
from isthmus.mesh.control.world import Member
from isthmus.mesh.fleet import ClusterStatus


class Members:
    """Makes a `Set` of what the fleet says; `loop_clock` is the one that the fleet reads, in seconds."""

    def __init__(self, *, loop_clock: Callable[[], float], clock: Callable[[], float] = time.time) -> None:
        self._loop_clock = loop_clock
        self._clock = clock
        self._synced: dict[str, tuple[float, float]] = {}

    def set_of(self, statuses: Iterable[ClusterStatus], *, known: bool, kept: Mapping[str, str]) -> Set:
        """Returns the clusters; `known` if those are all, `kept` as in Set."""
        found = tuple(self._member(status) for status in statuses)
        names = {member.name for member in found}
        for name in self._synced.keys() - names:
            del self._synced[name]
        return Set(found, known, {name: reason for name, reason in kept.items() if name not in names})

    def _member(self, status: ClusterStatus) -> Member:
        return Member(
            status.cluster.name,
            status.cluster.id,
            status.state.capitalize(),
            status.reason,
            status.nodes,
            status.identities,
            status.endpoints,
            self._moment(status.cluster.name, status.last_synced),
        )

    def _moment(self, name: str, at: float | None) -> float | None:
        if at is None:
            return None
        known = self._synced.get(name)
        if known is None or known[0] != at:
            known = self._synced[name] = (at, self._clock() - (self._loop_clock() - at))
        return known[1]
