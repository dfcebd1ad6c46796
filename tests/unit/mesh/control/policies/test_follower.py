"""When conditions are written: not before enough is known, and then what is known."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from isthmus.kube.client import Client
from isthmus.kube.events import EventRecorder
from isthmus.kube.resources import CILIUM_NETWORK_POLICIES, MESH_NODES, Resource
from isthmus.mesh.control.clusters import stamp
from isthmus.mesh.control.policies.conditions import ENFORCED
from isthmus.mesh.control.policies.follower import GROUPS, PolicyConditions
from isthmus.model.endpoint import Node
from isthmus.model.mesh import ClusterSynced, NodeTold
from tests.support.control import merged
from tests.support.kubeserver import ScriptedServer, answer, bookmark, event, status
from tests.support.tasks import running

pytestmark = pytest.mark.looptime

CNP = CILIUM_NETWORK_POLICIES
START = 1_800_000_000.0
POLICY: dict[str, Any] = {
    "apiVersion": CNP.api_version,
    "kind": CNP.kind,
    "metadata": {"name": "p", "namespace": "demo", "uid": "1", "generation": 1, "resourceVersion": "7"},
    "spec": {"endpointSelector": {}, "ingress": [{}]},
}
NODE = {
    "apiVersion": MESH_NODES.api_version,
    "kind": MESH_NODES.kind,
    "metadata": {"name": "n1", "resourceVersion": "3"},
    "status": {"heartbeat": stamp(START), "policies": {"watermarks": {CNP.kind: "100"}, "since": stamp(START)}},
}


class Kind:
    """A collection as the server answers for it: an HTTP status, or 200 with what it holds."""

    def __init__(self, server: ScriptedServer, resource: Resource, *items: dict[str, Any]) -> None:
        self._server, self._resource, self._items = server, resource, items
        self.mode = 200
        server.scripts[resource.path()] = self

    def popleft(self) -> Any:
        return self._answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.mode != 200:
            return await answer(status(self.mode), status=self.mode)(request)
        if "watch" not in request.query:
            kind = f"{self._resource.kind}List"
            return await answer({"kind": kind, "metadata": {"resourceVersion": "5"}, "items": [*self._items]})(request)
        if "sendInitialEvents" not in request.query:
            return await self._server.stream(then="hang")(request)
        told = [event("ADDED", item) for item in self._items]
        return await self._server.stream(*told, bookmark(5, end=True))(request)


class Here:
    """A cluster with one node, and what was written into the status of its policy."""

    def __init__(self, server: ScriptedServer) -> None:
        self.groups = Kind(server, GROUPS[0])
        Kind(server, GROUPS[1]).mode = 404
        self.mesh_nodes = Kind(server, MESH_NODES, NODE)
        self.policies = PolicyConditions("here", rest=0.01, clock=self.clock)
        self.policy = json.loads(json.dumps(POLICY))
        self.writes = 0
        server.scripts[CNP.path(namespace="demo", name="p", subresource="status")] = self

    def clock(self) -> float:
        return START + asyncio.get_running_loop().time()

    def popleft(self) -> Any:
        return self._patch

    async def _patch(self, request: web.Request) -> web.StreamResponse:
        self.writes += 1
        self.policy = merged(self.policy, await request.json())
        self.policy["metadata"]["resourceVersion"] = str(int(self.policy["metadata"]["resourceVersion"]) + 1)
        return await answer(self.policy)(request)

    def said(self) -> dict[str, str]:
        found = self.policy.get("status", {}).get("conditions", ())
        return {one["type"]: one["status"] for one in found}


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Here]:
    async with ScriptedServer() as server, Client(server.access) as client:
        here = Here(server)
        async with running(here.policies.serve(client, EventRecorder(client, "test"))):
            await asyncio.sleep(0)
            yield here


def tell(here: Here) -> None:
    nodes = [NodeTold(Node("here", "n1", ("172.18.0.2",))), NodeTold(Node("there", "elsewhere", ("172.19.0.2",)))]
    here.policies.apply([*nodes, ClusterSynced("here")])
    here.policies.put_policies(CNP, [here.policy], listed=True)


async def test_nothing_is_written_of_a_kind_before_all_of_it_was_listed() -> None:
    async with serving() as here:
        tell(here)
        await asyncio.sleep(60)
        assert here.writes == 0
        here.policies.listed_policies(CNP)
        await asyncio.sleep(5)
        assert (here.said(), here.writes) == ({"Valid": "True", ENFORCED: "True"}, 1)


async def test_nothing_is_written_before_all_groups_were_listed() -> None:
    async with serving() as here:
        here.groups.mode = 503
        tell(here)
        here.policies.listed_policies(CNP)
        await asyncio.sleep(60)
        assert here.writes == 0
        here.groups.mode = 404
        await asyncio.sleep(60)
        assert here.said() == {"Valid": "True", ENFORCED: "True"}


async def test_of_enforcement_nothing_is_said_before_agents_can_be_heard_and_then_what_they_say() -> None:
    async with serving() as here:
        here.mesh_nodes.mode = 503
        tell(here)
        here.policies.listed_policies(CNP)
        await asyncio.sleep(60)
        assert here.said() == {"Valid": "True"}
        here.mesh_nodes.mode = 200
        await asyncio.sleep(60)
        assert here.said() == {"Valid": "True", ENFORCED: "True"}, "nodes of other clusters have other policies"
        await asyncio.sleep(300)
        assert here.said() == {"Valid": "True", ENFORCED: "False"}, "the agent has fallen silent"
