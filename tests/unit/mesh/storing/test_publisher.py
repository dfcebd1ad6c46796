"""What the publisher writes, in which order, and what it takes away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest

from isthmus.mesh.storing.publisher import Publisher, load_identities, load_properties
from isthmus.model.endpoint import Cluster, Node
from isthmus.model.mesh import (
    ClusterJoined,
    ClusterLeft,
    ClusterSeen,
    ClusterSynced,
    EndpointGone,
    EndpointTold,
    ExportGone,
    ExportTold,
    IdentityGone,
    IdentityTold,
    NodeTold,
    ServiceTold,
    SliceTold,
)
from isthmus.store.contract import Delete, KeyValue, Put, Removed
from isthmus.store.keeper import LEASE, LEASE_KEYS, PULSE, RELIST
from isthmus.store.memory import MemoryStore
from isthmus.wire import kvstore
from tests.support.mesh import C1, C2, endpoint, export, identity, node, service, shared_slice, world

pytestmark = [pytest.mark.looptime]

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@asynccontextmanager
async def publishing(store: MemoryStore, *, own: str = "c1") -> AsyncIterator[Publisher]:
    publisher = Publisher(store, own=own, now=lambda: NOW)
    task = asyncio.create_task(publisher.serve())
    try:
        yield publisher
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def keys(store: MemoryStore) -> set[str]:
    return {key.decode() for key in store.data if key.startswith(b"cilium/")}


def history(store: MemoryStore) -> list[tuple[str, bool]]:
    """Every write in order: key, and whether it was a put."""
    return [
        (event.key.decode(), isinstance(event, KeyValue))
        for _, events in store._history
        for event in events
        if not event.key.endswith(b".heartbeat")
    ]


def is_mark(key: str) -> bool:
    return key.startswith(("cilium/synced/", "cilium/isthmus/whole/"))


async def test_properties_are_written_with_the_membership_and_can_be_read_by_a_later_life():
    store = MemoryStore()
    async with publishing(store) as publisher:
        for properties in ({"region": "north"}, {"region": "south", "tier": "gold"}):
            publisher.apply([ClusterJoined(Cluster("c1", 1, properties)), ClusterJoined(C2)])
            await publisher.settled()
            assert await load_properties(store) == {"c1": properties}
        publisher.apply([ClusterJoined(C1)])
        await publisher.settled()
        assert await load_properties(store) == {}


async def test_properties_that_no_reader_takes_do_not_keep_a_cluster_from_being_a_member():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply([ClusterJoined(Cluster("c1", 1, {"region": "not a label!"}))])
        await publisher.settled()
        key = kvstore.config_key("c1")
        assert kvstore.decode_membership(key, store.data[key], cluster="c1").cluster == C1


async def test_properties_of_records_that_cannot_be_read_are_left_out():
    store = MemoryStore()
    good = kvstore.encode_membership(kvstore.Membership(Cluster("c1", 1, {"region": "north"})))
    await store.commit([Put(kvstore.config_key("c1"), good), Put(kvstore.config_key("c2"), b"{"), Put(b"x", b"y")])

    assert await load_properties(store) == {"c1": {"region": "north"}}


C1_KEYS = {
    "cilium/cluster-config/c1",
    "cilium/state/nodes/v1/c1/node-1",
    "cilium/state/identities/v1/id/65537",
    "cilium/state/ip/v1/default/10.1.0.1",
    "cilium/state/ip/v1/default/10.1.0.2",
    "cilium/synced/c1/cilium/state/nodes/v1",
    "cilium/synced/c1/cilium/state/identities/v1",
    "cilium/synced/c1/cilium/state/ip/v1",
    "cilium/synced/c1/cilium/state/services/v1",
    "cilium/synced/c1/cilium/state/endpointslices/v1",
    "cilium/synced/c1/cilium/state/serviceexports/v1",
    "cilium/isthmus/whole/v1/c1",
}
C2_KEYS = {
    "cilium/cluster-config/c2",
    "cilium/cache/nodes/v1/c2/node-1",
    "cilium/cache/identities/v1/c2/id/131073",
    "cilium/cache/ip/v1/c2/10.2.0.1",
    "cilium/cache/ip/v1/c2/10.2.0.2",
    "cilium/synced/c2/cilium/cache/nodes/v1",
    "cilium/synced/c2/cilium/cache/identities/v1",
    "cilium/synced/c2/cilium/cache/ip/v1",
    "cilium/synced/c2/cilium/cache/services/v1",
    "cilium/synced/c2/cilium/cache/endpointslices/v1",
    "cilium/synced/c2/cilium/cache/serviceexports/v1",
    "cilium/isthmus/whole/v1/c2",
}


async def test_the_own_cluster_is_state_and_others_are_cache():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1) + world(C2))
        await publisher.settled()

    assert keys(store) == {"cilium/.heartbeat"} | C1_KEYS | C2_KEYS
    config = kvstore.decode_membership(b"", store.data[b"cilium/cluster-config/c2"], cluster="c2")
    assert config == kvstore.Membership(C2, cached=True, slices=True, services=False, exports=True, whole=True)
    config = kvstore.decode_membership(b"", store.data[b"cilium/cluster-config/c1"], cluster="c1")
    assert config == kvstore.Membership(C1, slices=True, services=True, exports=True, whole=True)
    assert store.data[b"cilium/.heartbeat"] == b"2026-01-02T03:04:05Z"


async def test_addresses_follow_their_identities_and_marks_follow_everything():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C2, pods=300))
        await publisher.settled()
    order = [key for key, _ in history(store)]
    first = {kind: next(i for i, k in enumerate(order) if kind in k) for kind in ("/identities/v1/c2", "/ip/v1/c2")}
    marks = [i for i, key in enumerate(order) if is_mark(key)]
    data = [i for i, key in enumerate(order) if "cache/" in key and not is_mark(key)]

    assert first["/identities/v1/c2"] < first["/ip/v1/c2"]
    assert min(marks) > max(data)


async def test_no_mark_is_set_before_the_source_is_complete():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1)[:-1])
        await publisher.settled()
        assert not any(map(is_mark, keys(store)))
        publisher.apply([ClusterSynced("c1")])
        await publisher.settled()

    assert keys(store) == {"cilium/.heartbeat"} | C1_KEYS


async def test_bursts_become_few_commits_and_unchanged_values_none():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1, pods=1000))
        await publisher.settled()
        commits = store.commits
        assert commits <= 1000 // 128 + 4
        publisher.apply(world(C1, pods=1000))
        await publisher.settled()

        assert store.commits == commits


async def test_changes_and_removals_reach_the_store():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1))
        await publisher.settled()
        publisher.apply(
            [
                IdentityTold(identity(C1, 2, app="db")),
                EndpointTold(endpoint(C1, 1, 2)),
                EndpointGone("c1", "10.1.0.2"),
                IdentityGone("c1", C1.id << 16 | 1),
            ]
        )
        await publisher.settled()

    assert "cilium/state/ip/v1/default/10.1.0.2" not in keys(store)
    assert b'"ID":65538' in store.data[b"cilium/state/ip/v1/default/10.1.0.1"]
    assert [k for k in keys(store) if "identities/v1/id" in k] == ["cilium/state/identities/v1/id/65538"]


async def test_a_cluster_that_left_loses_membership_first_then_marks_then_data():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1) + world(C2, pods=400))
        await publisher.settled()
        before = len(history(store))
        publisher.apply([ClusterLeft("c2")])
        await publisher.settled()
    removed = [key for key, put in history(store)[before:] if not put]

    assert keys(store) == {"cilium/.heartbeat"} | C1_KEYS
    assert removed[0] == "cilium/cluster-config/c2"
    assert all(map(is_mark, removed[1:8]))
    positions = {
        word: [i for i, key in enumerate(removed) if word in key] for word in ("cache/ip/", "identities/v1/c2")
    }
    assert max(positions["cache/ip/"]) < min(positions["identities/v1/c2"])


async def test_a_heartbeat_goes_ahead_of_the_removal_of_a_cluster():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1) + world(C2))
        await publisher.settled()
        before = len(store._history)
        publisher.apply([ClusterLeft("c2")])
        await publisher.settled()
    keys_then = [event.key for _, events in store._history[before:] for event in events]

    assert keys_then[0] == kvstore.HEARTBEAT


async def test_a_restart_on_old_data_prunes_only_when_the_cluster_is_told_in_full():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1, pods=5) + world(C2, pods=5))
        await publisher.settled()
    old = keys(store)

    async with publishing(store) as publisher:
        publisher.retain(["c1", "c2"])
        publisher.apply([*world(C1)[:-1], ClusterJoined(C2)])
        await publisher.settled()
        assert keys(store) == old
        publisher.apply([ClusterSynced("c1")])
        await publisher.settled()
        assert len([k for k in keys(store) if "/ip/v1/default/" in k]) == 2
        assert len([k for k in keys(store) if "/ip/v1/c2/" in k]) == 5


async def test_a_restart_without_a_cluster_removes_it_at_once():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1) + world(C2))
        await publisher.settled()

    async with publishing(store) as publisher:
        publisher.retain(["c1"])
        await publisher.settled()

    assert keys(store) == {"cilium/.heartbeat"} | C1_KEYS


async def test_a_cluster_whose_id_changed_starts_anew():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C2))
        await publisher.settled()
        publisher.apply([ClusterJoined(Cluster("c2", 7))])
        await publisher.settled()

    assert keys(store) == {"cilium/.heartbeat", "cilium/cluster-config/c2"}


async def test_what_others_keep_under_the_root_is_left_alone():
    store = MemoryStore()
    foreign = (b"cilium/.initlock", b"cilium/state/cnpstatuses/v2/x", b"cilium/cache/ip/v1/c2/not-an-address")
    await store.commit([Put(key, b"x") for key in foreign])
    async with publishing(store) as publisher:
        publisher.retain(["c1", "c2"])
        publisher.apply(world(C1) + world(C2))
        await publisher.settled()

    assert all(key in store.data for key in foreign)


async def test_a_fact_that_cannot_be_written_is_absent_and_stops_nobody():
    store = MemoryStore()
    async with publishing(store) as publisher:
        bad = identity(C1, 9, app="a;b")
        publisher.apply([*world(C1), NodeTold(Node("c1", "bad", pod_cidrs=("nonsense",))), IdentityTold(bad)])
        await publisher.settled()

    assert keys(store) == {"cilium/.heartbeat"} | C1_KEYS


async def test_a_key_the_store_refuses_stops_nobody_else():
    store = MemoryStore()
    async with publishing(store) as publisher:
        monster = Node("c1", "monster", labels={f"k{n}": "v" * 60 for n in range(30_000)})
        publisher.apply([*world(C1), NodeTold(monster)])
        await publisher.settled()
        assert publisher.state.refused == 1
        publisher.apply([NodeTold(node(C1, 2))])
        await publisher.settled()

    assert keys(store) == {"cilium/.heartbeat", "cilium/state/nodes/v1/c1/node-2"} | C1_KEYS


async def test_an_outage_loses_nothing_and_the_last_state_wins():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1))
        await publisher.settled()
        store.down = True
        publisher.apply([EndpointGone("c1", "10.1.0.1"), EndpointTold(endpoint(C1, 3))])
        await asyncio.sleep(100)
        assert not publisher.state.connected
        assert publisher.state.error
        publisher.apply([EndpointTold(endpoint(C1, 1)), EndpointGone("c1", "10.1.0.2")])
        store.down = False
        await publisher.settled()
        assert publisher.state.connected

    assert {k.rpartition("/")[2] for k in keys(store) if "/ip/v1/default/" in k} == {"10.1.0.1", "10.1.0.3"}


async def test_an_outage_at_the_start_is_waited_for():
    store = MemoryStore()
    store.down = True
    async with publishing(store) as publisher:
        publisher.apply(world(C1))
        await asyncio.sleep(100)
        store.down = False
        await publisher.settled()

    assert keys(store) == {"cilium/.heartbeat"} | C1_KEYS


@pytest.mark.parametrize("told", [True, False])
async def test_a_store_that_comes_back_empty_is_filled_again_marks_last(told):
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1, pods=200) + world(C2))
        await publisher.settled()
        store.restart(empty=True)
        if told:
            publisher.doubt()
        else:
            await asyncio.sleep(PULSE + 1)
        await publisher.settled()

    assert keys(store) == {"cilium/.heartbeat"} | C1_KEYS | C2_KEYS | {
        f"cilium/state/ip/v1/default/10.1.0.{n}" for n in range(1, 201)
    }
    order = [key for key, _ in history(store)]
    assert all(map(is_mark, order[-14:]))


async def test_nothing_is_written_into_a_replaced_store_before_it_was_listed():
    """The first write after the replacement must not be a mark or an address without its identity."""
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1))
        await publisher.settled()
        store.restart(empty=True)
        publisher.apply([EndpointTold(endpoint(C1, 3))])
        await publisher.settled()

    assert keys(store) == {"cilium/.heartbeat", "cilium/state/ip/v1/default/10.1.0.3"} | C1_KEYS
    order = [key for key, _ in history(store)]
    assert order[0] == "isthmus/epoch"
    assert order[1] == "cilium/cluster-config/c1"


async def test_what_another_hand_removed_is_written_again():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1))
        await publisher.settled()
        await store.commit([Delete(b"cilium/state/", prefix=True), Put(b"cilium/state/nodes/v1/c1/forged", b"x")])
        await asyncio.sleep(RELIST + 1)
        await publisher.settled()

    assert keys(store) == {"cilium/.heartbeat"} | C1_KEYS


async def test_the_heartbeat_is_written_every_minute():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1))
        await asyncio.sleep(PULSE * 3 + 1)

    beats = [event for _, events in store._history for event in events if event.key == kvstore.HEARTBEAT]
    assert len(beats) == 4


async def test_keys_are_spread_over_leases_and_the_heartbeat_has_none():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply([*world(C1)[:3], *(EndpointTold(endpoint(C1, n)) for n in range(1, 200))])
        publisher.apply([NodeTold(node(C1, n)) for n in range(1, LEASE_KEYS * 2)])
        await publisher.settled()
    held: dict[int, int] = {}
    for key in store.data:
        held[store.lease_of(key)] = held.get(store.lease_of(key), 0) + 1

    assert held.pop(0) == 2
    assert len(held) >= 3
    assert max(held.values()) <= LEASE_KEYS


async def test_a_lease_that_ran_out_is_replaced_with_all_its_keys():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1))
        await publisher.settled()
        for lease in store.leases:
            store.expire(lease)
        assert keys(store) == {"cilium/.heartbeat"}
        publisher.apply([EndpointTold(endpoint(C1, 1, 1))])
        await asyncio.sleep(LEASE)
        await publisher.settled()

    assert keys(store) == {"cilium/.heartbeat"} | C1_KEYS


async def test_leases_of_an_earlier_run_are_taken_over():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1))
        await publisher.settled()
    leases = store.leases

    async with publishing(store) as publisher:
        publisher.apply([*world(C1), EndpointTold(endpoint(C1, 9))])
        await publisher.settled()

    assert store.leases == leases


async def test_identities_survive_a_restart_with_their_numbers():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1) + world(C2))
        await publisher.settled()
    await store.commit([Put(b"cilium/state/identities/v1/id/65539", b"half of a val")])
    reports = []

    found = await load_identities(store, own=C1, on_report=lambda key, reason: reports.append(key))

    assert found == {"c1": (identity(C1),), "c2": (identity(C2),)}
    assert reports == ["cilium/state/identities/v1/id/65539"]


async def test_removals_are_told_as_removals_to_watchers():
    store = MemoryStore()
    async with publishing(store) as publisher:
        publisher.apply(world(C1))
        await publisher.settled()
        publisher.apply([EndpointGone("c1", "10.1.0.1")])
        await publisher.settled()

    assert isinstance(store._history[-1][1][0], Removed)


async def test_objects_with_names_that_no_key_can_hold_are_left_out_and_stop_nobody():
    store = MemoryStore()
    bad = [shared_slice(C2, 1, name=name) for name in ("a/b", "", "UPPER", "n" * 2000, "\0", "é" * 10)]
    async with publishing(store) as publisher:
        publisher.apply([*world(C1)[:-1], *world(C2), *map(SliceTold, bad), SliceTold(shared_slice(C2, 2))])
        publisher.apply(
            [ServiceTold(service(C1, name="x y")), ExportTold(export(C1, name="../c2")), ClusterSynced("c1")]
        )
        await publisher.settled()

    found = {key for key in keys(store) if "synced" not in key}
    assert {key for key in found if "endpointslices/" in key} == {"cilium/cache/endpointslices/v1/c2/demo/web-1"}
    assert not [key for key in found if "services/v1" in key or "serviceexports/" in key]


async def test_what_is_shared_is_written_and_taken_back_with_its_cluster():
    store = MemoryStore()
    told = [SliceTold(shared_slice(C2, 1)), ExportTold(export(C2)), ClusterSeen("c2", 5.0, "away")]
    async with publishing(store) as publisher:
        publisher.apply([*world(C1), *world(C2)[:-1], *told, ClusterSynced("c2")])
        await publisher.settled()
        key = b"cilium/cache/endpointslices/v1/c2/demo/web-1"
        assert kvstore.decode_slice(
            key, store.data[key], place=("demo", "web-1"), cluster="c2", cluster_id=2
        ) == shared_slice(C2, 1)
        assert keys(store) - C1_KEYS - C2_KEYS - {"cilium/.heartbeat"} == {
            key.decode(),
            "cilium/cache/serviceexports/v1/c2/demo/web",
            "cilium/isthmus/seen/v1/c2",
        }
        publisher.apply([ClusterSeen("c2"), ExportGone("c2", ("demo", "web"))])
        await publisher.settled()
        assert keys(store) == C1_KEYS | C2_KEYS | {"cilium/.heartbeat", key.decode()}
        publisher.apply([ClusterSeen("c2", 6.0, "away"), ClusterLeft("c2")])
        await publisher.settled()

    assert keys(store) == C1_KEYS | {"cilium/.heartbeat"}


async def test_the_mark_that_all_is_written_comes_after_all_slices():
    store = MemoryStore()
    async with publishing(store) as publisher:
        slices = [shared_slice(C2, n % 250 + 1, name=f"web-{n}") for n in range(400)]
        publisher.apply([*world(C2)[:-1], *map(SliceTold, slices), ClusterSynced("c2")])
        await publisher.settled()
    order = [key for key, _ in history(store)]

    marks = [place for place, key in enumerate(order) if is_mark(key)]
    assert min(marks) > max(place for place, key in enumerate(order) if "endpointslices/v1/c2/" in key)


async def test_records_that_wait_for_their_piece_are_not_taken_for_left_over_when_the_cluster_is_complete(monkeypatch):
    """A restart with many Services: the source is complete while the first pieces are being made."""
    monkeypatch.setattr("isthmus.mesh.storing.publisher.RECORDS_PIECE", 1)
    store, names = MemoryStore(), [f"s{number}" for number in range(20)]
    told = [ClusterJoined(C1), *(ServiceTold(service(C1, name)) for name in names)]
    async with publishing(store) as publisher:
        publisher.apply([*told, ClusterSynced("c1")])
        await publisher.settled()
    before = len(history(store))
    async with publishing(store) as publisher:
        made = publisher._make_records
        calls = 0

        def complete_amid(due):
            nonlocal calls
            calls += 1
            if calls == 3:
                publisher.apply([ClusterSynced("c1")])
            return made(due)

        monkeypatch.setattr(publisher, "_make_records", complete_amid)
        publisher.apply(told)
        await asyncio.sleep(2)
        await publisher.settled()
        assert calls > 3

    gone = [key for key, put in history(store)[before:] if not put and "/services/v1/" in key]
    assert gone == []
    assert {f"cilium/state/services/v1/c1/demo/{name}" for name in names} <= keys(store)
