"""Following a prefix through every way in which a store can fail, in virtual time."""

import asyncio
from contextlib import aclosing

import pytest

from isthmus.aio.backoff import Backoff
from isthmus.store.contract import Delete, Put, Removed
from isthmus.store.epoch import ensure_epoch
from isthmus.store.follow import Changes, Degraded, Healthy, Snapshot, State, follow
from isthmus.store.memory import MemoryStore

pytestmark = [pytest.mark.looptime]


@pytest.fixture
async def store() -> MemoryStore:
    made = MemoryStore()
    await ensure_epoch(made)
    return made


def values(item: Snapshot | Changes) -> dict[bytes, bytes | None]:
    entries = item.pairs if isinstance(item, Snapshot) else item.events
    return {entry.key: None if isinstance(entry, Removed) else entry.value for entry in entries}


async def test_a_broken_watch_resumes_without_a_listing(store):
    async with aclosing(follow(store, b"p/")) as items:
        await anext(items)
        await store.commit([Put(b"p/a", b"1")])
        assert values(await anext(items)) == {b"p/a": b"1"}
        store.restart()
        await store.commit([Put(b"p/b", b"2")])
        item = await anext(items)

    assert isinstance(item, Changes)
    assert values(item) == {b"p/b": b"2"}


async def test_a_store_that_comes_back_empty_with_the_same_ids_is_noticed(store):
    await store.commit([Put(b"p/a", b"1")])
    async with aclosing(follow(store, b"p/")) as items:
        await anext(items)
        store.restart(empty=True)
        await ensure_epoch(store)
        for n in range(20):
            await store.commit([Put(b"p/new", str(n).encode())])
        item = await anext(items)

    assert isinstance(item, Snapshot)
    assert "epoch" in item.reason
    assert values(item) == {b"p/new": b"19"}


async def test_a_store_without_an_epoch_is_another_history_than_one_with(store):
    async with aclosing(follow(store, b"p/")) as items:
        await anext(items)
        store.restart(empty=True)
        assert isinstance(await anext(items), Snapshot)


async def test_compaction_during_an_outage_is_met_with_a_listing(store):
    await store.commit([Put(b"p/a", b"1"), Put(b"p/b", b"1")])
    async with aclosing(follow(store, b"p/")) as items:
        await anext(items)
        store.down = True
        store.restart()
        waiting = asyncio.ensure_future(anext(items))
        await asyncio.sleep(1)
        store.down = False
        await store.commit([Delete(b"p/a")])
        last = await store.commit([Put(b"p/b", b"2")])
        store.compact(last.header.revision)
        item = await waiting

    assert isinstance(item, Snapshot)
    assert "compacted" in item.reason
    assert values(item) == {b"p/b": b"2"}


async def test_a_deletion_at_the_very_revision_of_a_compaction_is_not_lost(store):
    await store.commit([Put(b"p/a", b"1"), Put(b"p/b", b"1")])
    async with aclosing(follow(store, b"p/")) as items:
        await anext(items)
        store.restart()
        last = await store.commit([Delete(b"p/a"), Put(b"p/c", b"1")])
        store.compact(last.header.revision)
        item = await anext(items)

    assert isinstance(item, Snapshot)
    assert set(values(item)) == {b"p/b", b"p/c"}


async def test_an_outage_is_told_and_yields_nothing(store):
    states: list[State] = []
    backoff = Backoff(base=1, cap=4, jitter=0)
    async with aclosing(follow(store, b"p/", on_state=states.append, backoff=backoff)) as items:
        await anext(items)
        waiting = asyncio.ensure_future(anext(items))
        await asyncio.sleep(0.1)
        store.down = True
        store.restart()
        await asyncio.sleep(20)
        assert not waiting.done()
        store.down = False
        await asyncio.sleep(5)
        await store.commit([Put(b"p/a", b"1")])
        assert values(await waiting) == {b"p/a": b"1"}

    delays = [state.delay for state in states if isinstance(state, Degraded)]
    assert delays[:4] == [1, 2, 4, 4]
    assert isinstance(states[0], Healthy)
    assert isinstance(states[-1], Healthy)


async def test_a_store_that_is_down_at_the_start_is_waited_for(store):
    store.down = True
    async with aclosing(follow(store, b"p/")) as items:
        waiting = asyncio.ensure_future(anext(items))
        await asyncio.sleep(60)
        store.down = False
        assert isinstance(await waiting, Snapshot)


async def test_closing_it_leaves_no_task_behind(store):
    before = asyncio.all_tasks()
    async with aclosing(follow(store, b"p/")) as items:
        await anext(items)
        waiting = asyncio.ensure_future(anext(items))
        await asyncio.sleep(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    assert asyncio.all_tasks() == before
