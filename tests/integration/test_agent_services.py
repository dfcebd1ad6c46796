"""Services against the lab's API server, with the kernel in memory: watched, programmed, and told what is wrong."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry

from isthmus.agent.daemon import Agent, Settings
from isthmus.agent.services.serving import ServiceSettings
from isthmus.kube import kubeconfig
from isthmus.kube.client import Client
from isthmus.kube.resources import ENDPOINT_SLICES, EVENTS, NODES, SERVICES
from isthmus.mesh.clusters import ClusterSpec
from isthmus.mesh.fleet import Fleet
from isthmus.model.endpoint import Cluster
from isthmus.model.service import Target
from isthmus.ruleset.service_layout import REFUSED
from tests.integration.test_agent import NODE, eventually
from tests.support.agent_writer import FakeWriter
from tests.support.apiserver import ApiServer, running_apiserver
from tests.support.service_tables import in_use


@pytest.fixture
def server(tmp_path) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path) as server:
        yield server


@contextlib.asynccontextmanager
async def running_agent(server: ApiServer) -> AsyncIterator[tuple[Agent, FakeWriter, Client, CollectorRegistry]]:
    path = server.directory / "kubeconfig"
    fleet = Fleet()
    fleet.configure([ClusterSpec(Cluster("east", 1), path, "admin")])
    writer, registry = FakeWriter(), CollectorRegistry()
    async with Client(kubeconfig.load(path, context="admin")) as client:
        await client.create(NODES, NODE, type=dict)
        settings = Settings(node="n1", cluster="east", services=ServiceSettings())
        agent = Agent(settings, client=client, writer=writer, mesh=fleet.events, registry=registry)
        agent.services.own._flush = lambda stale: 0
        task = asyncio.create_task(agent.run())
        try:
            yield agent, writer, client, registry
            # At the end every watch must be well: each is asked for something new.
            await client.create(SERVICES, service("last"), type=dict, namespace="default")
            await client.create(ENDPOINT_SLICES, slice_("last", "10.10.9.9"), type=dict, namespace="default")
            await eventually(lambda: ("10.10.9.9", 6, 8080) in writer.kernel.elements["targets4"])
            await eventually(lambda: all(status.state == "synced" for status in fleet.status()))
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def service(name: str, **spec: object) -> dict[str, object]:
    ports = [{"port": 80, "protocol": "TCP", "targetPort": 8080}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports, **spec}}


def slice_(name: str, *addresses: str, **conditions: bool) -> dict[str, object]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "conditions": conditions or {"ready": True}} for ip in addresses],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }


async def _cluster_ip(client: Client, name: str) -> str:
    return (await client.get(SERVICES, name, type=dict, namespace="default"))["spec"]["clusterIP"]


def _reachable(agent: Agent, ip: str) -> Callable[[], set[str]]:
    return lambda: {target.address for target in in_use(agent.services.own.view.compiler, (ip, 6, 80))}


async def test_a_service_follows_its_slices_and_a_node_port_is_at_the_nodes_address(server: ApiServer):
    async with running_agent(server) as (agent, writer, client, registry):
        await client.create(SERVICES, service("web", type="NodePort"), type=dict, namespace="default")
        made = await client.get(SERVICES, "web", type=dict, namespace="default")
        ip, node_port = made["spec"]["clusterIP"], made["spec"]["ports"][0]["nodePort"]
        await eventually(lambda: writer.kernel.elements.get("services4", {}).get((ip, 6, 80)) == REFUSED)

        await client.create(ENDPOINT_SLICES, slice_("web", "10.10.1.5", "10.10.1.6"), type=dict, namespace="default")
        await eventually(lambda: writer.kernel.elements["services4"][ip, 6, 80] == 2)
        assert writer.kernel.elements["services4"]["172.18.0.2", 6, node_port] == 2
        targets = {Target("10.10.1.5", 8080), Target("10.10.1.6", 8080)}
        assert {writer.kernel.elements["backends4"][ip, 6, 80, slot] for slot in range(2)} == targets
        assert registry.get_sample_value("isthmus_agent_service_backends") == 2

        gone = {"endpoints": slice_("web", "10.10.1.6")["endpoints"]}
        await client.patch(ENDPOINT_SLICES, "web-1", gone, type=dict, namespace="default")
        await eventually(lambda: _reachable(agent, ip)() == {"10.10.1.6"})
        await client.delete(SERVICES, "web", namespace="default")
        await eventually(lambda: (ip, 6, 80) not in writer.kernel.elements["services4"])


async def test_an_address_that_another_service_has_is_said_in_an_event(server: ApiServer):
    async with running_agent(server) as (_, writer, client, _registry):
        await client.create(SERVICES, service("web"), type=dict, namespace="default")
        ip = await _cluster_ip(client, "web")
        await client.create(SERVICES, service("thief", externalIPs=[ip]), type=dict, namespace="default")
        await client.create(ENDPOINT_SLICES, slice_("thief", "10.10.1.66"), type=dict, namespace="default")

        found: list[dict] = []
        async with asyncio.timeout(20):
            while not found:
                listed = await client.list_all(EVENTS, type=dict, namespace="default")
                found = [e for e in listed if e["involvedObject"]["kind"] == "Service"]
                await asyncio.sleep(0.05)
        assert (found[0]["involvedObject"]["name"], found[0]["reason"], found[0]["type"]) == (
            "thief",
            "NotServed",
            "Warning",
        )
        assert f"{ip}:80/TCP belongs to Service default/web" in found[0]["message"]
        assert writer.kernel.elements["services4"][ip, 6, 80] == REFUSED
