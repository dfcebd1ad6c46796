"""What `Store` promises, kept by a real etcd and by the twin in memory alike."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import count

import pytest

from isthmus.store.client import Client
from isthmus.store.contract import Arrived, Delete, KeyValue, Opened, Put, Removed, Store, prefix_end
from isthmus.store.epoch import ensure_epoch, read_epoch
from isthmus.store.errors import Compacted, LeaseGone, Refused, StoreError, Unavailable
from isthmus.store.follow import Changes, Snapshot, follow
from isthmus.store.memory import MemoryStore
from isthmus.store.watch import WatchState
from tests.support.etcd import needs_etcd

_numbers = count()


async def connected(url: str) -> Client:
    client = Client([url])
    while True:
        try:
            await client.status()
        except Unavailable:
            await asyncio.sleep(0.05)
        else:
            return client


@pytest.fixture(params=["memory", pytest.param("etcd", marks=[needs_etcd, pytest.mark.etcd])])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else await connected(request.getfixturevalue("etcd_url"))
    yield made
    await made.close()


@pytest.fixture
def prefix() -> bytes:
    return f"test/{next(_numbers)}/".encode()


async def listing(store: Store, prefix: bytes, *, limit: int = 500) -> list[KeyValue]:
    return [pair async for page in store.pages(prefix, limit=limit) for pair in page.pairs]


async def test_what_is_put_is_read(store, prefix):
    done = await store.commit([Put(prefix + b"a", b"1"), Put(prefix + b"b", b"\x00\xff")])
    header, pair = await store.get(prefix + b"b")

    assert done.succeeded
    assert pair == KeyValue(prefix + b"b", b"\x00\xff", done.header.revision, 0)
    assert header.revision >= done.header.revision
    assert (await store.get(prefix + b"c"))[1] is None


async def test_a_listing_is_in_key_order_over_pages_and_ends_at_the_prefix(store, prefix):
    keys = [prefix + f"{n:03}".encode() for n in range(100)]
    await store.commit([Put(key, b"x") for key in reversed(keys)])
    await store.commit([Put(prefix[:-1] + b"0", b"beyond")])

    assert [pair.key for pair in await listing(store, prefix, limit=7)] == keys
    assert await listing(store, prefix + b"none") == []


async def test_an_empty_listing_is_one_page_with_a_header(store, prefix):
    pages = [page async for page in store.pages(prefix)]

    assert len(pages) == 1
    assert pages[0].header.revision >= 1


async def test_pages_of_one_listing_are_of_one_revision(store, prefix):
    await store.commit([Put(prefix + b"a", b"old"), Put(prefix + b"b", b"old")])
    seen = []
    async for page in store.pages(prefix, limit=1):
        seen.extend(page.pairs)
        await store.commit([Put(prefix + b"b", b"new"), Put(prefix + b"c", b"new")])

    assert [pair.value for pair in seen] == [b"old", b"old"]


async def test_deletes_of_one_key_and_of_a_prefix(store, prefix):
    await store.commit([Put(prefix + name, b"") for name in (b"a", b"b/1", b"b/2", b"c")])

    await store.commit([Delete(prefix + b"a"), Delete(prefix + b"b/", prefix=True), Delete(prefix + b"none")])

    assert [pair.key for pair in await listing(store, prefix)] == [prefix + b"c"]


async def test_a_guarded_commit_happens_once(store, prefix):
    first = await store.commit([Put(prefix + b"a", b"first")], absent=prefix + b"a")
    second = await store.commit([Put(prefix + b"a", b"second")], absent=prefix + b"a")

    assert (first.succeeded, second.succeeded) == (True, False)
    assert (await store.get(prefix + b"a"))[1].value == b"first"


async def test_a_commit_on_condition_of_a_value_happens_only_with_that_value(store, prefix):
    mark, other = prefix + b"mark", prefix + b"none"
    await store.commit([Put(mark, b"1")])

    assert (await store.commit([Put(prefix + b"a", b"")], equal=(mark, b"1"))).succeeded
    assert not (await store.commit([Put(prefix + b"b", b"")], equal=(mark, b"2"))).succeeded
    assert not (await store.commit([Put(prefix + b"b", b"")], equal=(other, b"1"))).succeeded
    assert [pair.key for pair in await listing(store, prefix)] == [prefix + b"a", mark]


async def test_impossible_commits_are_refused_and_change_nothing(store, prefix):
    with pytest.raises(Refused):
        await store.commit([Put(prefix + b"a", b"1"), Put(prefix + b"a", b"2")])
    with pytest.raises(Refused):
        await store.commit([Put(prefix + str(n).encode(), b"") for n in range(129)])
    with pytest.raises(Refused):
        await store.commit([Put(b"", b"1")])
    with pytest.raises(StoreError):
        await store.commit([Put(prefix + b"a", b"x" * 2_000_000)])

    assert await listing(store, prefix) == []


async def test_a_lease_takes_its_keys_with_it(store, prefix):
    lease = await store.grant(600)
    await store.commit([Put(prefix + b"a", b"", lease), Put(prefix + b"b", b"")])

    assert (await store.get(prefix + b"a"))[1].lease == lease
    assert await store.keep_alive(lease) == 600
    await store.revoke(lease)

    assert [pair.key for pair in await listing(store, prefix)] == [prefix + b"b"]
    with pytest.raises(LeaseGone):
        await store.keep_alive(lease)
    with pytest.raises(LeaseGone):
        await store.revoke(lease)
    with pytest.raises(LeaseGone):
        await store.commit([Put(prefix + b"a", b"", lease)])


async def test_a_watch_tells_whole_commits_in_order(store, prefix):
    before = await store.commit([Put(prefix + b"a", b"0")])
    async with aclosing(store.watch(prefix, start_revision=before.header.revision + 1)) as answers:
        assert isinstance(await anext(answers), Opened)
        await store.commit([Put(prefix + b"a", b"1"), Put(prefix + b"b", b"2")])
        await store.commit([Put(b"other/x", b"")])
        await store.commit([Delete(prefix + b"a")])
        batches = [await anext(answers)]
        while not any(isinstance(event, Removed) for event in batches[-1].events):
            batches.append(await anext(answers))

    events = [event for batch in batches for event in batch.events]
    assert {(e.key, e.value) for e in events[:2]} == {(prefix + b"a", b"1"), (prefix + b"b", b"2")}
    assert events[2] == Removed(prefix + b"a", events[2].mod_revision)
    assert events[0].mod_revision == events[1].mod_revision < events[2].mod_revision
    assert all(isinstance(batch, Arrived) for batch in batches)


async def test_a_watch_starts_in_the_past(store, prefix):
    first = await store.commit([Put(prefix + b"a", b"1")])
    await store.commit([Put(prefix + b"a", b"2")])

    async with aclosing(store.watch(prefix, start_revision=first.header.revision)) as answers:
        events = []
        while len(events) < 2:
            answer = await anext(answers)
            events.extend(getattr(answer, "events", ()))

    assert [event.value for event in events] == [b"1", b"2"]


async def test_a_watch_of_compacted_history_says_so(store, prefix):
    first = await store.commit([Put(prefix + b"a", b"1")])
    last = await store.commit([Put(prefix + b"a", b"2")])
    done = store.compact(last.header.revision)
    if done is not None:
        await done

    with pytest.raises(Compacted):
        async with aclosing(store.watch(prefix, start_revision=first.header.revision)) as answers:
            async for _ in answers:
                continue


async def test_a_commit_of_the_largest_size_arrives_in_one_piece(store, prefix):
    """128 values of 8 kB: more than one watch answer of etcd's would hold if it were sent to a small client."""
    before = await store.commit([Put(prefix + b"x", b"")])
    async with aclosing(store.watch(prefix, start_revision=before.header.revision + 1)) as answers:
        await anext(answers)
        await store.commit([Put(prefix + str(n).encode(), b"v" * 8000) for n in range(128)])
        answer = await anext(answers)

    assert len(answer.events) == 128


async def test_the_epoch_is_given_once_and_kept(store):
    first = await ensure_epoch(store)

    assert await ensure_epoch(store) == first
    assert await read_epoch(store) == first
    assert len(first) == 32


async def test_following_gives_a_snapshot_then_changes(store, prefix):
    await store.commit([Put(prefix + b"a", b"1")])
    async with aclosing(follow(store, prefix)) as items:
        snapshot = await anext(items)
        await store.commit([Put(prefix + b"a", b"2")])
        changes = await anext(items)

    assert isinstance(snapshot, Snapshot)
    assert [(pair.key, pair.value) for pair in snapshot.pairs] == [(prefix + b"a", b"1")]
    assert isinstance(changes, Changes)
    assert [event.value for event in changes.events] == [b"2"]


async def test_following_loses_no_deletion_to_a_compaction_at_its_revision(store, prefix):
    """etcd 3.4.23 tells a watch that starts at a compacted revision the puts of that revision, not the deletions."""
    await store.commit([Put(prefix + b"a", b"1")])
    state = WatchState()
    header, _ = await store.get(prefix)
    state.listed(header, epoch=None)
    last = await store.commit([Delete(prefix + b"a"), Put(prefix + b"b", b"1")])
    done = store.compact(last.header.revision)
    if done is not None:
        await done

    with pytest.raises(Compacted):
        async with aclosing(store.watch(prefix, start_revision=state.start_revision)) as answers:
            async for _ in answers:
                continue


async def test_a_closed_store_is_unavailable(store):
    await store.close()

    with pytest.raises(Unavailable):
        await store.get(b"a")


def test_the_end_of_a_prefix():
    assert prefix_end(b"a/") == b"a0"
    assert prefix_end(b"a\xff") == b"b"
    assert prefix_end(b"\xff\xff") == b"\0"
    assert prefix_end(b"") == b"\0"


async def test_a_listing_and_a_watch_can_end_before_a_key(store, prefix):
    done = await store.commit([Put(prefix + key, b"1") for key in (b"a", b"b", b"c", b"d")])

    pages = [page async for page in store.pages(prefix, until=prefix + b"c", limit=1)]
    assert [pair.key for page in pages for pair in page.pairs] == [prefix + b"a", prefix + b"b"]

    async with aclosing(store.watch(prefix, until=prefix + b"c", start_revision=done.header.revision + 1)) as answers:
        assert isinstance(await anext(answers), Opened)
        await store.commit([Put(prefix + b"c", b"2")])
        await store.commit([Put(prefix + b"b", b"2"), Put(prefix + b"d", b"2")])
        arrived = await anext(answers)
        assert [event.key for event in arrived.events] == [prefix + b"b"]
