"""Mesh state out of a store, for an agent: the shell around `reading.Reading`.

Fail static: while the store is away nothing is told, because nothing is known to have changed; `ReaderHealth` says so.
After any reconnect only differences are told, removals included.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import structlog

from isthmus.aio.backoff import Backoff
from isthmus.mesh.storing.reading import HEARTBEAT_LIMIT, ClusterHealth, Reading
from isthmus.model.mesh import MeshEvent
from isthmus.store import follow as store_follow
from isthmus.store.contract import PAGE, Store
from isthmus.store.follow import Degraded, Snapshot, State
from isthmus.wire import kvstore

CONNECTED = "Connected to the mesh store"
LOST = "Mesh store not reachable; the last state stays in force"
LISTED = "Listed the mesh store"
UNREADABLE = "Mesh fact cannot be read and counts as absent"

_log = structlog.get_logger("isthmus.mesh.storing.reader")


class ReaderHealth:
    """How a reader is, for health checks and metrics. `clock` is a steady clock in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.connected = False
        self.error = ""
        self.reports = 0
        """Facts that could not be read, so far."""
        self._clock = clock
        self._reading: Reading | None = None
        self._contact: float | None = None
        self._started = clock()

    def now(self) -> float:
        """Seconds of the clock."""
        return self._clock()

    def attach(self, reading: Reading) -> None:
        """From now on `reading` is what this is about."""
        self._reading = reading

    def contact(self) -> None:
        """The store was heard."""
        self._contact = self._clock()

    @property
    def staleness(self) -> float:
        """Seconds since the store was heard last (since the start, if it never was)."""
        return self._clock() - (self._started if self._contact is None else self._contact)

    @property
    def heartbeat_age(self) -> float | None:
        """Seconds since the tracker behind the store was heard; None if it has no heartbeat."""
        return self._reading.heartbeat_age(self._clock()) if self._reading is not None else None

    @property
    def unreadable(self) -> int:
        """How many keys hold something that cannot be read now."""
        return self._reading.bad if self._reading is not None else 0

    @property
    def clusters(self) -> tuple[ClusterHealth, ...]:
        """The members of the set."""
        return self._reading.clusters() if self._reading is not None else ()

    def reason(self) -> str | None:
        """Why the state may be old, for a health check; None when all is well."""
        if not self.connected:
            return f"mesh store not reachable for {self.staleness:.0f} s: {self.error or 'connecting'}"
        age = self.heartbeat_age
        if age is not None and age > HEARTBEAT_LIMIT:
            return f"no heartbeat from the tracker for {age:.0f} s"
        waiting = [f"{health.cluster.name}: {health.waiting}" for health in self.clusters if health.waiting]
        return "; ".join(waiting) or None


async def follow(
    store: Store,
    *,
    on_report: Callable[[str, str], None] | None = None,
    health: ReaderHealth | None = None,
    backoff: Backoff | None = None,
    page: int = PAGE,
) -> AsyncGenerator[Sequence[MeshEvent], None]:
    """Yields batches of mesh events for ever; errors of the store are retried inside and shown by `health`.

    A fact that cannot be read is told to `on_report(key, reason)`, once for each reason while it stays.
    """
    state = health or ReaderHealth()
    report = on_report or _ignore

    def reported(key: str, reason: str) -> None:
        state.reports += 1
        _log.warning(UNREADABLE, key=key, reason=reason)
        report(key, reason)

    def changed(now: State) -> None:
        if isinstance(now, Degraded):
            if state.connected or now.attempt == 1:
                _log.warning(LOST, error=str(now.error))
            state.connected, state.error = False, str(now.error)
            return
        if not state.connected:
            _log.info(CONNECTED)
        state.connected, state.error = True, ""
        state.contact()

    reading = Reading(on_report=reported)
    state.attach(reading)
    while True:
        until = b"" if reading.wants_all else kvstore.FOR_OTHERS
        items = store_follow.follow(store, kvstore.ROOT, until=until, on_state=changed, backoff=backoff, page=page)
        async with aclosing(items):
            async for item in items:
                state.contact()
                if isinstance(item, Snapshot):
                    _log.info(LISTED, keys=len(item.pairs), reason=item.reason)
                    events: list[MeshEvent] = []
                    for piece in reading.pieces(item.pairs, now=state.now(), partial=bool(until)):
                        events = piece
                        await asyncio.sleep(0)
                else:
                    events = reading.changes(item.events, now=state.now())
                if events:
                    yield events
                if reading.relist:
                    break


def _ignore(_key: str, _reason: str) -> None:
    """Nobody asked."""
