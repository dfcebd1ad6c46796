"""networking.k8s.io/v1 NetworkPolicy -> Policy.

Semantics: reference "NetworkPolicy networking.k8s.io/v1" (selection and defaulting, validation). What is malformed
fails closed where it restricts: a bad peer or port allows nothing, a bad podSelector isolates the whole namespace and
allows nothing, a bad policyTypes isolates in both directions. The rest of the object, and every other policy, stays
in force. Dropping the whole object on the first fault was rejected: that would open every pod it isolates.
"""

from collections.abc import Mapping
from typing import NamedTuple

from isthmus.model.selector import Selector
from isthmus.policy.context import Context, Parsed
from isthmus.policy.fields import Reader, show
from isthmus.policy.metadata import generation, required
from isthmus.policy.metadata import scope as scope_of
from isthmus.policy.rules import (
    CidrPeer,
    Direction,
    Network,
    Peer,
    PodPeer,
    Policy,
    Port,
    PortName,
    PortRange,
    Rule,
    Scope,
)

KIND = "NetworkPolicy"
BOTH = frozenset(Direction)
_FIELDS = frozenset({"podSelector", "policyTypes", "ingress", "egress"})
_NOTHING: tuple[Peer, ...] = ()


def parse(obj: Mapping[str, object], *, cluster: str, scope: Scope = Scope.CLUSTERSET) -> Policy:
    """Reads a NetworkPolicy as `read` does, for callers that have nothing but its cluster and scope."""
    return read(obj, Context(cluster, scope)).policies[0]


def read(obj: Mapping[str, object], context: Context) -> Parsed:
    """Reads a NetworkPolicy, which is one policy.

    Raises ValueError only if the object has no namespace or name. Everything else that is wrong is in `problems`.
    """
    ref = required(obj, KIND, namespaced=True)
    reader = Reader([])
    scope = scope_of(obj, context.scope, reader)
    isolates, subject = BOTH, PodPeer()
    rules: tuple[Rule, ...] = ()
    spec = reader.mapping(obj.get("spec"), "spec")
    if spec is not None:
        isolates = _directions(spec, reader)
        strange = sorted(spec.keys() - _FIELDS)
        for unknown in strange:
            reader.complain(f"spec.{unknown}", "is not a field of a NetworkPolicy")
        if strange:
            isolates = BOTH
        selector = reader.selector(
            spec.get("podSelector") if spec.get("podSelector") is not None else {}, "spec.podSelector"
        )
        home = _Home(ref.namespace, context.cluster, scope)
        rules = _rules(spec, home, isolates, reader)
        if selector is not None:
            subject = PodPeer(selector)
        if selector is None or strange:
            rules = ()  # allowances for pods, or in circumstances, that are not known
    problems, count = tuple(reader.problems), generation(obj)
    policy = Policy(ref, ref.namespace, subject, isolates, rules, scope, problems, generation=count)
    return Parsed(ref, (policy,), problems, generation=count)


class _Home(NamedTuple):
    """Where the object lives, which says what its peers see."""

    namespace: str
    cluster: str
    scope: Scope


def _rules(spec: Mapping[str, object], home: _Home, isolates: frozenset[Direction], reader: Reader) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for direction, peers_key in ((Direction.INGRESS, "from"), (Direction.EGRESS, "to")):
        value = spec.get(direction.value)
        if value is None:
            continue
        for index, (item, path) in enumerate(reader.items(value, f"spec.{direction.value}")):
            entry = reader.mapping(item, path)
            if entry is None or direction not in isolates:
                continue
            strange = sorted(entry.keys() - {peers_key, "ports"})
            for unknown in strange:
                reader.complain(f"{path}.{unknown}", f"is not a field of a {direction.value} rule")
            if strange:
                continue  # a condition that we cannot honour must not be dropped from an allowance
            peers = _peers(entry.get(peers_key), f"{path}.{peers_key}", reader, home)
            ports = _ports(entry.get("ports"), f"{path}.ports", reader)
            if peers != () and ports != ():
                rules.append(Rule(direction, index, peers, ports, field=path))
    return tuple(rules)


def _directions(spec: Mapping[str, object], reader: Reader) -> frozenset[Direction]:
    types = spec.get("policyTypes")
    if types is None or types == []:
        egress = spec.get("egress")
        return BOTH if egress not in (None, []) else frozenset({Direction.INGRESS})
    found: set[Direction] = set()
    before = len(reader.problems)
    if isinstance(types, list) and len(types) > len(Direction):
        reader.complain("spec.policyTypes", "may not specify more than two policyTypes")
    for item, path in reader.items(types, "spec.policyTypes"):
        match item:
            case "Ingress":
                found.add(Direction.INGRESS)
            case "Egress":
                found.add(Direction.EGRESS)
            case _:
                reader.complain(path, f"{show(item)} is neither Ingress nor Egress")
    return frozenset(found) if len(reader.problems) == before else BOTH


def _peers(value: object, field: str, reader: Reader, home: _Home) -> tuple[Peer, ...] | None:
    """Returns None for anyone, or the peers that could be read: () if none could, which allows nobody."""
    if value is None or value == []:
        return None
    peers: list[Peer] = []
    for item, path in reader.items(value, field):
        entry = reader.mapping(item, path)
        if entry is None:
            continue
        given = {key for key in entry if entry[key] is not None}
        if unknown := given - {"ipBlock", "podSelector", "namespaceSelector"}:
            reader.complain(f"{path}.{min(unknown)}", "is not a known kind of peer")
        elif not given:
            reader.complain(path, "must specify a peer")
        elif "ipBlock" in given and len(given) > 1:
            reader.complain(path, "may not specify both ipBlock and another peer")
        else:
            block = "ipBlock" in given
            peer: Peer | None = (
                _block(entry["ipBlock"], f"{path}.ipBlock", reader) if block else _pods(entry, path, reader, home)
            )
            if peer is not None:
                peers.append(peer)
    return tuple(dict.fromkeys(peers)) or _NOTHING


def _pods(entry: Mapping[str, object], field: str, reader: Reader, home: _Home) -> PodPeer | None:
    pods: Selector | None = Selector()
    namespaces: Selector | None = Selector()
    exact = home.namespace
    if entry.get("podSelector") is not None:
        pods = reader.selector(entry["podSelector"], f"{field}.podSelector")
    if entry.get("namespaceSelector") is not None:
        namespaces = reader.selector(entry["namespaceSelector"], f"{field}.namespaceSelector")
        exact = ""
    if pods is None or namespaces is None:
        return None
    named = pods.names_clusters or namespaces.names_clusters
    local = home.scope is Scope.LOCAL and not named
    return PodPeer(pods=pods, namespaces=namespaces, namespace=exact, cluster=home.cluster if local else "")


def _block(value: object, field: str, reader: Reader) -> CidrPeer | None:
    block = reader.mapping(value, field)
    if block is None:
        return None
    network = reader.network(block.get("cidr"), f"{field}.cidr")
    before = len(reader.problems)
    excepts: list[Network] = []
    for unknown in sorted(block.keys() - {"cidr", "except"}):
        reader.complain(f"{field}.{unknown}", "is not a field of an ipBlock")
    if block.get("except") is not None:
        for item, path in reader.items(block["except"], f"{field}.except"):
            hole = reader.network(item, path)
            if hole is None or network is None:
                continue
            if hole.version != network.version or hole.prefixlen <= network.prefixlen or hole[0] not in network:
                reader.complain(path, f"{show(item)} is not strictly inside {network}")
            else:
                excepts.append(hole)
    if network is None or len(reader.problems) > before:
        return None
    return CidrPeer(network, tuple(sorted(set(excepts), key=str)))


def _ports(value: object, field: str, reader: Reader) -> tuple[Port, ...] | None:
    """Returns None for every protocol and port, or the ports that could be read: () if none could."""
    if value is None or value == []:
        return None
    ports: list[Port] = []
    for item, path in reader.items(value, field):
        entry = reader.mapping(item, path)
        port = _port(entry, path, reader) if entry is not None else None
        if port is not None:
            ports.append(port)
    return tuple(dict.fromkeys(ports))


def _port(entry: Mapping[str, object], field: str, reader: Reader) -> Port | None:
    if unknown := entry.keys() - {"protocol", "port", "endPort"}:
        reader.complain(f"{field}.{min(unknown)}", "is not a field of a port")
        return None
    protocol = reader.protocol(entry.get("protocol"), f"{field}.protocol")
    if protocol is None:
        return None
    port, end = entry.get("port"), entry.get("endPort")
    if port is None:
        if end is not None:
            reader.complain(f"{field}.endPort", "may not be specified when port is not specified")
            return None
        return PortRange(protocol)
    if isinstance(port, str):
        if end is not None:
            reader.complain(f"{field}.endPort", "may not be specified when port is a name")
            return None
        name = reader.port_name(port, f"{field}.port")
        return PortName(protocol, name) if name is not None else None
    first = reader.number(port, f"{field}.port", low=1, high=65535)
    if first is None:
        return None
    if end is None:
        return PortRange(protocol, first, first)
    last = reader.number(end, f"{field}.endPort", low=1, high=65535)
    if last is None:
        return None
    if last < first:
        reader.complain(f"{field}.endPort", f"{last} is smaller than port {first}")
        return None
    return PortRange(protocol, first, last)
