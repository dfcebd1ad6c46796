"""A small ClusterSet with packets: two nodes and their pods, a pod of another cluster, the API server, the outside.

    with Fabric() as fabric:
        town = Town(fabric)
        town.apply(network_policy(ingress=[...]))
        assert town.reaches("c", "a", port=80)

Pods a and b are on node n1 and c on n2 of cluster east, d is on node w1 of west; all are in namespace shop, with label
app=NAME. `apiserver` and `outside` are addresses elsewhere.
"""

from collections.abc import Mapping
from typing import Any

from isthmus.model.endpoint import Endpoint, NamedPort
from isthmus.model.flow import Flow
from isthmus.model.identity import FIRST_NODE, HOST, THE_API_SERVER, Identity
from isthmus.policy.context import Context
from isthmus.policy.evaluate import evaluate
from isthmus.policy.parsing import identify, read
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.compiler import Compiler
from tests.support.fabric import Fabric
from tests.support.volley import Outcome

NODES = {
    "n1": ("east", ("172.18.0.2", "fd00:18::2")),
    "n2": ("east", ("172.18.0.3", "fd00:18::3")),
    "w1": ("west", ("172.18.1.2", "fd00:18:1::2")),
}
PODS = {
    "a": ("n1", ("10.1.1.10", "fd00:1:1::a")),
    "b": ("n1", ("10.1.1.11", "fd00:1:1::b")),
    "c": ("n2", ("10.1.2.10", "fd00:1:2::a")),
    "d": ("w1", ("10.2.1.10", "fd00:2:1::a")),
}
ELSEWHERE = {"apiserver": ("172.18.0.9", "fd00:18::9"), "outside": ("198.51.100.7", "2001:db8::7")}
PLACES = {name: ips for name, (_, ips) in (NODES | PODS).items()} | ELSEWHERE
NAMESPACE = "shop"
NAMED_PORTS = (NamedPort("web", 8080, "TCP"), NamedPort("dns", 53, "UDP"))


class Town:
    """The town's nodes: one compiler each, and its table in the fabric. Policies are objects of cluster east."""

    def __init__(self, fabric: Fabric, **options: Any) -> None:
        """`options` are those of the compilers."""
        self.fabric = fabric
        worlds = {node: _world(node) for node in NODES}
        fabric.put(worlds, [Flow(*ELSEWHERE["apiserver"], 6, 443), Flow(*ELSEWHERE["outside"], 6, 80)])
        self.compilers = {node: Compiler(world, **options) for node, world in worlds.items()}
        for node, compiler in self.compilers.items():
            fabric.nodes[node].write(compiler.table)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Applies policy objects to cluster east: all in one transaction of each node."""
        policies = [policy for obj in objects for policy in read(obj, Context("east")).policies]
        for node in self._nodes():
            self.compilers[node].change_policies(put=policies)
            self.push(node)

    def delete(self, *objects: Mapping[str, Any]) -> None:
        """Deletes policy objects."""
        refs = [ref for obj in objects if (ref := identify(obj)) is not None]
        for node in self._nodes():
            self.compilers[node].change_policies(drop=refs)
            self.push(node)

    def push(self, node: str) -> None:
        """Writes what changed on a node."""
        self.fabric.nodes[node].push(self.compilers[node].table)

    def _nodes(self) -> list[str]:
        return [name for name, (cluster, _) in NODES.items() if cluster == "east"]

    def expect(self, expected: Mapping[Flow, bool]) -> None:
        """Asserts which flows get through, and that others are met with silence; the evaluator must say the same."""
        worlds = [compiler.world for compiler in self.compilers.values()]
        judged = {one: all(evaluate(world, one).allowed for world in worlds) for one in expected}
        wrong = [one for one in expected if judged[one] is not expected[one]]
        assert not wrong, f"the evaluator says otherwise: {wrong}"
        self.fabric.expect(expected)

    def expect_all_ways(self, expected: Mapping[tuple[str, str], bool], version: int) -> None:
        """Is `expect` for pairs of PLACES, by TCP, UDP, SCTP and ping."""
        ways = ((6, 80), (17, 53), (132, 80), (1, 8) if version == 4 else (58, 128))
        self.expect(
            {
                flow(*ends, protocol, port, version=version): allowed
                for ends, allowed in expected.items()
                for protocol, port in ways
            }
        )

    def reaches(self, source: str, destination: str, protocol: int = 6, port: int = 80, *, version: int = 4) -> bool:
        """Tells whether one probe gets through."""
        probe = flow(source, destination, protocol, port, version=version)
        return self.fabric.volley.fire([probe])[probe] is Outcome.THROUGH


def flow(
    source: str, destination: str, protocol: int = 6, port: int = 80, *, version: int = 4, translated: bool = False
) -> Flow:
    """Returns the flow between two of PLACES."""
    return Flow(address(source, version), address(destination, version), protocol, port, translated)


def address(place: str, version: int = 4) -> str:
    """Returns the address of one of PLACES."""
    return PLACES[place][version == 6]


def network_policy(app: str = "a", *, name: str = "p", **spec: Any) -> dict[str, Any]:
    """Returns a NetworkPolicy for pods of one app."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, **spec},
    }


def cilium_policy(app: str = "a", *, name: str = "p", **spec: Any) -> dict[str, Any]:
    """Returns a CiliumNetworkPolicy for pods of one app."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"endpointSelector": {"matchLabels": {"app": app}}, **spec},
    }


def cluster_policy(app: str = "a", *, name: str = "p", priority: int = 10, tier: str = "Admin", **spec: Any) -> Any:
    """Returns a ClusterNetworkPolicy for pods of one app."""
    subject = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}}}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": tier, "priority": priority, "subject": subject, **spec},
    }


def pods(app: str) -> dict[str, Any]:
    """Returns a peer of a NetworkPolicy: pods of one app."""
    return {"podSelector": {"matchLabels": {"app": app}}}


def _world(node: str) -> World:
    cluster, addresses = NODES[node]
    world = World(cluster, node_addresses=frozenset(addresses))
    world.identities[HOST] = Identity(HOST, cluster, "", {"name": node}, {}, reserved=("host",))
    world.identities[THE_API_SERVER.number] = THE_API_SERVER
    for number, (name, (place, ips)) in enumerate(PODS.items(), start=256):
        whose = NODES[place][0]
        number += {"east": 1, "west": 2}[whose] << 16
        world.identities[number] = Identity(number, whose, NAMESPACE, {"app": name}, {})
        for ip in ips:
            world.endpoints[ip] = Endpoint(whose, ip, number, NAMESPACE, name, named_ports=NAMED_PORTS)
        if place == node:
            world.pods[f"{NAMESPACE}/{name}"] = LocalPod(NAMESPACE, name, "", {"app": name}, ips, NAMED_PORTS)
    for number, (name, (whose, ips)) in enumerate(NODES.items(), start=FIRST_NODE):
        if name != node:
            world.identities[number] = Identity(number, whose, "", {"name": name}, {}, reserved=("remote-node",))
            world.nodes |= dict.fromkeys(ips, number)
    world.nodes |= dict.fromkeys(ELSEWHERE["apiserver"], THE_API_SERVER.number)
    return world
