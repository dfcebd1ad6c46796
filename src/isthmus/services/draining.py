"""How much of a cluster is left while it is drained: from all of it to nothing, in steps.

Agents, the tracker and the commands read the same `spec.drain` of a MeshCluster and must come to the same answer, so
the arithmetic is here alone. Steps, because every step is a new spread of connections on every node. Invariant: what
cannot be read drains at once, as a drain without `over` does: somebody wanted the cluster to be empty. Rejected: the
writer of the drain lowering a number step by step, which stops half way when that writer does.
"""

import datetime

from isthmus.model.durations import seconds
from isthmus.policy.rules import Problem

FULL = 100
STEP = 10
"""Per cent."""


def percent_left(since: str, over: str, *, now: float) -> tuple[int, tuple[Problem, ...]]:
    """Returns what is left of a cluster's weight, 0 to 100 per cent, and what is wrong with the two fields.

    `since` is RFC 3339 text, `over` a Go duration ("" is at once), `now` in Unix seconds. A `since` in the future has
    not begun.
    """
    problems: list[Problem] = []
    began = moment(since)
    if began is None:
        problems.append(Problem("spec.drain.since", f"{since[:64]!r} is not a time as 2025-01-31T12:00:00Z"))
    length = 0.0
    if over:
        found = seconds(over)
        if found is None:
            problems.append(Problem("spec.drain.over", f"{over[:64]!r} is not a duration as 90s or 10m"))
        else:
            length = found
    if problems or began is None:
        return 0, tuple(problems)
    passed = now - began
    if passed < 0:
        return FULL, ()
    if passed >= length:
        return 0, ()
    # Rounded up: the first step down comes when a tenth of the time is over, and the last one at the end.
    steps = FULL // STEP
    return (steps - int(passed / length * steps)) * STEP, ()


def moment(text: str) -> float | None:
    """Returns the Unix seconds of RFC 3339 text, None if it is none."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.timestamp() if found.tzinfo is not None else None


def next_step(since: str, over: str, *, now: float) -> float | None:
    """Returns when, in Unix seconds, `percent_left` says something else than at `now`; None if it never will."""
    began, length = moment(since), seconds(over) if over else 0.0
    if began is None or length is None or now >= began + length:
        return None
    steps = FULL // STEP
    passed = int(max(0.0, now - began) / length * steps) if length else 0
    return began + (passed + 1) * length / steps
