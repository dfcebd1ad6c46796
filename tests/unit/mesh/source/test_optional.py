"""Kinds that a server may have in one of several versions, or keep from us; virtual time."""

from collections import deque
from contextlib import aclosing
from typing import Any

import pytest
import structlog
from aiohttp import web

from isthmus.kube.client import Client
from isthmus.kube.errors import KubeError
from isthmus.kube.reflector import Degraded, Snapshot
from isthmus.kube.resources import Resource
from isthmus.mesh.source.optional import FORBIDDEN, Served, follow_optional
from tests.support.kubeserver import Answer, ScriptedServer, answer, event, status

pytestmark = pytest.mark.looptime

NEW, OLD = (Resource("x.example", version, "things", "Thing", namespaced=False) for version in ("v2", "v1"))
ABSENT = answer(status(404, "NotFound"), status=404)
REFUSED = answer(status(403, "Forbidden"), status=403)
AWAY = answer(status(503, "ServiceUnavailable"), status=503)
SOME = answer({"items": []})


def initial(server: ScriptedServer, *names: str, then: str = "hang") -> Answer:
    meta = {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}
    things = [{"kind": "Thing", "metadata": {"name": name, "resourceVersion": "5"}} for name in names]
    return server.stream(
        *(event("ADDED", thing) for thing in things), event("BOOKMARK", {"kind": "Thing", "metadata": meta}), then=then
    )


def names(change: object) -> list[Any]:
    assert isinstance(change, Snapshot)
    return [obj["metadata"]["name"] for obj in change.objects]


async def test_the_best_version_that_is_served_is_found() -> None:
    async with ScriptedServer() as server, Client(server.access) as client:
        find = Served(client, NEW, OLD)
        server.scripts = {NEW.path(): deque([ABSENT, SOME, ABSENT]), OLD.path(): deque([SOME, ABSENT])}
        assert [await find(), await find(), await find()] == [OLD, NEW, None]
        assert [dict(request.query) for request in server.requests] == [{"limit": "1"}] * 5


async def test_a_kind_without_objects_need_not_be_watched() -> None:
    one = answer({"items": [{"kind": "Thing"}]})
    async with ScriptedServer() as server, Client(server.access) as client:
        find = Served(client, NEW, OLD, populated=True)
        server.scripts = {NEW.path(): deque([SOME, SOME, one, SOME]), OLD.path(): deque([ABSENT, ABSENT])}
        assert [await find(), await find()] == [None, None]
        assert [await find(), await find()] == [NEW, NEW], "what is watched stays so when it is empty again"


async def test_an_answer_that_cannot_be_read_is_left_to_whoever_follows() -> None:
    async with ScriptedServer() as server, Client(server.access) as client:
        server.scripts = {NEW.path(): deque([answer(b"[")])}
        assert await Served(client, NEW, populated=True)() == NEW


async def test_who_may_not_look_finds_nothing_and_hears_it_once() -> None:
    async with ScriptedServer() as server, Client(server.access) as client:
        find = Served(client, NEW, OLD)
        server.scripts = {NEW.path(): deque([REFUSED] * 3), OLD.path(): deque([ABSENT] * 3)}
        with structlog.testing.capture_logs() as logs:
            assert [await find() for _ in range(3)] == [None] * 3
        assert [entry["event"] for entry in logs] == [FORBIDDEN]


async def test_to_lose_a_permission_takes_nothing_back() -> None:
    async with ScriptedServer() as server, Client(server.access) as client:
        states: list[object] = []
        again = initial(server, "b")
        item = {"metadata": {"name": "b", "resourceVersion": "5"}}
        listed = answer({"metadata": {"resourceVersion": "8"}, "items": [item]})

        async def served(request: web.Request) -> web.StreamResponse:
            return await (again if "watch" in request.query else listed)(request)

        server.scripts[NEW.path()] = deque([SOME, initial(server, "a", then="cut"), *[REFUSED] * 20, *[served] * 100])
        changes = follow_optional(client, Served(client, NEW), dict, again=0.5, on_state=states.append)
        async with aclosing(changes):
            assert names(await anext(changes)) == ["a"]
            assert names(await anext(changes)) == ["b"], "a server that refuses is not one without any"
        assert any(isinstance(state, Degraded) for state in states)
        server.release.set()


async def test_a_server_that_cannot_be_asked_is_not_one_without_the_kind() -> None:
    async with ScriptedServer() as server, Client(server.access) as client:
        server.scripts[NEW.path()] = deque([AWAY])
        with pytest.raises(KubeError):
            await Served(client, NEW)()
