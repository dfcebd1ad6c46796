"""Short ways to make Kubernetes objects of `isthmus.kube.schema`."""

from isthmus.kube.schema import (
    Container,
    ContainerPort,
    Namespace,
    Node,
    NodeAddress,
    NodeSpec,
    NodeStatus,
    ObjectMeta,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
)


def a_pod(
    name: str,
    *ips: str,
    namespace: str = "demo",
    uid: str = "",
    labels: dict[str, str] | None = None,
    phase: str = "Running",
    host_network: bool = False,
    terminating: bool = False,
    created: str = "",
    node: str = "n1",
    ports: tuple[ContainerPort, ...] = (),
) -> Pod:
    meta = ObjectMeta(
        name=name,
        namespace=namespace,
        uid=uid or f"uid-{name}",
        labels=labels or {},
        creationTimestamp=created,
        deletionTimestamp="2026-11-21T12:00:00Z" if terminating else "",
    )
    return Pod(
        metadata=meta,
        spec=PodSpec(
            nodeName=node,
            hostNetwork=host_network,
            serviceAccountName="default",
            containers=(Container(name="c", ports=ports),),
        ),
        status=PodStatus(phase=phase, podIP=ips[0] if ips else "", podIPs=tuple(map(PodIP, ips)), hostIP="192.0.2.1"),
    )


def a_namespace(name: str = "demo", *, uid: str = "", **labels: str) -> Namespace:
    found = {"kubernetes.io/metadata.name": name, **labels}
    return Namespace(metadata=ObjectMeta(name=name, uid=uid or f"uid-{name}", labels=found))


def a_node(name: str, *addresses: str, cidrs: tuple[str, ...] = (), labels: dict[str, str] | None = None) -> Node:
    return Node(
        metadata=ObjectMeta(name=name, uid=f"uid-{name}", labels=labels or {}),
        spec=NodeSpec(podCIDR=cidrs[0] if cidrs else "", podCIDRs=cidrs),
        status=NodeStatus(addresses=tuple(NodeAddress("InternalIP", address) for address in addresses)),
    )
