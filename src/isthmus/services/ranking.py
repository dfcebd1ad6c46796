"""How good a backend is for new connections: what it does counts first, then drained or not, then whose it is.

A lower Rank is better, and only the best one that anybody has is used. Why in this order: a backend that is there beats
one that is preferred, so a cluster that is drained or in a later tier is still better than a pod that is ending, and
that is better than one that nobody reaches. The last two levels are used all the same, because a probe may be wrong,
and refusing is a certain failure. Rejected: to count unreachable backends as none, as a health check of a balancer in
front of a single server farm may: where nodes answer pods but not probes, that would close every Service.
"""

from enum import IntEnum

from isthmus.model.service import Backend


class Level(IntEnum):
    """What a backend does; see KEP-1672 for the conditions and KEP-1669 for terminating ones."""

    READY = 0
    TERMINATING = 1  # and still serving
    READY_UNREACHABLE = 2
    TERMINATING_UNREACHABLE = 3


Rank = tuple[Level, bool, int]
"""Level; whether its cluster is drained (counts for nothing while others are there); the place of its tier."""


def level(backend: Backend) -> Level | None:
    """Returns what a backend does; None if it takes no connections."""
    if backend.ready:
        return Level.READY if backend.reachable else Level.READY_UNREACHABLE
    if backend.serving and backend.terminating:
        return Level.TERMINATING if backend.reachable else Level.TERMINATING_UNREACHABLE
    return None
