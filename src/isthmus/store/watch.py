"""Where a watch stands, and whether it may go on or must list again: decisions only.

A watch that was broken is resumed after the last revision it delivered, if the server is still the same history. etcd's
cluster and member ids do not tell: a single member with default settings has the same ids on every fresh data
directory, and a watch in the future of a fresh server waits silently while everything it would have told is lost.
So history is recognised by our own random epoch key as well, by the cluster id, and by the revision never going back.

A watch starts *at* the last revision that was delivered, and what comes again is dropped. Starting after it would lose
deletions: releases of etcd that are in use (Debian's 3.4.23 among them) let a watch start at the very revision of a
compaction, which has already taken the deletions of that revision (etcd-io/etcd issues 18089 and 19179); one revision
earlier they refuse, and we list.

The resume point moves only with delivered events, never with progress notifications, which could overtake events
(etcd-io/etcd issue 15220). The price is a listing where a quiet watch meets a compaction, and a listing changes
nothing for consumers, who are told differences. Rejected: listing after every break, simple and right, but a restarted
tracker would be met by a full listing from every node at once.
"""

from enum import Enum

from isthmus.store.contract import Event, Header


class Doubt(Enum):
    """Why a listing is due."""

    START = "nothing was listed yet"
    COMPACTED = "the history since the last revision seen was compacted"
    CLUSTER = "another etcd cluster answered"
    EPOCH = "the store was replaced (its epoch changed)"
    REVISION = "the store's revision went back"


class WatchState:
    """The memory of one watch over any number of connections. `doubt` is None while it may resume."""

    def __init__(self) -> None:
        self.doubt: Doubt | None = Doubt.START
        self.revision = 0
        """The last revision that was delivered in full."""
        self._cluster_id = 0
        self._epoch: bytes | None = None

    @property
    def start_revision(self) -> int:
        """The revision from which to watch: the last one that was delivered, once more."""
        return max(self.revision, 1)

    def listed(self, header: Header, *, epoch: bytes | None) -> None:
        """A whole listing was delivered; `epoch` was read from the same server before it."""
        self.doubt = None
        self.revision = header.revision
        self._cluster_id = header.cluster_id
        self._epoch = epoch

    def opened(self, header: Header, *, epoch: bytes | None) -> Doubt | None:
        """A watch is in place, and after that `epoch` was read from the same server. Returns the doubt, if any."""
        if epoch != self._epoch:
            self.doubt = Doubt.EPOCH
        return self.doubt or self._check(header)

    def arrived(self, header: Header, events: tuple[Event, ...]) -> tuple[Event, ...]:
        """Takes a batch of whole commits; returns what is to be delivered, nothing when in doubt."""
        if self._check(header) is not None:
            return ()
        fresh = tuple(e for e in events if e.mod_revision > self.revision)
        if fresh:
            self.revision = fresh[-1].mod_revision
        return fresh

    def compacted(self) -> None:
        """The server no longer has the revision we want."""
        self.doubt = Doubt.COMPACTED

    def _check(self, header: Header) -> Doubt | None:
        if header.cluster_id != self._cluster_id:
            self.doubt = Doubt.CLUSTER
        elif header.revision < self.revision:
            self.doubt = Doubt.REVISION
        return self.doubt
