"""Whatever an agent was told, in whatever order: it ends where one would that is told the final state alone."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.agent.view import View
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.resources import CILIUM_NETWORK_POLICIES, CLUSTER_NETWORK_POLICIES, NETWORK_POLICIES, Resource
from isthmus.kube.schema import Bare, EndpointSlice, Node, ObjectMeta, Pod, Service
from isthmus.model import endpoint
from isthmus.model.endpoint import Cluster
from isthmus.model.flow import Flow
from isthmus.model.mesh import ClusterJoined, NodeGone, NodeTold
from isthmus.policy.rules import Scope
from isthmus.ruleset.interpreter import Packet, passes

NAMES = st.sampled_from(["a", "b"])
LABELS = st.dictionaries(st.sampled_from(["team", "rack"]), st.sampled_from(["x", "y"]), max_size=2)
SELECTORS = LABELS.map(lambda labels: {"matchLabels": labels})
ADDRESSES = st.sampled_from(["172.18.0.1", "172.18.0.2", "172.18.0.3", "192.0.2.7"])
PROPERTIES = st.dictionaries(st.just("tier"), st.sampled_from(["gold", "tin"]))

Key = tuple[str, str]


def _network_policy(draw) -> Any:
    peers = [{"namespaceSelector": draw(SELECTORS)}, {"ipBlock": {"cidr": "192.0.2.0/24"}}]
    return NETWORK_POLICIES, {"podSelector": draw(SELECTORS), "ingress": [{"from": peers}]}


def _cilium_policy(draw) -> Any:
    sections = {
        "fromEntities": ["kube-apiserver", "host"],
        "fromNodes": [draw(SELECTORS)],
        "fromCIDRSet": [{"cidrGroupRef": draw(NAMES)}],
        "fromEndpoints": [draw(SELECTORS)],
    }
    chosen = draw(st.sampled_from(sorted(sections)))
    services = [{"k8sService": {"serviceName": draw(NAMES), "namespace": "a"}}]
    rules = {"ingress": [{chosen: sections[chosen]}], "egress": [{"toServices": services}]}
    return CILIUM_NETWORK_POLICIES, {"endpointSelector": draw(SELECTORS), **rules}


def _cluster_policy(draw) -> Any:
    by_property = {"matchLabels": {"property.isthmus.dev/tier": draw(st.sampled_from(["gold", "tin"]))}}
    rule = {"action": "Deny", "to": [{"nodes": draw(SELECTORS)}, {"namespaces": by_property}]}
    return CLUSTER_NETWORK_POLICIES, {
        "tier": "Admin",
        "priority": draw(st.integers(0, 2)),
        "subject": {"namespaces": draw(SELECTORS)},
        "egress": [rule],
    }


class Objects:
    """Makes policy objects, each of a later version than all before."""

    def __init__(self) -> None:
        self.versions = 0

    def object(self, resource: Resource, key: Key, spec: Any) -> dict[str, Any]:
        self.versions += 1
        metadata = {"name": key[1], "uid": f"{key}", "generation": self.versions, "resourceVersion": f"{self.versions}"}
        if resource.namespaced:
            metadata["namespace"] = key[0]
        return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec}


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, Key, Any]]:
    """Returns steps: what is changed (a sort of object), which one, and to what (None = it goes)."""
    made = Objects()
    steps: list[tuple[str, Key, Any]] = []
    for _ in range(draw(st.integers(1, 25))):
        key = (draw(NAMES), draw(NAMES))
        sort = draw(st.sampled_from(["policy", "pod", "namespace", "node", "api", "group", "service", "slice", "west"]))
        gone = draw(st.integers(0, 3)) == 0
        match sort:
            case "policy":
                resource, spec = draw(st.sampled_from([_network_policy, _cilium_policy, _cluster_policy]))(draw)
                key = key if resource.namespaced else ("", key[1])
                sort, value = resource.kind, made.object(resource, key, spec)
            case "pod":
                ip = f"10.1.0.{1 + ('a', 'b').index(key[0]) * 2 + ('a', 'b').index(key[1])}"
                value = msgspec.convert(
                    {
                        "metadata": {"name": key[1], "namespace": key[0], "uid": f"{key}", "labels": draw(LABELS)},
                        "status": {"phase": "Running", "podIP": ip},
                    },
                    Pod,
                )
            case "namespace":
                key, value = ("", key[1]), Bare(metadata=ObjectMeta(key[1], labels=draw(LABELS)))
                gone = False  # namespaces outlive their pods
            case "node":
                key = (draw(st.sampled_from(["east", "west"])), key[1])
                value = endpoint.Node(*key, (draw(ADDRESSES),), labels=draw(LABELS))
            case "api" | "slice":
                key = ("default", "kubernetes") if sort == "api" else ("a", key[1])
                value = _slice(key, draw(st.lists(ADDRESSES, max_size=2)))
            case "group":
                key = ("", key[1])
                value = {"metadata": {"name": key[1]}, "spec": {"externalCIDRs": [draw(ADDRESSES) + "/32"]}}
            case "service":
                key = ("a", key[1])
                value = msgspec.convert(
                    {"metadata": {"name": key[1], "namespace": "a"}, "spec": {"selector": draw(LABELS)}}, Service
                )
            case "west":
                key, value, gone = ("", "west"), Cluster("west", 2, draw(PROPERTIES)), False
        steps.append((sort, key, None if gone else value))
    return steps


def _slice(key: Key, addresses: list[str]) -> EndpointSlice:
    metadata = {"name": key[1], "namespace": key[0], "labels": {"kubernetes.io/service-name": key[1]}}
    endpoints = [{"addresses": [ip]} for ip in addresses]
    return msgspec.convert({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints}, EndpointSlice)


OWN = msgspec.convert(
    {
        "metadata": {"name": "n1", "labels": {"rack": "x"}},
        "spec": {"podCIDRs": ["10.1.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.1"}]},
    },
    Node,
)
KINDS = (NETWORK_POLICIES, CILIUM_NETWORK_POLICIES, CLUSTER_NETWORK_POLICIES)


def told_at_once(objects: dict[str, dict[Key, Any]]) -> View:
    """Returns a view of a cluster that holds `objects`."""
    view = View(cluster="east", scope=Scope.CLUSTERSET)

    def all_of(sort: str) -> Snapshot:
        return Snapshot(tuple(objects.get(sort, {}).values()))

    view.namespaces(all_of("namespace"))
    view.pods(all_of("pod"))
    view.node(Snapshot((OWN,)))
    view.api_servers(all_of("api"))
    view.mesh([ClusterJoined(cluster) for cluster in objects.get("west", {}).values()])
    view.mesh([NodeTold(node) for node in objects.get("node", {}).values()])
    view.groups(all_of("group"))
    view.services(all_of("service"))
    view.slices(all_of("slice"))
    for resource in KINDS:
        view.policies(all_of(resource.kind), resource)
    return view


def tell(view: View, sort: str, key: Key, *, value: Any, before: Any) -> None:
    """Tells a view of one change."""
    if value is None and before is None:
        return
    change = Put(value) if value is not None else Gone(before)
    by_kind = {resource.kind: resource for resource in KINDS}
    match sort:
        case "pod":
            view.pods(change)
        case "namespace":
            view.namespaces(change)
        case "node":
            view.mesh([NodeTold(value) if value is not None else NodeGone(*key)])
        case "api":
            view.api_servers(change)
        case "group":
            view.groups(change)
        case "service":
            view.services(change)
        case "slice":
            view.slices(change)
        case "west":
            view.mesh([ClusterJoined(value)])
        case kind:
            view.policies(change, by_kind[kind])


def state(view: View) -> tuple[Any, ...]:
    """Returns all that the kernel would be told, numbers of nodes apart: these depend on who came first."""
    world = view.compiler.world
    looks = {ip: msgspec.structs.replace(world.identity(number), number=0) for ip, number in world.nodes.items()}
    return dict(world.policies), dict(world.pods), looks, world.host, view.book.counts, view.book.grades


def verdicts(view: View) -> dict[Flow, bool]:
    """Returns what the table lets through between the pods and everyone there is."""
    pods = [f"10.1.0.{number}" for number in range(1, 5)]
    others = [*pods, "172.18.0.2", "172.18.0.3", "192.0.2.7", "192.0.2.9"]
    flows = [Flow(*ends, 6, 80) for pod in pods for other in others for ends in ((pod, other), (other, pod))]
    return {flow: passes(view.compiler.table, Packet(flow)) for flow in flows}


@given(histories())
@settings(max_examples=150, deadline=None)
def test_the_end_does_not_depend_on_the_way(history):
    view = told_at_once({})
    objects: dict[str, dict[Key, Any]] = {}
    for sort, key, value in history:
        before = objects.setdefault(sort, {}).pop(key, None)
        tell(view, sort, key, value=value, before=before)
        if value is not None:
            objects[sort][key] = value
    fresh = told_at_once(objects)

    got, wanted = state(view), state(fresh)
    assert got[:4] == wanted[:4]
    assert {kind: count for kind, count in got[4].items() if count} == {k: n for k, n in wanted[4].items() if n}
    assert +got[5] == +wanted[5]
    assert verdicts(view) == verdicts(fresh)
