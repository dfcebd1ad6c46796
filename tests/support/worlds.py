"""Random small worlds, policies and flows for property tests; dense enough that most things touch each other."""

from ipaddress import ip_network
from typing import Any

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

labels = st.fixed_dictionaries({}, optional={"app": st.sampled_from("ab"), "tier": st.sampled_from("pq")})
protocols = st.sampled_from(["TCP", "UDP", "SCTP"])


@st.composite
def selectors(draw: st.DrawFn, *, clusters: bool = False) -> dict[str, Any]:
    keys = ["app", "tier", *([CLUSTERSET_CLUSTER] if clusters else [])]
    values = {"app": "ab", "tier": "pq", CLUSTERSET_CLUSTER: CLUSTERS}
    selector: dict[str, Any] = {}
    if draw(st.booleans()):
        key = draw(st.sampled_from(keys))
        selector["matchLabels"] = {key: draw(st.sampled_from(values[key]))}
    if draw(st.integers(0, 3)) == 0:
        key = draw(st.sampled_from(keys))
        operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]))
        expression: dict[str, Any] = {"key": key, "operator": operator}
        if operator in ("In", "NotIn"):
            expression["values"] = draw(st.lists(st.sampled_from(values[key]), min_size=1, max_size=2, unique=True))
        selector["matchExpressions"] = [expression]
    return selector


blocks = st.sampled_from(
    [
        {"cidr": "10.2.0.0/24"},
        {"cidr": "10.1.0.11/32"},
        {"cidr": "0.0.0.0/0", "except": ["10.2.0.0/25", "10.1.0.0/31", "10.1.0.10/31"]},
        {"cidr": "198.51.100.0/24"},
        {"cidr": "10.0.0.0/8", "except": ["10.2.0.10/32", "10.2.0.0/24"]},
        {"cidr": "::/0", "except": ["fd00:2::a/128"]},
        {"cidr": "fd00::/16"},
    ]
)


@st.composite
def peers(draw: st.DrawFn) -> dict[str, Any]:
    match draw(st.integers(0, 3)):
        case 0:
            return {"ipBlock": draw(blocks)}
        case 1:
            return {"podSelector": draw(selectors(clusters=True))}
        case 2:
            return {"namespaceSelector": draw(selectors(clusters=True))}
        case _:
            return {"podSelector": draw(selectors()), "namespaceSelector": draw(selectors(clusters=True))}


@st.composite
def ports(draw: st.DrawFn) -> dict[str, Any]:
    port: dict[str, Any] = {"protocol": draw(protocols)}
    match draw(st.integers(0, 3)):
        case 1:
            port["port"] = draw(st.sampled_from(PORTS))
        case 2:
            port["port"] = draw(st.sampled_from(PORT_NAMES))
        case 3:
            port["port"], port["endPort"] = draw(
                st.sampled_from([(80, 81), (80, 80), (8000, 8079), (81, 9000), (70, 90)])
            )
    return port


@st.composite
def policies(draw: st.DrawFn, names: tuple[str, ...] = ("p0", "p1", "p2", "p3")) -> Policy:
    spec: dict[str, Any] = {"podSelector": draw(selectors())}
    for direction, key in (("ingress", "from"), ("egress", "to")):
        if draw(st.booleans()):
            spec[direction] = [
                {
                    **({key: rule_peers} if rule_peers is not None else {}),
                    **({"ports": rule_ports} if rule_ports is not None else {}),
                }
                for rule_peers, rule_ports in draw(
                    st.lists(
                        st.tuples(
                            st.none() | st.lists(peers(), max_size=2),
                            st.none() | st.lists(ports(), max_size=3),
                        ),
                        max_size=3,
                    )
                )
            ]
    if draw(st.booleans()):
        spec["policyTypes"] = draw(st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]]))
    metadata = {"name": draw(st.sampled_from(names)), "namespace": draw(st.sampled_from(NAMESPACES))}
    return parse({"metadata": metadata, "spec": spec}, cluster=CLUSTER, scope=draw(st.sampled_from(Scope)))


@st.composite
def identities(draw: st.DrawFn, number: int) -> Identity:
    cluster = CLUSTERS[(number >> 16) - 1]
    return Identity(number, cluster, draw(st.sampled_from(NAMESPACES)), draw(labels), draw(labels))


NUMBERS = (0x10100, 0x10101, 0x10102, 0x20100, 0x20101)
named_ports = st.lists(
    st.builds(NamedPort, name=st.sampled_from(PORT_NAMES), port=st.sampled_from(PORTS), protocol=protocols), max_size=2
).map(tuple)


@st.composite
def endpoints(draw: st.DrawFn, ip: str) -> Endpoint:
    number = draw(st.sampled_from(NUMBERS))
    return Endpoint(CLUSTERS[(number >> 16) - 1], ip, number, "x", f"pod-{ip}", named_ports=draw(named_ports))


@st.composite
def local_pods(draw: st.DrawFn, slot: int) -> LocalPod:
    ips = draw(st.sampled_from([LOCAL_IPS[slot : slot + 1], LOCAL_IPS[slot::3], ()]))
    namespace = NAMESPACES[slot % 2]
    return LocalPod(namespace, f"pod-{slot}", f"uid-{slot}", draw(labels), ips, draw(named_ports))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world = World(CLUSTER, node_addresses=NODE_ADDRESSES, pod_cidrs=POD_CIDRS)
    world.identities = {number: draw(identities(number)) for number in NUMBERS if draw(st.integers(0, 5))}
    world.endpoints = {ip: draw(endpoints(ip)) for ip in (*LOCAL_IPS, *REMOTE_IPS) if draw(st.integers(0, 5))}
    for slot in range(3):
        pod = draw(local_pods(slot))
        world.pods[pod.key] = pod
    for policy in draw(st.lists(policies(), max_size=4)):
        world.policies = {ref: p for ref, p in world.policies.items() if ref != policy.ref} | {policy.ref: policy}
    return world


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    everyone = (*LOCAL_IPS, *REMOTE_IPS, *OUTSIDE_IPS, *UNKNOWN_IPS, *sorted(NODE_ADDRESSES))
    source = draw(st.sampled_from(everyone))
    target = draw(st.sampled_from([ip for ip in everyone if (":" in ip) == (":" in source)]))
    protocol = draw(st.sampled_from([6, 6, 17, 132, 1]))
    return Flow(source, target, protocol, draw(st.sampled_from((*PORTS, 82, 9001))) if protocol != 1 else 0)
