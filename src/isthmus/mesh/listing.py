"""Following the list of clusters while a daemon runs: read again every few seconds, told only when it changed.

A list that cannot be used changes nothing: the last good one stays, and why is said once. Rejected: inotify, which sees
neither a Secret that is swapped under a symbolic link far up the path nor a network file system.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import structlog

from isthmus.mesh.clusters import ClusterList, ClustersError, ClusterSpec

REREAD = 2.0
"""Seconds between looks at the list of clusters and their kubeconfigs."""

BAD_LIST = "List of clusters cannot be used; the last good one stays"
GOOD_LIST = "List of clusters can be used again"

_log = structlog.get_logger("isthmus.mesh.listing")


class ListFollower:
    """Follows `listing`, of which `known` was read last; `interval` in seconds."""

    def __init__(self, listing: ClusterList, *, known: Sequence[ClusterSpec], interval: float = REREAD) -> None:
        self._list = listing
        self._known = list(known)
        self._interval = interval
        self.trouble = ""
        """Why the list cannot be used now; empty if it can."""

    async def changes(self) -> AsyncGenerator[list[ClusterSpec], None]:
        """Yields the whole list whenever it is another one, for ever."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                specs = await asyncio.to_thread(self._list.read)
            except ClustersError as error:
                if self.trouble != str(error):
                    _log.error(BAD_LIST, error=str(error))
                self.trouble = str(error)
                continue
            if self.trouble:
                _log.info(GOOD_LIST)
                self.trouble = ""
            if specs != self._known:
                self._known = specs
                yield specs
