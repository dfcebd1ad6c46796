"""An EndpointSlice of the API -> what counts of it. Pure, and the same for agents and trackers.

An object is not believed more than necessary: an address that nobody can have, or a port out of range, is left out and
said, and the rest counts.
"""

import sys
from functools import lru_cache
from ipaddress import ip_address

from isthmus.kube.schema import EndpointOfSlice, EndpointSlice
from isthmus.mesh.source.objects import canonical_ip
from isthmus.model.endpoint import family_of
from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.model.service import PortKey
from isthmus.model.sharing import FULL_WEIGHT, SharedEndpoint, SharedPort, SharedSlice
from isthmus.policy.rules import Problem
from isthmus.wire.kvstore.checks import clip, label_key_fault, label_value_fault, name_fault

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
SOURCE_CLUSTER = "multicluster.kubernetes.io/source-cluster"
MIRRORS = ("endpointslice-controller.isthmus.dev", "endpointslice-mesh-controller.cilium.io")
"""Who writes slices of other clusters' backends: our trackers, and Cilium's operators."""

MAX_PORT = 65535
MAX_PORTS = 1000
MAX_ENDPOINTS = 1000
"""What an API server lets into one EndpointSlice; ports are bounded by the size of the object alone."""
MAX_BACKENDS = 100_000
"""Endpoints times ports of one EndpointSlice: of 100 kB, which say a million, one object would stall every agent."""

_VERSIONS = {"IPv4": 4, "IPv6": 6}


def is_mirrored(obj: EndpointSlice, *, cluster: str) -> bool:
    """Tells whether a slice of `cluster` holds backends of another one; those are not `cluster`'s to share."""
    labels = obj.metadata.labels
    return labels.get(MANAGED_BY) in MIRRORS or labels.get(SOURCE_CLUSTER, cluster) != cluster


def slice_of(
    obj: EndpointSlice, *, cluster: str, weight: int = FULL_WEIGHT
) -> tuple[SharedSlice | None, list[Problem]]:
    """Returns an EndpointSlice as a fact of `cluster`, and what is wrong with it; None if it is of no Service.

    Ports without a number are left out silently: nothing that a Service could forward to.
    """
    name, version = obj.metadata.labels.get(SERVICE_NAME, ""), _VERSIONS.get(obj.addressType)
    if not name or version is None:
        return None, []
    problems: list[Problem] = []
    ports = _ports(obj, problems)
    endpoints: list[SharedEndpoint] = []
    most = min(MAX_ENDPOINTS, MAX_BACKENDS // max(1, len(ports)))
    for index, endpoint in enumerate((obj.endpoints or ())[:most]):
        given = endpoint.addresses[0] if endpoint.addresses else ""
        address = usable_address(given)
        if address is None or family_of(address) != version:
            problems.append(Problem(f"endpoints[{index}].addresses", f"{given!r} is no {obj.addressType} address"))
        else:
            endpoints.append(_endpoint(endpoint, address, f"endpoints[{index}]", problems))
    if len(obj.endpoints or ()) > most:
        problems.append(Problem("endpoints", f"more than {most}; the rest is left out"))
    found = SharedSlice(
        cluster=cluster,
        namespace=sys.intern(obj.metadata.namespace),
        name=obj.metadata.name,
        service=sys.intern(name),
        version=version,
        endpoints=tuple(endpoints),
        ports=ports,
        weight=weight,
    )
    return found, problems


@lru_cache(maxsize=1024)
def usable_address(text: str) -> str | None:
    """Returns an address in canonical form; None if connections must not be led to or from it.

    Of a slice that changes, all addresses but one were there before.
    """
    address = canonical_ip(text)
    return None if address is None or ip_address(address).is_link_local else address


def _endpoint(endpoint: EndpointOfSlice, address: str, where: str, problems: list[Problem]) -> SharedEndpoint:
    """Returns an endpoint; one word that no reader takes would cost it the whole slice, so that is left out."""
    said = endpoint.conditions
    words = {"nodeName": endpoint.nodeName, "hostname": endpoint.hostname, "zone": endpoint.zone}
    for field, word in words.items():
        fault = _word_fault(field, word) if word else None
        if fault is not None:
            words[field] = None
            problems.append(Problem(f"{where}.{field}", fault))
    ready = said.ready is not False
    return SharedEndpoint(
        address=address,
        ready=ready,
        serving=ready if said.serving is None else said.serving,
        terminating=bool(said.terminating),
        node=sys.intern(words["nodeName"] or ""),
        hostname=words["hostname"] or "",
        zone=sys.intern(words["zone"] or ""),
    )


@lru_cache(maxsize=4096)
def _word_fault(field: str, word: str) -> str | None:
    """Why a word cannot be what it is given for; an API server does not look at zones at all."""
    match field:
        case "zone":
            return label_value_fault(word)
        case "hostname":
            return name_fault(word, limit=63)
    return name_fault(word)


def _ports(obj: EndpointSlice, problems: list[Problem]) -> tuple[SharedPort, ...]:
    ports: dict[PortKey, SharedPort] = {}
    for index, port in enumerate((obj.ports or ())[:MAX_PORTS]):
        if port.port is None:
            continue
        protocol = PORT_PROTOCOLS.get(port.protocol or "TCP")
        if protocol is None or not 0 < port.port <= MAX_PORT:
            problems.append(Problem(f"ports[{index}]", f"{port.protocol} {port.port} is no port"))
            continue
        fault = name_fault(port.name, limit=63) if port.name else None
        if fault is not None:
            problems.append(Problem(f"ports[{index}].name", fault))
            continue
        app = port.appProtocol or ""
        if app and label_key_fault(app) is not None:
            problems.append(Problem(f"ports[{index}].appProtocol", f"{clip(app)} is left out"))
            app = ""
        name, app = sys.intern(port.name or ""), sys.intern(app)
        ports[name, int(protocol)] = SharedPort(name, int(protocol), port.port, app)
    if len(obj.ports or ()) > MAX_PORTS:
        problems.append(Problem("ports", f"more than {MAX_PORTS}; the rest is left out"))
    return tuple(ports.values())
