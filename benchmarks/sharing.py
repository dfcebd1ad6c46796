"""Services of other clusters: what a change of one backend costs on its way, and a first synchronisation.

Beside the slices that our readers read stands the record of the whole service, which is what readers of format v1 get
for the same change. Goal: what a change costs does not grow with the service.
"""

import asyncio
import shutil
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.table import Table, quantile
from isthmus.kube.schema import EndpointConditions, EndpointOfSlice, EndpointPort, EndpointSlice, ObjectMeta
from isthmus.mesh.source.slices import slice_of
from isthmus.mesh.storing.publisher import RECORDS_PAUSE, RECORDS_RATE, Publisher
from isthmus.mesh.storing.reader import follow
from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterJoined, ClusterSynced, MeshEvent, ServiceTold, SliceTold
from isthmus.model.sharing import ServicePort, SharedService, SharedSlice
from isthmus.store.client import Client
from isthmus.store.contract import Arrived, KeyValue
from isthmus.wire import kvstore
from tests.support.etcd import running_etcd

SIZES = (10, 1_000, 5_000)  # backends of the service
PER_SLICE = 100  # as Kubernetes makes them
CLUSTER = Cluster("far", 1)
PORTS = 2
NODES = 50
KEY = b"cilium/benchmark"
_T = TypeVar("_T")

_WORK = (
    "`taken in` is from the object of the API server to the fact that is told; `encoded` is the tracker's work, "
    "`decoded` that of each reader. Records of whole services are made twice a second at most."
)
_THROUGH_ETCD = (
    "Publisher and reader share one process, and its CPU with the counting of bytes; one change at a time. A reader of "
    "everything gets slices and whole services; changes come here as slowly as records of services are made."
)


def run(*, quick: bool) -> Iterator[Table]:
    """Yields the tables one by one as they are measured."""
    sizes = SIZES[:2] if quick else SIZES
    yield _work(sizes, rounds=20 if quick else 100)
    yield asyncio.run(_changes(sizes, rounds=10 if quick else 40))
    yield asyncio.run(_first(100 if quick else 1_000))


# -- a service of some size ------------------------------------------------------------------------------------


def _endpoints(count: int, *, first: int = 0) -> tuple[EndpointOfSlice, ...]:
    return tuple(
        EndpointOfSlice(
            (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",),
            EndpointConditions(True, True, False),
            f"node-{n % NODES}",
            f"zone-{n % 3}",
        )
        for n in range(first + 256, first + 256 + count)
    )


def _object(service: int, part: int, count: int) -> EndpointSlice:
    name = f"service-{service}"
    meta = ObjectMeta(f"{name}-{part:05}", "default", labels={"kubernetes.io/service-name": name})
    ports = tuple(EndpointPort(f"port-{n}", "TCP", 8000 + n) for n in range(PORTS))
    endpoints = _endpoints(count, first=service * 16 + part * PER_SLICE)
    return EndpointSlice(metadata=meta, addressType="IPv4", endpoints=endpoints, ports=ports)


def _service(number: int) -> SharedService:
    ports = tuple(ServicePort(f"port-{n}", 6, 80 + n) for n in range(PORTS))
    ip = f"172.20.{number >> 8}.{number & 255}"
    return SharedService(CLUSTER.name, "default", f"service-{number}", cluster_ips=(ip,), ports=ports)


def _parts(backends: int, *, service: int = 0) -> list[EndpointSlice]:
    sizes = [min(PER_SLICE, backends - start) for start in range(0, backends, PER_SLICE)]
    return [_object(service, part, size) for part, size in enumerate(sizes)]


def _told(obj: EndpointSlice) -> SharedSlice:
    found, problems = slice_of(obj, cluster=CLUSTER.name)
    assert found is not None and not problems
    return found


def _flipped(obj: EndpointSlice, number: int) -> EndpointSlice:
    """Returns a slice of which another endpoint is not ready."""
    endpoints = list(obj.endpoints or ())
    at = number % len(endpoints)
    endpoints[at] = msgspec.structs.replace(endpoints[at], conditions=EndpointConditions(False, False, False))
    return msgspec.structs.replace(obj, endpoints=tuple(endpoints))


# -- what a change costs ---------------------------------------------------------------------------------------


def _work(sizes: tuple[int, ...], *, rounds: int) -> Table:
    table = Table(
        "A change of one backend: work, without a network",
        ("backends", "format", "bytes of the value", "taken in ms", "encoded ms", "decoded ms"),
        notes=[_WORK],
    )
    for size in sizes:
        for row in _costs(size, rounds):
            table.add(size, *row)
    return table


def _costs(size: int, rounds: int) -> Iterator[tuple[object, ...]]:
    objects = _parts(size)
    parts = [_told(obj) for obj in objects]
    changed = [_flipped(objects[0], number) for number in range(rounds)]
    facts = [_told(obj) for obj in changed]
    taken = _timed(_told, changed)

    def encode(fact: SharedSlice) -> bytes:
        return kvstore.encode_slice(KEY, fact, cluster_id=CLUSTER.id)

    def decode(value: bytes) -> object:
        return kvstore.decode_slice(KEY, value, place=parts[0].key, cluster=CLUSTER.name, cluster_id=CLUSTER.id)

    values = [encode(fact) for fact in facts]
    yield "slice (v2)", _median(values), taken, _timed(encode, facts), _timed(decode, values)

    service, few = _service(0), facts[: max(2, rounds // 10)]

    def encode_whole(fact: SharedSlice) -> bytes:
        return kvstore.encode_service(KEY, service, [fact, *parts[1:]], cluster_id=CLUSTER.id)

    def decode_whole(value: bytes) -> object:
        return kvstore.decode_service(KEY, value, place=service.key, cluster=CLUSTER.name, cluster_id=CLUSTER.id)

    records = [encode_whole(fact) for fact in few]
    yield "whole service (v1)", _median(records), taken, _timed(encode_whole, few), _timed(decode_whole, records)


def _median(values: Sequence[bytes]) -> int:
    return int(statistics.median(map(len, values)))


def _timed(work: Callable[[_T], object], inputs: Sequence[_T]) -> float:
    """Returns milliseconds that `work` takes for one of `inputs`: the best of three rounds."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        for one in inputs:
            work(one)
        best = min(best, time.perf_counter() - began)
    return best / len(inputs) * 1e3


# -- with an etcd ----------------------------------------------------------------------------------------------


class _Reader:
    """Reads as an agent does, and says when something came."""

    def __init__(self, url: str) -> None:
        self._client = Client([url])
        self._arrived: asyncio.Queue[MeshEvent] = asyncio.Queue()
        self.slices = 0

    async def run(self) -> None:
        async for events in follow(self._client):
            for event in events:
                self.slices += isinstance(event, SliceTold)
                if isinstance(event, SliceTold | ClusterSynced):
                    self._arrived.put_nowait(event)

    async def until(self, wanted: MeshEvent) -> None:
        while await self._arrived.get() != wanted:
            pass


@asynccontextmanager
async def _running(*works):
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def _etcd():
    directory = Path(tempfile.mkdtemp(prefix="isthmus-benchmark-"))
    try:
        with running_etcd(directory) as url:
            client = Client([url])
            while True:
                try:
                    await client.status()
                    break
                except Exception:
                    await asyncio.sleep(0.05)
            try:
                yield url, client
            finally:
                await client.close()
    finally:
        shutil.rmtree(directory)


async def _traffic(client: Client, until: bytes, counted: list[int]) -> None:
    """Counts the bytes of keys and values that a watch of the whole root, or of a part of it, is sent."""
    start = (await client.status()).header.revision + 1
    async for answer in client.watch(kvstore.ROOT, until=until, start_revision=start):
        if isinstance(answer, Arrived):
            pairs = [event for event in answer.events if isinstance(event, KeyValue) and event.key != kvstore.HEARTBEAT]
            counted[0] += sum(len(pair.key) + len(pair.value) for pair in pairs)


async def _changes(sizes: tuple[int, ...], *, rounds: int) -> Table:
    table = Table(
        "A change of one backend: told to the tracker -> read by an agent, through etcd",
        ("backends", "p50 ms", "p99 ms", "bytes to each of our readers", "bytes to a reader of everything"),
        notes=[_THROUGH_ETCD],
    )
    for size in sizes:
        async with _etcd() as (url, client):
            publisher, reader = Publisher(client, own=CLUSTER.name), _Reader(url)
            objects = _parts(size)
            told = [SliceTold(_told(obj)) for obj in objects]
            near, everything = [0], [0]
            async with _running(publisher.serve(), reader.run()):
                publisher.apply([ClusterJoined(CLUSTER), ServiceTold(_service(0)), *told, ClusterSynced(CLUSTER.name)])
                await publisher.settled()
                await reader.until(ClusterSynced(CLUSTER.name))
                async with _running(_traffic(client, kvstore.FOR_OTHERS, near), _traffic(client, b"", everything)):
                    await asyncio.sleep(1.0)
                    times = []
                    for number in range(rounds):
                        event = SliceTold(_told(_flipped(objects[0], number)))
                        began = time.perf_counter()
                        publisher.apply([event])
                        await reader.until(event)
                        times.append(time.perf_counter() - began)
                        await asyncio.sleep(1.1 * max(RECORDS_PAUSE, size * 143 / RECORDS_RATE))
            table.add(
                size,
                quantile(times, 0.5) * 1e3,
                quantile(times, 0.99) * 1e3,
                near[0] // rounds,
                everything[0] // rounds,
            )
    return table


async def _first(services: int) -> Table:
    table = Table(
        "First synchronisation: services with 10 backends each",
        (
            "services",
            "slices",
            "published s",
            "MB in etcd for our readers",
            "read s",
            "CPU s of the reader",
            "MiB kept",
        ),
        notes=["`MiB kept` is what the reader and a consumer hold of the slices, as Python counts it."],
    )
    async with _etcd() as (url, client):
        publisher = Publisher(client, own=CLUSTER.name)
        told: list[MeshEvent] = [ClusterJoined(CLUSTER)]
        for number in range(services):
            told += [ServiceTold(_service(number)), *(SliceTold(_told(o)) for o in _parts(10, service=number))]
        async with _running(publisher.serve()):
            began = time.perf_counter()
            publisher.apply([*told, ClusterSynced(CLUSTER.name)])
            await publisher.settled()
            published = time.perf_counter() - began
        size = 0
        pairs: list[KeyValue] = []
        async for page in client.pages(kvstore.ROOT, until=kvstore.FOR_OTHERS):
            size += sum(len(pair.key) + len(pair.value) for pair in page.pairs)
            pairs += [pair for pair in page.pairs if b"/endpointslices/" in pair.key]
        reader = _Reader(url)
        began, work = time.perf_counter(), time.process_time()
        async with _running(reader.run()):
            await reader.until(ClusterSynced(CLUSTER.name))
            took, work = time.perf_counter() - began, time.process_time() - work
        assert reader.slices == services
        table.add(services, len(pairs), published, size / 1e6, took, work, _kept(pairs))
    return table


def _kept(pairs: list[KeyValue]) -> float:
    """Returns the MiB of all slices when they have been decoded."""
    tracemalloc.start()
    try:
        kept = []
        for pair in pairs:
            key = kvstore.parse_key(pair.key)
            assert isinstance(key, kvstore.DataKey)
            kept.append(
                kvstore.decode_slice(pair.key, pair.value, place=key.place, cluster=CLUSTER.name, cluster_id=CLUSTER.id)
            )
        return tracemalloc.get_traced_memory()[0] / (1 << 20)
    finally:
        tracemalloc.stop()
