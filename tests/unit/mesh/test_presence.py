"""The tracker's Lease: made, renewed, given back."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from isthmus.kube.client import Client
from isthmus.kube.events import EventRecorder
from isthmus.mesh.presence import Presence
from tests.support.kubeserver import ScriptedServer, answer, status

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE = {
    "kind": "Lease",
    "apiVersion": "coordination.k8s.io/v1",
    "metadata": {"name": "isthmus-tracker", "namespace": "k"},
}


@asynccontextmanager
async def serving(server: ScriptedServer) -> AsyncIterator[asyncio.Task[None]]:
    async with Client(server.access) as client:
        presence = Presence("tracker-0", now=lambda: NOW)
        task = asyncio.create_task(presence.serve(client, EventRecorder(client, "x", "")))
        yield task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def asked(server: ScriptedServer, count: int) -> None:
    async with asyncio.timeout(5):
        while len(server.bodies) < count:
            await asyncio.sleep(0.01)


async def test_a_lease_is_made_where_there_is_none_and_given_back_at_the_end() -> None:
    async with ScriptedServer() as server:
        server.script = deque([answer(status(404, "NotFound"), status=404), answer(LEASE, status=201), answer(LEASE)])
        async with serving(server):
            await asked(server, 2)
    assert [request.method for request in server.requests] == ["PATCH", "POST", "PATCH"]
    spec = {"holderIdentity": "tracker-0", "leaseDurationSeconds": 60, "renewTime": "2026-03-01T12:00:00.000000Z"}
    assert json.loads(server.bodies[0]) == {"spec": spec}
    assert json.loads(server.bodies[1])["spec"] == spec
    assert json.loads(server.bodies[2]) == {"spec": {"holderIdentity": ""}}


async def test_a_server_that_fails_disturbs_nobody() -> None:
    async with ScriptedServer() as server:
        server.script = deque([answer(status(403, "Forbidden"), status=403), answer(status(500), status=500)])
        async with serving(server) as task:
            await asked(server, 1)
            assert not task.done()
    assert len(server.requests) == 2
