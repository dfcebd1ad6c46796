"""The agent against the lab's API server, with the kernel in memory: what it is told, what it writes, what it says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry

from isthmus.agent.daemon import Agent, Settings
from isthmus.kube import kubeconfig
from isthmus.kube.client import Client
from isthmus.kube.resources import (
    ENDPOINT_SLICES,
    EVENTS,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    SERVICES,
)
from isthmus.mesh.clusters import ClusterSpec
from isthmus.mesh.fleet import Fleet
from isthmus.model.endpoint import Cluster
from tests.support.agent_writer import FakeWriter
from tests.support.apiserver import ApiServer, running_apiserver

NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1"},
    "spec": {"podCIDR": "10.10.1.0/24", "podCIDRs": ["10.10.1.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.2"}]},
}
PATIENCE = 20.0


@pytest.fixture
def server(tmp_path) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path, "--skip-validation-for", "networkpolicies") as server:
        yield server


@contextlib.asynccontextmanager
async def running_agent(server: ApiServer) -> AsyncIterator[tuple[Agent, FakeWriter, Client]]:
    """Runs an agent. At the end every watch must be well: each is asked for something new."""
    path = server.directory / "kubeconfig"
    fleet = Fleet()
    fleet.configure([ClusterSpec(Cluster("east", 1), path, "admin")])
    writer = FakeWriter()
    async with Client(kubeconfig.load(path, context="admin")) as client:
        await client.create(NODES, NODE, type=dict)
        settings = Settings(node="n1", cluster="east")
        agent = Agent(settings, client=client, writer=writer, mesh=fleet.events, registry=CollectorRegistry())
        task = asyncio.create_task(agent.run())
        try:
            yield agent, writer, client
            await add_pod(client, "last", "10.10.1.99")
            await eventually(lambda: ("10.10.1.99",) in _in_kernel(writer, "pods4", "peers4"))
            addresses = {"status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.99"}]}}
            await client.patch(NODES, "n1", addresses, type=dict, subresource="status")
            await eventually(lambda: agent.view.compiler.world.node_addresses == {"172.18.0.99"})
            await client.create(NETWORK_POLICIES, policy("last", "last"), type=dict, namespace="default")
            await eventually(lambda: ("10.10.1.99",) in writer.kernel.elements["ingress4"])
            # What the mesh watches besides; a watch that broke is believed again when something comes.
            await client.create(NAMESPACES, {"metadata": {"name": "last"}}, type=dict)
            ports = {"ports": [{"port": 80}]}
            await client.create(SERVICES, {"metadata": {"name": "last"}, "spec": ports}, type=dict, namespace="default")
            last = {"metadata": {"name": "last"}, "addressType": "IPv4", "endpoints": []}
            await client.create(ENDPOINT_SLICES, last, type=dict, namespace="default")
            await eventually(lambda: all(status.state == "synced" for status in fleet.status()))
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _in_kernel(writer: FakeWriter, *sets: str) -> set[tuple[str | int, ...]]:
    """Returns the elements that all of `sets` have."""
    return set.intersection(*(set(writer.kernel.elements[name]) for name in sets))


async def eventually(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not check():
            await asyncio.sleep(0.02)


async def add_pod(client: Client, name: str, ip: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "pause"}]},
    }
    await client.create(PODS, pod, type=dict, namespace="default")
    status = {"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}}
    await client.patch(PODS, name, status, type=dict, namespace="default", subresource="status")


def policy(name: str, app: str, **spec: object) -> dict[str, object]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, **spec},
    }


async def test_a_malformed_policy_is_named_in_an_event_fails_closed_and_leaves_the_others_in_force(server: ApiServer):
    async with running_agent(server) as (_, writer, client):
        await add_pod(client, "a", "10.10.1.5")
        await add_pod(client, "b", "10.10.1.6")
        bad = policy("bad", "a", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}])
        good = policy("good", "b", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}])
        for one in (bad, good):
            await client.create(NETWORK_POLICIES, one, type=dict, namespace="default")

        await eventually(lambda: set(writer.kernel.elements.get("ingress4", ())) == {("10.10.1.5",), ("10.10.1.6",)})
        closed = writer.kernel.elements["ingress4"]["10.10.1.5",]
        assert not [name for name in writer.kernel.sets if name.startswith(closed.chain)], "nothing is allowed"
        gate = writer.kernel.elements["ingress4"]["10.10.1.6",]
        assert writer.kernel.elements[f"{gate.chain}_any"], "the other policy allows what it says"

        found: list[dict] = []

        async def events() -> None:
            while not found:
                listed = await client.list_all(EVENTS, type=dict, namespace="default")
                found.extend(e for e in listed if e["involvedObject"]["kind"] == "NetworkPolicy")
                await asyncio.sleep(0.05)

        await asyncio.wait_for(events(), PATIENCE)
        (event,) = found
        assert (event["involvedObject"]["name"], event["reason"], event["type"]) == ("bad", "PolicyInvalid", "Warning")
        assert "spec.ingress[0].from[0].ipBlock.cidr" in event["message"]


async def test_a_killed_api_server_changes_nothing_and_is_caught_up_with(server: ApiServer):
    async with running_agent(server) as (_, writer, client):
        await add_pod(client, "a", "10.10.1.5")
        await client.create(NETWORK_POLICIES, policy("p", "a"), type=dict, namespace="default")
        await eventually(lambda: ("10.10.1.5",) in writer.kernel.elements.get("ingress4", ()))

        await asyncio.to_thread(server.kill)
        await asyncio.sleep(0)
        assert ("10.10.1.5",) in writer.kernel.elements["ingress4"]
        await asyncio.to_thread(server.start)
        await client.delete(NETWORK_POLICIES, "p", namespace="default")

        await eventually(lambda: not writer.kernel.elements["ingress4"])
        assert writer.calls.count("replace") == 1


async def test_identity_follows_labels_of_pod_and_namespace(server: ApiServer):
    async with running_agent(server) as (_, writer, client):
        await add_pod(client, "a", "10.10.1.5")
        await add_pod(client, "b", "10.10.1.6")
        peer = {"namespaceSelector": {"matchLabels": {"team": "blue"}}}
        await client.create(
            NETWORK_POLICIES, policy("p", "a", ingress=[{"from": [peer]}]), type=dict, namespace="default"
        )
        await eventually(lambda: ("10.10.1.5",) in writer.kernel.elements.get("ingress4", ()))
        gate = writer.kernel.elements["ingress4"]["10.10.1.5",].chain
        assert not writer.kernel.elements[f"{gate}_any"]

        await client.patch(NAMESPACES, "default", {"metadata": {"labels": {"team": "blue"}}}, type=dict)
        await eventually(lambda: len(writer.kernel.elements[f"{gate}_any"]) == 2)
        numbers = {writer.kernel.elements["peers4"][ip,] for ip in ("10.10.1.5", "10.10.1.6")}
        assert {number for (number,) in writer.kernel.elements[f"{gate}_any"]} == numbers
