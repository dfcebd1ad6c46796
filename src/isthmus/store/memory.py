"""A store in memory that behaves as etcd does, for tests and for a process that keeps its own state.

The twin refuses what etcd refuses (a key twice in one commit, too many ops, unknown leases, compacted revisions) and
fails on demand. A watch reads the history from its own position, so there is no queue that could fill up; history is
kept until `compact`.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import count

from isthmus.store.contract import (
    MAX_OPS,
    PAGE,
    Arrived,
    Committed,
    Event,
    Header,
    KeyValue,
    Op,
    Opened,
    Page,
    Put,
    Removed,
    Status,
)
from isthmus.store.errors import Compacted, LeaseGone, Refused, Unavailable

MAX_REQUEST = 1536 * 1024
"""Bytes of keys and values in a commit, as etcd's `--max-request-bytes`."""


class MemoryStore:
    """See `Store`. The ids are those of a single etcd member with default settings, fresh or not."""

    def __init__(self) -> None:
        self.down = False
        """While set, every call and every watch fails as if the server were gone."""
        self.commits = 0
        """Successful commits so far, for tests that count."""
        self._generation = 0
        self._changed = asyncio.Event()
        self._numbers = count(1)
        self._reset()

    def _reset(self) -> None:
        self._revision = 1
        self._oldest = 1
        self._pairs: dict[bytes, KeyValue] = {}
        self._history: list[tuple[int, tuple[Event, ...]]] = []
        self._leases: dict[int, int] = {}

    def pinned(self) -> "MemoryStore":
        """See `Store.pinned`."""
        return self

    @property
    def data(self) -> dict[bytes, bytes]:
        """All keys and values now."""
        return {key: pair.value for key, pair in sorted(self._pairs.items())}

    def lease_of(self, key: bytes) -> int:
        """The lease attached to a key that exists."""
        return self._pairs[key].lease

    @property
    def leases(self) -> tuple[int, ...]:
        """The leases that live."""
        return tuple(self._leases)

    def restart(self, *, empty: bool = False) -> None:
        """Breaks every watch; with `empty`, comes back as a server on a fresh data directory."""
        self._generation += 1
        if empty:
            self._reset()
        self._wake()

    def compact(self, revision: int) -> None:
        """Forgets history before `revision`, and its deletions too, as etcd does (etcd-io/etcd issue 19179)."""
        self._oldest = max(self._oldest, revision)
        kept = [entry for entry in self._history if entry[0] >= revision]
        if kept and kept[0][0] == revision:
            kept[0] = (revision, tuple(event for event in kept[0][1] if not isinstance(event, Removed)))
        self._history = kept

    def expire(self, lease: int) -> None:
        """Ends a lease as its time running out would."""
        self._drop_lease(lease)

    async def get(self, key: bytes) -> tuple[Header, KeyValue | None]:
        """See `Store.get`."""
        await self._turn()
        return self._header(), self._pairs.get(key)

    async def pages(self, prefix: bytes, *, until: bytes = b"", limit: int = PAGE) -> AsyncGenerator[Page, None]:
        """See `Store.pages`."""
        await self._turn()
        header = self._header()
        pairs = [pair for key, pair in sorted(self._pairs.items()) if _within(key, prefix, until)]
        yield Page(header, tuple(pairs[:limit]))
        for start in range(limit, len(pairs), limit):
            await self._turn()
            if header.revision < self._oldest:
                raise Compacted("memory: required revision has been compacted")
            yield Page(header, tuple(pairs[start : start + limit]))

    async def commit(
        self, ops: Sequence[Op], *, absent: bytes | None = None, equal: tuple[bytes, bytes] | None = None
    ) -> Committed:
        """See `Store.commit`."""
        await self._turn()
        if len(ops) > MAX_OPS:
            raise Refused("memory: too many operations in one commit")
        if sum(len(op.key) + (len(op.value) if isinstance(op, Put) else 0) for op in ops) > MAX_REQUEST:
            raise Refused("memory: request is too large")
        if absent is not None and absent in self._pairs:
            return Committed(self._header(), False)
        if equal is not None and (equal[0] not in self._pairs or self._pairs[equal[0]].value != equal[1]):
            return Committed(self._header(), False)
        events: dict[bytes, Event] = {}
        revision = self._revision + 1
        for op in ops:
            if not op.key:
                raise Refused("memory: key is not provided")
            if isinstance(op, Put):
                if op.key in events:
                    raise Refused("memory: duplicate key given in one commit")
                if op.lease and op.lease not in self._leases:
                    raise LeaseGone("memory: requested lease not found")
                events[op.key] = KeyValue(op.key, op.value, revision, op.lease)
                continue
            keys = [k for k in self._pairs if k.startswith(op.key)] if op.prefix else [op.key]
            for key in keys:
                if key in events:
                    raise Refused("memory: duplicate key given in one commit")
                if key in self._pairs:
                    events[key] = Removed(key, revision)
        self._apply(tuple(events.values()))
        self.commits += 1
        return Committed(self._header(), True)

    async def grant(self, ttl: int) -> int:
        """See `Store.grant`."""
        await self._turn()
        lease = next(self._numbers)
        self._leases[lease] = ttl
        return lease

    async def keep_alive(self, lease: int) -> int:
        """See `Store.keep_alive`."""
        await self._turn()
        if lease not in self._leases:
            raise LeaseGone(f"memory: lease {lease:x} is no more")
        return self._leases[lease]

    async def revoke(self, lease: int) -> None:
        """See `Store.revoke`."""
        await self._turn()
        if lease not in self._leases:
            raise LeaseGone(f"memory: lease {lease:x} is no more")
        self._drop_lease(lease)

    async def status(self) -> Status:
        """See `Store.status`."""
        await self._turn()
        return Status(self._header(), "memory", sum(len(k) + len(p.value) for k, p in self._pairs.items()))

    async def watch(
        self, prefix: bytes, *, until: bytes = b"", start_revision: int
    ) -> AsyncGenerator[Opened | Arrived, None]:
        """See `Store.watch`."""
        await self._turn()
        generation = self._generation
        yield Opened(self._header())
        position = start_revision
        while True:
            if self.down or generation != self._generation:
                raise Unavailable("memory: the watch was broken")
            if position < self._oldest:
                raise Compacted("memory: history was compacted", revision=self._oldest)
            for revision, events in self._history:
                if revision < position:
                    continue
                position = revision + 1
                wanted = tuple(event for event in events if _within(event.key, prefix, until))
                if wanted:
                    yield Arrived(self._header(), wanted)
                    break
            else:
                # Whoever changes anything, or breaks the watch, wakes all; a dead twin cannot keep silent.
                await self._changed.wait()

    async def close(self) -> None:
        """See `Store.close`."""
        self.down = True
        self._wake()

    def _apply(self, events: tuple[Event, ...]) -> None:
        if not events:
            return
        self._revision += 1
        for event in events:
            if isinstance(event, Removed):
                del self._pairs[event.key]
            else:
                self._pairs[event.key] = event
        self._history.append((self._revision, events))
        self._wake()

    def _drop_lease(self, lease: int) -> None:
        self._leases.pop(lease, None)
        keys = [key for key, pair in self._pairs.items() if pair.lease == lease]
        self._apply(tuple(Removed(key, self._revision + 1) for key in keys))

    def _header(self) -> Header:
        return Header(0xCDF818194E3A8C32, 0x8E9E05C52164694D, self._revision)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _turn(self) -> None:
        """Lets others run, as a network would."""
        await asyncio.sleep(0)
        if self.down:
            raise Unavailable("memory: the server is down")


def _within(key: bytes, prefix: bytes, until: bytes) -> bool:
    return key.startswith(prefix) and (not until or key < until)
