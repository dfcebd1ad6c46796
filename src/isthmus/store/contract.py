"""What a store promises, as types and one Protocol.

Promises: revisions grow by one for each commit and never repeat within an epoch; a commit is atomic, and the events of
one commit arrive together in one `Arrived`; the pages of one listing are of one revision. Keys and values are bytes,
because what comes from outside may be anything. Rejected: a text interface, which would have to lie or raise in the
middle of a listing when one key of a million is not UTF-8.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

import msgspec

MAX_OPS = 128
"""etcd's default `--max-txn-ops`."""

PAGE = 500
"""Pairs asked for at a time; at Cilium's record sizes some 200 kB and a few ms of work in the loop."""


class Header(msgspec.Struct, frozen=True):
    """Who answered, and at which revision."""

    cluster_id: int
    member_id: int
    revision: int


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """A stored pair; `lease` is 0 when none is attached."""

    key: bytes
    value: bytes
    mod_revision: int = 0
    lease: int = 0


class Removed(msgspec.Struct, frozen=True, gc=False):
    """A key that was deleted, or whose lease ended, at `mod_revision`."""

    key: bytes
    mod_revision: int = 0


Event = KeyValue | Removed


class Page(msgspec.Struct, frozen=True):
    """A part of a listing, in key order."""

    header: Header
    pairs: tuple[KeyValue, ...]


class Put(msgspec.Struct, frozen=True):
    """Store `value` under `key`, replacing value and lease."""

    key: bytes
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True):
    """Remove `key`, or all keys that start with it."""

    key: bytes
    prefix: bool = False


Op = Put | Delete


class Committed(msgspec.Struct, frozen=True):
    """The result of a commit; nothing was written if not `succeeded`."""

    header: Header
    succeeded: bool


class Opened(msgspec.Struct, frozen=True):
    """A watch is in place; `header` tells where the server is."""

    header: Header


class Arrived(msgspec.Struct, frozen=True):
    """Whole commits, in order; no events means only that the server is alive."""

    header: Header
    events: tuple[Event, ...] = ()


class Status(msgspec.Struct, frozen=True):
    """The server's own view: version, size in bytes, and what it complains of."""

    header: Header
    version: str
    size: int
    errors: tuple[str, ...] = ()


class Store(Protocol):
    """Every call may raise `StoreError`s, is bounded in time, and may be cancelled."""

    def pinned(self) -> "Store":
        """A view whose calls all go to one server, so that answers can be compared; shares our connections."""

    async def get(self, key: bytes) -> tuple[Header, KeyValue | None]:
        """Reads one key."""

    def pages(self, prefix: bytes, *, until: bytes = b"", limit: int = PAGE) -> AsyncGenerator[Page, None]:
        """Lists a prefix at one revision; at least one page comes, however empty. May raise Compacted midway.

        With `until` only the keys before that one.
        """

    async def commit(
        self, ops: Sequence[Op], *, absent: bytes | None = None, equal: tuple[bytes, bytes] | None = None
    ) -> Committed:
        """Does 1 to MAX_OPS ops on different keys at once.

        With `absent` only if that key does not exist, with `equal` only if that key holds that value.

        Raises LeaseGone when a put names a lease that is no more, Refused for a request that can never work.
        """

    async def grant(self, ttl: int) -> int:
        """Makes a lease of `ttl` seconds and returns its number."""

    async def keep_alive(self, lease: int) -> int:
        """Renews a lease and returns the seconds it has now. Raises LeaseGone."""

    async def revoke(self, lease: int) -> None:
        """Ends a lease and removes its keys. Raises LeaseGone."""

    def watch(
        self, prefix: bytes, *, until: bytes = b"", start_revision: int
    ) -> AsyncGenerator[Opened | Arrived, None]:
        """Tells every change of a prefix from `start_revision` on: first Opened, then Arrived without end.

        With `until` only of the keys before that one. Ends only by raising: Unavailable, Compacted, Denied. Close the
        iterator to end the watch.
        """

    async def status(self) -> Status:
        """Asks the server how it is."""

    async def close(self) -> None:
        """Lets go of connections; later calls raise Unavailable."""


def prefix_end(prefix: bytes) -> bytes:
    """Returns the first key after all keys that start with `prefix`; b"\\0" (etcd's "all keys") if there is none."""
    for index in range(len(prefix) - 1, -1, -1):
        if prefix[index] < 0xFF:
            return prefix[:index] + bytes([prefix[index] + 1])
    return b"\0"
