"""Small clusters to ask about, and the asking."""

from typing import Any

from isthmus.policy.explaining.answers import Answer, explain
from isthmus.policy.explaining.facts import (
    ClusterSeen,
    NodeSeen,
    Picture,
    PodSeen,
    ServicePortSeen,
    ServiceSeen,
)
from isthmus.policy.explaining.scene import Scene
from isthmus.policy.explaining.targets import parse, resolve


def ask(scene: Scene, source: str, destination: str, port: tuple[int, int] | None = (6, 80)) -> list[Answer]:
    sources, _ = resolve(scene, parse(source), cluster=scene.picture.current, port=None)
    destinations, _ = resolve(scene, parse(destination), cluster=sources[0].cluster or scene.picture.current, port=port)
    return explain(scene, sources, destinations, port)


def one(scene: Scene, source: str, destination: str, port: tuple[int, int] = (6, 80)) -> Answer:
    (answer,) = ask(scene, source, destination, port)
    return answer


def network_policy(name: str, spec: dict[str, Any], namespace: str = "default") -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


def cilium_policy(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": meta, "spec": spec}


def cluster_policy(name: str, tier: str, priority: int, **spec: Any) -> dict[str, Any]:
    head = {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
    }
    return {**head, "spec": {"tier": tier, "priority": priority, "subject": {"namespaces": {}}, **spec}}


DENY_ALL = network_policy("default-deny", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
ANYONE = [{"namespaces": {}}]


def pod(name: str, number: int, node: str = "n1", **fields: Any) -> PodSeen:
    fields = {"namespace": "default", "labels": {"app": name}, "ips": (f"10.0.1.{number}",), **fields}
    return PodSeen(name=name, node=node, **fields)


def scene(*policies: dict[str, Any], pods: tuple[PodSeen, ...] = (), services: tuple[ServiceSeen, ...] = ()) -> Scene:
    mine = ClusterSeen(
        name="here",
        namespaces={"default": {}},
        pods=pods or (pod("a", 1), pod("b", 2, "n2", ports=((6, 8080),))),
        nodes=(
            NodeSeen(name="n1", addresses=("172.18.0.1",), pod_cidrs=("10.0.1.0/24",)),
            NodeSeen(name="n2", addresses=("172.18.0.2",)),
        ),
        policies=policies,
        services=services,
    )
    return Scene(Picture(clusters=(mine,), current="here", incidental=frozenset({"pod-template-hash"})))


def service(
    name: str, *backends: str, target: int | str = 0, ports: tuple[int, ...] = (80,), **more: Any
) -> ServiceSeen:
    listed = tuple(ServicePortSeen(port=port, protocol=6, target=target) for port in ports)
    return ServiceSeen(namespace="default", name=name, ports=listed, backends=backends, **more)
