"""Random small worlds, policies and flows for property tests; dense enough that most things touch each other.

What is drawn is a seed, and the rest is made from it by plain chance: strategies that are built up from small parts
mostly draw empty lists, and two empty worlds agree about everything. tests/property/test_policy_agreement.py counts
that every kind of rule really decides something. A failing example prints its seed.
"""

from collections.abc import Callable
from ipaddress import ip_network
from random import Random
from typing import TypeVar

from hypothesis import strategies as st

from isthmus.model.endpoint import Endpoint, NamedPort
from isthmus.model.flow import Flow
from isthmus.model.identity import FIRST_NODE, HOST, KUBE_APISERVER, Identity
from isthmus.policy.rules import Policy
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.interpreter import Packet
from tests.support.world_objects import (
    CLUSTER,
    CLUSTERS,
    NAMES,
    NAMESPACES,
    PORT_NAMES,
    PORTS,
    ZONE,
    parsed,
)

NODE_ADDRESSES = frozenset({"172.18.0.2", "fd00:18::2"})
POD_CIDRS = (ip_network("10.1.0.0/24"), ip_network("fd00:1::/64"))
LOCAL_IPS = ("10.1.0.10", "10.1.0.11", "10.1.0.12", "fd00:1::a", "fd00:1::b", "fd00:1::c")
REMOTE_IPS = ("10.2.0.10", "10.2.0.11", "10.1.1.9", "fd00:2::a", "fd00:2::b")
OUTSIDE_IPS = ("198.51.100.7", "172.18.0.3", "172.18.0.9", "2001:db8::7", "fd00:18::3")
UNKNOWN_IPS = ("10.1.0.99", "fd00:1::99")
NUMBERS = (0x10100, 0x10101, 0x10102, 0x20100, 0x20101)
NODE_NUMBERS = (FIRST_NODE, FIRST_NODE + 1)
T = TypeVar("T")


def seeded(make: Callable[[Random], T]) -> st.SearchStrategy[T]:
    """Returns the strategy of what `make` makes of a seed."""
    return st.integers(0, 2**48).map(lambda seed: make(Random(seed)))


def _labels(rng: Random) -> dict[str, str]:
    pairs = (("app", rng.choice("ab")), ("tier", rng.choice("pq")))
    return {key: value for key, value in pairs if rng.random() < 0.7}


def policy(rng: Random) -> Policy:
    """Returns the first policy of a random object."""
    return objects(rng)[0]


def objects(rng: Random) -> tuple[Policy, ...]:
    """Returns the policies of a random object."""
    return parsed(rng).policies


def identity(rng: Random, number: int) -> Identity:
    cluster = CLUSTERS[(number >> 16) - 1]
    account = rng.choice(("", "robot"))
    return Identity(number, cluster, rng.choice(NAMESPACES), _labels(rng), _labels(rng), account)


def node(rng: Random, number: int) -> Identity:
    """Returns a node: this one for HOST."""
    labels = {ZONE[0]: rng.choice(ZONE[1])} if rng.random() < 0.8 else {}
    if number == HOST:
        reserved: tuple[str, ...] = ("host", "kube-apiserver") if rng.random() < 0.3 else ("host",)
        return Identity(number, CLUSTER, "", labels, {}, reserved=reserved)
    reserved = ("kube-apiserver", "remote-node") if rng.random() < 0.3 else ("remote-node",)
    return Identity(number, rng.choice(CLUSTERS), "", labels, {}, reserved=reserved)


def _named_ports(rng: Random) -> tuple[NamedPort, ...]:
    names = [name for name in (*PORT_NAMES, *PORT_NAMES) if rng.random() < 0.5]
    return tuple(NamedPort(name, rng.choice(PORTS), rng.choice(["TCP", "TCP", "UDP", "SCTP"])) for name in names)


def endpoint(rng: Random, ip: str) -> Endpoint:
    number = rng.choice(NUMBERS)
    return Endpoint(CLUSTERS[(number >> 16) - 1], ip, number, "x", f"pod-{ip}", named_ports=_named_ports(rng))


def local_pod(rng: Random, slot: int) -> LocalPod:
    ips = rng.choice([LOCAL_IPS[slot : slot + 1], *[LOCAL_IPS[slot::3]] * 8, ()])
    return LocalPod(NAMESPACES[slot % 2], f"pod-{slot}", f"uid-{slot}", _labels(rng), ips, _named_ports(rng))


def world(rng: Random) -> World:
    made = World(CLUSTER, node_addresses=NODE_ADDRESSES, pod_cidrs=POD_CIDRS)
    made.identities = {number: identity(rng, number) for number in NUMBERS if rng.random() < 0.9}
    made.endpoints = {ip: endpoint(rng, ip) for ip in (*LOCAL_IPS, *REMOTE_IPS) if rng.random() < 0.9}
    for slot in range(3):
        pod = local_pod(rng, slot)
        made.pods[pod.key] = pod
    for number in (HOST, *NODE_NUMBERS):
        if rng.random() < 0.7:
            made.identities[number] = node(rng, number)
    made.nodes = {ip: node_number(rng) for ip in OUTSIDE_IPS if rng.random() < 0.6}
    made.names = {ip: names(rng) for ip in (*OUTSIDE_IPS, *REMOTE_IPS) if rng.random() < 0.7}
    found: dict[tuple[str, str, str], tuple[Policy, ...]] = {}
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4, 5))):
        one = objects(rng)
        found[one[0].ref.kind, one[0].ref.namespace, one[0].ref.name] = one
    made.policies = {one.ref: one for policies in found.values() for one in policies}
    return made


def node_number(rng: Random) -> int:
    return rng.choice((*NODE_NUMBERS, *NODE_NUMBERS, KUBE_APISERVER))


def names(rng: Random) -> frozenset[str]:
    return frozenset(rng.sample(NAMES, rng.randint(1, 2)))


def flow(rng: Random) -> Flow:
    inside, rest = (*LOCAL_IPS, *REMOTE_IPS), (*OUTSIDE_IPS, *UNKNOWN_IPS, *sorted(NODE_ADDRESSES))
    source = rng.choice(inside if rng.random() < 0.75 else rest)
    pool = [ip for ip in (LOCAL_IPS if rng.random() < 0.4 else inside + rest) if (":" in ip) == (":" in source)]
    protocol = rng.choice([6, 6, 6, 17, 132, 58 if ":" in source else 1])
    ports = {1: (8, 8, 13), 58: (128, 128, 139)}.get(protocol, (*PORTS, *PORTS, 82, 9001))
    return Flow(source, rng.choice(pool), protocol, rng.choice(ports), translated=rng.random() < 0.2)


def packets(flow: Flow) -> tuple[Packet, Packet]:
    """Returns the packet that opens a connection, and a reply to it, where they meet a hook that judges them."""
    to_node, from_node = (ip in NODE_ADDRESSES for ip in (flow.destination, flow.source))
    client = PORTS[flow.port % len(PORTS)]
    return (
        Packet(flow, from_node=from_node, to_node=to_node, client_port=client),
        Packet(flow, reply=True, from_node=to_node, to_node=from_node, client_port=client),
    )


def worlds() -> st.SearchStrategy[World]:
    return seeded(world)


def flows() -> st.SearchStrategy[Flow]:
    return seeded(flow)


def many_flows(count: int = 30) -> st.SearchStrategy[list[Flow]]:
    return seeded(lambda rng: [flow(rng) for _ in range(count)])


def objects_of_policies() -> st.SearchStrategy[tuple[Policy, ...]]:
    return seeded(objects)


def nodes(number: int) -> st.SearchStrategy[Identity]:
    return seeded(lambda rng: node(rng, number))


def policies() -> st.SearchStrategy[Policy]:
    return seeded(policy)


def identities(number: int) -> st.SearchStrategy[Identity]:
    return seeded(lambda rng: identity(rng, number))


def endpoints(ip: str) -> st.SearchStrategy[Endpoint]:
    return seeded(lambda rng: endpoint(rng, ip))


def local_pods(slot: int) -> st.SearchStrategy[LocalPod]:
    return seeded(lambda rng: local_pod(rng, slot))
