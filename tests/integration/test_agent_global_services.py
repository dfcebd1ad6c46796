"""Services of several clusters against the lab's API server, the kernel in memory: drains, namespaces, MeshNodes."""

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from isthmus.agent import optional_watch
from isthmus.agent.daemon import Agent, Settings
from isthmus.agent.presence import NOT_WRITTEN
from isthmus.agent.services.serving import ServiceSettings
from isthmus.kube import kubeconfig
from isthmus.kube.client import Client
from isthmus.kube.errors import KubeError
from isthmus.kube.meshobjects import MeshNode
from isthmus.kube.resources import ENDPOINT_SLICES, MESH_CLUSTERS, MESH_NODES, NAMESPACES, NODES, SERVICES, Resource
from isthmus.mesh.joining.objects import definitions
from isthmus.model.endpoint import Cluster, Node
from isthmus.model.mesh import ClusterJoined, ClusterSynced, MeshEvent, NodeTold, SliceTold
from isthmus.model.sharing import SharedEndpoint, SharedPort, SharedSlice
from tests.integration.test_agent import NODE, eventually
from tests.integration.test_agent_services import service, slice_
from tests.support.agent_writer import FakeWriter
from tests.support.apiserver import ApiServer, running_apiserver
from tests.support.service_tables import in_use

DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
GLOBAL = {"service.cilium.io/global": "true"}
REMOTE = SharedSlice(
    "west",
    "default",
    "web-9",
    "web",
    4,
    (SharedEndpoint("10.20.1.5", node="w1"), SharedEndpoint("10.20.1.6", node="w1")),
    (SharedPort("", 6, 8080),),
)


@pytest.fixture
def server(tmp_path) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path) as server:
        yield server


class Mesh:
    """What a mesh source says, given by hand."""

    def __init__(self) -> None:
        self._batches: asyncio.Queue[Sequence[MeshEvent]] = asyncio.Queue()
        for name, number in (("east", 1), ("west", 2)):
            self.tell(ClusterJoined(Cluster(name, number)), ClusterSynced(name))
        self.tell(NodeTold(Node("west", "w1", ("127.0.0.9",), ("10.20.1.0/24",))), SliceTold(REMOTE))

    def tell(self, *events: MeshEvent) -> None:
        self._batches.put_nowait(events)

    async def batches(self):
        while True:
            yield await self._batches.get()


@contextlib.asynccontextmanager
async def running_agent(server: ApiServer, **wanted: object) -> AsyncIterator[tuple[Agent, FakeWriter, Client]]:
    path = server.directory / "kubeconfig"
    writer, mesh = FakeWriter(), Mesh()
    async with Client(kubeconfig.load(path, context="admin")) as client:
        with contextlib.suppress(KubeError):
            await client.create(NODES, NODE, type=dict)
        settings = Settings(node="n1", cluster="east", services=ServiceSettings(across=True, staleness=600.0, **wanted))
        agent = Agent(settings, client=client, writer=writer, mesh=mesh.batches, registry=CollectorRegistry())
        agent.services.own._flush = lambda stale: 0
        task = asyncio.create_task(agent.run())
        try:
            yield agent, writer, client
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _install(client: Client) -> None:
    for definition in definitions():
        await client.create(DEFINITIONS, definition, type=dict)


async def _make_web(client: Client, **spec: object) -> str:
    obj = service("web", **spec)
    obj["metadata"]["annotations"] = GLOBAL
    made = await client.create(SERVICES, obj, type=dict, namespace="default")
    await client.create(ENDPOINT_SLICES, slice_("web", "10.10.1.5"), type=dict, namespace="default")
    return made["spec"]["clusterIP"]


def _used(agent: Agent, ip: str) -> set[str]:
    return {target.address for target in in_use(agent.services.own.view.compiler, (ip, 6, 80))}


def _healths(node: MeshNode) -> list[str]:
    return [cluster.health for cluster in node.status.clusters]


ALL = {"10.10.1.5", "10.20.1.5", "10.20.1.6"}


@pytest.mark.parametrize("everything", [True, False], ids=["alone", "beside a kube-proxy"])
async def test_a_global_service_follows_annotations_namespaces_and_drains(server: ApiServer, everything):
    async with running_agent(server, everything=everything) as (agent, writer, client):
        await _install(client)
        await client.create(SERVICES, service("plain"), type=dict, namespace="default")
        ip = await _make_web(client)
        await eventually(lambda: _used(agent, ip) == ALL)
        await eventually(lambda: ("10.20.1.5", 6, 8080) in writer.kernel.elements.get("targets4", {}))
        served = {key[0] for key in writer.kernel.elements["services4"]}
        assert ip in served and (len(served) > 1) is everything

        closed = {"metadata": {"annotations": {"clustermesh.cilium.io/global": "false"}}}
        await client.patch(NAMESPACES, "default", closed, type=dict)
        await eventually(lambda: _used(agent, ip) == ({"10.10.1.5"} if everything else set()))
        opened = {"metadata": {"annotations": {"clustermesh.cilium.io/global": None}}}
        await client.patch(NAMESPACES, "default", opened, type=dict)
        await eventually(lambda: _used(agent, ip) == ALL)

        since = datetime.datetime.now(datetime.UTC).isoformat()
        drain = {
            "apiVersion": "isthmus.dev/v1alpha1",
            "kind": "MeshCluster",
            "metadata": {"name": "west"},
            "spec": {"drain": {"since": since}},
        }
        await client.create(MESH_CLUSTERS, drain, type=dict)
        await eventually(lambda: _used(agent, ip) == {"10.10.1.5"})
        await client.patch(MESH_CLUSTERS, "west", {"spec": {"drain": None}}, type=dict)
        await eventually(lambda: _used(agent, ip) == ALL)
        await client.delete(SERVICES, "web", namespace="default")
        await eventually(lambda: not _used(agent, ip))


async def test_slices_that_a_tracker_mirrors_are_not_counted_again(server: ApiServer):
    async with running_agent(server) as (agent, _, client):
        ip = await _make_web(client)
        mirrored = slice_("web", "10.20.1.5", "10.20.1.99")
        labels = {
            "kubernetes.io/service-name": "web",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.isthmus.dev",
            "multicluster.kubernetes.io/source-cluster": "west",
        }
        mirrored["metadata"] = {"name": "web-west", "labels": labels}
        await client.create(ENDPOINT_SLICES, mirrored, type=dict, namespace="default")
        await client.create(ENDPOINT_SLICES, slice_("last", "10.10.9.9"), type=dict, namespace="default")
        await eventually(lambda: ("default", "last-1") in agent.services.own.view.compiler.slices)
        assert _used(agent, ip) == ALL


async def test_an_agent_says_how_it_is_in_a_mesh_node_of_its_node_and_leaves_it_behind(server: ApiServer):
    async with running_agent(server, probe_port=1) as (_, _, client):
        await _install(client)
        await _make_web(client)
        found: list[MeshNode] = []

        async def look() -> None:
            while not (found and found[-1].status.ready and _healths(found[-1]) == ["Reachable"]):
                with contextlib.suppress(KubeError):
                    found.append(await client.get(MESH_NODES, "n1", type=MeshNode))
                await asyncio.sleep(0.1)

        await asyncio.wait_for(look(), 30)
        node = await client.get(NODES, "n1", type=dict)
        raw = await client.get(MESH_NODES, "n1", type=dict)
        assert raw["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]
        status = found[-1].status
        assert (status.ready, status.connected, status.globalServices) == (True, "1/1", 1)
        (west,) = status.clusters
        assert (west.name, west.nodes, west.services, west.ready) == ("west", 1, 1, True)

    async with Client(kubeconfig.load(server.directory / "kubeconfig", context="admin")) as client:
        left = await client.get(MESH_NODES, "n1", type=MeshNode)
        assert left.status.heartbeat


async def test_without_the_definitions_everything_else_works_and_one_line_each_says_what_is_missing(server: ApiServer):
    with capture_logs() as logs:
        async with running_agent(server) as (agent, _, client):
            ip = await _make_web(client)
            await eventually(lambda: _used(agent, ip) == ALL)
            await eventually(lambda: agent._written and not agent._missing)
            await eventually(lambda: any(log["event"] == NOT_WRITTEN for log in logs))
    assert len([log for log in logs if log["event"] == NOT_WRITTEN]) == 1
    assert len([log for log in logs if log["event"] == optional_watch.ABSENT]) == 1
    assert not [log for log in logs if log["log_level"] == "error"]
