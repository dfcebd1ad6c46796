"""A tracker whose clusters are named by a Secret: who joins, who leaves, and what is kept while nothing is known."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from isthmus.kube.access import Access, Material
from isthmus.mesh import tracker as tracker_module
from isthmus.mesh.clusters import ClusterSpec
from isthmus.mesh.membership import Membership, Peer, Refused
from isthmus.mesh.source.kubernetes import SourceHealth
from isthmus.mesh.storing.publisher import Publisher
from isthmus.mesh.tracker import Tracker
from isthmus.mesh.tracker_options import TrackerOptions
from isthmus.model.endpoint import Cluster
from isthmus.model.identity import Identity
from isthmus.model.mesh import MeshEvent
from isthmus.store.memory import MemoryStore
from isthmus.wire import kvstore
from tests.support.mesh import C1, C2, world

pytestmark = [pytest.mark.looptime]


class Follower:
    """Stands for the one that reads the Secret."""

    def __init__(self, own: ClusterSpec, *, on_change: Any) -> None:
        self.own = own
        self.tell = on_change

    def reach(self, own: ClusterSpec) -> None:
        self.own = own

    async def serve(self) -> None:
        await asyncio.Event().wait()


class Source:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    @property
    def health(self) -> SourceHealth:
        return SourceHealth(connected=True, synced=True, trouble={}, last_error="", counts={}, dropped=0)

    async def events(self) -> AsyncGenerator[Sequence[MeshEvent], None]:
        yield world(self.cluster)
        await asyncio.Event().wait()


class Bench:
    """A tracker of C1 with a store in memory; `opened` are the ways by which sources were opened."""

    def __init__(self, store: MemoryStore, **options: Any) -> None:
        self.store = store
        self.opened: list[ClusterSpec] = []
        own = ClusterSpec(C1)
        self.registry = CollectorRegistry()
        self.tracker = Tracker(
            TrackerOptions(own=own, endpoints=("http://unused",), **options),
            [own, *options.get("clusters", ())],
            store=store,
            registry=self.registry,
            connect=self.connect,
        )

    @asynccontextmanager
    async def connect(self, spec: ClusterSpec, _adopt: Mapping[int, Identity]) -> AsyncIterator[Source]:
        self.opened.append(spec)
        yield Source(spec.cluster)

    def tell(self, membership: Membership | None) -> None:
        self.tracker._peers.tell(membership)

    async def members(self) -> set[str]:
        """Which clusters are in the store once all is written."""
        await asyncio.sleep(1)
        await self.tracker.publisher.settled()
        prefix = kvstore.CONFIGS.decode()
        return {key.decode().removeprefix(prefix) for key in self.store.data if key.decode().startswith(prefix)}


@asynccontextmanager
async def tracking(store: MemoryStore, **options: Any) -> AsyncIterator[Bench]:
    bench = Bench(store, **options)
    task = asyncio.create_task(bench.tracker.run())
    try:
        yield bench
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "PeersFollower", Follower)


@pytest.fixture
async def store() -> MemoryStore:
    """A store in which an earlier life left C1 and C2."""
    made = MemoryStore()
    publisher = Publisher(made, own="c1")
    task = asyncio.create_task(publisher.serve())
    publisher.apply(world(C1) + world(C2))
    await publisher.settled()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return made


def peer(cluster: Cluster = C2, token: str = "t") -> Peer:
    return Peer(cluster, Access("https://c2", material=Material(token=token)))


async def test_what_an_earlier_life_left_stays_until_it_is_known_who_the_peers_are(store: MemoryStore) -> None:
    async with tracking(store) as bench:
        assert await bench.members() == {"c1", "c2"}
        assert not bench.tracker.clusters().known
        bench.tell(Membership())
        assert await bench.members() == {"c1"}


async def test_one_who_may_not_read_the_secret_knows_only_what_flags_say(store: MemoryStore) -> None:
    async with tracking(store) as bench:
        bench.tell(None)
        assert await bench.members() == {"c1", "c2"}
    async with tracking(store, clusters=(ClusterSpec(Cluster("c3", 3)),)) as bench:
        bench.tell(None)
        assert await bench.members() == {"c1", "c3"}


async def test_a_peer_joins_and_leaves_as_its_entry_does(store: MemoryStore) -> None:
    async with tracking(MemoryStore()) as bench:
        bench.tell(Membership((peer(),)))
        assert await bench.members() == {"c1", "c2"}
        assert bench.opened[-1].access == peer().access
        bench.tell(Membership())
        assert await bench.members() == {"c1"}


async def test_new_credentials_open_the_source_again_and_take_nothing_away(store: MemoryStore) -> None:
    async with tracking(store) as bench:
        bench.tell(Membership((peer(),)))
        await bench.members()
        kept = {key: value for key, value in store.data.items() if b"/ip/v1/c2/" in key}
        bench.tell(Membership((peer(),)))
        await bench.members()
        opened = len(bench.opened)
        bench.tell(Membership((peer(token="new"),)))
        await bench.members()
        assert len(bench.opened) == opened + 1
        assert bench.opened[-1].access == peer(token="new").access
        assert {key: value for key, value in store.data.items() if b"/ip/v1/c2/" in key} == kept


async def test_an_entry_that_cannot_be_used_is_counted_and_takes_nothing_away(store: MemoryStore) -> None:
    async with tracking(store) as bench:
        bench.tell(Membership(refused=(Refused("c2", "not YAML"),)))
        assert await bench.members() == {"c1", "c2"}
        assert bench.registry.get_sample_value("isthmus_tracker_peers_refused") == 1
        assert bench.tracker.clusters().refused == {"c2": "not YAML"}
        bench.tell(Membership((peer(),)))
        await bench.members()
        assert bench.registry.get_sample_value("isthmus_tracker_peers_refused") == 0


async def test_a_peer_with_the_own_number_is_refused_alone() -> None:
    async with tracking(MemoryStore()) as bench:
        bench.tell(Membership((peer(Cluster("thief", C1.id)), peer())))
        assert await bench.members() == {"c1", "c2"}
        assert bench.tracker.clusters().refused == {"thief": "id 1 is that of cluster c1"}
