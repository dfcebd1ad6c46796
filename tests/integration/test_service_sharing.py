"""What clusters share of their Services: from API servers through trackers and a real etcd to readers."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

import isthmus.lab.addons
from isthmus.kube import kubeconfig
from isthmus.kube.client import Client as KubeClient
from isthmus.kube.resources import ENDPOINT_SLICES, SERVICE_EXPORTS, SERVICES, Resource
from isthmus.mesh.storing.publisher import Publisher
from isthmus.mesh.tracker import serve
from isthmus.mesh.tracker_options import TrackerOptions
from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterSeen, ClusterSynced, ServiceTold, SliceTold
from isthmus.model.sharing import SharedEndpoint, SharedPort, SharedService, SharedSlice
from isthmus.store.client import Client
from isthmus.store.contract import Delete, Put
from isthmus.wire import kvstore
from isthmus.wire.kvstore import Kind, Membership
from tests.integration.test_agent import eventually
from tests.integration.test_tracker import Reader, running
from tests.support.apiserver import ApiServer, running_apiserver
from tests.support.etcd import free_port, needs_etcd, running_etcd
from tests.support.mesh import C1, C2, service, shared_slice, world

pytestmark = [needs_etcd, pytest.mark.etcd]

DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False)
CRDS = Path(isthmus.lab.addons.__file__).parent / "crds"
GLOBAL = {"service.cilium.io/global": "true"}


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[str]:
    """An etcd of the test's own: trackers own the whole of it."""
    (tmp_path / "etcd").mkdir()
    with running_etcd(tmp_path / "etcd") as url:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield url


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[ApiServer, ApiServer]]:
    for name in ("east", "west"):
        (tmp_path / name).mkdir()
    with running_apiserver(tmp_path / "east") as east, running_apiserver(tmp_path / "west") as west:
        yield east, west


@asynccontextmanager
async def client_of(server: ApiServer) -> AsyncIterator[KubeClient]:
    async with KubeClient(kubeconfig.load(server.directory / "kubeconfig", context="admin")) as client:
        yield client


def options(east: ApiServer, others: Path, url: str) -> TrackerOptions:
    return TrackerOptions.check(
        {
            "cluster_name": "east",
            "cluster_id": 1,
            "kubeconfig": east.directory / "kubeconfig",
            "context": "admin",
            "clusters_file": others,
            "etcd_endpoints": (url,),
            "metrics_bind_address": f"127.0.0.1:{free_port()}",
            "global_services": "off",
        }
    )


def listed(file: Path, *servers: ApiServer) -> Path:
    entries = [
        {"name": "west", "id": 2, "kubeconfig": str(server.directory / "kubeconfig"), "context": "admin"}
        for server in servers
    ]
    file.write_text(json.dumps(entries))
    return file


def a_service(name: str = "web", **annotations: str) -> dict[str, object]:
    meta = {"name": name, "annotations": annotations or GLOBAL}
    return {"metadata": meta, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}


def a_slice(name: str, *addresses: str, of: str = "web", **labels: str) -> dict[str, object]:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": of, **labels}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "conditions": {"ready": True}, "nodeName": "n1"} for ip in addresses],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


async def make(client: KubeClient, resource: Resource, *objects: dict[str, object]) -> None:
    for obj in objects:
        await client.create(resource, obj, type=dict, namespace="default" if resource.namespaced else None)


async def stored(client: Client, key: bytes) -> bytes | None:
    pair = (await client.get(key))[1]
    return pair.value if pair is not None else None


async def until(condition) -> None:
    while not await condition():
        await asyncio.sleep(0.02)


async def test_services_of_two_clusters_reach_readers_over_a_restart_and_until_a_cluster_leaves(
    tmp_path, etcd, servers
):
    east, west = servers
    others = listed(tmp_path / "clusters.json", west)
    reader, store = Reader(etcd), Client([etcd])
    async with client_of(east) as near, client_of(west) as far:
        await make(near, SERVICES, a_service(), a_service("plain", other="x"))
        await make(near, ENDPOINT_SLICES, a_slice("web-a", "10.1.0.5"), a_slice("plain-a", "10.1.0.9", of="plain"))
        await make(far, SERVICES, a_service(**GLOBAL, **{"isthmus.dev/weight": "20"}))
        mirrored = {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.isthmus.dev"}
        source = {"multicluster.kubernetes.io/source-cluster": "east"}
        await make(
            far,
            ENDPOINT_SLICES,
            a_slice("web-a", "10.2.0.5"),
            a_slice("web-m", "10.1.0.5", **mirrored),
            a_slice("web-n", "10.1.0.5", **source),
        )
        async with running(reader.run()):
            async with running(serve(options(east, others, etcd), reread=0.05)):
                await reader.until(lambda consumer: consumer.synced == {"east", "west"})
                parts = reader.consumer.slices
                assert parts["east", "default", "web-a"].endpoints == (SharedEndpoint("10.1.0.5", node="n1"),)
                assert parts["west", "default", "web-a"].weight == 20
                assert set(parts) == {("east", "default", "web-a"), ("west", "default", "web-a")}, "nothing mirrored"
                assert reader.consumer.services == {}, "agents need the slices alone"

                key = kvstore.object_key(Kind.SERVICES, "east", ("default", "web"), cached=False)
                record = json.loads(await stored(store, key) or b"{}")
                assert record["backends"] == {"10.1.0.5": {"http": {"Protocol": "TCP", "Port": 8080}}}
                assert await stored(store, key.replace(b"/web", b"/plain")) is None

                # One backend more, one that is not ready, one Service that is not shared any more.
                await make(near, ENDPOINT_SLICES, a_slice("web-b", "10.1.0.6"))
                not_ready = {"addresses": ["10.1.0.7"], "conditions": {"ready": False}}
                await client_patch(near, "web-a", {"endpoints": [not_ready]})
                await reader.until(lambda consumer: consumer.backends == {"10.1.0.6", "10.1.0.7", "10.2.0.5"})
                assert not reader.consumer.slices["east", "default", "web-a"].endpoints[0].ready

                async def recorded() -> bool:
                    return json.loads(await stored(store, key) or b"{}").get("backends", {}).keys() == {"10.1.0.6"}

                await until(recorded)
                shut = {"metadata": {"annotations": {"service.cilium.io/shared": "false"}}}
                await far.patch(SERVICES, "web", shut, type=dict, namespace="default")
                await reader.until(lambda consumer: consumer.backends == {"10.1.0.6", "10.1.0.7"})
            # While no tracker runs, things change.
            opened = {"metadata": {"annotations": {"service.cilium.io/shared": "true"}}}
            await far.patch(SERVICES, "web", opened, type=dict, namespace="default")
            await near.delete(ENDPOINT_SLICES, "web-b", namespace="default")
            told = len(reader.events)
            async with running(serve(options(east, others, etcd), reread=0.05)):
                await reader.until(lambda consumer: consumer.backends == {"10.1.0.7", "10.2.0.5"})
                news = [event for event in reader.events[told:] if not isinstance(event, ClusterSynced | ClusterSeen)]
                assert sorted(type(event).__name__ for event in news) == ["SliceGone", "SliceTold"]

                await asyncio.to_thread(west.kill)
                await reader.until(lambda consumer: "west" in consumer.stale)
                assert "10.2.0.5" in reader.consumer.backends, "what cannot be reached is kept"
                listed(others)
                await reader.until(lambda consumer: consumer.synced == {"east"})
                assert reader.consumer.backends == {"10.1.0.7"}
                assert reader.consumer.stale == {}

                async def purged() -> bool:
                    pairs = [pair.key async for page in store.pages(kvstore.ROOT) for pair in page.pairs]
                    return not [key for key in pairs if b"west" in key]

                await until(purged)
    await store.close()
    assert reader.reports == []


async def client_patch(client: KubeClient, name: str, patch: dict[str, object]) -> None:
    await client.patch(ENDPOINT_SLICES, name, patch, type=dict, namespace="default")


async def test_exports_are_told_when_the_api_learns_of_them_and_taken_back_with_it(tmp_path, etcd, servers):
    east, _ = servers
    store = Client([etcd])
    key = kvstore.object_key(Kind.EXPORTS, "east", ("default", "web"), cached=False)
    async with client_of(east) as near:
        await make(near, SERVICES, a_service(other="x"))
        reader = Reader(etcd)
        async with running(serve(options(east, listed(tmp_path / "c.json"), etcd)), reader.run()):
            await reader.until(lambda consumer: consumer.synced == {"east"})
        for file in ("serviceexports.yaml", "serviceimports.yaml"):
            await make(near, DEFINITIONS, yaml.safe_load((CRDS / file).read_text()))

        async def made() -> bool:
            try:
                await make(near, SERVICE_EXPORTS, {"metadata": {"name": "web"}, "spec": {"exportedLabels": {"a": "b"}}})
            except Exception:  # not served yet
                return False
            return True

        await until(made)

        async def there() -> bool:
            return await stored(store, key) is not None

        async with running(serve(options(east, listed(tmp_path / "c.json"), etcd))):
            await until(there)
            found = kvstore.decode_export(key, await stored(store, key), place=("default", "web"), cluster="east")
            assert (found.type, found.labels, found.ports[0].port) == ("ClusterSetIP", {"a": "b"}, 80)
            await near.delete(SERVICE_EXPORTS, "web", namespace="default")

            async def gone() -> bool:
                return not await there()

            await until(gone)
    await store.close()


async def test_hostile_values_are_absent_and_reported_once_and_stop_nobody(etcd):
    store = Client([etcd])
    publisher, reader = Publisher(store, own="c1"), Reader(etcd)
    async with running(publisher.serve(), reader.run()):
        publisher.apply([*world(C1)[:-1], SliceTold(shared_slice(C1, 1)), SliceTold(shared_slice(C1, 2, name="web-2"))])
        publisher.apply([ClusterSynced("c1")])
        await reader.until(lambda consumer: consumer.backends == {"10.1.0.1", "10.1.0.2"})
        key = kvstore.object_key(Kind.SLICES, "c1", ("demo", "web-1"), cached=False)
        whole = await stored(store, key)
        foreign = kvstore.encode_slice(key, shared_slice(C2, 1), cluster_id=2)
        for bad in (whole[:-5], b"\x28\xb5\x2f\xfd" + b"\xff" * 40, b"", foreign, b"{}"):
            reports = len(reader.reports)
            await store.commit([Put(key, bad)])
            await reader.until(lambda consumer: consumer.backends == {"10.1.0.2"})
            assert len(reader.reports) == reports + 1
            await store.commit([Put(key, whole)])
            await reader.until(lambda consumer: consumer.backends == {"10.1.0.1", "10.1.0.2"})
        await store.commit([Put(b"cilium/state/endpointslices/v1/c1/no-name", b"x"), Put(kvstore.seen_key("c1"), b"!")])
        await until_reports(reader, 7)
    await store.close()


async def until_reports(reader: Reader, count: int) -> None:
    await eventually(lambda: len(reader.reports) == count)


async def test_a_member_that_writes_no_slices_is_read_by_its_service_records(etcd):
    store, reader = Client([etcd]), Reader(etcd)
    peer = Cluster("peer", 3)
    record = SharedService("peer", "demo", "web", cluster_ips=("10.9.0.1",))
    parts = [
        SharedSlice("peer", "demo", "a", "web", 4, (SharedEndpoint("10.3.0.1"),), (SharedPort("http", 6, 8080),)),
        SharedSlice("peer", "demo", "b", "web", 6, (SharedEndpoint("fd03::1"),), (SharedPort("http", 6, 8080),)),
    ]
    key = kvstore.object_key(Kind.SERVICES, "peer", ("demo", "web"), cached=True)
    stray = kvstore.object_key(Kind.SLICES, "peer", ("demo", "a"), cached=True)
    kinds = (Kind.NODES, Kind.IDENTITIES, Kind.ENDPOINTS, Kind.SERVICES)
    async with running(reader.run()):
        await store.commit(
            [
                Put(kvstore.HEARTBEAT, b"t"),
                Put(kvstore.config_key("peer"), kvstore.encode_membership(Membership(peer, cached=True))),
                Put(key, kvstore.encode_service(key, record, parts, cluster_id=3)),
                Put(stray, kvstore.encode_slice(stray, parts[0], cluster_id=3)),
                *(Put(kvstore.synced_key("peer", kind, cached=True), b"t") for kind in kinds),
            ]
        )
        await reader.until(lambda consumer: consumer.synced == {"peer"})
        assert {part.key: part.version for part in reader.consumer.slices.values()} == {
            ("demo", "web"): 4,
            ("demo", "web.ipv6-0"): 6,
        }
        await store.commit([Put(key, kvstore.encode_service(key, record, parts[:1], cluster_id=3))])
        await reader.until(lambda consumer: consumer.backends == {"10.3.0.1"})

        # It is upgraded, and writes slices from now on: those count, and the records no longer.
        upgraded = Membership(peer, cached=True, slices=True)
        await store.commit(
            [
                Put(kvstore.config_key("peer"), kvstore.encode_membership(upgraded)),
                Put(kvstore.synced_key("peer", Kind.SLICES, cached=True), b"t"),
            ]
        )
        await reader.until(lambda consumer: {part.name for part in consumer.slices.values()} == {"a"})
        await store.commit([Delete(stray)])
        await reader.until(lambda consumer: not consumer.slices)
    assert reader.reports == []
    await store.close()


async def test_what_is_written_of_a_service_is_taken_away_with_it(etcd):
    store = Client([etcd])
    publisher = Publisher(store, own="c1")
    told = [ServiceTold(service(C1)), SliceTold(shared_slice(C1, 1)), SliceTold(shared_slice(C2, 1))]
    async with running(publisher.serve()):
        publisher.apply([*world(C1)[:-1], *world(C2)[:-1], *told, ClusterSynced("c1"), ClusterSynced("c2")])
        await publisher.settled()
        assert await keys(store, b"services/", b"endpointslices/") == {
            "cilium/state/services/v1/c1/demo/web",
            "cilium/state/endpointslices/v1/c1/demo/web-1",
            "cilium/cache/endpointslices/v1/c2/demo/web-1",
        }, "records of whole services are for the readers of our own part alone"
    again = Publisher(store, own="c1")
    async with running(again.serve()):
        again.retain(["c1", "c2"])
        again.apply([*world(C1)[:-1], *world(C2), ServiceTold(service(C1, shared=False)), ClusterSynced("c1")])
        await again.settled()
        assert await keys(store, b"services/", b"endpointslices/") == set()
    await store.close()


async def keys(store: Client, *parts: bytes) -> set[str]:
    pairs = [pair.key async for page in store.pages(kvstore.ROOT) for pair in page.pairs]
    return {key.decode() for key in pairs if any(part in key for part in parts) and b"synced" not in key}
