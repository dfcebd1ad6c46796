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
from isthmus.model.identity import FIRST_NODE, HOST, Identity
from isthmus.model.labels import NAMESPACE_NAME, stamp, strip_claims
from isthmus.policy.context import Context
from isthmus.policy.names import absolute
from isthmus.policy.parsing import identify, read
from isthmus.policy.rules import ObjectRef, Scope
from isthmus.policy.world import LocalPod, World

VECTORS = Path(__file__).parent.parent / "vectors"
SCOPES = {"global": Scope.CLUSTERSET, "label": Scope.LOCAL}
EVERY_KIND = frozenset({"NetworkPolicy", "ClusterNetworkPolicy"})

OURS = {
    # Called contested there: what a Deny that names no cluster covers once there are several. We say every cluster,
    # whatever the scope: a guard that was written for one cluster must not stop guarding when that joins others.
    ("mc-15-label", "west:shop/web -> east:shop/api:80/TCP"): "deny",
    # Called undefined there: two policies of one tier and priority that disagree. We go by name, and say so.
    ("cnp-13-global", "y/a -> x/a:80/TCP"): "allow",
}
"""Our answer, by case and probe, where the cases have none, or say that theirs is one of several."""

Objects = dict[tuple[str, ObjectRef], dict[str, Any]]


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
        objects: Objects = {}
        for step in self.data["steps"]:
            for change in step["do"]:
                _apply(change, world, objects)
            nodes = _worlds(world, objects, SCOPES[self.scope], _names(step))
            yield Step(nodes, [*_probes(step, world, self), *_matrix(step, world)])


def load(name: str, *, kinds: frozenset[str] = EVERY_KIND) -> list[Case]:
    """Returns the cases of a file whose objects are all of `kinds`, once for each scope they state that we have."""
    content = json.loads((VECTORS / name).read_text())
    cases = []
    for data in content["cases"]:
        applied = {change["apply"]["kind"] for step in data["steps"] for change in step["do"] if "apply" in change}
        if applied <= kinds:
            scopes = [scope for scope in data.get("scopes", ["global"]) if scope in SCOPES]
            cases += [Case(data["id"], scope, data, content["worlds"][data["useWorld"]]) for scope in scopes]
    return cases


def _apply(change: dict[str, Any], world: dict[str, Any], objects: Objects) -> None:
    first = world["clusters"][0]
    if "apply" in change:
        ref = identify(change["apply"])
        assert ref is not None
        objects[change.get("cluster", first["id"]), ref] = change["apply"]
    elif "delete" in change:
        gone = change["delete"]
        del objects[first["id"], ObjectRef("NetworkPolicy", gone["namespace"], gone["name"])]
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


def _names(step: dict[str, Any]) -> dict[str, frozenset[str]]:
    """Returns the names that lead to each address, as the probes of a step say."""
    names: dict[str, set[str]] = {}
    for probe in step.get("probes", []):
        for name, ips in probe.get("dns", {}).items():
            for ip in ips:
                names.setdefault(ip, set()).add(absolute(name))
    return {ip: frozenset(found) for ip, found in names.items()}


def _worlds(
    world: dict[str, Any], objects: Objects, scope: Scope, names: dict[str, frozenset[str]]
) -> dict[str, World]:
    identities: dict[int, Identity] = {}
    endpoints: dict[str, Endpoint] = {}
    numbers: dict[str, int] = {}
    nodes: dict[str, World] = {}
    machines: dict[str, Identity] = {}
    addresses: dict[str, list[str]] = {}
    for cluster in world["clusters"]:
        for machine in cluster.get("nodes", [{"name": "node", "ips": []}]):
            place, number = f"{cluster['id']}/{machine['name']}", FIRST_NODE + len(machines)
            addresses[place] = machine["ips"]
            machines[place] = identities[number] = Identity(
                number, cluster["id"], "", machine.get("labels", {}), {}, reserved=("remote-node",)
            )
    for cluster_id, cluster in enumerate(world["clusters"], start=1):
        namespaces = {ns["name"]: ns.get("labels", {}) for ns in cluster["namespaces"]}
        context = Context(cluster["id"], scope, dns_proxy=bool(names))
        mine = {
            policy.ref: policy
            for (where, _), obj in objects.items()
            if where == cluster["id"]
            for policy in read(obj, context).policies
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
            place = f"{cluster['id']}/{pod.get('node', 'node')}"
            if place not in nodes:
                own = machines[place]
                nodes[place] = World(
                    cluster["id"],
                    policies=mine,
                    node_addresses=frozenset(addresses[place]),
                    identities=identities | {HOST: Identity(HOST, own.cluster, "", own.labels, {}, reserved=("host",))},
                    endpoints=endpoints,
                    nodes={
                        ip: machine.number
                        for other, machine in machines.items()
                        if other != place
                        for ip in addresses[other]
                    },
                    names=names,
                )
            local = LocalPod(
                pod["ns"],
                pod["name"],
                "",
                stamp(pod.get("labels", {}), cluster=cluster["id"]),
                tuple(_ips(pod)),
                named,
                namespace_labels=space,
            )
            nodes[place].pods[local.key] = local
    for node in nodes.values():
        node.identities.update(identities)
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


def _probes(step: dict[str, Any], world: dict[str, Any], case: Case) -> Iterator[Probe]:
    for probe in step.get("probes", []):
        name = f"{probe['from']} -> {probe['to']}:{probe['port']}/{probe['proto']}"
        expect = probe["expect"][case.scope] if isinstance(probe["expect"], dict) else probe["expect"]
        expect = OURS.get((str(case), name), expect)
        assert expect in ("allow", "deny"), (case, name, expect)
        ends = [_address(probe[end], world, probe.get("family", 4)) for end in ("from", "to")]
        through = probe.get("viaService", False)
        flow = Flow(ends[0], ends[1], PORT_PROTOCOLS[probe["proto"]], probe["port"], translated=through)
        yield Probe(name, flow, expect == "allow")


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
