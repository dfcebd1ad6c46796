"""What a cluster of the lab will look like, decided before anything is made.

Invariants: names and IDs are unique in a lab; no two subnets of the lab overlap, whatever they are for, because all
clusters are routed on one flat segment; every address follows from (cluster ID, node index), so that nothing has to
be remembered or asked for. Node pod networks are decided here too, not by a controller: the routes between nodes need
them, and a node that registers again must get the same one. Rejected: a free-list of addresses, which has to survive
crashes and can leak.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network

import msgspec

from isthmus.lab.subnets import SEGMENT, SEGMENT6, Network, PlanError, Subnets, blocks, check_overlaps, read_subnets

__all__ = [
    "SEGMENT",
    "SEGMENT6",
    "ClusterPlan",
    "GlobalServices",
    "LiveConnections",
    "Mode",
    "NodePlan",
    "PlanError",
    "PolicyScope",
    "ServiceProxy",
    "check_known",
    "plan_cluster",
    "service_address",
    "with_policy",
    "with_services",
]

MAX_NODES = 100
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")

FLAGS: Mapping[str, str] = {
    "id": "--id",
    "nodes": "--nodes",
    "pods": "--pod-subnet",
    "services": "--service-subnet",
    "family": "--ip-family",
}
"""Where each value came from, for errors: a field of a file may stand in the place of a flag."""


class Mode(Enum):
    """Who tells the agents about other clusters: a tracker per cluster, or nobody (then no agents run)."""

    TRACKER = "tracker"
    STANDALONE = "standalone"
    NONE = "none"


class ServiceProxy(Enum):
    """Who serves ClusterIPs and node ports: the agents, or whatever somebody else runs on the nodes."""

    ISTHMUS = "isthmus"
    NONE = "none"


class GlobalServices(Enum):
    """How other clusters' backends are reached, as trackers and agents are told."""

    NFTABLES = "nftables"
    ENDPOINTSLICES = "endpointslices"
    OFF = "off"


class PolicyScope(Enum):
    """Which clusters a peer selector sees when it names none, as agents are told."""

    CLUSTERSET = "clusterset"
    LOCAL = "local"


class LiveConnections(Enum):
    """What a change of policy does to connections that are open, as agents are told."""

    CUT = "cut"
    KEEP = "keep"


class NodePlan(msgspec.Struct, frozen=True):
    """A node: its addresses on the segment and the networks its pods get; the IPv6 ones are empty without IPv6."""

    name: str
    address: str
    pod_cidr: str
    control_plane: bool = False
    address6: str = ""
    pod_cidr6: str = ""
    labels: dict[str, str] = {}


class ClusterPlan(msgspec.Struct, frozen=True):
    """A cluster: subnets as canonical CIDR text; the first node is the control plane."""

    name: str
    id: int
    pod_subnet: str
    service_subnet: str
    nodes: tuple[NodePlan, ...]
    mode: Mode = Mode.TRACKER
    pod_subnet6: str = ""
    service_subnet6: str = ""
    context_prefix: str = "lab-"
    binaries: str = ""
    """The directory of `kube-apiserver` and `etcd`; empty: the embedded API server."""
    images_file: str = ""
    """A file that adds to the table of images; empty: none."""
    connect: bool = True
    """Whether the lab joins it with its other clusters."""
    service_proxy: ServiceProxy = ServiceProxy.ISTHMUS
    global_services: GlobalServices = GlobalServices.NFTABLES
    policy_scope: PolicyScope = PolicyScope.CLUSTERSET
    live_connections: LiveConnections = LiveConnections.CUT

    @property
    def control_plane(self) -> NodePlan:
        """The node that holds the API server, the controllers and the tracker."""
        return self.nodes[0]

    @property
    def serves(self) -> bool:
        """Whether the lab itself serves ClusterIPs in it; cluster DNS needs that somebody does."""
        return self.mode is not Mode.NONE and self.service_proxy is ServiceProxy.ISTHMUS

    @property
    def context(self) -> str:
        """The kubeconfig context, cluster and user name."""
        return f"{self.context_prefix}{self.name}"

    @property
    def service_subnets(self) -> tuple[str, ...]:
        """The networks of Services, IPv4 first."""
        return tuple(subnet for subnet in (self.service_subnet, self.service_subnet6) if subnet)

    @property
    def pod_subnets(self) -> tuple[str, ...]:
        """The networks of pods, IPv4 first."""
        return tuple(subnet for subnet in (self.pod_subnet, self.pod_subnet6) if subnet)


def plan_cluster(
    name: str,
    *,
    existing: Sequence[ClusterPlan],
    cluster_id: int | None = None,
    pod_subnet: str | None = None,
    service_subnet: str | None = None,
    nodes: int = 2,
    mode: Mode = Mode.TRACKER,
    ip_family: str = "ipv4",
    labels: Sequence[Mapping[str, str]] = (),
    origins: Mapping[str, str] = FLAGS,
) -> ClusterPlan:
    """Returns the plan of a new cluster beside the `existing` ones; raises PlanError.

    Without an ID the lowest free one is taken; subnets default to 10.ID.0.0/16 and 172.20.ID.0/24, and with `ip_family`
    `dual` to fd00:10:ID::/56 and fd00:172:20:ID::/112 besides. `labels` are those of each node, the control plane's
    first.
    """
    if not _NAME.fullmatch(name):
        raise PlanError(
            f'"{name}" is not a valid cluster name: 1-32 lower-case letters, digits and "-", '
            "beginning and ending with a letter or digit"
        )
    if any(other.name == name for other in existing):
        raise PlanError(f'cluster already exists: "{name}"')
    family, said = ip_family.lower(), f"{origins['family']} {ip_family}"
    if family == "ipv6":
        raise PlanError(f"{said}: clusters with IPv6 alone are not supported by the lab; use dual, which has both")
    if family not in ("ipv4", "dual"):
        raise PlanError(f"{said}: one of ipv4, dual")
    number = _free_id(existing) if cluster_id is None else _checked_id(cluster_id, existing, origin=origins["id"])
    if not 1 <= nodes <= MAX_NODES:
        raise PlanError(f"{origins['nodes']} {nodes}: a cluster has 1 to {MAX_NODES} nodes, the control plane included")
    dual = family == "dual"
    pods = read_subnets(
        pod_subnet, defaults=(f"10.{number}.0.0/16", f"fd00:10:{number:x}::/56"), dual=dual, origin=origins["pods"]
    )
    services = read_subnets(
        service_subnet,
        defaults=(f"172.20.{number}.0/24", f"fd00:172:20:{number:x}::/112"),
        dual=dual,
        origin=origins["services"],
    )
    _check_service_sizes(services, origin=origins["services"])
    check_overlaps(pods, services, name=name, others=_taken(existing))
    return ClusterPlan(
        name=name,
        id=number,
        pod_subnet=str(pods.ipv4),
        service_subnet=str(services.ipv4),
        nodes=_plan_nodes(name, number=number, pods=pods, count=nodes, labels=labels, origin=origins["pods"]),
        mode=mode,
        pod_subnet6=_text(pods.ipv6),
        service_subnet6=_text(services.ipv6),
    )


def with_services(plan: ClusterPlan, *, proxy: ServiceProxy, global_services: GlobalServices) -> ClusterPlan:
    """Returns the plan of a cluster whose Services are served so; raises PlanError."""
    if global_services is GlobalServices.ENDPOINTSLICES and plan.mode is not Mode.TRACKER:
        raise PlanError("--global-services endpointslices needs --policy tracker: it is trackers that write them")
    return msgspec.structs.replace(plan, service_proxy=proxy, global_services=global_services)


def with_policy(plan: ClusterPlan, *, scope: PolicyScope, live_connections: LiveConnections) -> ClusterPlan:
    """Returns the plan of a cluster whose agents read and enforce policy so; raises PlanError."""
    if plan.mode is Mode.NONE:
        for flag, said in (
            ("--policy-scope local", scope is PolicyScope.LOCAL),
            ("--live-connections keep", live_connections is LiveConnections.KEEP),
        ):
            if said:
                raise PlanError(f"{flag} is for agents, and with --policy none there are none")
    return msgspec.structs.replace(plan, policy_scope=scope, live_connections=live_connections)


def check_known(names: Iterable[str], known: Sequence[str]) -> None:
    """Raises PlanError for the first of these names that no cluster has."""
    for name in names:
        if name not in known:
            listed = f"; there are: {', '.join(known)}" if known else ""
            raise PlanError(f'no cluster "{name}"{listed}')


def service_address(plan: ClusterPlan, index: int) -> str:
    """Returns the `index`th address of the service subnet: 1 is `kubernetes`, 10 is cluster DNS by convention."""
    return str(ip_network(plan.service_subnet)[index])


def _free_id(existing: Iterable[ClusterPlan]) -> int:
    taken = {other.id for other in existing}
    for number in range(1, 256):
        if number not in taken:
            return number
    raise PlanError("all 255 cluster IDs are taken")


def _checked_id(number: int, existing: Iterable[ClusterPlan], *, origin: str) -> int:
    if not 1 <= number <= 255:
        raise PlanError(f"{origin} {number}: a cluster ID is a number from 1 to 255")
    for other in existing:
        if other.id == number:
            raise PlanError(f'{origin} {number}: already the ID of cluster "{other.name}"')
    return number


def _check_service_sizes(services: Subnets, *, origin: str) -> None:
    if services.ipv4.prefixlen > 28:
        raise PlanError(f"{origin} {services.ipv4}: too small, at least a /28 is needed")
    # The limits of kube-apiserver's --service-cluster-ip-range: at most 20 bits of addresses for IPv6.
    if services.ipv6 is not None and not 108 <= services.ipv6.prefixlen <= 124:
        raise PlanError(f"{origin} {services.ipv6}: between a /108 and a /124 is needed")


def _taken(existing: Iterable[ClusterPlan]) -> list[tuple[Network, str]]:
    taken: list[tuple[Network, str]] = [
        (ip_network(segment), f"the lab's node network {segment}") for segment in (SEGMENT, SEGMENT6)
    ]
    for other in existing:
        taken += [(ip_network(cidr), f'pod subnet {cidr} of cluster "{other.name}"') for cidr in other.pod_subnets]
        taken += [
            (ip_network(cidr), f'service subnet {cidr} of cluster "{other.name}"') for cidr in other.service_subnets
        ]
    return taken


def _plan_nodes(
    name: str, *, number: int, pods: Subnets, count: int, labels: Sequence[Mapping[str, str]], origin: str
) -> tuple[NodePlan, ...]:
    blocks4 = blocks(pods.ipv4, count=count, origin=origin)
    blocks6 = [] if pods.ipv6 is None else blocks(pods.ipv6, count=count, origin=origin)
    segment, segment6 = IPv4Network(SEGMENT), IPv6Network(SEGMENT6)
    return tuple(
        NodePlan(
            name=_node_name(name, index),
            address=str(segment[number * 256 + index + 1]),
            pod_cidr=str(blocks4[index]),
            control_plane=index == 0,
            address6=str(segment6[number * 65536 + index + 1]) if blocks6 else "",
            pod_cidr6=str(blocks6[index]) if blocks6 else "",
            labels=dict(labels[index]) if index < len(labels) else {},
        )
        for index in range(count)
    )


def _node_name(cluster: str, index: int) -> str:
    """The names kind gives: control-plane, worker, worker2, ..."""
    if index == 0:
        return f"{cluster}-control-plane"
    return f"{cluster}-worker{index if index > 1 else ''}"


def _text(network: IPv6Network | None) -> str:
    return "" if network is None else str(network)
