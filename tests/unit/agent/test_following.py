"""Kinds that come with definitions: what absent, forbidden, failing and gone each mean for what was told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from isthmus.agent.following import BLIND, FORBIDDEN, GONE, PATIENCE, SELDOM, Definitions, KindWatch
from isthmus.agent.inputs import OLD_CIDR_GROUPS
from isthmus.agent.policies.book import Unseen
from isthmus.kube.client import Client
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.resources import CILIUM_CIDR_GROUPS, CILIUM_NETWORK_POLICIES, CUSTOM_RESOURCE_DEFINITIONS
from isthmus.kube.schema import Bare, ObjectMeta
from tests.support.kubeserver import ScriptedServer, answer, bookmark, event, status

pytestmark = pytest.mark.looptime

DEFINITION = Bare(metadata=ObjectMeta(str(CILIUM_NETWORK_POLICIES)))
POLICY = {"kind": "CiliumNetworkPolicy", "apiVersion": "cilium.io/v2", "metadata": {"name": "p", "namespace": "x"}}
THERE = ("p",)


class Endless:
    """A script that answers each request of a path as `mode` says by then: an HTTP status, or 200 and a watch."""

    def __init__(self, server: ScriptedServer, mode: int, item: dict[str, object] = POLICY) -> None:
        self._server = server
        self.item = item
        self.mode = mode

    def popleft(self):
        return self._answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.mode != 200:
            return await answer(status(self.mode, "", "no"), status=self.mode)(request)
        if "watch" not in request.query:
            listing = {"kind": f"{self.item['kind']}List", "metadata": {"resourceVersion": "5"}, "items": []}
            return await answer(listing)(request)
        if "sendInitialEvents" not in request.query:
            return await self._server.stream(then="hang")(request)
        return await self._server.stream(event("ADDED", self.item), bookmark(5, end=True))(request)


class World:
    """A kind as a server has it, and what a watch of it told."""

    def __init__(self, server: ScriptedServer, client: Client, mode: int) -> None:
        self.script = Endless(server, mode)
        server.scripts[CILIUM_NETWORK_POLICIES.path()] = self.script
        self.server, self.client = server, client
        self.definitions = Definitions()
        self.told: list[tuple[str, ...]] = []
        self.unseen = False

    def take(self, change) -> None:
        if isinstance(change, Snapshot):
            self.told.append(tuple(one["metadata"]["name"] for one in change.objects))
            self.unseen = isinstance(change, Unseen)

    async def until(self, *told: tuple[str, ...]) -> float:
        """Waits until just this was told; returns the seconds that it took."""
        started = asyncio.get_running_loop().time()
        async with asyncio.timeout(600):
            while self.told != list(told):
                await asyncio.sleep(0.05)
        return asyncio.get_running_loop().time() - started


@contextlib.asynccontextmanager
async def watching(mode: int) -> AsyncIterator[World]:
    async with ScriptedServer() as server, Client(server.access) as client:
        world = World(server, client, mode)
        watch = KindWatch(client, world.definitions, CILIUM_NETWORK_POLICIES, sink=world.take)
        task = asyncio.create_task(watch.run())
        try:
            yield world
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_a_kind_that_is_not_installed_costs_no_request_and_is_followed_at_once_when_it_is():
    async with watching(404) as world:
        world.definitions.take(Snapshot(()))
        await world.until(())
        await asyncio.sleep(10 * SELDOM)
        assert world.server.requests == []

        world.script.mode = 200
        world.definitions.take(Put(DEFINITION))
        assert await world.until((), THERE) < 1


async def test_nothing_is_told_before_the_server_says_what_is_defined():
    async with watching(200) as world:
        await asyncio.sleep(1000)
        assert (world.told, world.server.requests) == ([], [])


async def test_a_kind_that_is_defined_and_not_served_yet_is_waited_for_a_little_and_not_for_ever():
    async with watching(404) as world:
        world.definitions.take(Snapshot((DEFINITION,)))
        assert await world.until(()) >= PATIENCE

        world.script.mode = 200
        await world.until((), THERE)


async def test_a_kind_that_is_served_a_moment_after_it_is_defined_was_never_absent():
    async with watching(404) as world:
        world.definitions.take(Snapshot((DEFINITION,)))
        await asyncio.sleep(PATIENCE / 4)
        world.script.mode = 200
        await world.until(THERE)


async def test_a_kind_that_is_not_ours_to_see_is_absent_said_once_and_tried_again():
    with capture_logs() as logs:
        async with watching(403) as world:
            world.definitions.take(Snapshot((DEFINITION,)))
            assert await world.until(()) < 1
            await asyncio.sleep(10 * SELDOM)
            assert len(world.server.requests) < 40

            world.script.mode = 200
            assert await world.until((), THERE) <= SELDOM + 1
    assert [log["event"] for log in logs].count(FORBIDDEN) == 1


@pytest.mark.parametrize(("mode", "defined"), [(403, True), (404, True), (404, False)])
async def test_only_a_kind_that_is_not_defined_is_known_to_have_no_objects(mode, defined):
    async with watching(mode) as world:
        world.definitions.take(Snapshot((DEFINITION,) if defined else ()))
        await world.until(())
        assert world.unseen is defined

        world.script.mode = 200
        world.definitions.take(Put(DEFINITION))
        await world.until((), THERE)
        assert not world.unseen


async def test_a_server_that_fails_says_nothing_about_what_there_is():
    async with watching(500) as world:
        world.definitions.take(Snapshot((DEFINITION,)))
        await asyncio.sleep(600)
        assert world.told == []

        world.script.mode = 200
        assert await world.until(THERE) < 15


@pytest.mark.parametrize("mode", [404, 403, 500])
async def test_what_was_told_stays_while_the_server_answers_otherwise_until_the_definition_is_gone(mode):
    with capture_logs() as logs:
        async with watching(200) as world:
            world.definitions.take(Snapshot((DEFINITION,)))
            await world.until(THERE)
            world.script.mode = mode
            world.server.release.set()
            await asyncio.sleep(1200)
            assert world.told == [THERE]

            world.definitions.take(Gone(DEFINITION))
            await world.until(THERE, ())
    assert [log["event"] for log in logs].count(GONE) == 1


async def test_where_definitions_may_not_be_watched_kinds_are_looked_for_and_never_taken_to_be_gone():
    with capture_logs() as logs:
        async with watching(404) as world:
            refused = Endless(world.server, 403)
            world.server.scripts[CUSTOM_RESOURCE_DEFINITIONS.path()] = refused
            following = asyncio.create_task(world.definitions.follow(world.client))
            assert await world.until(()) < 2
            world.script.mode = 200
            assert await world.until((), THERE) <= SELDOM + 1
            world.script.mode = 404
            world.server.release.set()
            await asyncio.sleep(1200)
            assert world.told == [(), THERE]
            following.cancel()
    assert [log["event"] for log in logs].count(BLIND) == 1


@pytest.mark.parametrize("mode", [404, 500, 503])
async def test_a_server_that_starts_is_not_believed_that_a_kind_is_absent_before_it_has_told_what_is_defined(mode):
    with capture_logs() as logs:
        async with watching(404) as world:
            starting = Endless(world.server, mode)
            world.server.scripts[CUSTOM_RESOURCE_DEFINITIONS.path()] = starting
            following = asyncio.create_task(world.definitions.follow(world.client))
            await asyncio.sleep(100)
            assert world.told == []

            world.script.mode = starting.mode = 200
            starting.item = {"kind": "CustomResourceDefinition", "metadata": {"name": str(CILIUM_NETWORK_POLICIES)}}
            assert await world.until(THERE) <= 11
            following.cancel()
    assert BLIND not in [log["event"] for log in logs]


async def test_an_older_version_of_a_kind_is_followed_where_the_newer_is_not_served():
    async with ScriptedServer() as server, Client(server.access) as client:
        definitions = Definitions()
        definitions.take(Snapshot((Bare(metadata=ObjectMeta(str(CILIUM_CIDR_GROUPS))),)))
        server.scripts[CILIUM_CIDR_GROUPS.path()] = Endless(server, 404)
        group = {"kind": "CiliumCIDRGroup", "apiVersion": "cilium.io/v2alpha1", "metadata": {"name": "g"}}
        server.scripts[OLD_CIDR_GROUPS.path()] = Endless(server, 200, group)
        told: asyncio.Queue[Snapshot] = asyncio.Queue()
        watch = KindWatch(client, definitions, CILIUM_CIDR_GROUPS, OLD_CIDR_GROUPS, sink=told.put_nowait)
        task = asyncio.create_task(watch.run())
        async with asyncio.timeout(60):
            assert await told.get() == Snapshot((group,))
        task.cancel()
