"""Random small worlds, policies and flows for property tests; dense enough that most things touch each other.

What is drawn is a seed, and the rest is made from it by plain chance: strategies that are built up from small parts
mostly draw empty lists, and two empty worlds agree about everything. tests/property/test_policy_agreement.py counts
that every kind of rule really decides something. A failing example prints its seed.
"""

from collections.abc import Callable
from ipaddress import ip_network
from random import Random
from typing import Any, TypeVar

from hypothesis import strategies as st

from isthmus.model.endpoint import Endpoint, NamedPort
from isthmus.model.flow import Flow
from isthmus.model.identity import Identity
from isthmus.model.labels import CLUSTERSET_CLUSTER
from isthmus.policy.networkpolicy import parse
from isthmus.policy.rules import Policy, Scope
from isthmus.policy.world import LocalPod, World

CLUSTER = "east"
CLUSTERS = ("east", "west")
NAMESPACES = ("x", "y")
NODE_ADDRESSES = frozenset({"172.18.0.2", "fd00:18::2"})
POD_CIDRS = (ip_network("10.1.0.0/24"), ip_network("fd00:1::/64"))
LOCAL_IPS = ("10.1.0.10", "10.1.0.11", "10.1.0.12", "fd00:1::a", "fd00:1::b", "fd00:1::c")
REMOTE_IPS = ("10.2.0.10", "10.2.0.11", "10.1.1.9", "fd00:2::a", "fd00:2::b")
OUTSIDE_IPS = ("198.51.100.7", "172.18.0.3", "2001:db8::7")
UNKNOWN_IPS = ("10.1.0.99", "fd00:1::99")
PORTS = (80, 81, 8000, 8080)
PORT_NAMES = ("web", "dns")

BLOCKS = (
    {"cidr": "10.2.0.0/24"},
    {"cidr": "10.1.0.11/32"},
    {"cidr": "0.0.0.0/0", "except": ["10.2.0.0/25", "10.1.0.0/31", "10.1.0.10/31"]},
    {"cidr": "198.51.100.0/24"},
    {"cidr": "10.0.0.0/8", "except": ["10.2.0.10/32", "10.2.0.0/24"]},
    {"cidr": "::/0", "except": ["fd00:2::a/128"]},
    {"cidr": "fd00::/16"},
)
RANGES = ((80, 81), (80, 80), (8000, 8079), (81, 9000), (70, 90))
NUMBERS = (0x10100, 0x10101, 0x10102, 0x20100, 0x20101)
T = TypeVar("T")


def seeded(make: Callable[[Random], T]) -> st.SearchStrategy[T]:
    """Returns the strategy of what `make` makes of a seed."""
    return st.integers(0, 2**48).map(lambda seed: make(Random(seed)))


def _labels(rng: Random) -> dict[str, str]:
    pairs = (("app", rng.choice("ab")), ("tier", rng.choice("pq")))
    return {key: value for key, value in pairs if rng.random() < 0.7}


def _selector(rng: Random, *, clusters: bool = False) -> dict[str, Any]:
    values = {"app": "ab", "tier": "pq"} | ({CLUSTERSET_CLUSTER: CLUSTERS} if clusters else {})
    selector: dict[str, Any] = {}
    if rng.random() < 0.35:
        key = rng.choice(list(values))
        selector["matchLabels"] = {key: rng.choice(values[key])}
    if rng.random() < 0.15:
        key = rng.choice(list(values))
        operator = rng.choice(["In", "NotIn", "Exists", "DoesNotExist"])
        expression: dict[str, Any] = {"key": key, "operator": operator}
        if operator in ("In", "NotIn"):
            expression["values"] = rng.sample(list(values[key]), rng.randint(1, 2))
        selector["matchExpressions"] = [expression]
    return selector


def _peer(rng: Random) -> dict[str, Any]:
    match rng.randrange(4):
        case 0:
            return {"ipBlock": rng.choice(BLOCKS)}
        case 1:
            return {"podSelector": _selector(rng, clusters=True)}
        case 2:
            return {"namespaceSelector": _selector(rng, clusters=True)}
        case _:
            return {"podSelector": _selector(rng), "namespaceSelector": _selector(rng, clusters=True)}


def _port(rng: Random) -> dict[str, Any]:
    port: dict[str, Any] = {"protocol": rng.choice(["TCP", "TCP", "TCP", "UDP", "SCTP"])}
    match rng.randrange(4):
        case 1:
            port["port"] = rng.choice(PORTS)
        case 2:
            port["port"] = rng.choice(PORT_NAMES)
        case 3:
            port["port"], port["endPort"] = rng.choice(RANGES)
    return port


def _rule(rng: Random, peers: str) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    if rng.random() < 0.8:
        rule[peers] = [_peer(rng) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.8:
        rule["ports"] = [_port(rng) for _ in range(rng.randint(1, 4))]
    return rule


def policy(rng: Random) -> Policy:
    spec: dict[str, Any] = {"podSelector": _selector(rng)}
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        if rng.random() < 0.7:
            spec[direction] = [_rule(rng, peers) for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.6:
        spec["policyTypes"] = rng.choice([["Ingress"], ["Egress"], ["Ingress", "Egress"]])
    metadata = {"name": rng.choice(("p0", "p1", "p2", "p3")), "namespace": rng.choice(NAMESPACES)}
    return parse({"metadata": metadata, "spec": spec}, cluster=CLUSTER, scope=rng.choice(list(Scope)))


def identity(rng: Random, number: int) -> Identity:
    cluster = CLUSTERS[(number >> 16) - 1]
    return Identity(number, cluster, rng.choice(NAMESPACES), _labels(rng), _labels(rng))


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
    for _ in range(rng.randint(0, 5)):
        one = policy(rng)
        made.policies[one.ref] = one
    return made


def flow(rng: Random) -> Flow:
    inside, rest = (*LOCAL_IPS, *REMOTE_IPS), (*OUTSIDE_IPS, *UNKNOWN_IPS, *sorted(NODE_ADDRESSES))
    source = rng.choice(inside if rng.random() < 0.8 else rest)
    pool = [ip for ip in (LOCAL_IPS if rng.random() < 0.5 else inside + rest) if (":" in ip) == (":" in source)]
    protocol = rng.choice([6, 6, 6, 17, 132, 58 if ":" in source else 1])
    return Flow(
        source, rng.choice(pool), protocol, rng.choice((*PORTS, *PORTS, 82, 9001)) if protocol not in (1, 58) else 0
    )


def worlds() -> st.SearchStrategy[World]:
    return seeded(world)


def flows() -> st.SearchStrategy[Flow]:
    return seeded(flow)


def many_flows(count: int = 30) -> st.SearchStrategy[list[Flow]]:
    return seeded(lambda rng: [flow(rng) for _ in range(count)])


def policies() -> st.SearchStrategy[Policy]:
    return seeded(policy)


def identities(number: int) -> st.SearchStrategy[Identity]:
    return seeded(lambda rng: identity(rng, number))


def endpoints(ip: str) -> st.SearchStrategy[Endpoint]:
    return seeded(lambda rng: endpoint(rng, ip))


def local_pods(slot: int) -> st.SearchStrategy[LocalPod]:
    return seeded(lambda rng: local_pod(rng, slot))
