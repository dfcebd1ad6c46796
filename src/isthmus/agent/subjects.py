"""API objects of this node -> what the compiler knows them by.

Objects come from an API server and are not believed more than necessary: an address that does not parse is left out
and said, and the rest of the pod still counts.
"""

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from isthmus.kube.schema import Node, Pod
from isthmus.model.endpoint import NamedPort
from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.policy.rules import Network
from isthmus.policy.world import LocalPod

FINISHED = ("Succeeded", "Failed")


def key_of(pod: Pod) -> str:
    """Returns `namespace/name`."""
    return f"{pod.metadata.namespace}/{pod.metadata.name}"


def subject(pod: Pod) -> LocalPod | None:
    """Returns the pod as policies can select it; None for hostNetwork pods (they are the node) and finished ones."""
    if pod.spec.hostNetwork or pod.status.phase in FINISHED:
        return None
    texts = [entry.ip for entry in pod.status.podIPs] or [pod.status.podIP]
    return LocalPod(
        pod.metadata.namespace,
        pod.metadata.name,
        pod.metadata.uid,
        dict(pod.metadata.labels),
        tuple(dict.fromkeys(canonical(texts))),
        named_ports(pod),
    )


def named_ports(pod: Pod) -> tuple[NamedPort, ...]:
    """Returns the named ports of all containers, sidecars among the init containers included."""
    containers = [*pod.spec.containers, *(c for c in pod.spec.initContainers if c.restartPolicy == "Always")]
    return tuple(
        NamedPort(port.name, port.containerPort, port.protocol)
        for container in containers
        for port in container.ports
        if port.name and port.protocol in PORT_PROTOCOLS and 0 < port.containerPort <= 65535
    )


def canonical(texts: Iterable[str]) -> list[str]:
    """Returns the addresses among `texts` in canonical form; what is not an address is left out."""
    found = []
    for text in texts:
        try:
            found.append(str(ip_address(text)))
        except ValueError:
            continue
    return found


def node_addresses(node: Node) -> frozenset[str]:
    """Returns the node's addresses, of every kind that is one."""
    return frozenset(canonical(entry.address for entry in node.status.addresses))


def pod_cidrs(node: Node) -> tuple[Network, ...]:
    """Returns the pod networks that the node hands out addresses from."""
    found: list[Network] = []
    for text in node.spec.podCIDRs or ((node.spec.podCIDR,) if node.spec.podCIDR else ()):
        try:
            found.append(ip_network(text, strict=False))
        except ValueError:
            continue
    return tuple(sorted(set(found), key=str))
