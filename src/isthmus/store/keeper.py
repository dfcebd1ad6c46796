"""Keeps a prefix of a store as a ledger says, whatever happens to the store.

One task does everything in turn, so nothing is ever decided on half a write: it lists the prefix, writes batches,
renews leases, and lists again from time to time, since another hand may have changed something. Every commit is made
on condition that the store's epoch is the one that was listed, so nothing is ever written into a store that was
replaced: it is listed first, and so gets all that it lacks, in order. Every key has a lease, so that a writer that
never comes back leaves nothing behind for ever; keys are spread over leases, because etcd's cost of a put grows with
the keys on its lease (etcd issue 15993).
"""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from isthmus.aio.backoff import Backoff
from isthmus.store.contract import Delete, KeyValue, Op, Put, Store
from isthmus.store.epoch import ensure_epoch
from isthmus.store.errors import LeaseGone, Refused, StoreError, TooLarge
from isthmus.store.ledger import Ledger, Write
from isthmus.wire.kvstore import EPOCH

LEASE = 900
"""Seconds that keys outlive their writer: Cilium's default."""

LEASE_KEYS = 1000
"""Keys on one lease."""

RENEW = LEASE / 3
RELIST = 300.0
"""Seconds between comparisons with what the store really holds; Cilium re-asserts its membership as often."""

PULSE = 60.0
"""Seconds between heartbeats."""

_log = structlog.get_logger("isthmus.store.keeper")


class _Replaced(Exception):
    """The store is not the one that was listed."""


class KeeperState(msgspec.Struct, frozen=True):
    """How the keeper is: `error` is empty while the store answers; counters only grow."""

    connected: bool = False
    error: str = ""
    failures: int = 0
    refused: int = 0
    commits: int = 0


class Keeper:
    """Owns `root` in `store`.

    `rank_of` gives the rank in which a key is written (None: 0); `on_listed` is called after each listing, before
    anything is written, and may change the ledger; `pulse` makes the heartbeat, put without lease once a minute.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        *,
        root: bytes,
        rank_of: Callable[[bytes], int | None],
        on_listed: Callable[[], None],
        pulse: Callable[[], Put],
        backoff: Backoff | None = None,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._root = root
        self._rank_of = rank_of
        self._on_listed = on_listed
        self._pulse = pulse
        self._backoff = backoff or Backoff(base=0.2, cap=10.0)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._due: dict[str, float] = {}
        self._epoch = b""
        self._revision = 0
        self._current = 0
        self._room = 0
        self.state = KeeperState()

    def wake(self) -> None:
        """The ledger changed."""
        self._idle.clear()
        self._wake.set()

    async def settled(self) -> None:
        """Waits until everything in the ledger is stored; as long as the store is away, that is for ever."""
        await self._idle.wait()

    def beat(self) -> None:
        """Sends a heartbeat before the next write; so a store that was replaced is noticed at once."""
        self._due["pulse"] = 0.0
        self.wake()

    async def serve(self) -> None:
        """Works until cancelled; errors of the store are retried here."""
        while True:
            try:
                await self._resume()
                while True:
                    await self._chores()
                    self._up()
                    await self._write()
                    if self._ledger.pending == 0:
                        self._idle.set()
                        await self._sleep()
            except _Replaced:
                self._idle.clear()
            except StoreError as error:
                self._idle.clear()
                delay = self._backoff.next()
                # Leases may have run out meanwhile.
                self._due["renew"] = asyncio.get_running_loop().time()
                if self.state.connected or not self.state.error:
                    _log.warning("store unavailable", error=str(error), pending=self._ledger.pending)
                self.state = msgspec.structs.replace(
                    self.state, connected=False, error=str(error), failures=self.state.failures + 1
                )
                await asyncio.sleep(delay)

    def _up(self) -> None:
        if not self.state.connected:
            _log.info("store ready", revision=self._revision)
            self.state = msgspec.structs.replace(self.state, connected=True, error="")
        self._backoff.reset()

    async def _resume(self) -> None:
        """Lists unless the store is certainly the one that we wrote to."""
        epoch = await ensure_epoch(self._store)
        header, _ = await self._store.get(EPOCH)
        if epoch != self._epoch or header.revision < self._revision:
            if self._epoch:
                _log.warning("store was replaced; everything is written again", revision=header.revision)
            self._epoch = b""
            await self._list()
            self._epoch = epoch
            self._due["pulse"] = 0.0

    async def _list(self) -> None:
        pairs: list[KeyValue] = []
        async for page in self._store.pages(self._root):
            pairs.extend(page.pairs)
            self._revision = page.header.revision
        self._ledger.listed(pairs, rank_of=self._rank_of)
        # Leases of an earlier run are taken over: unrenewed, they would take their keys with them.
        self._current, self._room = 0, 0
        for lease, keys in self._ledger.load.items():
            if LEASE_KEYS - keys > self._room:
                self._current, self._room = lease, LEASE_KEYS - keys
        self._on_listed()
        self._due["relist"] = asyncio.get_running_loop().time() + RELIST

    async def _chores(self) -> None:
        if self._is_due("pulse", PULSE):
            await self._put([self._pulse()])
            self._done("pulse", PULSE)
        if self._is_due("renew", RENEW):
            for lease in list(self._ledger.load):
                await self._renew(lease)
            self._done("renew", RENEW)
        if self._is_due("relist", RELIST):
            await self._list()

    async def _renew(self, lease: int) -> None:
        if self._ledger.load[lease] <= 0 and lease != self._current:
            # Nothing hangs on it any more: it may run out.
            del self._ledger.load[lease]
            return
        try:
            await self._store.keep_alive(lease)
        except LeaseGone:
            if lease == self._current:
                self._room = 0
            lost = self._ledger.lease_lost(lease, rank_of=self._rank_of)
            _log.warning("lease ended; its keys are written again", keys=lost)

    async def _write(self) -> None:
        """Writes everything that is dirty, until nothing is or a chore is due."""
        while writes := self._ledger.batch():
            try:
                await self._commit(writes)
            except BaseException:
                self._ledger.failed(writes, rank_of=self._rank_of)
                raise
            if self._due and min(self._due.values()) <= asyncio.get_running_loop().time():
                return

    async def _commit(self, writes: list[Write]) -> None:
        leased = await self._leased(writes)
        try:
            await self._put([_op(write) for write in leased])
        except LeaseGone:
            self._ledger.failed(writes, rank_of=self._rank_of)
            self._room = 0
            for lease in {write.lease for write in leased if self._ledger.load[write.lease] > 0}:
                await self._renew(lease)
            return
        except (Refused, TooLarge) as error:
            await self._split(writes, error)
            return
        self._ledger.done(leased)
        self.state = msgspec.structs.replace(self.state, commits=self.state.commits + 1)

    async def _put(self, ops: list[Op]) -> None:
        """Commits to the store that was listed. Raises _Replaced if it is another now."""
        committed = await self._store.commit(ops, equal=(EPOCH, self._epoch))
        if not committed.succeeded:
            raise _Replaced("the store was replaced")
        self._revision = committed.header.revision

    async def _split(self, writes: list[Write], error: StoreError) -> None:
        """Finds the write that the store refuses by halves, so that it stops nobody else's."""
        if len(writes) > 1:
            middle = len(writes) // 2
            await self._commit(writes[:middle])
            await self._commit(writes[middle:])
            return
        key = writes[0].key.decode("utf-8", "backslashreplace")
        _log.error("store refuses a key; it is left out until it changes", key=key, error=str(error))
        self._ledger.refused(writes[0])
        self.state = msgspec.structs.replace(self.state, refused=self.state.refused + 1)

    async def _leased(self, writes: list[Write]) -> list[Write]:
        """Gives a lease to every put that has none."""
        leased: list[Write] = []
        for write in writes:
            if write.value is None or write.lease:
                leased.append(write)
                continue
            if self._room <= 0:
                self._current = await self._store.grant(LEASE)
                self._room = LEASE_KEYS
            self._room -= 1
            leased.append(Write(write.key, write.value, self._current))
        return leased

    async def _sleep(self) -> None:
        # Never less than a millisecond, so that a chore that is due in less than the clock can tell is no busy loop.
        limit = max(min(self._due.values()) - asyncio.get_running_loop().time(), 0.001)
        try:
            async with asyncio.timeout(limit):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()

    def _is_due(self, chore: str, interval: float) -> bool:
        now = asyncio.get_running_loop().time()
        return self._due.setdefault(chore, now if chore == "pulse" else now + interval) <= now

    def _done(self, chore: str, interval: float) -> None:
        self._due[chore] = asyncio.get_running_loop().time() + interval


def _op(write: Write) -> Op:
    return Delete(write.key) if write.value is None else Put(write.key, write.value, write.lease)
