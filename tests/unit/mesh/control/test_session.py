"""The way to the own API server: faults are said once and tried again, and new access is taken."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from isthmus.aio.backoff import Backoff
from isthmus.kube.access import Access
from isthmus.kube.errors import ConfigError
from isthmus.mesh.control.members import Members
from isthmus.mesh.control.session import OwnCluster
from isthmus.mesh.fleet import ClusterStatus
from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterSynced, MeshEvent

ONE, OTHER = Access("http://127.0.0.1:1"), Access("http://127.0.0.1:2")


class Writer:
    """Keeps what it was told and with whose client it served; fails when it is asked to."""

    def __init__(self) -> None:
        self.told: list[MeshEvent] = []
        self.servers: list[str] = []
        self.faults = 0
        self.began = asyncio.Event()

    def apply(self, events: Sequence[MeshEvent]) -> None:
        self.told += events

    async def serve(self, client: Any, _recorder: Any) -> None:
        self.servers.append(client.access.server)
        self.began.set()
        if self.faults:
            self.faults -= 1
            raise ValueError("a fault of ours")
        await asyncio.Event().wait()


@asynccontextmanager
async def serving(follower: OwnCluster) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(follower.serve())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def quick() -> Backoff:
    return Backoff(base=0.001, cap=0.002)


async def until(writer: Writer, count: int) -> None:
    while len(writer.servers) < count:
        writer.began.clear()
        await writer.began.wait()


async def test_a_fault_of_a_writer_is_tried_again_and_ends_neither_the_tracker_nor_another_writer() -> None:
    writer, well = Writer(), Writer()
    writer.faults = 3
    async with serving(OwnCluster(lambda: ONE, [writer, well], pause=quick)) as task:
        await until(writer, 4)
        assert not task.done()
        assert len(well.servers) == 1


async def test_a_kubeconfig_that_cannot_be_read_is_tried_again() -> None:
    writer, bad = Writer(), [1, 2, 3]

    def access() -> Access:
        if bad:
            bad.pop()
            raise ConfigError("no such file")
        return ONE

    follower = OwnCluster(access, [writer], pause=quick)
    follower.apply([ClusterSynced("c1")])
    assert writer.told == [ClusterSynced("c1")]
    async with serving(follower):
        await until(writer, 1)


async def test_another_access_starts_the_writers_again_and_a_bad_one_does_not() -> None:
    writer = Writer()
    said: list[Access | None] = [ONE, ONE, None, OTHER]

    def access() -> Access:
        found = said.pop(0) if len(said) > 1 else said[0]
        if found is None:
            raise ConfigError("half written")
        return found

    async with serving(OwnCluster(access, [writer], reread=0.001, pause=quick)):
        await until(writer, 2)
        assert writer.servers == [ONE.server, OTHER.server]


@pytest.mark.looptime
async def test_the_moment_of_a_sync_is_the_same_however_often_it_is_asked() -> None:
    loop = asyncio.get_running_loop()
    wall = 1000.0
    members = Members(loop_clock=loop.time, clock=lambda: wall)
    status = ClusterStatus(Cluster("c1", 1), "synced", "", 1, 2, 3, loop.time())
    (first,) = members.set_of([status], known=True, kept={}).members
    await asyncio.sleep(100)
    wall = 1100.7
    (second,) = members.set_of([status], known=True, kept={"c1": "x", "c2": "y"}).members
    assert first == second
    assert (first.state, first.synced) == ("Synced", 1000.0)
    assert members.set_of([status], known=True, kept={"c1": "x", "c2": "y"}).kept == {"c2": "y"}
