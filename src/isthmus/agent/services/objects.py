"""Services and EndpointSlices as the API server tells them -> what the dataplane knows them by. Pure.

An object is not believed more than necessary: a part that no API server would accept (an address that nobody can have,
a port out of range) is left out and said, and the rest counts. What would restrict a Service and cannot be enforced
closes what it restricts.
"""

from ipaddress import ip_network

import msgspec

from isthmus.kube.schema import EndpointSlice
from isthmus.kube.schema import Service as ServiceObject
from isthmus.mesh.source.slices import slice_of, usable_address
from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.model.service import Network, Port, Service, Slice
from isthmus.policy.rules import Problem

OTHER_PROXY = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
DEFAULT_AFFINITY = 10800
MAX_AFFINITY = 86400
MAX_PORT = 65535
MAX_PORTS = 1000
MAX_ADDRESSES = 100
MAX_SOURCES = 500
MAX_FRONTENDS = 10_000
"""Addresses times ports of one Service, not counting node ports."""


class Facts(msgspec.Struct, frozen=True):
    """What came of an object: `service` or `slice` is None where it is none of ours."""

    problems: tuple[Problem, ...] = ()
    service: Service | None = None
    slice: Slice | None = None


def service_facts(obj: ServiceObject) -> Facts:
    """Returns what counts of a Service; no `service` if it has no address, or is another proxy's."""
    spec, meta = obj.spec, obj.metadata
    if spec.type == "ExternalName" or OTHER_PROXY in meta.labels:
        return Facts()
    problems: list[Problem] = []
    given = [ip for ip in spec.clusterIPs or (spec.clusterIP,) if ip not in ("", "None")]
    cluster_ips = _addresses(given, "spec.clusterIPs", problems)
    if not cluster_ips:
        return Facts(tuple(problems))
    balanced = spec.type == "LoadBalancer"
    ports = _ports(obj, problems)
    room = min(MAX_ADDRESSES, MAX_FRONTENDS // max(1, len(ports)))
    ingress = [entry.ip for entry in obj.status.loadBalancer.ingress if entry.ip and entry.ipMode in ("", "VIP")]
    ingress_ips = _addresses(ingress if balanced else [], "status.loadBalancer.ingress", problems, most=room)
    service = Service(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        ports=ports,
        cluster_ips=cluster_ips,
        external_ips=_addresses(spec.externalIPs, "spec.externalIPs", problems, most=room),
        ingress_ips=ingress_ips,
        sources=_sources(spec.loadBalancerSourceRanges, problems) if balanced else None,
        local_internal=_local(spec.internalTrafficPolicy, "spec.internalTrafficPolicy", problems),
        local_external=_local(spec.externalTrafficPolicy, "spec.externalTrafficPolicy", problems),
        affinity=_affinity(obj, problems),
    )
    return Facts(tuple(problems), service)


def slice_facts(obj: EndpointSlice, *, cluster: str) -> Facts:
    """Returns the backends that an EndpointSlice tells of; no `slice` if they are not for a dataplane."""
    if OTHER_PROXY in obj.metadata.labels or HEADLESS in obj.metadata.labels:
        return Facts()
    found, problems = slice_of(obj, cluster=cluster)
    if found is None:
        return Facts()
    return Facts(tuple(problems), slice=Slice(found.key, found.service_key, found.backends()))


def _addresses(
    given: list[str] | tuple[str, ...], field: str, problems: list[Problem], *, most: int = MAX_ADDRESSES
) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for text in given[:most]:
        address = usable_address(text)
        if address is None:
            problems.append(Problem(field, f"{text!r} is no address that a Service can have"))
        else:
            found[address] = None
    if len(given) > most:
        problems.append(Problem(field, f"more than {most}; the rest is left out"))
    return tuple(found)


def _ports(obj: ServiceObject, problems: list[Problem]) -> tuple[Port, ...]:
    found: dict[tuple[int, int], Port] = {}
    exposed = obj.spec.type in ("NodePort", "LoadBalancer")
    for index, port in enumerate(obj.spec.ports[:MAX_PORTS]):
        protocol = PORT_PROTOCOLS.get(port.protocol)
        field = f"spec.ports[{index}]"
        if protocol is None:
            problems.append(Problem(f"{field}.protocol", f"{port.protocol!r} is not TCP, UDP or SCTP"))
        elif not 0 < port.port <= MAX_PORT:
            problems.append(Problem(f"{field}.port", f"{port.port} is no port"))
        elif (protocol, port.port) in found:
            problems.append(Problem(field, f"{port.protocol} {port.port} is there twice; the first one counts"))
        else:
            node_port = port.nodePort if exposed else 0
            if not 0 <= node_port <= MAX_PORT:
                problems.append(Problem(f"{field}.nodePort", f"{node_port} is no port"))
                node_port = 0
            found[protocol, port.port] = Port(port.name, protocol, port.port, node_port)
    if len(obj.spec.ports) > MAX_PORTS:
        problems.append(Problem("spec.ports", f"more than {MAX_PORTS}; the rest is left out"))
    return tuple(found.values())


def _sources(given: tuple[str, ...], problems: list[Problem]) -> tuple[Network, ...] | None:
    """Returns who may come; None if nothing is said, and nobody for what cannot be read."""
    if not given:
        return None
    found: set[Network] = set()
    for index, text in enumerate(given[:MAX_SOURCES]):
        try:
            found.add(ip_network(text.strip(), strict=False))
        except ValueError:
            problems.append(Problem(f"spec.loadBalancerSourceRanges[{index}]", f"{text!r} is no network"))
    if len(given) > MAX_SOURCES:
        problems.append(Problem("spec.loadBalancerSourceRanges", f"more than {MAX_SOURCES}; the rest may not come"))
    return tuple(sorted(found, key=lambda network: (network.version, network)))


def _local(policy: str, field: str, problems: list[Problem]) -> bool:
    if policy not in ("", "Cluster", "Local"):
        problems.append(Problem(field, f"{policy!r} is neither Cluster nor Local; taken for Cluster"))
    return policy == "Local"


def _affinity(obj: ServiceObject, problems: list[Problem]) -> int:
    kind, config = obj.spec.sessionAffinity, obj.spec.sessionAffinityConfig
    if kind in ("", "None"):
        return 0
    if kind != "ClientIP":
        problems.append(Problem("spec.sessionAffinity", f"{kind!r} is neither ClientIP nor None; taken for None"))
        return 0
    seconds = config.clientIP.timeoutSeconds if config and config.clientIP else None
    if seconds is None:
        return DEFAULT_AFFINITY
    if not 0 < seconds <= MAX_AFFINITY:
        field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        problems.append(Problem(field, f"{seconds} is not 1 to {MAX_AFFINITY}; taken for {DEFAULT_AFFINITY}"))
        return DEFAULT_AFFINITY
    return seconds
