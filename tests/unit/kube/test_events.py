import asyncio
import contextlib
import datetime
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from isthmus.kube.client import Client
from isthmus.kube.events import BURST, QUEUE_SIZE, WINDOW, EventRecorder
from isthmus.kube.schema import ObjectReference
from tests.support.kubeserver import ScriptedServer, answer, status

pytestmark = pytest.mark.looptime

POLICY = ObjectReference(
    kind="NetworkPolicy", namespace="demo", name="deny", uid="u1", apiVersion="networking.k8s.io/v1"
)
NOW = datetime.datetime(2026, 11, 21, 12, 0, tzinfo=datetime.UTC)


async def stored(request: web.Request) -> web.StreamResponse:
    """Answers with an Event of the name that was sent, or that is in the path."""
    body = json.loads(await request.read())
    name = body.get("metadata", {}).get("name") or request.path.rsplit("/", 1)[1]
    return web.json_response({"kind": "Event", "metadata": {"name": name, "namespace": "demo"}})


@contextlib.asynccontextmanager
async def recording(*script: Any) -> AsyncIterator[tuple[EventRecorder, ScriptedServer]]:
    async with ScriptedServer() as server, Client(server.access) as client:
        server.script.extend(script)
        recorder = EventRecorder(client, "isthmus-agent", "node-1", now=lambda: NOW)
        task = asyncio.create_task(recorder.serve())
        try:
            yield recorder, server
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_an_event_is_written_beside_its_object() -> None:
    async with recording(stored) as (recorder, server):
        recorder.emit(POLICY, reason="InvalidPolicy", message="spec.ingress[0].from[0].ipBlock.cidr: not a CIDR")
        await asyncio.sleep(1)

        assert server.requests[0].path == "/api/v1/namespaces/demo/events"
        event = json.loads(server.bodies[0])
        assert event.pop("metadata")["name"].startswith("deny.")
        assert event == {
            "apiVersion": "v1",
            "kind": "Event",
            "involvedObject": {
                "kind": "NetworkPolicy",
                "namespace": "demo",
                "name": "deny",
                "uid": "u1",
                "apiVersion": "networking.k8s.io/v1",
            },
            "type": "Warning",
            "reason": "InvalidPolicy",
            "message": "spec.ingress[0].from[0].ipBlock.cidr: not a CIDR",
            "source": {"component": "isthmus-agent", "host": "node-1"},
            "firstTimestamp": "2026-11-21T12:00:00Z",
            "lastTimestamp": "2026-11-21T12:00:00Z",
            "count": 1,
            "reportingComponent": "isthmus-agent",
            "reportingInstance": "node-1",
        }


async def test_names_sort_as_the_events_came() -> None:
    async with recording(*[stored] * 20) as (recorder, server):
        for number in range(20):
            recorder.emit(POLICY, reason="R", message=str(number))
        await asyncio.sleep(60)

        named = [(body["metadata"]["name"], int(body["message"])) for body in map(json.loads, server.bodies)]
        assert [number for _, number in sorted(named)] == list(range(20))


async def test_a_repetition_is_counted_on_the_first_event() -> None:
    async with recording(stored, stored, stored) as (recorder, server):
        for _ in range(3):
            recorder.emit(POLICY, reason="R", message="m")
        await asyncio.sleep(1)

        assert [r.method for r in server.requests] == ["POST", "PATCH", "PATCH"]
        assert json.loads(server.bodies[2]) == {"count": 3, "lastTimestamp": "2026-11-21T12:00:00Z"}


async def test_a_repetition_of_a_deleted_or_old_event_is_a_new_one() -> None:
    gone = answer(status(404, "NotFound"), status=404)
    async with recording(stored, gone, stored, stored) as (recorder, server):
        recorder.emit(POLICY, reason="R", message="m")
        recorder.emit(POLICY, reason="R", message="m")
        await asyncio.sleep(1)
        await asyncio.sleep(WINDOW)
        recorder.emit(POLICY, reason="R", message="m")
        await asyncio.sleep(1)

        assert [r.method for r in server.requests] == ["POST", "PATCH", "POST", "POST"]


async def test_events_about_cluster_wide_objects_go_to_the_default_namespace() -> None:
    async with recording(stored) as (recorder, server):
        recorder.emit(ObjectReference(kind="Node", name="n"), reason="R", message="m", type="Normal")
        await asyncio.sleep(1)

        assert server.requests[0].path == "/api/v1/namespaces/default/events"


async def test_writes_keep_to_a_rate(looptime: Any) -> None:
    async with recording(*[stored] * 100) as (recorder, server):
        for i in range(BURST + 10):
            recorder.emit(POLICY, reason="R", message=str(i))
        await asyncio.sleep(0.01)
        assert len(server.requests) <= BURST
        await asyncio.sleep(10)
        assert len(server.requests) == BURST + 10


async def test_a_full_queue_loses_its_oldest() -> None:
    async with ScriptedServer() as server, Client(server.access) as client:
        recorder = EventRecorder(client, "c")
        for i in range(QUEUE_SIZE + 5):
            recorder.emit(POLICY, reason="R", message=str(i))

        assert recorder.lost == 5


async def test_a_server_that_refuses_does_not_stop_the_recorder() -> None:
    refuse = answer(status(403, "Forbidden", "events is forbidden"), status=403)
    async with recording(refuse, stored) as (recorder, server):
        recorder.emit(POLICY, reason="R", message="one")
        recorder.emit(POLICY, reason="R", message="x" * 5000)
        await asyncio.sleep(1)

        assert len(server.requests) == 2
        assert len(json.loads(server.bodies[1])["message"]) == 1024
