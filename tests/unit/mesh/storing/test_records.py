"""Records of whole services: which are due, and that a rollout does not write one for each pod."""

import asyncio
import json

import pytest

from isthmus.mesh.storing.publisher import RECORDS_RATE, Publisher
from isthmus.mesh.storing.records import ServiceRecords
from isthmus.model.mesh import ClusterLeft, ClusterSynced, ServiceGone, ServiceTold, SliceGone, SliceTold
from isthmus.model.sharing import SharedEndpoint, SharedSlice
from isthmus.store.memory import MemoryStore
from isthmus.wire import kvstore
from isthmus.wire.kvstore import Kind
from tests.support.mesh import C1, C2, service, shared_slice, world
from tests.unit.mesh.storing.test_publisher import publishing

KEY = ("demo", "web")


def records() -> ServiceRecords:
    found = ServiceRecords("c1")
    for event in (ServiceTold(service(C1)), SliceTold(shared_slice(C1, 1)), SliceTold(shared_slice(C1, 2, name="b"))):
        found.take(event)
    return found


def test_a_record_holds_what_is_told_when_it_is_made():
    found = records()

    assert found.take_due() == [KEY]
    assert found.content(KEY) == (service(C1), [shared_slice(C1, 1), shared_slice(C1, 2, name="b")])
    assert not found.due
    found.take(SliceGone("c1", ("demo", "b")))
    assert found.take_due() == [KEY]
    assert found.content(KEY) == (service(C1), [shared_slice(C1, 1)])


def test_only_the_own_cluster_has_records():
    found = ServiceRecords("c1")
    for event in (
        ServiceTold(service(C2)),
        SliceTold(shared_slice(C2, 1)),
        SliceGone("c2", KEY),
        ServiceGone("c2", KEY),
    ):
        found.take(event)

    assert not found.due


@pytest.mark.parametrize("event", [ServiceGone("c1", KEY), ServiceTold(service(C1, shared=False))])
def test_what_is_not_shared_has_none(event):
    found = records()
    found.take_due()
    found.take(event)

    assert found.take_due() == [KEY]
    assert found.content(KEY) is None


def test_a_slice_that_changes_its_service_is_in_one_record():
    found = records()
    found.take_due()
    found.take(SliceTold(shared_slice(C1, 2, name="b", of="other")))

    assert set(found.take_due()) == {KEY, ("demo", "other")}
    assert found.content(KEY) == (service(C1), [shared_slice(C1, 1)])


def test_a_cluster_that_left_is_forgotten():
    found = records()
    found.take(ClusterLeft("c1"))

    assert not found.due
    assert found.content(KEY) is None


@pytest.mark.looptime
async def test_many_changes_in_a_short_time_make_few_records():
    store = MemoryStore()
    key = kvstore.object_key(Kind.SERVICES, "c1", KEY, cached=False)
    async with publishing(store) as publisher:
        publisher.apply([*world(C1), ServiceTold(service(C1))])
        for n in range(100):
            publisher.apply([SliceTold(shared_slice(C1, n + 1))])
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        writes = [event for _, events in store._history for event in events if event.key == key]

    assert 2 <= len(writes) <= 6
    assert list(json.loads(store.data[key])["backends"]) == ["10.1.0.100"]


@pytest.mark.looptime
async def test_a_service_that_is_too_large_for_a_record_is_said_once_and_its_slices_are_written(capsys):
    store = MemoryStore()
    key = kvstore.object_key(Kind.SERVICES, "c1", KEY, cached=False)
    parts = [
        SharedSlice(
            "c1", "demo", f"web-{n}", "web", 4, tuple(SharedEndpoint(f"10.1.{n}.{i}") for i in range(250)), PORTS
        )
        for n in range(100)
    ]
    async with publishing(store) as publisher:
        publisher.apply([*world(C1)[:-1], ServiceTold(service(C1)), *map(SliceTold, parts), ClusterSynced("c1")])
        await publisher.settled()
        assert key not in store.data
        publisher.apply([SliceTold(shared_slice(C1, 1, name="more"))])
        await publisher.settled()
        assert capsys.readouterr().out.count("fact cannot be published") == 1
        assert len([k for k in store.data if b"endpointslices/v1/c1/" in k]) == 101

        publisher.apply([SliceGone("c1", part.key) for part in parts])
        await publisher.settled()
        assert key in store.data


PORTS = tuple(shared_slice(C1, 1).ports)


@pytest.mark.looptime
async def test_large_records_are_made_no_faster_than_etcd_forgets_them():
    store = MemoryStore()
    key = kvstore.object_key(Kind.SERVICES, "c1", KEY, cached=False)
    pods = [[SharedEndpoint(f"10.1.{n}.{i}", ready=i > 0) for i in range(250)] for n in range(50)]
    parts = [SharedSlice("c1", "demo", f"web-{n}", "web", 4, tuple(part), PORTS) for n, part in enumerate(pods)]
    async with publishing(store) as publisher:
        publisher.apply([*world(C1), ServiceTold(service(C1)), *map(SliceTold, parts)])
        for second in range(60):
            publisher.apply([SliceTold(shared_slice(C1, second + 1))])
            await asyncio.sleep(1)
        writes = [event.value for _, events in store._history for event in events if event.key == key]

    assert len(writes) > 10
    assert sum(map(len, writes)) < 60 * RECORDS_RATE + 2 * len(writes[-1])


@pytest.mark.looptime
async def test_a_restart_does_not_take_records_away_for_a_moment():
    store = MemoryStore()
    key = kvstore.object_key(Kind.SERVICES, "c1", KEY, cached=False)
    told = [*world(C1)[:-1], ServiceTold(service(C1)), SliceTold(shared_slice(C1, 1)), ClusterSynced("c1")]
    async with publishing(store) as publisher:
        publisher.apply(told)
        await publisher.settled()
    before = store._revision
    again = Publisher(store, own="c1")
    task = asyncio.create_task(again.serve())
    again.retain(["c1"])
    again.apply(told)
    await asyncio.sleep(5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    changed = [event.key for revision, events in store._history if revision > before for event in events]
    assert key not in changed


def test_what_is_due_stays_due_until_its_piece_is_taken():
    found = ServiceRecords("c1")
    found.take(ServiceTold(service(C1)))
    found.take(ServiceTold(service(C1, "other")))
    other = ("demo", "other")
    assert found.waiting() == [KEY, other] == found.waiting()

    assert found.take_due([KEY, ("demo", "never")]) == [KEY]
    assert found.due and found.waiting() == [other]
    assert found.take_due([KEY]) == []
    assert found.take_due() == [other]
    assert not found.due
