"""Clusters that come, go, fail and come back, as one stream; virtual time."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from isthmus.aio.backoff import Backoff
from isthmus.mesh.clusters import ClusterSpec
from isthmus.mesh.fleet import Fleet
from isthmus.mesh.source.kubernetes import SourceHealth
from isthmus.model.endpoint import Cluster, Endpoint
from isthmus.model.identity import Identity
from isthmus.model.mesh import (
    ClusterJoined,
    ClusterLeft,
    ClusterSeen,
    ClusterSynced,
    EndpointGone,
    EndpointTold,
    MeshEvent,
    ServiceGone,
    ServiceTold,
    SliceGone,
    SliceTold,
)
from tests.support.mesh import C1, C2, Consumer, endpoint, identity, service, shared_slice, world

pytestmark = [pytest.mark.looptime]

S1, S2 = ClusterSpec(C1), ClusterSpec(C2)


class ScriptedSource:
    """A source that tells what it is given; an exception in the script is raised."""

    def __init__(self, script: Sequence[Sequence[MeshEvent] | Exception]) -> None:
        self.queue: asyncio.Queue[Sequence[MeshEvent] | Exception] = asyncio.Queue()
        for item in script:
            self.queue.put_nowait(item)
        self.trouble: dict[str, str] = {}
        self.closed = False

    @property
    def health(self) -> SourceHealth:
        return SourceHealth(
            connected=not self.trouble, synced=True, trouble=self.trouble, last_error="", counts={}, dropped=0
        )

    async def events(self) -> AsyncGenerator[Sequence[MeshEvent], None]:
        try:
            while True:
                item = await self.queue.get()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed = True


class Bench:
    """A fleet with scripted sources, by cluster and in the order of their starts."""

    def __init__(self, **scripts: list[object]) -> None:
        self.scripts = scripts
        self.sources: dict[str, list[ScriptedSource]] = {}
        self.adopted: list[Mapping[int, Identity]] = []
        self.consumer = Consumer()
        self.batches: list[Sequence[MeshEvent]] = []
        self.fleet = Fleet(
            connect=self.connect,
            adopt={"c2": {C2.id << 16 | 9: identity(C2, 9)}},
            properties={"c2": {"region": "south"}},
            clock=asyncio.get_running_loop().time,
            seen=(ClusterSeen("c2", -500.0, "away before"),),
            backoff=lambda: Backoff(base=1, cap=4, jitter=0),
        )

    @asynccontextmanager
    async def connect(self, spec: ClusterSpec, adopt: Mapping[int, Identity]) -> AsyncIterator[ScriptedSource]:
        await asyncio.sleep(0)
        self.adopted.append(adopt)
        script = self.scripts[spec.cluster.name].pop(0) if self.scripts.get(spec.cluster.name) else []
        if isinstance(script, Exception):
            raise script
        source = ScriptedSource(script)
        self.sources.setdefault(spec.cluster.name, []).append(source)
        yield source

    async def pump(self) -> None:
        async for batch in self.fleet.events():
            self.batches.append(batch)
            self.consumer.take(batch)

    def events(self) -> list[MeshEvent]:
        return [event for batch in self.batches for event in batch]

    def states(self) -> dict[str, str]:
        return {status.cluster.name: status.state for status in self.fleet.status()}


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    task = asyncio.create_task(bench.pump())
    try:
        yield bench
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_all_configured_clusters_join_at_once_even_if_one_cannot_be_reached():
    async with running(Bench(c1=[[world(C1)]], c2=[OSError("no route")] * 50)) as bench:
        bench.fleet.configure([S1, S2])
        await asyncio.sleep(10)

        assert set(bench.consumer.ids) == {"c1", "c2"}
        assert bench.consumer.synced == {"c1"}
        assert bench.states() == {"c1": "synced", "c2": "degraded"}
        assert [s.reason for s in bench.fleet.status()] == ["", "OSError: no route"]


async def test_an_unreachable_cluster_is_tried_again_and_joins():
    async with running(Bench(c1=[OSError("no route")] * 3 + [[world(C1)]])) as bench:
        bench.fleet.configure([S1])
        await asyncio.sleep(20)

        assert bench.consumer.synced == {"c1"}


async def test_a_source_that_fails_takes_nothing_back_and_its_return_is_a_difference():
    first = [world(C1), RuntimeError("broken")]
    second = [world(C1)[:3], [EndpointTold(endpoint(C1, 2)), EndpointTold(endpoint(C1, 3)), ClusterSynced("c1")]]
    async with running(Bench(c1=[first, second])) as bench:
        bench.fleet.configure([S1])
        await asyncio.sleep(0.5)
        assert bench.states() == {"c1": "degraded"}
        assert bench.consumer.addresses == {"10.1.0.1", "10.1.0.2"}
        told = len(bench.events())
        await asyncio.sleep(5)

        assert bench.events()[told:] == [
            EndpointGone("c1", "10.1.0.1"),
            EndpointTold(endpoint(C1, 3)),
            ClusterSynced("c1"),
        ]
        assert bench.states() == {"c1": "synced"}


async def test_a_source_that_fails_before_it_was_complete_takes_nothing_back_either():
    first = [world(C1)[:-1], RuntimeError("broken")]
    second = [world(C1)[:3], world(C1)[3:]]
    async with running(Bench(c1=[first, second])) as bench:
        bench.fleet.configure([S1])
        await asyncio.sleep(5)

        assert not [event for event in bench.events() if isinstance(event, EndpointGone)]
        assert bench.consumer.synced == {"c1"}


async def test_a_source_that_starts_again_keeps_its_numbers():
    async with running(Bench(c1=[[world(C1), RuntimeError("broken")]], c2=[])) as bench:
        bench.fleet.configure([S1, S2])
        await asyncio.sleep(5)

    assert bench.adopted[0] == {}
    assert C2.id << 16 | 9 in bench.adopted[1]
    assert bench.adopted[2] == {C1.id << 16 | 1: identity(C1)}


async def test_a_cluster_off_the_list_leaves_with_one_event_and_its_source_is_closed():
    async with running(Bench(c1=[[world(C1)]], c2=[[world(C2)]])) as bench:
        bench.fleet.configure([S1, S2])
        await asyncio.sleep(1)
        told = len(bench.events())
        bench.fleet.configure([S1])
        bench.sources["c2"][0].queue.put_nowait([EndpointTold(endpoint(C2, 9))])
        await asyncio.sleep(1)

        assert bench.events()[told:] == [ClusterLeft("c2")]
        assert bench.sources["c2"][0].closed
        assert bench.states() == {"c1": "synced"}


async def test_a_cluster_that_returns_to_the_list_starts_from_nothing():
    async with running(Bench(c2=[[world(C2)], [world(C2)]])) as bench:
        bench.fleet.configure([S2])
        await asyncio.sleep(1)
        bench.fleet.configure([])
        bench.fleet.configure([S2])
        await asyncio.sleep(1)

        assert bench.consumer.synced == {"c2"}
        assert len(bench.consumer.addresses) == 2


async def test_new_credentials_start_the_source_again_and_tell_only_differences():
    async with running(Bench(c1=[[world(C1)], [world(C1)]])) as bench:
        bench.fleet.configure([S1])
        await asyncio.sleep(1)
        told = len(bench.events())
        bench.fleet.configure([ClusterSpec(C1, content="new")])
        await asyncio.sleep(1)

        assert bench.events()[told:] == [ClusterSynced("c1")]
        assert bench.sources["c1"][0].closed
        assert not bench.sources["c1"][1].closed


def joined(**properties: str) -> ClusterJoined:
    return ClusterJoined(Cluster("c1", 1, properties))


async def test_properties_count_once_the_source_is_complete_and_survive_a_new_one():
    first = [[joined()], [joined(region="north")], world(C1)[1:], [joined(region="south")], RuntimeError("broken")]
    second = [[joined()], world(C1)[1:-1], [joined(region="west"), ClusterSynced("c1")]]
    third = [[joined()], world(C1)[1:]]
    async with running(Bench(c1=[first, second, third])) as bench:
        bench.fleet.configure([S1])
        await asyncio.sleep(0.5)
        assert [event for event in bench.events() if isinstance(event, ClusterJoined)] == [
            joined(),
            joined(region="north"),
            joined(region="south"),
        ]
        told = len(bench.events())
        await asyncio.sleep(5)
        assert bench.events()[told:] == [joined(region="west"), ClusterSynced("c1")]
        bench.sources["c1"][-1].queue.put_nowait(RuntimeError("broken"))
        told = len(bench.events())
        await asyncio.sleep(5)
        assert bench.events()[told:] == [joined(), ClusterSynced("c1")]


async def test_properties_that_an_earlier_life_told_hold_until_the_source_is_complete():
    async with running(Bench(c2=[[world(C2)[:-1]]])) as bench:
        bench.fleet.configure([S2])
        await asyncio.sleep(1)
        assert bench.consumer.properties == {"c2": {"region": "south"}}
        bench.sources["c2"][0].queue.put_nowait([ClusterSynced("c2")])
        await asyncio.sleep(1)
        assert bench.consumer.properties == {}


async def test_a_cluster_with_another_id_leaves_and_joins():
    moved = Cluster("c2", 7)
    async with running(Bench(c2=[[world(C2)], [world(moved)]])) as bench:
        bench.fleet.configure([S2])
        await asyncio.sleep(1)
        told = len(bench.events())
        bench.fleet.configure([ClusterSpec(moved)])
        await asyncio.sleep(1)

        assert bench.events()[told : told + 2] == [ClusterLeft("c2"), ClusterJoined(moved)]
        assert bench.consumer.ids == {"c2": 7}
        assert all(e.identity >> 16 == 7 for e in bench.consumer.endpoints.values())


async def test_an_address_of_two_clusters_is_told_for_one():
    clash = Endpoint("c2", "10.1.0.1", C2.id << 16 | 1, "demo", "thief")
    async with running(
        Bench(c1=[[world(C1)]], c2=[[[*world(C2)[:-1], EndpointTold(clash), ClusterSynced("c2")]]])
    ) as bench:
        bench.fleet.configure([S1])
        await asyncio.sleep(1)
        bench.fleet.configure([S1, S2])
        await asyncio.sleep(1)

        assert ("c2", "10.1.0.1") not in bench.consumer.endpoints
        assert bench.fleet.withheld == 1


async def test_a_degraded_cluster_is_shown_as_such():
    async with running(Bench(c1=[[world(C1)]])) as bench:
        bench.fleet.configure([S1])
        await asyncio.sleep(1)
        bench.sources["c1"][0].trouble = {"pods": "503"}

        (status,) = bench.fleet.status()
        assert (status.state, status.reason) == ("degraded", "pods: 503")
        assert (status.nodes, status.identities, status.endpoints) == (1, 1, 2)


async def test_closing_it_stops_every_source():
    async with running(Bench(c1=[[world(C1)]], c2=[OSError("x")] * 9)) as bench:
        bench.fleet.configure([S1, S2])
        await asyncio.sleep(1)
        before = asyncio.all_tasks()

    assert bench.sources["c1"][0].closed
    assert len(asyncio.all_tasks()) < len(before)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_how_long_a_source_has_failed_is_told_once_and_taken_back():
    async with running(Bench(c1=[[world(C1)]])) as bench:
        bench.fleet.configure([S1])
        await asyncio.sleep(1)
        (source,) = bench.sources["c1"]
        source.trouble = {"pods": "connection refused"}
        await asyncio.sleep(4)
        assert bench.consumer.stale == {}, "an API server that restarts is away for less"
        await asyncio.sleep(6)
        (since,) = bench.consumer.stale.values()
        assert 1 <= since <= 3
        await asyncio.sleep(600)
        assert len([event for event in bench.events() if isinstance(event, ClusterSeen)]) == 1

        source.trouble = {"networkpolicies.networking.k8s.io": "403: not allowed"}
        await asyncio.sleep(3)

        assert bench.consumer.stale == {}, "policies are no part of what is told"


async def test_a_cluster_that_is_not_back_since_our_start_is_as_old_as_it_was_before():
    async with running(Bench(c2=[OSError("no route")] * 1000)) as bench:
        bench.fleet.configure([S2])
        await asyncio.sleep(3)

        assert bench.consumer.stale == {"c2": -500.0}
        assert [event.reason for event in bench.events() if isinstance(event, ClusterSeen)] == ["OSError: no route"]


async def test_a_source_that_starts_again_without_a_service_takes_it_back():
    told = [ServiceTold(service(C1)), SliceTold(shared_slice(C1, 1)), SliceTold(shared_slice(C1, 2, name="web-2"))]
    first = [[*world(C1)[:-1], *told, ClusterSynced("c1")], RuntimeError("broken")]
    second = [[*world(C1)[:-1], SliceTold(shared_slice(C1, 2, name="web-2"))], [ClusterSynced("c1")]]
    async with running(Bench(c1=[first, second])) as bench:
        bench.fleet.configure([S1])
        await asyncio.sleep(0.5)
        assert bench.consumer.backends == {"10.1.0.1", "10.1.0.2"}
        before = len(bench.events())
        await asyncio.sleep(2)

        assert bench.events()[before:] == [
            ServiceGone("c1", ("demo", "web")),
            SliceGone("c1", ("demo", "web-1")),
            ClusterSynced("c1"),
        ]
