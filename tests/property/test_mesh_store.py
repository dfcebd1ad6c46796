"""Whatever happens to clusters and to the store, readers end with exactly what the publisher was told."""

import asyncio
from contextlib import suppress

import looptime
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.mesh.storing.publisher import Publisher
from isthmus.mesh.storing.reader import ReaderHealth, follow
from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import (
    ClusterJoined,
    ClusterLeft,
    ClusterSeen,
    ClusterSynced,
    EndpointGone,
    EndpointTold,
    IdentityGone,
    IdentityTold,
    MeshEvent,
    NodeGone,
    NodeTold,
    SliceGone,
    SliceTold,
)
from isthmus.store.memory import MemoryStore
from tests.support.mesh import C1, C2, Consumer, endpoint, identity, node, shared_slice

CLUSTERS = (C1, C2, Cluster("c3", 3))

steps = st.one_of(
    st.tuples(st.just("told"), st.sampled_from(CLUSTERS), st.integers(1, 4), st.integers(1, 3)),
    st.tuples(st.just("gone"), st.sampled_from(CLUSTERS), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("node"), st.sampled_from(CLUSTERS), st.integers(1, 2), st.booleans()),
    st.tuples(st.just("slice"), st.sampled_from(CLUSTERS), st.integers(1, 3), st.integers(0, 3)),
    st.tuples(st.just("seen"), st.sampled_from(CLUSTERS), st.integers(0, 2), st.just(0)),
    st.tuples(st.sampled_from(["leave", "join"]), st.sampled_from(CLUSTERS), st.just(0), st.just(0)),
    st.tuples(
        st.sampled_from(["restart", "empty", "down", "up", "compact", "expire", "wait", "publisher"]),
        st.just(C1),
        st.just(0),
        st.just(0),
    ),
)


class World:
    """The truth, and the events that lead to it; keeps the promises that sources keep."""

    def __init__(self) -> None:
        self.truth = Consumer()

    def events(self, kind: str, cluster: Cluster, first: int, second: int) -> list[MeshEvent]:
        truth, name = self.truth, cluster.name
        events: list[MeshEvent] = []
        if kind == "join" and name not in truth.ids:
            events = [ClusterJoined(cluster), ClusterSynced(name)]
        elif name not in truth.ids:
            return []
        elif kind == "leave":
            events = [ClusterLeft(name)]
        elif kind == "told":
            former = truth.endpoints.get((name, f"10.{cluster.id}.0.{first}"))
            fact = identity(cluster, second)
            if (name, fact.number) not in truth.identities:
                events.append(IdentityTold(fact))
            events.append(EndpointTold(endpoint(cluster, first, second)))
            if former is not None and former.identity != fact.number:
                events += self._unused(name, former.identity)
        elif kind == "gone":
            former = truth.endpoints.get((name, f"10.{cluster.id}.0.{first}"))
            if former is not None:
                events = [EndpointGone(name, former.ip), *self._unused(name, former.identity)]
        elif kind == "slice":
            fact = shared_slice(cluster, *range(1, second + 1), name=f"web-{first}")
            if second:
                events = [SliceTold(fact)]
            elif (name, *fact.key) in truth.slices:
                events = [SliceGone(name, fact.key)]
        elif kind == "seen":
            if first:
                events = [ClusterSeen(name, float(first), "away")]
            elif name in truth.stale:
                events = [ClusterSeen(name)]
        elif kind == "node":
            fact = node(cluster, first)
            if second:
                events = [NodeTold(fact)]
            elif (name, fact.name) in truth.nodes:
                events = [NodeGone(name, fact.name)]
        truth.take(events)
        return events

    def _unused(self, name: str, number: int) -> list[MeshEvent]:
        holders = [e for e in self.truth.endpoints.values() if e.cluster == name and e.identity == number]
        return [IdentityGone(name, number)] if len(holders) == 1 else []

    def whole(self) -> list[MeshEvent]:
        """What sources tell a publisher that starts."""
        truth = self.truth
        return [
            *(ClusterJoined(c) for c in CLUSTERS if c.name in truth.ids),
            *map(NodeTold, truth.nodes.values()),
            *map(IdentityTold, truth.identities.values()),
            *map(EndpointTold, truth.endpoints.values()),
            *map(SliceTold, truth.slices.values()),
            *(ClusterSeen(name, since) for name, since in truth.stale.items()),
            *(ClusterSynced(name) for name in truth.ids),
        ]


async def play(script: list[tuple[str, Cluster, int, int]]) -> None:
    store, world, consumer = MemoryStore(), World(), Consumer()

    async def read() -> None:
        health = ReaderHealth(clock=asyncio.get_running_loop().time)
        async for events in follow(store, health=health):
            consumer.take(events)

    def publish() -> tuple[Publisher, asyncio.Task[None]]:
        made = Publisher(store, own="c1")
        made.retain(world.truth.ids)
        made.apply(world.whole())
        return made, asyncio.create_task(made.serve())

    reader = asyncio.create_task(read())
    publisher, task = publish()
    for kind, cluster, first, second in script:
        match kind:
            case "restart" | "empty":
                store.restart(empty=kind == "empty")
            case "down":
                store.down = True
                store.restart()
            case "up":
                store.down = False
            case "compact":
                store.compact(store._revision)
            case "expire":
                for lease in store.leases:
                    store.expire(lease)
            case "wait":
                await asyncio.sleep(1)
            case "publisher":
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                publisher, task = publish()
            case _:
                publisher.apply(world.events(kind, cluster, first, second))
                if kind == "leave":
                    publisher.retain(world.truth.ids)
        for _ in range(first):
            await asyncio.sleep(0)
    store.down = False
    # Long enough for every back-off, renewal and period of grace.
    await asyncio.sleep(2000)
    for running in (task, reader):
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    assert consumer == world.truth
    assert publisher.pending == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=40))
def test_readers_end_with_what_was_told(script):
    loop = looptime.new_event_loop(end=None)
    try:
        loop.run_until_complete(play(script))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
