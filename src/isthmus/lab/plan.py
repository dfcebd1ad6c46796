"""What a cluster of the lab will look like, decided before anything is made.

Invariants: names and IDs are unique in a lab; no two subnets of the lab overlap, whatever they are for, because all
clusters are routed on one flat segment; every address follows from (cluster ID, node index), so that nothing has to
be remembered or asked for. Node pod networks are decided here too, not by a controller: the routes between nodes need
them, and a node that registers again must get the same one. Rejected: a free-list of addresses, which has to survive
crashes and can leak.
"""

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from ipaddress import IPv4Network, ip_network

import msgspec

SEGMENT = "172.30.0.0/16"
"""The network that joins all nodes. Lives in the lab's own network namespace, so it cannot clash with the host."""

MAX_NODES = 100
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")
_NODE_BLOCK = 24
"""Prefix length of a node's pod network, as kube-controller-manager's default for IPv4."""
_SMALLEST_NODE_BLOCK = 29


class PlanError(Exception):
    """The cluster cannot be made as asked; the message says why and names what it clashes with."""


class Mode(Enum):
    """Who tells the agents about other clusters: a tracker per cluster, or nobody (then no agents run)."""

    TRACKER = "tracker"
    STANDALONE = "standalone"
    NONE = "none"


class NodePlan(msgspec.Struct, frozen=True):
    """A node: its address on the segment and the network its pods get."""

    name: str
    address: str
    pod_cidr: str
    control_plane: bool = False


class ClusterPlan(msgspec.Struct, frozen=True):
    """A cluster: subnets as canonical CIDR text; the first node is the control plane."""

    name: str
    id: int
    pod_subnet: str
    service_subnet: str
    nodes: tuple[NodePlan, ...]
    mode: Mode = Mode.TRACKER

    @property
    def control_plane(self) -> NodePlan:
        """The node that holds the API server, the controllers and the tracker."""
        return self.nodes[0]

    @property
    def context(self) -> str:
        """The kubeconfig context, cluster and user name."""
        return f"lab-{self.name}"


def plan_cluster(
    name: str,
    *,
    existing: Sequence[ClusterPlan],
    cluster_id: int | None = None,
    pod_subnet: str | None = None,
    service_subnet: str | None = None,
    nodes: int = 2,
    mode: Mode = Mode.TRACKER,
) -> ClusterPlan:
    """Returns the plan of a new cluster beside the `existing` ones; raises PlanError.

    Without an ID the lowest free one is taken; subnets default to 10.ID.0.0/16 and 172.20.ID.0/24.
    """
    if not _NAME.fullmatch(name):
        raise PlanError(
            f'"{name}" is not a valid cluster name: 1-32 lower-case letters, digits and "-", '
            "beginning and ending with a letter or digit"
        )
    if any(other.name == name for other in existing):
        raise PlanError(f'cluster already exists: "{name}"')
    number = _free_id(existing) if cluster_id is None else _checked_id(cluster_id, existing)
    if not 1 <= nodes <= MAX_NODES:
        raise PlanError(f"--nodes {nodes}: a cluster has 1 to {MAX_NODES} nodes, the control plane included")
    pods = _subnet(pod_subnet or f"10.{number}.0.0/16", flag="--pod-subnet")
    services = _subnet(service_subnet or f"172.20.{number}.0/24", flag="--service-subnet")
    if services.prefixlen > 28:
        raise PlanError(f"--service-subnet {services}: too small, at least a /28 is needed")
    _check_overlaps(pods, services, name=name, existing=existing)
    return ClusterPlan(
        name=name,
        id=number,
        pod_subnet=str(pods),
        service_subnet=str(services),
        nodes=_plan_nodes(name, number=number, pods=pods, count=nodes),
        mode=mode,
    )


def service_address(plan: ClusterPlan, index: int) -> str:
    """Returns the `index`th address of the service subnet: 1 is `kubernetes`, 10 is cluster DNS by convention."""
    return str(ip_network(plan.service_subnet)[index])


def _free_id(existing: Iterable[ClusterPlan]) -> int:
    taken = {other.id for other in existing}
    for number in range(1, 256):
        if number not in taken:
            return number
    raise PlanError("all 255 cluster IDs are taken")


def _checked_id(number: int, existing: Iterable[ClusterPlan]) -> int:
    if not 1 <= number <= 255:
        raise PlanError(f"--id {number}: a cluster ID is a number from 1 to 255")
    for other in existing:
        if other.id == number:
            raise PlanError(f'--id {number}: already the ID of cluster "{other.name}"')
    return number


def _subnet(text: str, *, flag: str) -> IPv4Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise PlanError(f"{flag} {text}: {error}") from error
    if not isinstance(network, IPv4Network):
        raise PlanError(f"{flag} {text}: IPv6 is not supported by the lab yet")
    if network.is_multicast or network.is_loopback or network.is_link_local or network.prefixlen < 8:
        raise PlanError(f"{flag} {text}: not a network that pods or services can use")
    return network


def _check_overlaps(pods: IPv4Network, services: IPv4Network, *, name: str, existing: Iterable[ClusterPlan]) -> None:
    if pods.overlaps(services):
        raise PlanError(f'service subnet {services} of cluster "{name}" overlaps its own pod subnet {pods}')
    taken = [(ip_network(SEGMENT), "the lab's node network")]
    for other in existing:
        taken.append((ip_network(other.pod_subnet), f'pod subnet {other.pod_subnet} of cluster "{other.name}"'))
        taken.append(
            (ip_network(other.service_subnet), f'service subnet {other.service_subnet} of cluster "{other.name}"')
        )
    for network, role in ((pods, "pod"), (services, "service")):
        for used, owner in taken:
            if network.overlaps(used):
                place = owner if "subnet" in owner else f"{owner} {used}"
                raise PlanError(f'{role} subnet {network} of cluster "{name}" overlaps {place}')


def _plan_nodes(name: str, *, number: int, pods: IPv4Network, count: int) -> tuple[NodePlan, ...]:
    prefix = max(_NODE_BLOCK, pods.prefixlen + (count - 1).bit_length())
    if prefix > _SMALLEST_NODE_BLOCK:
        raise PlanError(f"--pod-subnet {pods}: too small for {count} nodes")
    blocks = pods.subnets(new_prefix=prefix)
    segment = IPv4Network(SEGMENT)
    return tuple(
        NodePlan(
            name=_node_name(name, index),
            address=str(segment[number * 256 + index + 1]),
            pod_cidr=str(next(blocks)),
            control_plane=index == 0,
        )
        for index in range(count)
    )


def _node_name(cluster: str, index: int) -> str:
    """The names kind gives: control-plane, worker, worker2, ..."""
    if index == 0:
        return f"{cluster}-control-plane"
    return f"{cluster}-worker{index if index > 1 else ''}"
