"""A second reading of Cilium policy objects: slow, from the raw object to a verdict in one go, with no code of ours.

It follows reference cilium-policy §2-§3 on labels with sources, as Cilium has them, and knows valid objects only. With
it come objects drawn at random, and a small mesh that they are about. Services and names are left to other tests.
"""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

HERE, THERE = "c1", "c2"
NAMESPACE = "io.kubernetes.pod.namespace"
CLUSTER = "io.cilium.k8s.policy.cluster"
OF_NAMESPACE = "io.cilium.k8s.namespace.labels."
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
ICMP = {"IPv4": 1, "IPv6": 58}
MESH = ("host", "remote-node", "kube-apiserver")
GROUPS = {"out": (("198.51.100.0/24", "203.0.113.7/32"), {"tier": "x"}), "v6": (("2001:db8::/32",), {"tier": "x"})}


class End(NamedTuple):
    """Somebody with an address: `labels` by `source:key`, `named` ports by name, and what it is for test worlds."""

    ip: str
    labels: dict[str, str]
    named: Mapping[str, tuple[int, int]] = MappingProxyType({})
    cluster: str = ""
    namespace: str = ""
    plain: Mapping[str, str] = MappingProxyType({})


def _pod(ip: str, cluster: str, namespace: str, labels: dict[str, str], **named: tuple[int, int]) -> End:
    spaces = {"prod": {"env": "prod"}, "default": {}}[namespace]
    found = {f"k8s:{key}": value for key, value in labels.items()}
    found |= {f"k8s:{NAMESPACE}": namespace, f"k8s:{CLUSTER}": cluster}
    found |= {f"k8s:{OF_NAMESPACE}{key}": value for key, value in spaces.items()}
    return End(ip, found, named, cluster, namespace, labels)


PODS = (
    _pod("10.1.0.1", HERE, "default", {"app": "a"}, http=(6, 80), dns=(17, 53)),
    _pod("10.1.0.2", HERE, "default", {"app": "b", "tier": "x"}, http=(6, 8080)),
    _pod("10.1.0.3", HERE, "prod", {"app": "a"}, http=(6, 80)),
    _pod("10.1.0.4", HERE, "prod", {"tier": "x"}),
    _pod("fd00::1", HERE, "default", {"app": "a", "tier": "y"}, http=(6, 80)),
    _pod("10.2.0.1", THERE, "default", {"app": "a"}, http=(6, 8080)),
    _pod("10.2.0.2", THERE, "prod", {"app": "b"}, http=(6, 80)),
    _pod("fd00::2", THERE, "default", {"app": "b"}),
)
NODES = (
    End("172.18.0.1", {"reserved:host": ""}, cluster=HERE, plain={"zone": "a"}),
    End("172.18.0.2", {"reserved:remote-node": ""}, cluster=HERE, plain={"zone": "b"}),
    End("172.19.0.1", {"reserved:remote-node": "", "reserved:kube-apiserver": ""}, cluster=THERE, plain={"zone": "a"}),
)
OUTSIDE = tuple(
    End(ip, {"reserved:world": ""})
    for ip in ("198.51.100.1", "198.51.100.200", "203.0.113.7", "2001:db8::1", "2001:db9::1")
)
API_SERVER = End("203.0.113.53", {"reserved:world": "", "reserved:kube-apiserver": ""})
ENDS = (*PODS, *NODES, API_SERVER, *OUTSIDE)


class Asked(NamedTuple):
    """A connection: `port` is the type for ICMP."""

    source: End
    target: End
    protocol: int
    port: int


def verdict(objects: list[dict[str, Any]], asked: Asked, *, local: bool) -> tuple[str, str]:
    """Returns `allow`, or the side that refuses first and why; pods of HERE are those of the node that judges."""
    for side, mine, other in (("egress", asked.source, asked.target), ("ingress", asked.target, asked.source)):
        if mine.cluster == HERE and mine.namespace and mine.ip != other.ip:
            why = _half(objects, side, mine, other, asked, local=local)
            if why:
                return side, why
    return "allow", ""


def _half(objects: list[dict[str, Any]], side: str, mine: End, other: End, asked: Asked, *, local: bool) -> str:
    deny = allow = isolated = False
    for obj in objects:
        namespace = obj["metadata"].get("namespace", "")
        for rule in [*([obj["spec"]] if "spec" in obj else []), *obj.get("specs", [])]:
            if (namespace and mine.namespace != namespace) or not _selects(rule["endpointSelector"], mine.labels):
                continue
            entries = {kind: rule.get(side + kind) or [] for kind in ("", "Deny")}
            if entries[""] or entries["Deny"]:
                isolated |= (rule.get("enableDefaultDeny") or {}).get(side) is not False
            for kind, found in entries.items():
                for entry in found:
                    if _entry(entry, side, namespace, mine, other, asked, local=local):
                        deny |= kind == "Deny"
                        allow |= kind == ""
    if deny:
        return "explicit"
    spared = side == "ingress" and "reserved:host" in other.labels
    return "default-deny" if isolated and not allow and not spared else ""


def _entry(
    entry: dict[str, Any], side: str, namespace: str, mine: End, other: End, asked: Asked, *, local: bool
) -> bool:
    word = "from" if side == "ingress" else "to"
    lists = {key.removeprefix(word): value for key, value in entry.items() if key.startswith(word) and key != "toPorts"}
    lists = {key: value for key, value in lists.items() if value is not None}
    ports = entry.get("toPorts") or []
    icmps = entry.get("icmps") or []
    if not lists and not ports and not icmps:
        return False
    if lists and not any(
        _peer(kind, one, namespace, other, local=local) for kind, many in lists.items() for one in many
    ):
        return False
    if not ports and not icmps:
        return True
    named = mine.named if side == "ingress" else other.named
    return any(_port(one, named, asked) for rule in ports for one in rule.get("ports") or []) or any(
        (ICMP[one.get("family", "IPv4")], one["type"]) == (asked.protocol, asked.port)
        for rule in icmps
        for one in rule["fields"]
    )


def _peer(kind: str, one: Any, namespace: str, other: End, *, local: bool) -> bool:
    world = "reserved:world" in other.labels
    match kind:
        case "Endpoints":
            return _selects(_injected(one, namespace, local=local), other.labels)
        case "Nodes":
            named = CLUSTER in (*one.get("matchLabels", {}), *(e["key"] for e in one.get("matchExpressions", [])))
            labels = {f"node:{key}": value for key, value in {**other.plain, CLUSTER: other.cluster}.items()}
            here = not local or named or other.cluster == HERE
            return "reserved:remote-node" in other.labels and here and _selects(one, labels)
        case "Entities":
            pods = {"cluster": other.cluster == HERE, "cluster-mesh": True}
            if one in pods:
                return any(f"reserved:{word}" in other.labels for word in MESH) or bool(other.namespace and pods[one])
            return one == "all" or f"reserved:{one}" in other.labels
        case "CIDR":
            return world and ip_address(other.ip) in ip_network(one)
        case "CIDRSet":
            nets = [one["cidr"]] if "cidr" in one else GROUPS.get(one.get("cidrGroupRef", ""), ((), {}))[0]
            if "cidrGroupSelector" in one:
                tagged = {
                    name: {f"k8s:{key}": value for key, value in tags.items()} for name, (_, tags) in GROUPS.items()
                }
                nets = [
                    net
                    for name, tags in tagged.items()
                    if _selects(one["cidrGroupSelector"], tags)
                    for net in GROUPS[name][0]
                ]
            address = ip_address(other.ip)
            holes = one.get("except", [])
            return (
                world
                and any(address in ip_network(net) for net in nets)
                and not any(address in ip_network(hole) for hole in holes)
            )
    raise KeyError(kind)


def _injected(selector: dict[str, Any], namespace: str, *, local: bool) -> dict[str, Any]:
    keys = [*selector.get("matchLabels", {}), *(one["key"] for one in selector.get("matchExpressions", []))]
    bare = [key.removeprefix("k8s:").removeprefix("any:") for key in keys]
    if any(key.startswith("reserved:") for key in keys):
        return selector
    more = []
    if NAMESPACE not in bare and not namespace:
        more.append({"key": f"k8s:{NAMESPACE}", "operator": "Exists"})
    elif NAMESPACE not in bare and not any(key.startswith(OF_NAMESPACE) for key in bare):
        more.append({"key": f"k8s:{NAMESPACE}", "operator": "In", "values": [namespace]})
    if local and CLUSTER not in bare:
        more.append({"key": f"k8s:{CLUSTER}", "operator": "In", "values": [HERE]})
    return {**selector, "matchExpressions": [*selector.get("matchExpressions", []), *more]}


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = [(key, "In", [value]) for key, value in selector.get("matchLabels", {}).items()]
    wanted += [(one["key"], one["operator"], one.get("values", [])) for one in selector.get("matchExpressions", [])]
    return all(_term(key, operator, values, labels) for key, operator, values in wanted)


def _term(key: str, operator: str, values: list[str], labels: dict[str, str]) -> bool:
    source, colon, rest = key.partition(":")
    if not colon or source == "any":
        rest = rest if colon else key
        found = [value for label, value in labels.items() if label.partition(":")[2] == rest]
    else:
        found = [labels[key]] if key in labels else []
    match operator:
        case "In":
            return any(value in values for value in found)
        case "NotIn":
            return not any(value in values for value in found)
        case "Exists":
            return bool(found)
    return not found


def _port(one: dict[str, Any], named: Mapping[str, tuple[int, int]], asked: Asked) -> bool:
    protocol = (one.get("protocol") or "ANY").upper()
    if asked.protocol not in ([PROTOCOLS[protocol]] if protocol != "ANY" else PROTOCOLS.values()):
        return False
    text = one["port"]
    if not text.isdigit():
        return named.get(text.lower()) == (asked.protocol, asked.port)
    first = int(text)
    return first == 0 or first <= asked.port <= max(first, one.get("endPort", 0))


KEYS = ("app", "k8s:app", "any:tier", "tier", NAMESPACE, f"k8s:{NAMESPACE}", CLUSTER, f"k8s:{OF_NAMESPACE}env")
VALUES = {
    "app": "ab",
    "tier": "xy",
    NAMESPACE: ("default", "prod"),
    CLUSTER: (HERE, THERE),
    f"{OF_NAMESPACE}env": ("prod", "dev"),
}


def _values(key: str, rng: Random) -> list[str]:
    known = VALUES[key.removeprefix("k8s:").removeprefix("any:")]
    return rng.sample(list(known), rng.randint(1, len(known)))


def selector(rng: Random, *, reserved: bool = True, keys: tuple[str, ...] = KEYS) -> dict[str, Any]:
    if reserved and rng.random() < 0.1:
        return {"matchLabels": {f"reserved:{rng.choice(('world', 'host', 'remote-node', 'kube-apiserver'))}": ""}}
    found: dict[str, Any] = {}
    if rng.random() < 0.5:
        key = rng.choice(keys)
        found["matchLabels"] = {key: _values(key, rng)[0]}
    if rng.random() < 0.5:
        key, operator = rng.choice(keys), rng.choice(("In", "NotIn", "Exists", "DoesNotExist"))
        found["matchExpressions"] = [{"key": key, "operator": operator}]
        if "In" in operator:
            found["matchExpressions"][0]["values"] = _values(key, rng)
    return found


def _node_selector(rng: Random) -> dict[str, Any]:
    choices: list[dict[str, Any]] = [{}, {"matchLabels": {"zone": "a"}}, {"matchLabels": {CLUSTER: THERE}}]
    choices.append({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]})
    return rng.choice(choices)


def _cidr_set(rng: Random) -> dict[str, Any]:
    choices: list[dict[str, Any]] = [
        {"cidr": "198.51.0.0/16"},
        {"cidr": "198.51.100.0/24", "except": ["198.51.100.128/25"]},
        {"cidr": "0.0.0.0/0", "except": ["198.51.100.1/32", "10.0.0.0/8"]},
        {"cidr": "::/0", "except": ["2001:db8::/48"]},
        {"cidrGroupRef": "out"},
        {"cidrGroupRef": "out", "except": ["198.51.100.0/25"]},
        {"cidrGroupRef": "missing"},
        {"cidrGroupSelector": {"matchLabels": {"tier": "x"}}},
        {"cidrGroupSelector": {}, "except": ["198.51.100.0/24"]},
    ]
    return rng.choice(choices)


ENTITIES = ("all", "world", "cluster", "cluster-mesh", "host", "remote-node", "kube-apiserver", "none", "health")
CIDRS = ("0.0.0.0/0", "::/0", "198.51.100.0/25", "10.0.0.0/8", "203.0.113.7/32", "2001:db8::/32")
NUMBERS = ("0", "53", "80", "79", "8080", "http", "HTTP", "dns", "absent")


def port(rng: Random) -> dict[str, Any]:
    found: dict[str, Any] = {"port": rng.choice(NUMBERS)}
    if rng.random() < 0.7:
        found["protocol"] = rng.choice(("TCP", "UDP", "SCTP", "ANY", "tcp"))
    if rng.random() < 0.3:
        found["endPort"] = rng.choice((1, 80, 9000))
    return found


def entry(rng: Random, side: str) -> dict[str, Any]:
    word = "from" if side == "ingress" else "to"
    makers: dict[str, Any] = {
        "Endpoints": lambda: selector(rng),
        "Entities": lambda: rng.choice(ENTITIES),
        "CIDR": lambda: rng.choice(CIDRS),
        "CIDRSet": lambda: _cidr_set(rng),
        "Nodes": lambda: _node_selector(rng),
    }
    found: dict[str, Any] = {}
    if rng.random() < 0.75:
        kind = rng.choice((*makers, "Endpoints", "Endpoints"))
        found[word + kind] = [makers[kind]() for _ in range(rng.choice((0, 1, 1, 2)))]
    if rng.random() < 0.1:
        found[word + rng.choice(list(makers))] = None
    where = rng.random()
    if where < 0.4:
        found["toPorts"] = [
            {"ports": [port(rng) for _ in range(rng.choice((0, 1, 2)))]} for _ in range(rng.choice((0, 1, 1, 2)))
        ]
    elif where < 0.5:
        types = [{"type": 8}, {"type": 13, "family": "IPv4"}, {"type": 128, "family": "IPv6"}]
        found["icmps"] = [{"fields": rng.sample(types, rng.randint(0, 2))}]
    return found


def rule(rng: Random) -> dict[str, Any]:
    found: dict[str, Any] = {
        "endpointSelector": selector(rng, reserved=False, keys=("app", "tier", "k8s:app", CLUSTER))
    }
    sections = rng.sample(("ingress", "egress", "ingressDeny", "egressDeny"), rng.randint(1, 3))
    for section in sections:
        found[section] = [entry(rng, section.removesuffix("Deny")) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.3:
        found["enableDefaultDeny"] = {rng.choice(("ingress", "egress")): rng.choice((True, False, None))}
    return found


def policy(rng: Random, name: str) -> dict[str, Any]:
    kind = rng.choice(("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"))
    metadata = {"name": name} | (
        {"namespace": rng.choice(("default", "prod"))} if kind == "CiliumNetworkPolicy" else {}
    )
    body = {"spec": rule(rng)} if rng.random() < 0.7 else {"specs": [rule(rng) for _ in range(rng.randint(1, 3))]}
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, **body}


def asked(rng: Random) -> Asked:
    mine = rng.choice([pod for pod in PODS if pod.cluster == HERE])
    other = rng.choice([end for end in ENDS if (":" in end.ip) == (":" in mine.ip) and end is not mine])
    ends = (mine, other) if rng.random() < 0.5 else (other, mine)
    protocol = rng.choice((6, 6, 6, 17, 132, 58 if ":" in mine.ip else 1))
    ports = {1: (8, 13), 58: (128, 129)}.get(protocol, (53, 79, 80, 81, 8080, 9999))
    return Asked(*ends, protocol, rng.choice(ports))
