"""Keys that need work: each is worked on by one task at a time, again if it changed meanwhile, later if it failed.

Invariants: a key waits at most once, so the queue is bounded by the number of objects there are, and nothing
overflows; after work a key rests for a moment, so that a burst of events is one more round and not one round each; a
failing key is tried again after a growing pause (5 ms to 60 s, as client-go's rate limiter) and holds nobody up.
Rejected: one loop over all objects for each controller, which costs a look at everything for every event.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from isthmus.aio.backoff import Backoff
from isthmus.kube.decode import Key
from isthmus.kube.errors import Conflict, KubeError, NotFound

WORKERS = 4
"""Keys worked on at once."""

REST = 0.02
"""Seconds between the end of work on a key and its next round."""

SLOWEST = 60.0
"""Seconds between two tries of a key that keeps failing."""

_log = structlog.get_logger()


class KeyQueue:
    """Runs `work(key)` for added keys; what it returns is after how many seconds to look again (None: not)."""

    def __init__(
        self,
        name: str,
        work: Callable[[Key], Awaitable[float | None]],
        *,
        workers: int = WORKERS,
        rest: float = REST,
    ) -> None:
        self.name = name
        self._rest = rest
        self._work = work
        self._workers = workers
        self._waiting: dict[Key, None] = {}
        self._busy: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failing: dict[Key, tuple[Backoff, str]] = {}
        self._wake = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is worked on (timers do not count)."""
        return not self._waiting and not self._busy

    @property
    def waiting(self) -> int:
        """How many keys wait for work now (timers do not count)."""
        return len(self._waiting) + len(self._again)

    def add(self, key: Key) -> None:
        """Asks for work on a key; cheap, never blocks."""
        if key in self._busy:
            self._again.add(key)
            return
        self._waiting[key] = None
        self._wake.set()

    def later(self, key: Key, delay: float) -> None:
        """Asks for work on a key after `delay` seconds, or sooner if that was asked before."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + delay:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(delay, self._due, key)

    def forget(self, key: Key) -> None:
        """Forgets the timer of a key that is gone."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def serve(self) -> None:
        """Works until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._serve_one())
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def _serve_one(self) -> None:
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._busy.add(key)
            try:
                await self._attempt(key)
            finally:
                if self._rest:
                    asyncio.get_running_loop().call_later(self._rest, self._rested, key)
                else:
                    self._rested(key)

    def _rested(self, key: Key) -> None:
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    async def _attempt(self, key: Key) -> None:
        try:
            after = await self._work(key)
        except Exception as error:
            self._failed(key, error)
            return
        self._failing.pop(key, None)
        if after is not None:
            self.later(key, after)

    def _failed(self, key: Key, error: Exception) -> None:
        known = self._failing.get(key)
        backoff = known[0] if known is not None else Backoff(base=0.005, cap=SLOWEST)
        self._failing[key] = (backoff, str(error))
        delay = backoff.next()
        # A conflict or an object that went meanwhile is how optimistic locking works, not news.
        if not isinstance(error, Conflict | NotFound) and (known is None or known[1] != str(error)):
            spoken = {"controller": self.name, "object": "/".join(part for part in key if part), "reason": str(error)}
            if isinstance(error, KubeError):
                _log.warning("controller failed", **spoken, retry_in=round(delay, 1))
            else:
                _log.error("controller failed", **spoken, retry_in=round(delay, 1), exc_info=error)
        self.later(key, delay)
