"""Since when a cluster may have changed unseen, over failures, restarts and clocks that jump."""

import pytest

from isthmus.mesh.source.freshness import SETTLE, Freshness, load_seen
from isthmus.model.mesh import ClusterSeen
from isthmus.store.contract import Put
from isthmus.store.memory import MemoryStore
from isthmus.wire import kvstore
from tests.support.mesh import C1, C2, world
from tests.unit.mesh.storing.test_publisher import publishing


def test_a_failure_is_told_when_it_lasts_and_once() -> None:
    found = Freshness()
    assert found.look("c1", "away", now=100.0) is None
    assert found.look("c1", "away", now=100.0 + SETTLE - 1) is None

    assert found.look("c1", "refused", now=100.0 + SETTLE) == ClusterSeen("c1", 100.0, "refused")
    assert found.look("c1", "other", now=500.0) is None
    assert found.look("c1", None, now=501.0) == ClusterSeen("c1")
    assert found.look("c1", None, now=502.0) is None


def test_a_short_failure_is_not_told_and_does_not_count_for_the_next() -> None:
    found = Freshness()
    found.look("c1", "away", now=100.0)
    assert found.look("c1", None, now=101.0) is None
    assert found.look("c1", "away", now=104.0) is None
    assert found.look("c1", "away", now=106.0) is None
    assert found.look("c1", "away", now=110.0) == ClusterSeen("c1", 104.0, "away")


def test_a_clock_that_was_set_back_does_not_make_a_failure_young_for_ever() -> None:
    found = Freshness()
    found.look("c1", "away", now=10_000.0)
    assert found.look("c1", "away", now=100.0) is None

    assert found.look("c1", "away", now=105.0) == ClusterSeen("c1", 100.0, "away")


def test_what_an_earlier_life_told_is_told_again_at_once_and_a_cluster_that_left_is_forgotten() -> None:
    found = Freshness((ClusterSeen("c1", 7.0, "before"), ClusterSeen("c2", 8.0), ClusterSeen("c3")))

    assert found.look("c1", "still", now=100.0) == ClusterSeen("c1", 7.0, "still")
    found.forget("c2")
    assert found.look("c2", "away", now=100.0) is None


@pytest.mark.looptime
async def test_what_was_told_outlives_the_tracker_until_the_cluster_is_complete_again() -> None:
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply([*world(C1), *world(C2), ClusterSeen("c2", 7.0, "away")])
        await publisher.settled()
    await store.commit([Put(kvstore.SEEN + b"c3", b"nonsense"), Put(kvstore.SEEN + b"no name", b"{}")])

    assert await load_seen(store) == (ClusterSeen("c2", 7.0, "away"),)

    async with publishing(store) as publisher:
        publisher.retain(["c1", "c2"])
        publisher.apply(world(C2)[:-1])
        await publisher.settled()
        assert [seen.name for seen in await load_seen(store)] == ["c2"]
        publisher.apply(world(C2)[-1:])
        await publisher.settled()
        assert await load_seen(store) == ()
