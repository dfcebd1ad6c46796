"""Following the Secret of peers: what is told of it, and that not knowing is not the same as having none."""

import asyncio
import base64
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from isthmus.mesh.clusters import ClusterSpec
from isthmus.mesh.membership import Membership, peer_entry
from isthmus.mesh.peers import PeersFollower
from isthmus.model.endpoint import Cluster
from tests.support.kubeserver import ScriptedServer, answer, bookmark, event, status

OWN = Cluster("koornacht", 1)
PLACE = "/api/v1/namespaces/kube-system/secrets"
ONE = f"{PLACE}/isthmus-clustermesh"


def secret(version: int, **entries: bytes) -> dict[str, Any]:
    return {
        "kind": "Secret",
        "apiVersion": "v1",
        "metadata": {"name": "isthmus-clustermesh", "namespace": "kube-system", "resourceVersion": str(version)},
        "data": {name: base64.b64encode(content).decode() for name, content in entries.items()},
    }


def tion(token: str = "t") -> bytes:
    return peer_entry(Cluster("tion", 2), server="https://10.0.0.2:6443", token=token, ca=None)


class Heard:
    """What a follower told, one by one."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Membership | None] = asyncio.Queue()

    async def next(self) -> list[str] | None:
        async with asyncio.timeout(5):
            membership = await self.queue.get()
        return None if membership is None else [peer.cluster.name for peer in membership.peers]


@asynccontextmanager
async def following(server: ScriptedServer) -> AsyncIterator[tuple[PeersFollower, Heard]]:
    heard = Heard()
    follower = PeersFollower(ClusterSpec(OWN, access=server.access), on_change=heard.queue.put_nowait)
    task = asyncio.create_task(follower.serve())
    try:
        yield follower, heard
    finally:
        server.release.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def watch(server: ScriptedServer, *lines: Any) -> Any:
    return server.stream(*lines, then="hang")


async def test_a_secret_that_is_not_there_means_no_peers_and_later_ones_are_heard_of() -> None:
    async with ScriptedServer() as server:
        server.scripts[ONE] = deque([answer(status(404, "NotFound"), status=404)])
        server.script.append(
            watch(
                server,
                bookmark(5, end=True),
                event("ADDED", secret(6, tion=tion())),
                event("MODIFIED", secret(7)),
                event("MODIFIED", secret(8, tion=tion(), koornacht=b"own")),
                event("DELETED", secret(9, tion=tion())),
            )
        )
        async with following(server) as (_, heard):
            assert [await heard.next() for _ in range(5)] == [[], ["tion"], [], ["tion"], []]
    assert server.queries()[1]["fieldSelector"] == "metadata.name=isthmus-clustermesh"


async def test_a_failing_api_server_tells_nothing() -> None:
    async with ScriptedServer() as server:
        server.script.append(answer(status(500, "InternalError"), status=500))
        server.script.append(answer(secret(5, tion=tion())))
        server.script.append(watch(server, event("ADDED", secret(5, tion=tion())), bookmark(5, end=True)))
        async with following(server) as (_, heard):
            assert await heard.next() == ["tion"]
            assert heard.queue.empty()


async def test_one_who_may_not_read_it_is_told_so() -> None:
    async with ScriptedServer() as server:
        server.script.append(answer(status(403, "Forbidden"), status=403))
        async with following(server) as (_, heard):
            assert await heard.next() is None


async def test_another_way_to_the_own_api_server_begins_again() -> None:
    async with ScriptedServer() as first, ScriptedServer() as second:
        for server, content in ((first, {}), (second, {"tion": tion()})):
            server.script.append(answer(secret(5, **content)))
            server.script.append(watch(server, event("ADDED", secret(5, **content)), bookmark(5, end=True)))
        async with following(first) as (follower, heard):
            assert await heard.next() == []
            follower.reach(ClusterSpec(OWN, access=first.access))
            assert heard.queue.empty()
            follower.reach(ClusterSpec(OWN, access=second.access))
            assert await heard.next() == ["tion"]
            first.release.set()
            second.release.set()


@pytest.mark.parametrize("content", [b"\xff", json.dumps({"name": 1}).encode()])
async def test_an_unreadable_entry_is_told_as_refused(content: bytes) -> None:
    async with ScriptedServer() as server:
        server.script.append(answer(secret(5, alderaan=content, tion=tion())))
        server.script.append(
            watch(server, event("ADDED", secret(5, alderaan=content, tion=tion())), bookmark(5, end=True))
        )
        async with following(server) as (_, heard):
            async with asyncio.timeout(5):
                membership = await heard.queue.get()
    assert membership is not None
    assert [peer.cluster.name for peer in membership.peers] == ["tion"]
    assert [item.name for item in membership.refused] == ["alderaan"]
