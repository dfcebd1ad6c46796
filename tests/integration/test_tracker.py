"""The tracker with a real etcd and real readers, while things are killed; clusters are scripted."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from isthmus.aio.backoff import Backoff
from isthmus.mesh.source.kubernetes import SourceHealth
from isthmus.mesh.storing.publisher import Publisher
from isthmus.mesh.storing.reader import ReaderHealth, follow
from isthmus.mesh.tracker import serve
from isthmus.mesh.tracker_options import TrackerOptions
from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterJoined, ClusterLeft, EndpointGone, EndpointTold, MeshEvent
from isthmus.store.child import ChildError, ChildEtcd
from isthmus.store.client import Client
from isthmus.store.contract import Put
from isthmus.store.errors import Unavailable
from isthmus.wire import kvstore
from tests.support.etcd import free_port, needs_etcd
from tests.support.mesh import C1, C2, Consumer, endpoint, world
from tests.support.tasks import running

pytestmark = [needs_etcd, pytest.mark.etcd]

QUICK = {"base": 0.02, "cap": 0.1}


class Reader:
    """Follows a store and keeps what it was told."""

    def __init__(self, url: str) -> None:
        self.consumer = Consumer()
        self.events: list[MeshEvent] = []
        self.reports: list[tuple[str, str]] = []
        self.health = ReaderHealth()
        self._changed = asyncio.Event()
        self._url = url

    async def run(self) -> None:
        client = Client([self._url])
        try:
            async for events in follow(
                client,
                health=self.health,
                backoff=Backoff(**QUICK),
                on_report=lambda key, reason: self.reports.append((key, reason)),
            ):
                self.events.extend(events)
                self.consumer.take(events)
                self._changed.set()
        finally:
            await client.close()

    async def until(self, condition) -> None:
        """Waits until the consumer's state meets `condition`; the test's own time-out is the limit."""
        while not condition(self.consumer):
            self._changed.clear()
            await self._changed.wait()


def child(directory: Path, port: int) -> ChildEtcd:
    return ChildEtcd(directory, listen=f"http://127.0.0.1:{port}", fsync=False)


def has(*addresses: str):
    return lambda consumer: consumer.addresses == set(addresses)


def addresses(count: int, cluster: int = 1) -> set[str]:
    return {f"10.{cluster}.0.{n}" for n in range(1, count + 1)}


async def test_readers_see_what_is_published_while_etcd_is_killed_again_and_again(tmp_path):
    port = free_port()
    async with child(tmp_path, port) as etcd:
        client = etcd.client()
        publisher = Publisher(client, own="c1", backoff=Backoff(**QUICK))
        one, two = Reader(f"http://127.0.0.1:{port}"), Reader(f"http://127.0.0.1:{port}")
        async with running(etcd.serve(), publisher.serve(), one.run(), two.run()):
            publisher.apply(world(C1))
            await one.until(lambda consumer: consumer.synced == {"c1"})
            for round_ in range(2):
                for n in range(10, 60):
                    publisher.apply([EndpointTold(endpoint(C1, n + 50 * round_))])
                    if n == 30:
                        os.kill(etcd.pid, signal.SIGKILL)
                    await asyncio.sleep(0)
                await publisher.settled()
            publisher.apply([EndpointGone("c1", "10.1.0.1")])
            final = {"10.1.0.2", *(f"10.1.0.{n}" for n in range(10, 110))}
            await one.until(has(*final))
            await two.until(has(*final))
            await publisher.settled()

        assert etcd.restarts >= 1
        assert not [event for event in one.events if isinstance(event, ClusterLeft)]
        gone = [event for event in one.events if isinstance(event, EndpointGone)]
        assert gone == [EndpointGone("c1", "10.1.0.1")]
        await client.close()


async def test_an_etcd_that_comes_back_empty_is_filled_again_and_readers_see_only_differences(tmp_path):
    port = free_port()
    async with child(tmp_path / "data", port) as etcd:
        client = etcd.client()
        publisher = Publisher(client, own="c1", backoff=Backoff(**QUICK))
        reader = Reader(f"http://127.0.0.1:{port}")
        etcd.on_restart = lambda _reason: publisher.doubt()
        async with running(etcd.serve(), publisher.serve(), reader.run()):
            publisher.apply(world(C1, pods=200) + world(C2, pods=200))
            await reader.until(lambda consumer: consumer.synced == {"c1", "c2"})
            told = len(reader.events)
            os.kill(etcd.pid, signal.SIGKILL)
            shutil.rmtree(tmp_path / "data" / "etcd")
            publisher.apply([EndpointGone("c1", "10.1.0.7")])
            await reader.until(lambda consumer: "10.1.0.7" not in consumer.addresses)

        kinds = [event for event in reader.events[told:] if "Synced" not in type(event).__name__]
        assert kinds == [EndpointGone("c1", "10.1.0.7")]
        assert len(reader.consumer.addresses) == 399
        await client.close()


async def test_properties_of_clusters_travel_change_go_and_outlive_a_store_that_comes_back_empty(tmp_path):
    port = free_port()
    c1, c2 = (Cluster(c.name, c.id, {"region": c.name, "cluster.clusterset.k8s.io": c.name}) for c in (C1, C2))
    async with child(tmp_path / "data", port) as etcd:
        client = etcd.client()
        publisher = Publisher(client, own="c1", backoff=Backoff(**QUICK))
        reader = Reader(f"http://127.0.0.1:{port}")
        etcd.on_restart = lambda _reason: publisher.doubt()
        async with running(etcd.serve(), publisher.serve(), reader.run()):
            publisher.apply([ClusterJoined(c1), *world(C1)[1:], ClusterJoined(c2), *world(C2)[1:]])
            await reader.until(lambda consumer: consumer.synced == {"c1", "c2"})
            assert reader.consumer.properties == {"c1": c1.properties, "c2": c2.properties}

            told = len(reader.events)
            os.kill(etcd.pid, signal.SIGKILL)
            shutil.rmtree(tmp_path / "data" / "etcd")
            publisher.apply([ClusterJoined(Cluster("c2", 2, {"region": "north"})), ClusterJoined(C1)])
            await reader.until(lambda consumer: consumer.properties == {"c2": {"region": "north"}})
            await publisher.settled()

            # Somebody who may write there tells nonsense: it is reported, and the last good word holds.
            key = kvstore.config_key("c2")
            await client.commit([Put(key, b'{"id":2,"isthmus":{"properties":{"cluster.clusterset.k8s.io":"c1"}}}')])
            while not reader.reports:
                await asyncio.sleep(0.01)
            assert reader.consumer.properties == {"c2": {"region": "north"}}

        kinds = {type(event).__name__ for event in reader.events[told:]}
        assert kinds <= {"ClusterJoined", "ClusterSynced"}, "nothing but properties changed"
        await client.close()


async def test_a_publisher_that_starts_on_old_data_prunes_and_purges(tmp_path):
    port = free_port()
    async with child(tmp_path, port) as etcd:
        client = etcd.client()
        first = Publisher(client, own="c1")
        async with running(first.serve()):
            first.apply(world(C1, pods=5) + world(C2, pods=5))
            await first.settled()
        reader = Reader(f"http://127.0.0.1:{port}")
        second = Publisher(client, own="c1")
        async with running(reader.run()):
            await reader.until(lambda consumer: consumer.synced == {"c1", "c2"})
            assert reader.health.heartbeat_age is not None
            async with running(second.serve()):
                second.retain(["c1"])
                second.apply(world(C1, pods=3))
                await second.settled()
                await reader.until(has("10.1.0.1", "10.1.0.2", "10.1.0.3"))
            assert ClusterLeft("c2") in reader.events
        pages = [pair.key async for page in client.pages(kvstore.ROOT) for pair in page.pairs]
        assert not [key for key in pages if b"c2" in key]
        await client.close()


async def test_half_written_values_are_reported_and_absent_and_nothing_else_is_lost(tmp_path):
    port = free_port()
    async with child(tmp_path, port) as etcd:
        client = etcd.client()
        publisher = Publisher(client, own="c1")
        reader = Reader(f"http://127.0.0.1:{port}")
        async with running(publisher.serve(), reader.run()):
            publisher.apply(world(C1, pods=3))
            await reader.until(has("10.1.0.1", "10.1.0.2", "10.1.0.3"))
            key = kvstore.endpoint_key("c1", "10.1.0.2", cached=False)
            whole = (await client.get(key))[1].value
            await client.commit([Put(key, whole[:20]), Put(b"cilium/state/ip/v1/default/\xff", b"x")])
            await reader.until(has("10.1.0.1", "10.1.0.3"))
            await client.commit([Put(key, whole)])
            await reader.until(has("10.1.0.1", "10.1.0.2", "10.1.0.3"))

        assert len(reader.reports) == 2
        await client.close()


async def test_a_reader_that_slept_through_a_compaction_catches_up_with_differences(tmp_path):
    port = free_port()
    async with child(tmp_path, port) as etcd:
        client = etcd.client()
        publisher = Publisher(client, own="c1", backoff=Backoff(**QUICK))
        reader = Reader(f"http://127.0.0.1:{port}")
        async with running(publisher.serve(), reader.run()):
            publisher.apply(world(C1, pods=3))
            await reader.until(lambda consumer: consumer.synced == {"c1"})
            # The server forgets, then ends every watch: SIGSTOP keeps the reader from seeing it before.
            os.kill(etcd.pid, signal.SIGSTOP)
            publisher.apply([EndpointGone("c1", "10.1.0.2"), EndpointTold(endpoint(C1, 9))])
            os.kill(etcd.pid, signal.SIGCONT)
            await publisher.settled()
            while True:
                with suppress(Unavailable):
                    await client.compact((await client.status()).header.revision)
                    break
            await reader.until(has("10.1.0.1", "10.1.0.3", "10.1.0.9"))
        await client.close()


class ScriptedSource:
    """A cluster that has what it has and can be changed through `told`."""

    def __init__(self, events: Sequence[MeshEvent]) -> None:
        self.told: asyncio.Queue[Sequence[MeshEvent]] = asyncio.Queue()
        self.told.put_nowait(events)

    @property
    def health(self) -> SourceHealth:
        return SourceHealth(connected=True, synced=True, trouble={}, last_error="", counts={}, dropped=0)

    async def events(self) -> AsyncGenerator[Sequence[MeshEvent], None]:
        while True:
            yield await self.told.get()


@asynccontextmanager
async def connect(spec, adopt: Mapping[int, object]) -> AsyncIterator[ScriptedSource]:
    yield ScriptedSource(world(spec.cluster))


async def page(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_the_tracker_serves_a_full_mesh_follows_its_list_and_says_how_it_is(tmp_path):
    file, etcd_port, metrics_port = tmp_path / "clusters.json", free_port(), free_port()
    file.write_text(json.dumps([{"name": "c2", "id": 2}]))
    options = TrackerOptions.check(
        {
            "cluster_name": "c1",
            "cluster_id": 1,
            "clusters_file": file,
            "data_dir": tmp_path / "data",
            "etcd_listen": f"http://127.0.0.1:{etcd_port}",
            "metrics_bind_address": f"127.0.0.1:{metrics_port}",
        }
    )
    reader = Reader(f"http://127.0.0.1:{etcd_port}")
    async with running(serve(options, connect=connect, reread=0.05), reader.run()):
        await reader.until(lambda consumer: consumer.synced == {"c1", "c2"})
        while (await page(metrics_port, "/readyz"))[0] != 200:
            await asyncio.sleep(0.02)
        while 'isthmus_tracker_clusters{state="synced"} 2.0' not in (text := (await page(metrics_port, "/metrics"))[1]):
            await asyncio.sleep(0.02)
        assert 'isthmus_tracker_endpoints{cluster="c2"} 2.0' in text
        while "isthmus_tracker_etcd_connected 1.0" not in (await page(metrics_port, "/metrics"))[1]:
            await asyncio.sleep(0.02)

        file.write_text("clusters: [")
        while "not YAML" not in (await page(metrics_port, "/readyz"))[1]:
            await asyncio.sleep(0.02)
        assert reader.consumer.synced == {"c1", "c2"}

        file.write_text(json.dumps([{"name": "c3", "id": 3}]))
        await reader.until(lambda consumer: consumer.synced == {"c1", "c3"})
        while 'cluster="c2"' in (await page(metrics_port, "/metrics"))[1]:
            await asyncio.sleep(0.02)
        assert (await page(metrics_port, "/readyz"))[0] == 200

    async with running(serve(options, connect=connect)):
        again = Reader(f"http://127.0.0.1:{etcd_port}")
        async with running(again.run()):
            await again.until(lambda consumer: consumer.synced == {"c1", "c3"})
            assert again.consumer.identities == reader.consumer.identities


async def test_a_tracker_uses_an_etcd_that_runs_already(tmp_path, etcd_url):
    options = TrackerOptions.check(
        {"cluster_name": "c1", "cluster_id": 1, "etcd_endpoints": (etcd_url,), "metrics_bind_address": "127.0.0.1:0"}
    )
    reader = Reader(etcd_url)
    async with running(serve(options, connect=connect), reader.run()):
        await reader.until(lambda consumer: consumer.synced == {"c1"})


async def test_what_cannot_work_ends_the_start_with_its_reason(tmp_path):
    given = {"cluster_name": "c1", "cluster_id": 1, "data_dir": tmp_path / "d", "metrics_bind_address": "127.0.0.1:0"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ChildError, match="address already in use"):
            await serve(TrackerOptions.check({**given, "etcd_listen": f"http://127.0.0.1:{port}"}), connect=connect)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cluster-name", "c1", "--cluster-id", "0", "--data-dir", "x"), "--cluster-id: 0 is not in 1-255"),
        (("--cluster-name", "c1", "--cluster-id", "1", "--data-dir", "x", "--clusters-file", "/none"), "/none"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(arguments, message):
    code = "import sys; from isthmus.cli import main; main(prog_name='isthmus')"
    done = subprocess.run(
        [sys.executable, "-c", code, "tracker", *arguments], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
