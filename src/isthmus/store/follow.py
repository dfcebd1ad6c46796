"""A prefix for ever: everything once, then every change, over any number of broken connections.

The shell around `watch.WatchState`. Errors are retried here and told to `on_state`, never raised (except cancellation),
so a consumer sees only data: a `Snapshot` replaces all it knew, a `Changes` amends it. While the store is away nothing
is yielded: nothing is known to have changed. Each attempt works on one pinned server, so the epoch that is compared
is that of the server that is watched.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from isthmus.aio.backoff import Backoff
from isthmus.store.contract import PAGE, Event, KeyValue, Opened, Store
from isthmus.store.epoch import read_epoch
from isthmus.store.errors import Compacted, StoreError
from isthmus.store.watch import WatchState


class Snapshot(msgspec.Struct, frozen=True):
    """All pairs of the prefix at one revision, and why they were listed."""

    pairs: tuple[KeyValue, ...]
    reason: str


class Changes(msgspec.Struct, frozen=True):
    """Whole commits since the last Snapshot or Changes; empty when the server only said that it is alive."""

    events: tuple[Event, ...]


class Healthy(msgspec.Struct, frozen=True):
    """Connected and watching."""


class Degraded(msgspec.Struct, frozen=True):
    """Not connected; the last state stays valid. `attempt` counts from 1, `delay` is in seconds."""

    error: StoreError
    attempt: int
    delay: float


State = Healthy | Degraded


async def follow(
    store: Store,
    prefix: bytes,
    *,
    until: bytes = b"",
    on_state: Callable[[State], None] | None = None,
    backoff: Backoff | None = None,
    page: int = PAGE,
) -> AsyncGenerator[Snapshot | Changes, None]:
    """Yields a Snapshot, then Changes, and a Snapshot again whenever history was lost. Never ends by itself.

    With `until` only what lies before that key.
    """
    state = WatchState()
    delays = backoff or Backoff(base=0.2, cap=10.0)
    report = on_state or _ignore
    while True:
        try:
            async with aclosing(_attempt(store, prefix, until, state, page=page)) as items:
                async for item in items:
                    if isinstance(item, Healthy):
                        delays.reset()
                        report(item)
                    else:
                        yield item
            # In doubt: listed again, but not at once for ever, should two histories answer under one address.
            await asyncio.sleep(delays.next())
        except StoreError as error:
            if isinstance(error, Compacted):
                state.compacted()
            delay = delays.next()
            report(Degraded(error, delays.attempts, delay))
            await asyncio.sleep(delay)


async def _attempt(
    store: Store, prefix: bytes, until: bytes, state: WatchState, *, page: int
) -> AsyncGenerator[Snapshot | Changes | Healthy, None]:
    """One connection: lists if in doubt, then watches; returns when doubt arises, raises when the connection breaks."""
    server = store.pinned()
    if state.doubt is not None:
        epoch = await read_epoch(server)
        pairs: list[KeyValue] = []
        header = None
        async for part in server.pages(prefix, until=until, limit=page):
            pairs.extend(part.pairs)
            header = part.header
        if header is None:
            return
        # Told before it counts as listed: a consumer that is cancelled here will list again.
        yield Snapshot(tuple(pairs), state.doubt.value)
        state.listed(header, epoch=epoch)
    async with aclosing(server.watch(prefix, until=until, start_revision=state.start_revision)) as answers:
        async for answer in answers:
            if isinstance(answer, Opened):
                if state.opened(answer.header, epoch=await read_epoch(server)) is not None:
                    return
                yield Healthy()
                continue
            events = state.arrived(answer.header, answer.events)
            if state.doubt is not None:
                return
            # What came again after a break is no news; no events at all is: the server is alive.
            if events or not answer.events:
                yield Changes(events)


def _ignore(_state: State) -> None:
    """Nobody asked."""
