"""The lab's API server as a process of its own: writes a second, watch fan-out, big lists, memory.

Clients are processes of their own too, over TLS on the loopback, as in a lab; on a machine of two CPUs they take about
one of them. Every write is on the disk when it is answered.
"""

import asyncio
import itertools
import json
import multiprocessing
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.table import Table, quantile
from tests.support.apiserver import TOKEN, ApiServer, running_apiserver

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
PODS = "/api/v1/namespaces/default/pods"
WATCHERS = 50
LISTED = 5_000

Work = Callable[[aiohttp.ClientSession, int], Awaitable[None]]


def run(*, quick: bool) -> Iterable[Table]:
    seconds = 1.0 if quick else 5.0
    with (
        tempfile.TemporaryDirectory(prefix="isthmus-bench-") as directory,
        running_apiserver(Path(directory)) as server,
    ):
        empty = memory(server)
        yield asyncio.run(_writes(server, seconds))
        yield asyncio.run(_fan_out(server, 100 if quick else 1000))
    count = 500 if quick else LISTED
    with (
        tempfile.TemporaryDirectory(prefix="isthmus-bench-") as directory,
        running_apiserver(Path(directory)) as server,
    ):
        yield from asyncio.run(_lists(server, count, empty))


def pod(name: str) -> dict[str, Any]:
    ports = [{"containerPort": 80}]
    probe = {"httpGet": {"path": "/", "port": 80}}
    container = {"name": "web", "image": "nginx:1.27", "ports": ports, "readinessProbe": probe}
    return {"metadata": {"name": name, "labels": {"app": "web", "n": name}}, "spec": {"containers": [container]}}


def memory(server: ApiServer) -> float:
    """Returns the resident memory in MiB."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def session(server: ApiServer) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(ssl=server.tls(), limit=0)
    return aiohttp.ClientSession(server.url, connector=connector, headers=HEADERS)


async def send(
    client: aiohttp.ClientSession, method: str, path: str, body: object, kind: str = "application/json"
) -> bytes:
    async with client.request(method, path, data=json.dumps(body), headers={"Content-Type": kind}) as answer:
        text = await answer.read()
        assert answer.status < 300, text
        return text


async def _writes(server: ApiServer, seconds: float) -> Table:
    table = Table("Writes a second, each on the disk", ["clients", "create", "update", "patch", "p50 ms", "p99 ms"])
    names = itertools.count()

    async def create(client: aiohttp.ClientSession, worker: int) -> None:
        await send(client, "POST", PODS, pod(f"c{next(names)}"))

    async def update(client: aiohttp.ClientSession, worker: int) -> None:
        held = current[worker]
        held["metadata"]["labels"]["n"] = str(next(names))
        current[worker] = json.loads(await send(client, "PUT", f"{PODS}/u{worker}", held))

    async def patch(client: aiohttp.ClientSession, worker: int) -> None:
        change = {"metadata": {"labels": {"n": str(next(names))}}}
        kind = "application/strategic-merge-patch+json"
        await send(client, "PATCH", f"{PODS}/q{worker}", change, kind)

    current: dict[int, Any] = {}
    async with session(server) as client:
        for worker in range(8):
            current[worker] = json.loads(await send(client, "POST", PODS, pod(f"u{worker}")))
            await send(client, "POST", PODS, pod(f"q{worker}"))
        for clients in (1, 8):
            rates, times = [], []
            for work in (create, update, patch):
                rate, taken = await _rate(client, work, clients, seconds)
                rates.append(rate)
                times += taken
            table.add(clients, *rates, quantile(times, 0.5) * 1000, quantile(times, 0.99) * 1000)
    return table


async def _rate(client: aiohttp.ClientSession, work: Work, clients: int, seconds: float) -> tuple[float, list[float]]:
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def loop(worker: int) -> None:
        while (began := time.perf_counter()) < end:
            await work(client, worker)
            times.append(time.perf_counter() - began)

    await asyncio.gather(*(loop(worker) for worker in range(clients)))
    return len(times) / seconds, times


async def _fan_out(server: ApiServer, changes: int) -> Table:
    table = Table(
        "Watch fan-out", ["watchers", "events each", "events/s in all", "last event behind the last write ms"]
    )
    async with session(server) as client:
        await send(client, "POST", PODS, pod("fan"))
        for watchers in (1, WATCHERS):
            context = multiprocessing.get_context("spawn")
            here, there = context.Pipe()
            arguments = (there, server.port, str(server.directory / "ca.crt"), watchers, changes)
            process = context.Process(target=_watch, args=arguments, daemon=True)
            process.start()
            assert await asyncio.to_thread(here.recv) == "watching"
            began = time.monotonic()

            async def write(numbers: Iterable[int]) -> None:
                for number in numbers:
                    change = {"metadata": {"labels": {"n": str(number)}}}
                    await send(client, "PATCH", f"{PODS}/fan", change, "application/merge-patch+json")

            shared = iter(range(changes))
            await asyncio.gather(*(write(shared) for _ in range(8)))
            written = time.monotonic()
            ended = await asyncio.to_thread(here.recv)
            process.join()
            table.add(watchers, changes, watchers * changes / (ended - began), max(ended - written, 0.0) * 1000)
    table.notes.append(
        "Eight clients patch one pod; every watcher sees every change, over a TLS connection of its own."
    )
    return table


def _watch(pipe: Connection, port: int, ca: str, watchers: int, changes: int) -> None:
    asyncio.run(_watching(pipe, port, ssl.create_default_context(cafile=ca), watchers, changes))


async def _watching(pipe: Connection, port: int, tls: ssl.SSLContext, watchers: int, changes: int) -> None:
    async def begin() -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, limit=1 << 22)
        path = f"{PODS}?watch=1&fieldSelector=metadata.name%3Dfan"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        await writer.drain()
        await reader.readuntil(b'"type":"ADDED"')
        held.append(writer)  # or the connection is closed with the last reference to it
        return reader

    async def count(reader: asyncio.StreamReader) -> None:
        seen, rest = 0, b""
        while seen < changes:
            piece = await reader.read(1 << 18)
            assert piece, "the server ended a watch"
            data = rest + piece
            seen += data.count(b'"MODIFIED"')
            rest = data[-9:] if data[-10:] != b'"MODIFIED"' else b""

    held: list[asyncio.StreamWriter] = []
    readers = [await begin() for _ in range(watchers)]
    pipe.send("watching")
    await asyncio.gather(*(count(reader) for reader in readers))
    pipe.send(time.monotonic())


async def _lists(server: ApiServer, count: int, empty: float) -> list[Table]:
    table = Table(f"Lists of {count:,} pods", ["form", "MiB", "p50 ms", "pods/s"])
    async with session(server) as client:
        shared = iter(range(count))

        async def create() -> None:
            for number in shared:
                await send(client, "POST", PODS, pod(f"p{number}"))

        await asyncio.gather(*(create() for _ in range(16)))
        full = memory(server)
        forms = {
            "JSON": ("", "application/json"),
            "Table": ("", "application/json;as=Table;v=v1;g=meta.k8s.io"),
            "metadata": ("", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
            "JSON, pages of 500": ("500", "application/json"),
            "JSON, one label": ("label", "application/json"),
        }
        for form, (how, accept) in forms.items():
            times, size = [], 0
            for _ in range(3):
                began = time.perf_counter()
                size = await _list(client, how, accept)
                times.append(time.perf_counter() - began)
            middle = quantile(times, 0.5)
            table.add(form, size / 1024 / 1024, middle * 1000, count / middle)
        listed = memory(server)
    held = Table("Memory of the server, in MiB (resident)", ["state", "MiB"])
    for state, amount in (("empty", empty), (f"{count:,} pods", full), ("after the lists above", listed)):
        held.add(state, amount)
    return [table, held]


async def _list(client: aiohttp.ClientSession, how: str, accept: str) -> int:
    size, token = 0, ""
    query = {"limit": how} if how.isdecimal() else {"labelSelector": "n=p7"} if how else {}
    while True:
        more = {**query, "continue": token} if token else query
        async with client.get(PODS, params=more, headers={"Accept": accept}) as answer:
            text = await answer.read()
            assert answer.status == 200, text[:500]
        size += len(text)
        token = json.loads(text)["metadata"].get("continue", "") if how.isdecimal() else ""
        if not token:
            return size
