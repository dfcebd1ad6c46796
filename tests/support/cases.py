"""Reads the policy cases of tests/vectors into worlds, one a node, and probes with the verdict that is expected."""

import json
from collections.abc import Iterator
from copy import deepcopy
from fnmatch import fnmatch
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

from isthmus.model.endpoint import Endpoint, NamedPort
from isthmus.model.flow import PORT_PROTOCOLS, Flow
from isthmus.model.identity import Identity
from isthmus.model.labels import NAMESPACE_NAME, strip_claims
from isthmus.policy.networkpolicy import parse
from isthmus.policy.rules import Scope
from isthmus.policy.world import LocalPod, World

VECTORS = Path(__file__).parent.parent / "vectors"
SCOPES = {"global": Scope.CLUSTERSET, "label": Scope.LOCAL}


class Probe(NamedTuple):
    name: str
    flow: Flow
    allowed: bool


class Step(NamedTuple):
    """After some changes: the world of every node, and what must hold then."""

    worlds: dict[str, World]
    probes: list[Probe]


class Case(NamedTuple):
    id: str
    scope: str
    data: dict[str, Any]
    world: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.id}-{self.scope}"

    def steps(self) -> Iterator[Step]:
        world = deepcopy(self.world)
        policies: dict[tuple[str, str, str], dict[str, Any]] = {}
        for step in self.data["steps"]:
            for change in step["do"]:
                _apply(change, world, policies)
            nodes = _worlds(world, policies, SCOPES[self.scope])
            yield Step(nodes, [*_probes(step, world, self.scope), *_matrix(step, world)])


def load(name: str, *, kinds: frozenset[str] = frozenset({"NetworkPolicy"})) -> list[Case]:
    """Returns the cases of a file whose objects are all of `kinds`, once for each scope they state."""
    content = json.loads((VECTORS / name).read_text())
    cases = []
    for data in content["cases"]:
        applied = {change["apply"]["kind"] for step in data["steps"] for change in step["do"] if "apply" in change}
        if applied <= kinds:
            scopes = [scope for scope in data.get("scopes", ["global"]) if scope in SCOPES]
            cases += [Case(data["id"], scope, data, content["worlds"][data["useWorld"]]) for scope in scopes]
    return cases


def _apply(change: dict[str, Any], world: dict[str, Any], policies: dict[tuple[str, str, str], dict[str, Any]]) -> None:
    first = world["clusters"][0]
    if "apply" in change:
        meta = change["apply"]["metadata"]
        policies[change.get("cluster", first["id"]), meta["namespace"], meta["name"]] = change["apply"]
    elif "delete" in change:
        gone = change["delete"]
        del policies[first["id"], gone["namespace"], gone["name"]]
    elif "nsLabels" in change:
        next(ns for ns in first["namespaces"] if ns["name"] == change["nsLabels"])["labels"] = change["labels"]
    elif "podLabels" in change:
        namespace, name = change["podLabels"].split("/")
        pod = next(pod for pod in first["pods"] if (pod["ns"], pod["name"]) == (namespace, name))
        pod["labels"] = change["labels"]
    else:
        raise KeyError(f"unknown change {change}")


def _ips(pod: dict[str, Any]) -> list[str]:
    return pod.get("ips") or [pod["ip"]]


def _is_endpoint(pod: dict[str, Any]) -> bool:
    return not pod.get("hostNetwork") and pod.get("phase") not in ("Succeeded", "Failed")


def _worlds(
    world: dict[str, Any], policies: dict[tuple[str, str, str], dict[str, Any]], scope: Scope
) -> dict[str, World]:
    identities: dict[int, Identity] = {}
    endpoints: dict[str, Endpoint] = {}
    numbers: dict[str, int] = {}
    nodes: dict[str, World] = {}
    for cluster_id, cluster in enumerate(world["clusters"], start=1):
        namespaces = {ns["name"]: ns.get("labels", {}) for ns in cluster["namespaces"]}
        addresses = {node["name"]: node["ips"] for node in cluster.get("nodes", [])}
        mine = {
            (p := parse(obj, cluster=cluster["id"], scope=scope)).ref: p
            for (where, _, _), obj in policies.items()
            if where == cluster["id"]
        }
        for pod in filter(_is_endpoint, cluster["pods"]):
            labels = strip_claims(pod.get("labels", {}))
            space = {k: v for k, v in strip_claims(namespaces[pod["ns"]]).items() if k != NAMESPACE_NAME}
            look = repr((cluster["id"], pod["ns"], sorted(labels.items()), sorted(space.items())))
            number = numbers.setdefault(look, (cluster_id << 16) + 256 + len(numbers))
            identities[number] = Identity(number, cluster["id"], pod["ns"], labels, space)
            named = tuple(NamedPort(p["name"], p["port"], p["protocol"]) for p in pod.get("ports", []))
            for ip in _ips(pod):
                endpoints[ip] = Endpoint(cluster["id"], ip, number, pod["ns"], pod["name"], named_ports=named)
            node = f"{cluster['id']}/{pod.get('node', 'node')}"
            if node not in nodes:
                nodes[node] = World(
                    cluster["id"],
                    policies=mine,
                    node_addresses=frozenset(addresses.get(pod.get("node", ""), [])),
                    identities=identities,
                    endpoints=endpoints,
                )
            local = LocalPod(pod["ns"], pod["name"], "", pod.get("labels", {}), tuple(_ips(pod)), named)
            nodes[node].pods[local.key] = local
    return nodes


def _address(where: str, world: dict[str, Any], family: int) -> str:
    if where.startswith("ip:"):
        return where[3:]
    if where.startswith("node:"):
        _, cluster, name = where.split(":")
        node = next(n for c in world["clusters"] if c["id"] == cluster for n in c["nodes"] if n["name"] == name)
        return str(node["ips"][0])
    cluster, _, rest = where.rpartition(":")
    cluster = cluster or world["clusters"][0]["id"]
    namespace, name = rest.split("/")
    for candidate in world["clusters"]:
        for pod in candidate["pods"]:
            if (candidate["id"], pod["ns"], pod["name"]) == (cluster, namespace, name):
                return next(ip for ip in _ips(pod) if ip_network(ip).version == family)
    raise KeyError(where)


def _probes(step: dict[str, Any], world: dict[str, Any], scope: str) -> Iterator[Probe]:
    for probe in step.get("probes", []):
        expect = probe["expect"][scope] if isinstance(probe["expect"], dict) else probe["expect"]
        ends = [_address(probe[end], world, probe.get("family", 4)) for end in ("from", "to")]
        flow = Flow(ends[0], ends[1], PORT_PROTOCOLS[probe["proto"]], probe["port"])
        yield Probe(f"{probe['from']} -> {probe['to']}:{probe['port']}/{probe['proto']}", flow, expect == "allow")


def _matrix(step: dict[str, Any], world: dict[str, Any]) -> Iterator[Probe]:
    pods = [f"{pod['ns']}/{pod['name']}" for pod in world["clusters"][0]["pods"]]
    for matrix in step.get("matrix", []):
        for source in pods:
            for target in pods:
                verdict = "allow"
                for left, right, then in matrix["rules"]:
                    if fnmatch(source, left if left != "*" else "*/*") and fnmatch(
                        target, right if right != "*" else "*/*"
                    ):
                        verdict = then
                if source != target:  # the suite ignores loopback
                    flow = Flow(
                        _address(source, world, 4),
                        _address(target, world, 4),
                        PORT_PROTOCOLS[matrix["proto"]],
                        matrix["port"],
                    )
                    yield Probe(f"{source} -> {target}:{matrix['port']}/{matrix['proto']}", flow, verdict == "allow")
