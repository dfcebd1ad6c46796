"""Giving memory back: what a burst at the start used and freed, the C library keeps for itself otherwise.

An agent that has read a cluster and written its first ruleset holds some megabytes that it will not need again, on each
node. Rejected: smaller arenas by environment variables, which whoever starts the process would have to know of.
"""

import ctypes


def trim() -> None:
    """Asks glibc to return free pages (malloc_trim(3)); does nothing where the C library cannot. Takes milliseconds."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)
