"""The agent and every kind of policy against the lab's API server, the kernel in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from prometheus_client import CollectorRegistry

from isthmus.agent.daemon import Agent, Settings
from isthmus.kube import kubeconfig
from isthmus.kube.client import Client
from isthmus.kube.errors import KubeError
from isthmus.kube.meshobjects import MeshNode, PoliciesOnNode
from isthmus.kube.resources import (
    ADMIN_NETWORK_POLICIES,
    BASELINE_ADMIN_NETWORK_POLICIES,
    CILIUM_CIDR_GROUPS,
    CILIUM_CLUSTERWIDE_NETWORK_POLICIES,
    CILIUM_NETWORK_POLICIES,
    CLUSTER_NETWORK_POLICIES,
    CUSTOM_RESOURCE_DEFINITIONS,
    ENDPOINT_SLICES,
    EVENTS,
    MESH_NODES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    SERVICES,
    Resource,
)
from isthmus.mesh.joining.objects import definitions
from isthmus.model.endpoint import Cluster, Endpoint, Node
from isthmus.model.flow import Flow, Protocol
from isthmus.model.identity import Identity
from isthmus.model.mesh import ClusterJoined, ClusterSynced, EndpointTold, IdentityTold, MeshEvent, NodeTold
from isthmus.ruleset.interpreter import Packet, passes
from tests.integration.test_agent import NODE, PATIENCE, add_pod, eventually, policy
from tests.support.agent_writer import FakeWriter
from tests.support.apiserver import ApiServer, running_apiserver

A, B, FAR, W1 = "10.10.1.5", "10.10.1.6", "10.20.1.5", "172.18.0.9"
CNP, CCNP = "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"
EVERYONE = {"namespaces": {}}
ENDPOINTS_OF_A = {"endpointSelector": {"matchLabels": {"app": "a"}}}


@pytest.fixture
def server(tmp_path) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path, "--skip-validation-for", "networkpolicies") as server:
        yield server


class Mesh:
    """What a mesh source says, given by hand."""

    def __init__(self) -> None:
        self._batches: asyncio.Queue[Sequence[MeshEvent]] = asyncio.Queue()
        self.tell(ClusterJoined(Cluster("east", 1)), ClusterJoined(Cluster("west", 2, {"tier": "gold"})))
        self.tell(IdentityTold(Identity(0x10100, "east", "default", {"app": "b"}, {})))
        self.tell(IdentityTold(Identity(0x20100, "west", "default", {"app": "c"}, {})))
        self.tell(EndpointTold(Endpoint("east", B, 0x10100, "default", "b")))
        self.tell(EndpointTold(Endpoint("west", FAR, 0x20100, "default", "c")))
        self.tell(NodeTold(Node("west", "w1", (W1,), labels={"rack": "r1"})))
        self.tell(ClusterSynced("east"), ClusterSynced("west"))

    def tell(self, *events: MeshEvent) -> None:
        self._batches.put_nowait(events)

    async def batches(self):
        while True:
            yield await self._batches.get()


class Running:
    """An agent at work, and what its kernel lets through."""

    def __init__(self, agent: Agent, writer: FakeWriter, client: Client) -> None:
        self.agent, self.writer, self.client = agent, writer, client

    @property
    def settled(self) -> bool:
        """Tells whether the kernel has what the compiler wants."""
        table = self.agent.view.compiler.table.elements
        kernel = self.writer.kernel.elements
        return kernel.keys() == table.keys() and all(kernel[name] == table[name] for name in table)

    def may(self, source: str, destination: str = A, port: int = 80) -> bool:
        flow = Flow(source, destination, Protocol.TCP, port)
        return passes(self.agent.view.compiler.table, Packet(flow))

    async def until(self, allowed: bool, source: str, destination: str = A, port: int = 80) -> None:
        await eventually(lambda: self.settled and self.may(source, destination, port) is allowed)

    async def apply(self, resource: Resource, name: str, spec: object) -> None:
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "spec": spec}
        namespace = "default" if resource.namespaced else None
        await self.client.create(resource, body, type=dict, namespace=namespace)

    async def delete(self, resource: Resource, name: str) -> None:
        await self.client.delete(resource, name, namespace="default" if resource.namespaced else None)

    async def told(self) -> PoliciesOnNode | None:
        return (await self.client.get(MESH_NODES, "n1", type=MeshNode)).status.policies


@contextlib.asynccontextmanager
async def running_agent(server: ApiServer) -> AsyncIterator[Running]:
    writer = FakeWriter()
    async with Client(kubeconfig.load(server.directory / "kubeconfig", context="admin")) as client:
        await client.create(NODES, NODE, type=dict)
        for definition in definitions():
            await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition, type=dict)
        await add_pod(client, "a", A)
        settings, mesh = Settings(node="n1", cluster="east"), Mesh()
        agent = Agent(settings, client=client, writer=writer, mesh=mesh.batches, registry=CollectorRegistry())
        task = asyncio.create_task(agent.run())
        try:
            running = Running(agent, writer, client)
            await eventually(lambda: "replace" in writer.calls)
            yield running
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def loose(resource: Resource) -> dict[str, object]:
    """Returns a definition that takes any object, as one of a careless administrator might."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": resource.version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": str(resource), "annotations": {"api-approved.kubernetes.io": "unapproved, test"}},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {"plural": resource.plural, "kind": resource.kind},
            "versions": [version],
        },
    }


async def install(client: Client, *resources: Resource) -> None:
    for resource in resources:
        await client.create(CUSTOM_RESOURCE_DEFINITIONS, loose(resource), type=dict)
    for resource in resources:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await client.raw("GET", resource.path())
                    break
                except KubeError:
                    await asyncio.sleep(0.05)


DENY_ALL = {
    NETWORK_POLICIES: policy("p", "a")["spec"],
    CILIUM_NETWORK_POLICIES: {**ENDPOINTS_OF_A, "ingress": [{}]},
    CILIUM_CLUSTERWIDE_NETWORK_POLICIES: {**ENDPOINTS_OF_A, "ingressDeny": [{"fromEntities": ["all"]}]},
    CLUSTER_NETWORK_POLICIES: {
        "tier": "Admin",
        "priority": 1,
        "subject": EVERYONE,
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
    },
    ADMIN_NETWORK_POLICIES: {
        "priority": 1,
        "subject": EVERYONE,
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
    },
    BASELINE_ADMIN_NETWORK_POLICIES: {
        "subject": EVERYONE,
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
    },
}


async def test_every_kind_is_enforced_as_soon_as_it_is_installed_and_until_its_definition_is_gone(server: ApiServer):
    async with running_agent(server) as running:
        await install(running.client, *(resource for resource in DENY_ALL if resource is not NETWORK_POLICIES))
        for resource, spec in DENY_ALL.items():
            name = "default" if resource is BASELINE_ADMIN_NETWORK_POLICIES else "p"
            assert running.may(FAR), resource
            await running.apply(resource, name, spec)
            await running.until(False, FAR)
            await running.delete(resource, name)
            await running.until(True, FAR)

        await running.apply(CILIUM_NETWORK_POLICIES, "p", DENY_ALL[CILIUM_NETWORK_POLICIES])
        await running.until(False, FAR)
        await running.client.delete(CUSTOM_RESOURCE_DEFINITIONS, str(CILIUM_NETWORK_POLICIES))
        await running.until(True, FAR)
        await install(running.client, CILIUM_NETWORK_POLICIES)
        await running.apply(CILIUM_NETWORK_POLICIES, "p", DENY_ALL[CILIUM_NETWORK_POLICIES])
        await running.until(False, FAR)


async def test_an_invalid_update_changes_nothing_and_the_node_and_an_event_say_so(server: ApiServer):
    async with running_agent(server) as running:
        client = running.client
        spec = policy("p", "a", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}])["spec"]
        await running.apply(NETWORK_POLICIES, "p", spec)
        await running.until(True, B)
        await running.until(False, FAR)

        bad = {"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]}}
        await client.patch(NETWORK_POLICIES, "p", bad, type=dict, namespace="default")
        told: list[PoliciesOnNode] = []

        async def kept() -> None:
            while not told:
                status = await running.told()
                if status is not None and status.exceptions:
                    told.append(status)
                await asyncio.sleep(0.05)

        await asyncio.wait_for(kept(), PATIENCE)
        (exception,) = told[0].exceptions
        assert (exception.kind, exception.name, exception.generation, exception.state) == (
            "NetworkPolicy",
            "p",
            2,
            "Kept",
        )
        assert "generation 1 stays in force: spec.ingress[0].from[0].ipBlock.cidr" in exception.message
        assert [(one.name, one.generation) for one in told[0].recent] == [("p", 2)]
        stored = await client.get(NETWORK_POLICIES, "p", type=dict, namespace="default")
        assert told[0].watermarks["NetworkPolicy"] == stored["metadata"]["resourceVersion"]
        assert told[0].recent[0].since > told[0].since
        assert running.settled
        assert running.may(B)
        assert not running.may(FAR)
        events = [e for e in await client.list_all(EVENTS, type=dict) if e["involvedObject"]["kind"] == "NetworkPolicy"]
        assert {(e["reason"], e["involvedObject"]["apiVersion"]) for e in events} == {
            ("PolicyKept", "networking.k8s.io/v1")
        }


GARBAGE = ("text", 7, None, [], {"endpointSelector": 7}, {"endpointSelector": {}, "ingress": "all", "egress": [[]]})


async def test_garbage_in_a_kind_without_a_schema_closes_what_it_may_mean_and_stops_nobody(server: ApiServer):
    async with running_agent(server) as running:
        await install(running.client, CILIUM_NETWORK_POLICIES)
        for number, spec in enumerate(GARBAGE):
            await running.apply(CILIUM_NETWORK_POLICIES, f"garbage-{number}", spec)
        await eventually(lambda: running.agent.view.book.counts.get(CNP) == len(GARBAGE))
        await running.until(False, FAR)
        for number in range(len(GARBAGE)):
            await running.delete(CILIUM_NETWORK_POLICIES, f"garbage-{number}")
        await running.apply(
            CILIUM_NETWORK_POLICIES, "good", {**ENDPOINTS_OF_A, "ingress": [{"fromEntities": ["world"]}]}
        )
        await running.until(True, "192.0.2.1")
        await running.until(False, FAR)


async def test_nodes_the_api_server_groups_and_services_are_what_policies_say_of_them(server: ApiServer):
    async with running_agent(server) as running:
        client = running.client
        addresses = {"metadata": {"name": "kubernetes-2", "labels": {"kubernetes.io/service-name": "kubernetes"}}}
        here = {"addressType": "IPv4", "ports": [], "endpoints": [{"addresses": ["192.0.2.7"]}]}
        await client.create(ENDPOINT_SLICES, addresses | here, type=dict, namespace="default")
        await install(client, CILIUM_NETWORK_POLICIES, CILIUM_CIDR_GROUPS)
        rules = [
            {"fromEntities": ["kube-apiserver"]},
            {"fromNodes": [{"matchLabels": {"rack": "r1"}}]},
            {"fromCIDRSet": [{"cidrGroupRef": "partners"}]},
        ]
        outward = [{"toServices": [{"k8sService": {"serviceName": "outside", "namespace": "default"}}]}]
        await running.apply(CILIUM_NETWORK_POLICIES, "p", {**ENDPOINTS_OF_A, "ingress": rules, "egress": outward})
        await running.until(False, FAR)
        await running.until(True, "192.0.2.7")
        await running.until(True, W1)
        await running.until(False, "198.51.100.9")
        await running.until(False, A, "203.0.113.4")

        await running.apply(CILIUM_CIDR_GROUPS, "partners", {"externalCIDRs": ["198.51.100.0/24"]})
        await running.until(True, "198.51.100.9")
        service = {"metadata": {"name": "outside"}, "spec": {"ports": [{"port": 80}]}}
        await client.create(SERVICES, service, type=dict, namespace="default")
        labels = {"metadata": {"name": "outside-1", "labels": {"kubernetes.io/service-name": "outside"}}}
        there = {"addressType": "IPv4", "ports": [], "endpoints": [{"addresses": ["203.0.113.4"]}]}
        await client.create(ENDPOINT_SLICES, labels | there, type=dict, namespace="default")
        await running.until(True, A, "203.0.113.4")


async def test_subjects_follow_their_namespace_and_peers_the_properties_of_their_cluster(server: ApiServer):
    async with running_agent(server) as running:
        await install(running.client, CLUSTER_NETWORK_POLICIES)
        gold = {"matchLabels": {"property.isthmus.dev/tier": "gold"}}
        rule = {"action": "Deny", "from": [{"namespaces": gold}]}
        spec = {
            "tier": "Admin",
            "priority": 1,
            "subject": {"namespaces": {"matchLabels": {"guarded": "yes"}}},
            "ingress": [rule],
        }
        await running.apply(CLUSTER_NETWORK_POLICIES, "p", spec)
        await eventually(lambda: running.agent.view.book.total == 1)
        assert running.may(FAR)

        await running.client.patch(NAMESPACES, "default", {"metadata": {"labels": {"guarded": "yes"}}}, type=dict)
        await running.until(False, FAR)
        assert running.may(B)
