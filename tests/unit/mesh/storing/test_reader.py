"""A publisher and its readers over one store, through everything that can happen to the store; virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from isthmus.mesh.storing.publisher import Publisher
from isthmus.mesh.storing.reader import ReaderHealth, follow
from isthmus.mesh.storing.reading import HEARTBEAT_LIMIT
from isthmus.model.mesh import (
    ClusterLeft,
    ClusterSynced,
    EndpointGone,
    EndpointTold,
    MeshEvent,
    ServiceTold,
    SliceTold,
)
from isthmus.store.contract import Put
from isthmus.store.memory import MemoryStore
from isthmus.wire import kvstore
from isthmus.wire.kvstore import Kind
from tests.support.mesh import C1, C2, Consumer, endpoint, service, shared_slice, world
from tests.support.tasks import running

pytestmark = [pytest.mark.looptime]


class Reader:
    """A reader that runs, with what it was told."""

    def __init__(self, store: MemoryStore) -> None:
        self.consumer = Consumer()
        self.batches: list[list[object]] = []
        self.reports: list[tuple[str, str]] = []
        self.health = ReaderHealth(clock=asyncio.get_running_loop().time)
        self._store = store

    async def run(self) -> None:
        report = lambda key, reason: self.reports.append((key, reason))  # noqa: E731
        async for events in follow(self._store, on_report=report, health=self.health):
            self.batches.append(list(events))
            self.consumer.take(events)


@asynccontextmanager
async def following(*events: MeshEvent) -> AsyncIterator[tuple[MemoryStore, Publisher, Reader]]:
    """A publisher that published these, and a reader that has heard of them."""
    store = MemoryStore()
    publisher, reader = Publisher(store, own="c1"), Reader(store)
    async with running(publisher.serve(), reader.run()):
        publisher.apply(events)
        await asyncio.sleep(1)
        yield store, publisher, reader


async def test_a_reader_learns_what_was_published():
    async with following(*world(C1), *world(C2)) as (_store, publisher, reader):
        assert reader.consumer.synced == {"c1", "c2"}
        publisher.apply([EndpointGone("c1", "10.1.0.1"), EndpointTold(endpoint(C2, 7))])
        await asyncio.sleep(1)

    assert reader.consumer.addresses == {"10.1.0.2", "10.2.0.1", "10.2.0.2", "10.2.0.7"}
    assert reader.health.reason() is None
    assert {health.endpoints for health in reader.health.clusters} == {1, 3}


async def test_a_restart_of_the_store_with_its_data_tells_nothing_again():
    async with following(*world(C1)) as (store, _publisher, reader):
        told = len(reader.batches)
        store.restart()
        await asyncio.sleep(30)

        assert len(reader.batches) == told


async def test_a_store_replaced_by_an_empty_one_is_noticed_and_only_differences_are_told():
    async with following(*world(C1), *world(C2)) as (store, publisher, reader):
        told = len(reader.batches)
        store.restart(empty=True)
        publisher.apply([EndpointGone("c1", "10.1.0.1")])
        await asyncio.sleep(30)
        events = [event for batch in reader.batches[told:] for event in batch]

    assert [type(event).__name__ for event in events if "Synced" not in type(event).__name__] == ["EndpointGone"]
    assert len(reader.consumer.addresses) == 3


async def test_an_outage_changes_nothing_and_health_says_so():
    async with following(*world(C1)) as (store, publisher, reader):
        told = len(reader.batches)
        store.down = True
        store.restart()
        await asyncio.sleep(600)
        assert not reader.health.connected
        assert 599 <= reader.health.staleness <= 601
        assert "not reachable for" in reader.health.reason()
        assert len(reader.batches) == told
        publisher.apply([EndpointTold(endpoint(C1, 9))])
        store.down = False
        await asyncio.sleep(30)

        assert reader.health.reason() is None
        assert reader.consumer.addresses == {"10.1.0.1", "10.1.0.2", "10.1.0.9"}


async def test_a_silent_tracker_is_noticed_and_its_expired_keys_change_nothing():
    store = MemoryStore()
    publisher, reader = Publisher(store, own="c1"), Reader(store)
    async with running(reader.run()):
        async with running(publisher.serve()):
            publisher.apply(world(C1))
            await asyncio.sleep(1)
        await asyncio.sleep(HEARTBEAT_LIMIT + 60)
        assert "no heartbeat" in reader.health.reason()
        for lease in store.leases:
            store.expire(lease)
        await asyncio.sleep(1)
        assert reader.consumer.addresses == {"10.1.0.1", "10.1.0.2"}

        successor = Publisher(store, own="c1")
        async with running(successor.serve()):
            successor.apply([*world(C1), EndpointTold(endpoint(C1, 3))])
            await asyncio.sleep(1)
            assert reader.consumer.addresses == {"10.1.0.1", "10.1.0.2", "10.1.0.3"}
            assert reader.health.reason() is None


async def test_a_cluster_that_left_is_told_once_and_at_once():
    async with following(*world(C1), *world(C2)) as (_store, publisher, reader):
        told = len(reader.batches)
        publisher.apply([ClusterLeft("c2")])
        await asyncio.sleep(1)

        assert [event for batch in reader.batches[told:] for event in batch] == [ClusterLeft("c2")]
        publisher.apply(world(C2))
        await asyncio.sleep(1)
        assert reader.consumer.synced == {"c1", "c2"}


async def test_a_compaction_during_an_outage_is_a_difference_only():
    async with following(*world(C1)) as (store, publisher, reader):
        told = len(reader.batches)
        store.down = True
        store.restart()
        await asyncio.sleep(1)
        publisher.apply([EndpointGone("c1", "10.1.0.2")])
        store.down = False
        await publisher.settled()
        store.compact(store._revision)
        await asyncio.sleep(30)
        events = [event for batch in reader.batches[told:] for event in batch]

    assert EndpointGone("c1", "10.1.0.2") in events
    assert len(events) <= 2


async def test_two_readers_learn_the_same_and_bad_values_are_reported_to_both():
    store = MemoryStore()
    publisher, one, two = Publisher(store, own="c1"), Reader(store), Reader(store)
    async with running(publisher.serve(), one.run(), two.run()):
        publisher.apply(world(C1))
        await asyncio.sleep(1)
        await store.commit([Put(kvstore.endpoint_key("c1", "10.1.0.1", cached=False), b'{"IP":"10.1.')])
        await asyncio.sleep(1)

    assert one.consumer == two.consumer
    assert one.consumer.addresses == {"10.1.0.2"}
    assert len(one.reports) == len(two.reports) == 1
    assert one.health.unreadable == 1


def published(*names: str) -> list[MeshEvent]:
    told = [SliceTold(shared_slice(C1, n, name=name)) for n, name in enumerate(names, 1)]
    return [*world(C1)[:-1], ServiceTold(service(C1)), *told, ClusterSynced("c1")]


async def test_one_changed_slice_is_all_that_a_reader_hears_of_it():
    async with following(*published("web-1", "web-2")) as (store, publisher, reader):
        heard = len(reader.batches)
        asked = []
        watch = store.watch
        store.watch = lambda *args, **more: asked.append(more["until"]) or watch(*args, **more)
        store.restart()
        await asyncio.sleep(1)
        publisher.apply([SliceTold(shared_slice(C1, 1, 9, name="web-1"))])
        await asyncio.sleep(2)

        assert reader.batches[heard:] == [[SliceTold(shared_slice(C1, 1, 9, name="web-1"))]]
        assert asked == [kvstore.FOR_OTHERS], "records of whole services are not even sent"
        assert b"10.1.0.9" in store.data[kvstore.object_key(Kind.SERVICES, "c1", ("demo", "web"), cached=False)]


async def test_a_writer_without_our_mark_is_read_to_the_end_and_one_with_it_no_further_than_needed():
    store = MemoryStore()
    reader = Reader(store)
    asked = []
    pages = store.pages
    store.pages = lambda *args, **more: asked.append(more.get("until", b"")) or pages(*args, **more)
    old = kvstore.Membership(C1)
    async with running(reader.run()):
        await store.commit([Put(kvstore.config_key("c1"), kvstore.encode_membership(old))])
        await store.commit(
            [Put(kvstore.synced_key("c1", kind, cached=False), b"t") for kind in Kind if kind is not Kind.SLICES]
        )
        await asyncio.sleep(5)
        assert reader.consumer.synced == {"c1"}
        publisher = Publisher(store, own="c1")
        async with running(publisher.serve()):
            publisher.apply(published("web-1"))
            await asyncio.sleep(5)
            assert reader.consumer.backends == {"10.1.0.1"}
            store.pages = pages
        assert [until for until in asked if until in (b"", kvstore.FOR_OTHERS)][-1] == kvstore.FOR_OTHERS
        assert b"" in asked
        assert not [event for batch in reader.batches for event in batch if isinstance(event, ClusterLeft)]
