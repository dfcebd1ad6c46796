"""Pictures of clusters for tests of explanations: random ones, and those of the cases of cilium-policy.json."""

from collections.abc import Mapping
from random import Random
from typing import Any

from isthmus.model.endpoint import NamedPort
from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.model.labels import NAMESPACE_NAME, strip_claims
from isthmus.policy.explaining.facts import ClusterSeen, NodeSeen, Picture, PodSeen
from isthmus.policy.explaining.scene import Scene
from isthmus.policy.rules import Scope
from tests.support.cilium_cases import as_object
from tests.support.world_objects import CLUSTERS, NAMESPACES, PORT_NAMES, PORTS, ZONE, policy_object

INCIDENTAL = frozenset({"hash"})
PROBES = ((6, 80), (6, 81), (6, 8000), (6, 82), (17, 80), (17, 9001), (132, 8080), (1, 8), (1, 13), (47, 0))


def policies(rng: Random, count: int) -> tuple[dict[str, Any], ...]:
    """Returns objects with names of their own."""
    found = []
    for number in range(count):
        obj = policy_object(rng)
        if obj["kind"] != "BaselineAdminNetworkPolicy":
            obj["metadata"]["name"] = f"p{number}"
        found.append(obj)
    return tuple({(o["kind"], o["metadata"]["name"]): o for o in found}.values())


def _pod(rng: Random, cluster: int, number: int) -> PodSeen:
    labels = {"app": rng.choice("ab"), "tier": rng.choice("pq"), "hash": str(number)}
    labels = {key: value for key, value in labels.items() if rng.random() < 0.8}
    names = [name for name in PORT_NAMES if rng.random() < 0.5]
    named = tuple(NamedPort(name, rng.choice(PORTS), rng.choice(["TCP", "TCP", "UDP"])) for name in names)
    ips = (f"10.{cluster + 1}.{number % 2}.{10 + number}", f"fd00:{cluster + 1}::{10 + number:x}")
    return PodSeen(
        namespace=rng.choice(NAMESPACES),
        name=f"pod-{number}",
        uid=f"uid-{cluster}-{number}",
        labels=labels,
        node=f"n{number % 2}",
        ips=ips[: rng.choice((1, 2, 2))],
        named_ports=named,
        ports=tuple((int(PORT_PROTOCOLS[port.protocol]), port.port) for port in named),
        service_account=rng.choice(("default", "robot")),
    )


def picture(rng: Random, *, pods: int = 4, most_policies: int = 4) -> Picture:
    """Returns two clusters with pods on two nodes each."""
    clusters = []
    for index, name in enumerate(CLUSTERS):
        nodes = tuple(
            NodeSeen(
                name=f"n{number}",
                addresses=(f"172.{18 + index}.0.{2 + number}",),
                labels={ZONE[0]: rng.choice(ZONE[1])},
                pod_cidrs=(f"10.{index + 1}.{number}.0/24",),
            )
            for number in range(2)
        )
        clusters.append(
            ClusterSeen(
                name=name,
                scope=rng.choice(list(Scope)),
                namespaces={space: {"tier": rng.choice("pq")} for space in NAMESPACES},
                pods=tuple(_pod(rng, index, number) for number in range(pods)),
                nodes=nodes,
                policies=policies(rng, rng.randint(1, most_policies)),
                api_servers=(rng.choice((f"172.{18 + index}.0.2", f"172.{18 + index}.0.9")),),
            )
        )
    return Picture(clusters=tuple(clusters), incidental=INCIDENTAL)


def of_case(data: Mapping[str, Any]) -> Picture:
    """Returns the picture of a case; pods are called as in the case, and have an address each."""
    names = list(dict.fromkeys(one["cluster"] for one in [*data["pods"], *data["policies"]]))
    scope = Scope.LOCAL if data["options"]["policyDefaultLocalCluster"] else Scope.CLUSTERSET
    clusters = []
    for index, name in enumerate(names):
        pods = tuple(
            PodSeen(
                namespace=pod["ns"],
                name=pod["id"],
                labels={key: value for key, value in pod["labels"].items() if not key.startswith("io.cilium.k8s")},
                node="n",
                ips=(f"10.{index + 1}.0.{number + 1}",),
            )
            for number, pod in enumerate(data["pods"])
            if pod["cluster"] == name
        )
        objects = tuple(as_object(one, number) for number, one in enumerate(data["policies"]) if one["cluster"] == name)
        clusters.append(ClusterSeen(name=name, scope=scope, pods=pods, policies=objects))
    return Picture(clusters=tuple(clusters), incidental=INCIDENTAL)


def scene_of(**clusters: Mapping[str, Any]) -> Scene:
    """Returns the scene of clusters, given as fields of ClusterSeen."""
    return Scene(Picture(clusters=tuple(ClusterSeen(name=name, **fields) for name, fields in clusters.items())))


def of_world(world: Mapping[str, Any], objects: Mapping[str, list[dict[str, Any]]], scope: Scope) -> Picture:
    """Returns the picture of a world of policy-api-cases, with the policies of each cluster."""
    clusters = []
    for cluster in world["clusters"]:
        pods = tuple(
            PodSeen(
                namespace=pod["ns"],
                name=pod["name"],
                labels=strip_claims(pod.get("labels", {})),
                node=pod.get("node", "node"),
                ips=tuple(pod.get("ips") or [pod["ip"]]),
                named_ports=tuple(NamedPort(one["name"], one["port"], one["protocol"]) for one in pod.get("ports", [])),
                host_network=pod.get("hostNetwork", False),
            )
            for pod in cluster["pods"]
            if pod.get("phase") not in ("Succeeded", "Failed")
        )
        spaces = {ns["name"]: strip_claims(ns.get("labels", {})) for ns in cluster["namespaces"]}
        nodes = tuple(
            NodeSeen(name=node["name"], addresses=tuple(node["ips"]), labels=node.get("labels", {}))
            for node in cluster.get("nodes", [])
        )
        clusters.append(
            ClusterSeen(
                name=cluster["id"],
                scope=scope,
                namespaces={
                    name: {key: value for key, value in labels.items() if key != NAMESPACE_NAME}
                    for name, labels in spaces.items()
                },
                pods=pods,
                nodes=nodes,
                policies=tuple(objects.get(cluster["id"], ())),
            )
        )
    return Picture(clusters=tuple(clusters), incidental=INCIDENTAL)
