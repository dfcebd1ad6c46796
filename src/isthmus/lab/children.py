"""Collecting children that have ended, for processes that are the parent of many.

Standard library only and small: the keeper, which imports it, is kept small. Rejected: a pidfd for each child, which
does not collect those that nobody has claimed yet.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Not at run time: it would be imported by the keeper.
    from collections.abc import Iterator


def ended() -> Iterator[tuple[int, int]]:
    """Collects each child that has ended, and yields its number and wait status; never waits."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
