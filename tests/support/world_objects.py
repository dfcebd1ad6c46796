"""Random policy objects of every kind, as a user would write them: for the random worlds of tests.support.worlds."""

from random import Random
from typing import Any

from isthmus.model.labels import CLUSTERSET_CLUSTER
from isthmus.policy.context import CidrGroup, Context, Parsed
from isthmus.policy.parsing import read
from isthmus.policy.rules import Scope

CLUSTER = "east"
CLUSTERS = ("east", "west")
NAMESPACES = ("x", "y")
PORTS = (80, 81, 8000, 8080)
PORT_NAMES = ("web", "dns")
RANGES = ((80, 81), (80, 80), (8000, 8079), (81, 9000), (70, 90))
NAMES = ("example.org", "api.example.org", "other.test")
PATTERNS = ({"matchName": "example.org"}, {"matchPattern": "*.example.org"}, {"matchPattern": "*"})
GROUPS = {"branches": CidrGroup("branches", {"kind": "office"}, ("198.51.100.0/25", "172.18.0.0/16", "2001:db8::/64"))}

BLOCKS = (
    {"cidr": "10.2.0.0/24"},
    {"cidr": "10.1.0.11/32"},
    {"cidr": "0.0.0.0/0", "except": ["10.2.0.0/25", "10.1.0.0/31", "10.1.0.10/31"]},
    {"cidr": "198.51.100.0/24"},
    {"cidr": "10.0.0.0/8", "except": ["10.2.0.10/32", "10.2.0.0/24"]},
    {"cidr": "172.18.0.0/16"},
    {"cidr": "::/0", "except": ["fd00:2::a/128"]},
    {"cidr": "fd00::/16"},
)
ENTITIES = ("all", "world", "host", "remote-node", "kube-apiserver", "cluster", "cluster-mesh", "world-ipv4", "none")
ZONE = ("zone", "ab")  # a label of nodes


def parsed(rng: Random) -> Parsed:
    """Returns a policy object, read."""
    context = Context(CLUSTER, rng.choice(list(Scope)), cidr_groups=GROUPS, dns_proxy=rng.random() < 0.8)
    return read(policy_object(rng), context)


def policy_object(rng: Random) -> dict[str, Any]:
    """Returns a policy object of any kind, as an API server would have it."""
    make = rng.choice((_network, _cilium, _cilium, _cluster, _admin))
    return make(rng)


def selector(rng: Random, *, clusters: bool = False, values: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns a label selector: mostly empty, or with one label."""
    values = values or ({"app": "ab", "tier": "pq"} | ({CLUSTERSET_CLUSTER: CLUSTERS} if clusters else {}))
    found: dict[str, Any] = {}
    if rng.random() < 0.35:
        key = rng.choice(list(values))
        found["matchLabels"] = {key: rng.choice(values[key])}
    if rng.random() < 0.15:
        key = rng.choice(list(values))
        operator = rng.choice(["In", "NotIn", "Exists", "DoesNotExist"])
        expression: dict[str, Any] = {"key": key, "operator": operator}
        if operator in ("In", "NotIn"):
            expression["values"] = rng.sample(list(values[key]), rng.randint(1, 2))
        found["matchExpressions"] = [expression]
    return found


# -- NetworkPolicy ---------------------------------------------------------------------------------------------


def _network(rng: Random) -> dict[str, Any]:
    spec: dict[str, Any] = {"podSelector": selector(rng)}
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        if rng.random() < 0.7:
            spec[direction] = [_network_rule(rng, peers) for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.6:
        spec["policyTypes"] = rng.choice([["Ingress"], ["Egress"], ["Ingress", "Egress"]])
    return _object(rng, "networking.k8s.io/v1", "NetworkPolicy", spec, namespace=rng.choice(NAMESPACES))


def _network_rule(rng: Random, peers: str) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    if rng.random() < 0.8:
        rule[peers] = [_network_peer(rng) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.8:
        rule["ports"] = [_network_port(rng) for _ in range(rng.randint(1, 4))]
    return rule


def _network_peer(rng: Random) -> dict[str, Any]:
    match rng.randrange(4):
        case 0:
            return {"ipBlock": rng.choice(BLOCKS)}
        case 1:
            return {"podSelector": selector(rng, clusters=True)}
        case 2:
            return {"namespaceSelector": selector(rng, clusters=True)}
        case _:
            return {"podSelector": selector(rng), "namespaceSelector": selector(rng, clusters=True)}


def _network_port(rng: Random) -> dict[str, Any]:
    port: dict[str, Any] = {"protocol": rng.choice(["TCP", "TCP", "TCP", "UDP", "SCTP"])}
    match rng.randrange(4):
        case 1:
            port["port"] = rng.choice(PORTS)
        case 2:
            port["port"] = rng.choice(PORT_NAMES)
        case 3:
            port["port"], port["endPort"] = rng.choice(RANGES)
    return port


# -- Cilium ----------------------------------------------------------------------------------------------------


def _cilium(rng: Random) -> dict[str, Any]:
    namespace = rng.choice((*NAMESPACES, ""))
    kind = "CiliumNetworkPolicy" if namespace else "CiliumClusterwideNetworkPolicy"
    rules = [_cilium_spec(rng) for _ in range(1 if rng.random() < 0.8 else 2)]
    obj = _object(rng, "cilium.io/v2", kind, rules[0], namespace=namespace)
    if len(rules) > 1:
        del obj["spec"]
        obj["specs"] = rules
    return obj


def _cilium_spec(rng: Random) -> dict[str, Any]:
    spec: dict[str, Any] = {"endpointSelector": _endpoints(rng, subject=True)}
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        if rng.random() < 0.6:
            spec[direction] = [_cilium_entry(rng, peers, denies=False) for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.35:
            spec[f"{direction}Deny"] = [_cilium_entry(rng, peers, denies=True) for _ in range(rng.randint(1, 2))]
    if not spec.keys() & {"ingress", "egress", "ingressDeny", "egressDeny"}:
        spec["ingress"] = [{}]
    if rng.random() < 0.3:
        spec["enableDefaultDeny"] = {rng.choice(["ingress", "egress"]): rng.random() < 0.3}
    return spec


def _endpoints(rng: Random, *, subject: bool = False) -> dict[str, Any]:
    values: dict[str, Any] = {"app": "ab", "k8s:tier": "pq", "any:app": "ab"}
    if not subject:
        values |= {"io.kubernetes.pod.namespace": NAMESPACES, "k8s:io.cilium.k8s.policy.cluster": CLUSTERS}
        values |= {"k8s:io.cilium.k8s.namespace.labels.tier": "pq"}
    return selector(rng, values=values)


def _cilium_entry(rng: Random, peers: str, *, denies: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    match rng.randrange(9):
        case 0 | 1:
            entry[f"{peers}Endpoints"] = [_endpoints(rng) for _ in range(rng.randint(1, 2))]
        case 2 | 3:
            entry[f"{peers}Entities"] = rng.sample(ENTITIES, rng.randint(1, 2))
        case 4:
            entry[f"{peers}CIDR"] = [rng.choice(BLOCKS)["cidr"]]
        case 5:
            group = {"cidrGroupRef": "branches"}
            entry[f"{peers}CIDRSet"] = [group if rng.random() < 0.3 else rng.choice(BLOCKS)]
        case 6 | 8 if peers == "to" and not denies:
            entry["toFQDNs"] = rng.sample(PATTERNS, rng.randint(1, 2))
        case 7 if rng.random() < 0.7:
            entry[f"{peers}Nodes"] = [selector(rng, values={ZONE[0]: ZONE[1]})]
    match rng.randrange(5):
        case 0 | 1:
            entry["toPorts"] = [{"ports": [_cilium_port(rng) for _ in range(rng.randint(1, 3))]}]
        case 2:
            entry["icmps"] = [{"fields": [_icmp(rng) for _ in range(rng.randint(1, 2))]}]
    return entry


def _cilium_port(rng: Random) -> dict[str, Any]:
    protocol = rng.choice(["TCP", "TCP", "UDP", "SCTP", "ANY"])
    match rng.randrange(4):
        case 0:
            first, last = rng.choice(RANGES)
            return {"port": str(first), "endPort": last, "protocol": protocol}
        case 1:
            return {"port": rng.choice(PORT_NAMES), "protocol": protocol}
        case 2:
            return {"port": str(rng.choice(PORTS)), "protocol": protocol}
        case _:
            return {"port": "0", "protocol": protocol}


def _icmp(rng: Random) -> dict[str, Any]:
    family = rng.choice(["IPv4", "IPv6"])
    return {"family": family, "type": rng.choice([8, 13] if family == "IPv4" else [128, 139])}


# -- ClusterNetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy ---------------------------------------


def _cluster(rng: Random) -> dict[str, Any]:
    tier = rng.choice(["Admin", "Baseline"])
    spec = {"tier": tier, "priority": rng.randrange(3), "subject": _subject(rng, need_namespaces=False)}
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        if rng.random() < 0.7:
            rules = [
                _ordered_rule(rng, peers, "protocols", ("Accept", "Deny", "Pass")) for _ in range(rng.randint(1, 4))
            ]
            spec[direction] = rules
    return _object(rng, "policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", spec)


def _admin(rng: Random) -> dict[str, Any]:
    baseline = rng.random() < 0.5
    spec: dict[str, Any] = {"subject": _subject(rng, need_namespaces=True)}
    if not baseline:
        spec["priority"] = rng.randrange(3)
    actions = ("Allow", "Deny") if baseline else ("Allow", "Deny", "Pass")
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        if rng.random() < 0.7:
            spec[direction] = [_ordered_rule(rng, peers, "ports", actions) for _ in range(rng.randint(1, 4))]
    kind = "BaselineAdminNetworkPolicy" if baseline else "AdminNetworkPolicy"
    obj = _object(rng, "policy.networking.k8s.io/v1alpha1", kind, spec)
    if baseline:
        obj["metadata"]["name"] = "default"
    return obj


def _subject(rng: Random, *, need_namespaces: bool) -> dict[str, Any]:
    if rng.random() < 0.4:
        return {"namespaces": selector(rng)}
    pods = {"podSelector": selector(rng)}
    if need_namespaces or rng.random() < 0.5:
        pods["namespaceSelector"] = selector(rng)
    return {"pods": pods}


def _ordered_rule(rng: Random, peers: str, ports: str, actions: tuple[str, ...]) -> dict[str, Any]:
    found = [_ordered_peer(rng, peers, actions) for _ in range(rng.randint(1, 2))]
    rule: dict[str, Any] = {"action": rng.choice(actions), peers: found}
    if rng.random() < 0.6:
        make = _protocol if ports == "protocols" else _admin_port
        rule[ports] = [make(rng) for _ in range(rng.randint(1, 3))]
    return rule


def _ordered_peer(rng: Random, peers: str, actions: tuple[str, ...]) -> dict[str, Any]:
    match rng.randrange(8):
        case 0 | 1:
            return {"namespaces": selector(rng, clusters=True)}
        case 2 if peers == "to":
            return {"networks": [block["cidr"] for block in rng.sample(BLOCKS, rng.randint(1, 2))]}
        case 3 | 4 if peers == "to":
            return {"nodes": selector(rng, values={ZONE[0]: ZONE[1]})}
        case 5 if peers == "to" and "Pass" in actions:
            return {"domainNames": [rng.choice(["example.org", "*.example.org"])]}
        case _:
            return {"pods": {"podSelector": selector(rng), "namespaceSelector": selector(rng, clusters=True)}}


def _protocol(rng: Random) -> dict[str, Any]:
    protocol = rng.choice(["tcp", "tcp", "udp", "sctp"])
    match rng.randrange(3):
        case 0:
            first, last = rng.choice([ends for ends in RANGES if ends[0] < ends[1]])
            return {protocol: {"destinationPort": {"range": {"start": first, "end": last}}}}
        case 1:
            return {"destinationNamedPort": rng.choice(PORT_NAMES)}
        case _:
            return {protocol: {"destinationPort": {"number": rng.choice(PORTS)}}}


def _admin_port(rng: Random) -> dict[str, Any]:
    protocol = rng.choice(["TCP", "TCP", "UDP", "SCTP"])
    match rng.randrange(3):
        case 0:
            first, last = rng.choice([ends for ends in RANGES if ends[0] < ends[1]])
            return {"portRange": {"protocol": protocol, "start": first, "end": last}}
        case 1:
            return {"namedPort": rng.choice(PORT_NAMES)}
        case _:
            return {"portNumber": {"protocol": protocol, "port": rng.choice(PORTS)}}


def _object(rng: Random, version: str, kind: str, spec: dict[str, Any], *, namespace: str = "") -> dict[str, Any]:
    metadata = {"name": rng.choice(("p0", "p1", "p2", "p3")), "generation": rng.randint(1, 3)}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
