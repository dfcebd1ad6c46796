"""What an agent writes about itself, when, and what happens where it cannot."""

import asyncio
import contextlib
import json
from collections import deque
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from isthmus.agent.optional_watch import ABSENT, follow_if_there
from isthmus.agent.presence import (
    HEARTBEAT,
    NOT_WRITTEN,
    PAUSE,
    PROGRESS,
    START,
    WRITTEN,
    Counts,
    OtherCluster,
    Presence,
    State,
)
from isthmus.kube.client import Client
from isthmus.kube.meshobjects import MeshCluster, MeshNodeStatus, PoliciesOnNode, RecentPolicy
from isthmus.kube.reflector import Snapshot
from isthmus.kube.resources import MESH_CLUSTERS
from tests.support.kubeserver import ScriptedServer, answer, status

pytestmark = pytest.mark.looptime

PATH = "/apis/isthmus.dev/v1alpha1/meshnodes"
OBJECT = {"kind": "MeshNode", "apiVersion": "isthmus.dev/v1alpha1", "metadata": {"name": "n1"}}
EARLIER = {"heartbeat": "2027-01-15T07:59:00Z", "clusters": [{"name": "west", "unreachable": ["w1"]}]}
GONE = answer(status(404, "NotFound", 'meshnodes.isthmus.dev "n1" not found'), status=404)


async def ok(_request: web.Request) -> web.StreamResponse:
    return web.json_response(OBJECT)


class World:
    """An agent's state, and what the API server was sent."""

    def __init__(self) -> None:
        self.state = State(ready=True, services=1, clusters=(OtherCluster("west", ready=True),))
        self.endpoints = 7
        self.counted = 0
        self.recalled: list[MeshNodeStatus] = []
        self.presence: Presence
        self.server: ScriptedServer

    def counts(self) -> dict[str, Counts]:
        self.counted += 1
        return {"west": Counts(2, self.endpoints, 1)}

    def now(self) -> float:
        return 1_800_000_000 + asyncio.get_running_loop().time()

    def change(self, **fields: Any) -> None:
        self.state = State(**{**{name: getattr(self.state, name) for name in State.__struct_fields__}, **fields})
        self.presence.changed()

    @property
    def sent(self) -> list[tuple[str, str, Any]]:
        pairs = zip(self.server.requests, self.server.bodies, strict=True)
        return [(r.method, r.path.removeprefix(PATH), json.loads(body)) for r, body in pairs if r.method != "GET"]

    @property
    def last(self) -> Any:
        return self.sent[-1][2]["status"]


@contextlib.asynccontextmanager
async def telling(*script: Any):
    world = World()
    async with ScriptedServer() as server, Client(server.access) as client:
        server.script.extend(script)
        world.server = server
        world.presence = Presence(
            client,
            "n1",
            state=lambda: world.state,
            counts=world.counts,
            recall=world.recalled.append,
            now=world.now,
        )
        server.scripts[f"{PATH}/n1"] = deque([answer({**OBJECT, "status": EARLIER})] * 9)
        task = asyncio.create_task(world.presence.serve())
        try:
            yield world
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_the_object_is_made_if_it_is_not_there_and_belongs_to_the_node():
    async with telling(GONE, ok, ok) as world:
        world.presence.node_uid = "uid-n1"
        await asyncio.sleep(1)

    assert [(method, path) for method, path, _ in world.sent] == [
        ("PATCH", "/n1/status"),
        ("POST", ""),
        ("PATCH", "/n1/status"),
    ]
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-n1"}
    assert world.sent[1][2]["metadata"] == {"name": "n1", "ownerReferences": [owner]}
    said = world.last
    assert (said["ready"], said["connected"], said["globalServices"]) == (True, "1/1", 1)
    assert said["heartbeat"] == said["clusters"][0]["since"] == "2027-01-15T08:00:00Z"
    (west,) = said["clusters"]
    assert (west["name"], west["nodes"], west["endpoints"], west["health"]) == ("west", 2, 7, "Unwatched")


async def test_what_an_earlier_run_said_is_read_once_before_it_is_overwritten():
    async with telling(ok, ok) as world:
        await asyncio.sleep(1)
        world.change(services=5)
        await asyncio.sleep(10)
    assert [request.method for request in world.server.requests] == ["GET", "PATCH", "PATCH"]
    (status_,) = world.recalled
    assert status_.clusters[0].unreachable == ("w1",)


@pytest.mark.parametrize("unreadable", [answer(status(403, "Forbidden"), status=403), answer(b"nonsense")])
async def test_what_an_earlier_run_said_hinders_nothing_where_it_cannot_be_read(unreadable):
    async with telling(ok) as world:
        world.server.scripts[f"{PATH}/n1"] = deque([unreadable])
        await asyncio.sleep(1)
    assert [request.method for request in world.server.requests] == ["GET", "PATCH"]
    assert world.recalled == []


async def test_changes_are_written_together_and_a_heartbeat_comes_by_itself():
    async with telling(*[ok] * 10) as world:
        await asyncio.sleep(0.5)
        for number in range(50):
            world.change(services=number)
            await asyncio.sleep(0.02)
        await asyncio.sleep(2 * PAUSE)
        assert len(world.sent) == 2
        assert world.last["globalServices"] == 49

        await asyncio.sleep(HEARTBEAT + 1)
        assert len(world.sent) == 3
        world.change(services=1)
        await asyncio.sleep(0.5)
        assert world.last["globalServices"] == 1


async def test_what_merely_counts_waits_for_the_next_write():
    async with telling(*[ok] * 10) as world:
        await asyncio.sleep(5)
        world.endpoints = 100
        world.presence.changed()
        await asyncio.sleep(20)
        assert len(world.sent) == 1 and world.counted == 1
        await asyncio.sleep(HEARTBEAT)
        assert world.last["clusters"][0]["endpoints"] == 100


async def test_since_is_when_the_health_became_what_it_is():
    async with telling(*[ok] * 10) as world:
        await asyncio.sleep(10)
        world.change(clusters=(OtherCluster("west", ready=True, health="Unreachable", unreachable=("w1",)),))
        await asyncio.sleep(1)
        since = world.last["clusters"][0]["since"]
        assert since.startswith("2027-01-15T08:00:1")
        world.change(clusters=(OtherCluster("west", ready=False, health="Unreachable", unreachable=("w1", "w2")),))
        await asyncio.sleep(10)
        (west,) = world.last["clusters"]
        assert (west["since"], west["unreachable"], world.last["connected"]) == (since, ["w1", "w2"], "0/1")


@pytest.mark.parametrize("code", [404, 403, 500])
async def test_what_cannot_be_written_is_said_once_tried_slowly_and_written_when_it_can_be(code):
    refusal = answer(status(code, "", "no"), status=code)
    with capture_logs() as logs:
        async with telling(*[refusal] * 99) as world:
            await asyncio.sleep(300)
            tries = len(world.sent)
            assert 5 <= tries <= 48
            world.server.script.clear()
            world.server.script.extend([ok] * 5)
            await asyncio.sleep(70)
            assert world.last["ready"]
    assert [log["event"] for log in logs] == [NOT_WRITTEN, WRITTEN]


# -- policies ------------------------------------------------------------------------------------------------------


def _policies(version: str, **fields: Any) -> PoliciesOnNode:
    return PoliciesOnNode(**{"total": 1, "watermarks": {"NetworkPolicy": version}, "since": "x", **fields})


async def test_what_became_of_policies_is_written_soon_and_how_far_they_are_taken_in_a_little_later():
    async with telling(*[ok] * 9) as world:
        await asyncio.sleep(1)
        world.change(policies=_policies("5"))
        await asyncio.sleep(PAUSE)
        assert world.last["policies"]["watermarks"]["NetworkPolicy"] == "5"
        before = len(world.sent)

        world.change(policies=_policies("6"))
        await asyncio.sleep(PROGRESS - PAUSE)
        assert len(world.sent) == before
        await asyncio.sleep(PAUSE)
        assert world.last["policies"]["watermarks"]["NetworkPolicy"] == "6"

        world.change(policies=_policies("7", recent=(RecentPolicy("NetworkPolicy", "x", "p", 2, "y"),)))
        await asyncio.sleep(PAUSE)
        assert world.last["policies"]["recent"][0]["generation"] == 2
        assert world.last["policies"]["watermarks"]["NetworkPolicy"] == "7"


async def test_the_watermark_of_a_kind_that_is_gone_is_taken_out():
    async with telling(*[ok] * 9) as world:
        world.change(policies=_policies("5"))
        await asyncio.sleep(5)
        world.change(policies=_policies("5", watermarks={}))
        await asyncio.sleep(PROGRESS + PAUSE)

        assert world.last["policies"]["watermarks"]["NetworkPolicy"] is None


async def test_what_an_earlier_run_said_stays_until_there_is_a_ruleset():
    async with telling(*[ok] * 3) as world:
        world.state = State(ready=False, reason="pods")
        await asyncio.sleep(0)
        world.presence.changed()
        await asyncio.sleep(START - 1)
        assert world.sent == []
        world.change(ready=True, policies=PoliciesOnNode(watermarks={"NetworkPolicy": "7"}))
        await asyncio.sleep(0.5)
        assert [said["status"]["ready"] for _, _, said in world.sent] == [True]


async def test_an_agent_that_does_not_come_to_a_ruleset_says_why():
    async with telling(*[ok] * 3) as world:
        world.state = State(ready=False, reason="pods")
        await asyncio.sleep(START + 0.5)
        assert (world.last["ready"], world.last["reason"], world.last["policies"]) == (False, "pods", None)
        world.change(reason="nodes")
        await asyncio.sleep(PAUSE)
        assert world.last["reason"] == "nodes"


async def test_before_the_first_ruleset_nothing_is_said_of_policies():
    async with telling(ok) as world:
        await asyncio.sleep(1)
    assert world.last["policies"] is None


# -- kinds that may not be there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [404, 403])
async def test_a_kind_that_is_not_there_is_followed_once_it_is_and_is_silent_until_then(code):
    listing = {"kind": "MeshClusterList", "apiVersion": "isthmus.dev/v1alpha1", "metadata": {"resourceVersion": "5"}}
    missing = answer(status(code, "", "no"), status=code)
    with capture_logs() as logs:
        async with ScriptedServer() as server, Client(server.access) as client:
            page = answer({**listing, "items": [{"metadata": {"name": "west"}}]})
            unsupported = answer(status(400, "BadRequest", "sendInitialEvents is forbidden"), status=400)
            server.script.extend([missing, missing, missing, answer({**listing, "items": []}), unsupported, page])
            told: list[int] = []
            changes = follow_if_there(client, MESH_CLUSTERS, MeshCluster, on_absent=lambda: told.append(1))
            async with asyncio.timeout(300):
                found = await anext(changes)
            await changes.aclose()

    assert len(told) == 3, "each time"
    assert isinstance(found, Snapshot) and [cluster.metadata.name for cluster in found.objects] == ["west"]
    assert len([log for log in logs if log["log_level"] != "info"]) == 0
    assert (code == 404) == (ABSENT in [log["event"] for log in logs])
