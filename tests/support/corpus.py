"""The manifests of tests/corpus, a world that they are about, and ways to spoil them.

The world is one node of cluster `east` with pods of each namespace that the manifests speak of, the same namespaces in
cluster `west`, nodes, and addresses outside inside and outside of every network that they name.
"""

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from isthmus.model.endpoint import Endpoint, NamedPort
from isthmus.model.flow import Flow, Protocol
from isthmus.model.identity import FIRST_NODE, HOST, Identity
from isthmus.model.labels import stamp
from isthmus.policy.context import CidrGroup, Context, Parsed, ServiceFacts
from isthmus.policy.parsing import read
from isthmus.policy.rules import Scope
from isthmus.policy.world import LocalPod, World

MANIFESTS: tuple[dict[str, Any], ...] = tuple(
    yaml.safe_load_all((Path(__file__).parent.parent / "corpus" / "policies.yaml").read_text())
)
CONTEXT = Context(
    "east",
    Scope.LOCAL,
    cidr_groups={"partners": CidrGroup("partners", {"kind": "partner"}, ("198.51.100.0/24",))},
    services={("data", "db"): ServiceFacts("data", "db", {"app": "db"}, {"app": "db"})},
    dns_proxy=True,
)

_SPACES = {
    "shop": {"team": "shop"},
    "data": {"team": "data"},
    "ops": {},
    "kube-system": {},
}
_PODS = {
    "10.1.0.10": ("east", "shop", {"app": "web"}),
    "10.1.0.11": ("east", "shop", {"app": "api"}),
    "10.1.0.12": ("east", "data", {"app": "db"}),
    "10.1.0.13": ("east", "data", {"app": "etl"}),
    "10.1.0.53": ("east", "kube-system", {"k8s-app": "kube-dns"}),
    "10.1.0.14": ("east", "ops", {"app": "probe"}),
    "10.2.0.10": ("west", "shop", {"app": "web"}),
    "10.2.0.11": ("west", "shop", {"app": "api"}),
    "10.2.0.12": ("west", "data", {"app": "db"}),
    "10.2.0.14": ("west", "ops", {"app": "probe"}),
}
_NAMED = (NamedPort("metrics", 9090, "TCP"), NamedPort("pg", 5432, "TCP"))
_OWN, _OTHER, _THERE = "172.18.0.2", "172.18.0.3", "172.18.0.4"
_OUTSIDE = (
    "198.51.100.1",
    "198.51.100.7",
    "198.51.100.70",
    "203.0.113.5",
    "203.0.113.200",
    "192.0.2.1",
    "169.254.169.254",
    "8.8.8.8",
)
_OVER = (
    (Protocol.TCP, 22),
    (Protocol.TCP, 25),
    (Protocol.TCP, 80),
    (Protocol.TCP, 443),
    (Protocol.TCP, 5432),
    (Protocol.TCP, 8080),
    (Protocol.TCP, 9090),
    (Protocol.UDP, 53),
    (Protocol.ICMP, 8),
    (Protocol.SCTP, 7),
)
_SUBJECTS = ("10.1.0.10", "10.1.0.11", "10.1.0.12", "10.1.0.13")
FLOWS: tuple[Flow, ...] = tuple(
    Flow(source, destination, protocol, port)
    for mine, other, (protocol, port) in product(
        _SUBJECTS, (*sorted(_PODS.keys() - set(_SUBJECTS[:2])), _OWN, _OTHER, _THERE, *_OUTSIDE), _OVER
    )
    if mine != other
    for source, destination in ((mine, other), (other, mine))
)

EVERYTHING: dict[str, Any] = {"ingress": [{}], "egress": [{}]}
BESIDE: dict[str, tuple[dict[str, Any], ...]] = {
    "alone": (),
    "all is allowed": tuple(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "all", "namespace": namespace},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], **EVERYTHING},
        }
        for namespace in _SPACES
    ),
    "all that is left to it is accepted before namespaces are asked, which allow nothing": (
        {
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "zz-all"},
            "spec": {
                "tier": "Admin",
                "priority": 1000,
                "subject": {"namespaces": {}},
                "ingress": [{"action": "Accept", "from": [{"namespaces": {}}]}],
                "egress": [
                    {"action": "Accept", "to": [{"namespaces": {}}, {"networks": ["0.0.0.0/0", "::/0"]}]},
                ],
            },
        },
        *(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": "none", "namespace": namespace},
                "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
            }
            for namespace in _SPACES
        ),
    ),
}
"""What is in force besides: without it a denial that was lost would not be missed."""


def world(*parsed: Parsed) -> World:
    """Returns the world with these objects in force."""
    old = _world()
    return World(
        old.cluster,
        policies={policy.ref: policy for one in parsed for policy in one.policies},
        pods=old.pods,
        identities=old.identities,
        endpoints=old.endpoints,
        node_addresses=old.node_addresses,
        nodes=old.nodes,
        names=old.names,
    )


@cache
def _world() -> World:
    made = World("east", node_addresses=frozenset({_OWN}), names={"203.0.113.5": frozenset({"example.com."})})
    for number, (ip, cluster, role) in enumerate(
        ((_OWN, "east", "worker"), (_OTHER, "east", "control-plane"), (_THERE, "west", "worker"))
    ):
        key, word = (HOST, "host") if ip == _OWN else (FIRST_NODE + number, "remote-node")
        made.identities[key] = Identity(key, cluster, "", {"role": role}, {}, reserved=(word,))
        if ip != _OWN:
            made.nodes[ip] = key
    for count, (ip, (cluster, namespace, labels)) in enumerate(_PODS.items()):
        number = (0x10100 if cluster == "east" else 0x20100) + count
        properties = {"region": "eu" if cluster == "west" else "us"}
        name = next(iter(labels.values()))
        made.identities[number] = Identity(
            number, cluster, namespace, labels, _SPACES[namespace], properties=properties
        )
        made.endpoints[ip] = Endpoint(cluster, ip, number, namespace, name, named_ports=_NAMED)
        if cluster == "east":
            pod = LocalPod(
                namespace,
                name,
                "",
                stamp(labels, cluster=cluster),
                (ip,),
                _NAMED,
                namespace_labels=_SPACES[namespace],
                properties=properties,
            )
            made.pods[pod.key] = pod
    return made


@cache
def beside(key: str) -> tuple[Parsed, ...]:
    """Returns what BESIDE has under `key`, read."""
    return tuple(read(obj, CONTEXT) for obj in BESIDE[key])


Place = tuple[str | int, ...]


def places(value: object, path: Place = ()) -> Iterator[Place]:
    """Yields the path of every value in `value`, itself first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def at(obj: Any, place: Place) -> Any:
    """Returns the value at `place`."""
    for key in place:
        obj = obj[key]
    return obj


def replaced(obj: dict[str, Any], place: Place, value: object) -> dict[str, Any]:
    """Returns `obj` with `value` at `place`."""
    spoiled = deepcopy(obj)
    at(spoiled, place[:-1])[place[-1]] = value
    return spoiled


def without(obj: dict[str, Any], place: Place) -> dict[str, Any]:
    """Returns `obj` without what is at `place`."""
    spoiled = deepcopy(obj)
    del at(spoiled, place[:-1])[place[-1]]
    return spoiled
