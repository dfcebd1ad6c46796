"""What a store should hold, what it is known to hold, and which keys differ: decisions only.

Level-triggered: a key that is wanted, changed or unwanted is marked dirty, and what is written is its value at the
moment of writing. So any number of changes cost one write, a failed write is repeated simply by staying dirty, and
what is pending can never outgrow the number of keys. Keys are written in the order of their rank; a batch that holds a
key of some rank holds, or follows, every dirty key of lower ranks. So "written after all of those" is a rank, not a
protocol. Rejected: a queue of operations, which grows while the store is away and then replays history.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from isthmus.store.contract import MAX_OPS, KeyValue

MAX_BATCH = 1024 * 1024
"""Bytes of keys and values in a batch; etcd takes 1.5 MiB with its own framing."""


class Write(msgspec.Struct, frozen=True, gc=False):
    """One key of a batch: put `value`, or delete for None. `lease` is the one the key had, or 0."""

    key: bytes
    value: bytes | None
    lease: int = 0


class Ledger:
    """Ranks are 0 to `ranks` - 1."""

    def __init__(self, *, ranks: int) -> None:
        self._wanted: dict[bytes, bytes] = {}
        self._stored: dict[bytes, bytes] = {}
        self._lease: dict[bytes, int] = {}
        self._dirty: tuple[dict[bytes, None], ...] = tuple({} for _ in range(ranks))
        self._rank: dict[bytes, int] = {}
        self._flying: set[bytes] = set()
        self.load: Counter[int] = Counter()
        """How many keys each lease holds."""

    @property
    def pending(self) -> int:
        """How many keys wait to be written, those under way included."""
        return len(self._rank) + len(self._flying)

    @property
    def wanted(self) -> Mapping[bytes, bytes]:
        """Keys and values that the store should hold."""
        return self._wanted

    @property
    def stored(self) -> Mapping[bytes, bytes]:
        """Keys and values that the store is known to hold."""
        return self._stored

    def keys(self, prefixes: Iterable[bytes]) -> list[bytes]:
        """Every key known under `prefixes`, wanted, stored or pending."""
        starts = tuple(prefixes)
        known = {*self._wanted, *self._stored, *self._rank, *self._flying}
        return [key for key in known if key.startswith(starts)]

    def want(self, key: bytes, value: bytes, *, rank: int) -> None:
        """The store should hold `value` under `key`."""
        self._wanted[key] = value
        if key in self._flying or self._stored.get(key) != value:
            self._mark(key, rank)
        else:
            self._unmark(key)

    def unwant(self, key: bytes, *, rank: int) -> None:
        """The store should not hold `key`."""
        known = key in self._stored or key in self._flying or key in self._rank
        self._wanted.pop(key, None)
        if known:
            self._mark(key, rank)

    def listed(self, pairs: Iterable[KeyValue], *, rank_of: Callable[[bytes], int | None]) -> None:
        """The store holds exactly `pairs`: what differs from what is wanted becomes dirty.

        Nothing may be under way. A key that is stored, not wanted and not dirty is left alone: whether it is to go is
        the owner's decision. `rank_of` gives the rank for writing a wanted key.
        """
        self._stored = {}
        self._lease = {}
        self.load.clear()
        for pair in pairs:
            self._stored[pair.key] = pair.value
            self._set_lease(pair.key, pair.lease)
        for key, value in self._wanted.items():
            if self._stored.get(key) == value:
                self._unmark(key)
            else:
                self._mark(key, rank_of(key) or 0)
        for key in [k for k in self._rank if k not in self._wanted and k not in self._stored]:
            self._unmark(key)

    def batch(self) -> list[Write]:
        """Takes the next writes; they are under way until `done` or `failed`. Empty when nothing is dirty."""
        writes: list[Write] = []
        size = 0
        for key in list(self._next_keys()):
            value = self._wanted.get(key)
            size += len(key) + len(value or b"")
            if writes and size > MAX_BATCH:
                break
            self._unmark(key)
            self._flying.add(key)
            writes.append(Write(key, value, self._lease.get(key, 0)))
        return writes

    def done(self, writes: Iterable[Write]) -> None:
        """The writes were committed; `lease` of each is the one it was put with."""
        for write in writes:
            self._flying.discard(write.key)
            if write.value is None:
                self._stored.pop(write.key, None)
                self._set_lease(write.key, 0)
            else:
                self._stored[write.key] = write.value
                self._set_lease(write.key, write.lease)

    def failed(self, writes: Iterable[Write], *, rank_of: Callable[[bytes], int | None]) -> None:
        """Nobody knows whether the writes were committed: they are dirty again, and nothing of them is known."""
        for write in writes:
            self._flying.discard(write.key)
            self._stored.pop(write.key, None)
            if write.key not in self._rank:
                self._mark(write.key, rank_of(write.key) or 0)

    def refused(self, write: Write) -> None:
        """The store will never take this write: given up until somebody wants something else of the key."""
        self._flying.discard(write.key)
        if write.value is not None:
            self._stored[write.key] = write.value

    def lease_lost(self, lease: int, *, rank_of: Callable[[bytes], int | None]) -> int:
        """All keys of `lease` are gone from the store; returns how many must be written again."""
        keys = [key for key, held in self._lease.items() if held == lease]
        for key in keys:
            self._set_lease(key, 0)
            self._stored.pop(key, None)
            if key in self._wanted:
                self._mark(key, rank_of(key) or 0)
        self.load.pop(lease, None)
        return len(keys)

    def _next_keys(self) -> Iterator[bytes]:
        left = MAX_OPS
        for keys in self._dirty:
            for key in keys:
                if left == 0:
                    return
                left -= 1
                yield key

    def _mark(self, key: bytes, rank: int) -> None:
        self._unmark(key)
        self._dirty[rank][key] = None
        self._rank[key] = rank

    def _unmark(self, key: bytes) -> None:
        rank = self._rank.pop(key, None)
        if rank is not None:
            del self._dirty[rank][key]

    def _set_lease(self, key: bytes, lease: int) -> None:
        old = self._lease.pop(key, 0)
        if old:
            self.load[old] -= 1
        if lease:
            self._lease[key] = lease
            self.load[lease] += 1
