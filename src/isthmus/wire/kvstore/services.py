"""The values of whole services and of exports: Cilium's JSON.

`ClusterService` (services v1) lists all backends of a Service in one value: what readers up to Cilium 1.19 know. It
says nothing of backends that are not ready, nor of nodes, and gives each address its own ports, so it becomes a slice
for each family and set of ports. `MCSAPIServiceSpec` is an export of the MCS API. Unknown fields are passed over.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from isthmus.model.sharing import (
    ServicePort,
    SharedEndpoint,
    SharedExport,
    SharedPort,
    SharedService,
    SharedSlice,
)
from isthmus.wire.kvstore.checks import (
    MAX_VALUE,
    CodecError,
    clip,
    label_key_fault,
    label_value_fault,
    name_fault,
)
from isthmus.wire.kvstore.slices import PROTOCOLS, canonical_address, identity_fault, place_fault, port_of

MAX_RECORD = 1 << 20
"""Bytes of a service record that we write; etcd's own limit is half as much again, its framing included."""

MAX_FRONTENDS = 100
MAX_PORTS = 1000
MAX_LABELS = 1024

_TYPES = ("ClusterSetIP", "Headless")
_AFFINITIES = ("None", "ClientIP")
_POLICIES = ("", "Cluster", "Local")
_DISTRIBUTIONS = ("", "PreferClose", "PreferSameZone", "PreferSameNode")
_FAMILIES = ("IPv4", "IPv6")
MAX_AFFINITY = 86400
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})")


class _Address(msgspec.Struct, frozen=True, rename="pascal"):
    protocol: str = "TCP"
    port: int = 0


class _Zone(msgspec.Struct, frozen=True, rename={"for_zones": "forZones"}):
    zone: str = ""
    for_zones: list[object] | None = None


_Ports = dict[str, _Address]


class _Service(
    msgspec.Struct,
    frozen=True,
    rename={"include_external": "includeExternal", "cluster_id": "clusterID"},
):
    cluster: str = ""
    namespace: str = ""
    name: str = ""
    frontends: dict[str, _Ports | None] | None = None
    backends: dict[str, _Ports | None] | None = None
    hostnames: dict[str, str] | None = None
    zones: dict[str, _Zone] | None = None
    labels: dict[str, str] | None = None
    selector: dict[str, str] | None = None
    include_external: bool = False
    shared: bool = False
    cluster_id: int = 0


class _ClientIP(msgspec.Struct, frozen=True, rename="camel"):
    timeout_seconds: int | None = None


class _AffinityConfig(msgspec.Struct, frozen=True, rename={"client_ip": "clientIP"}):
    client_ip: _ClientIP | None = None


class _ExportPort(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    port: int
    name: str = ""
    protocol: str = ""
    app_protocol: str | None = None


class _Export(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={
        "created": "exportCreationTimestamp",
        "session_affinity": "sessionAffinity",
        "affinity_config": "sessionAffinityConfig",
        "ip_families": "ipFamilies",
        "internal_traffic_policy": "internalTrafficPolicy",
        "traffic_distribution": "trafficDistribution",
        "old_annotations": "Annotations",
        "old_labels": "Labels",
    },
):
    cluster: str
    name: str
    namespace: str
    created: str
    ports: list[_ExportPort] | None
    type: str
    session_affinity: str
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    affinity_config: _AffinityConfig | None = None
    ip_families: list[str] | None = None
    internal_traffic_policy: str | None = None
    traffic_distribution: str | None = None
    old_annotations: dict[str, str] | None = None
    old_labels: dict[str, str] | None = None
    """As earlier releases of Cilium call them, and they alone."""


class ClusterService(msgspec.Struct, frozen=True):
    """A service record as it was read: the Service, and who answers for it (none if it is not shared)."""

    service: SharedService
    slices: tuple[SharedSlice, ...]


_T = TypeVar("_T")
_encode = msgspec.json.Encoder(order="deterministic").encode
_services = msgspec.json.Decoder(_Service)
_exports = msgspec.json.Decoder(_Export)


def encode_service(key: bytes, service: SharedService, slices: Iterable[SharedSlice], *, cluster_id: int) -> bytes:
    """Writes a service record with the ready backends of `slices`. Raises CodecError if it is too large."""
    backends: dict[str, _Ports | None] = {}
    hostnames: dict[str, str] = {}
    zones: dict[str, _Zone] = {}
    for part in slices:
        ports = _ports(part.ports)
        for endpoint in part.endpoints:
            if not endpoint.ready:
                continue
            known = backends.get(endpoint.address)
            backends[endpoint.address] = {**known, **ports} if known and known != ports else ports
            if endpoint.hostname:
                hostnames[endpoint.address] = endpoint.hostname
            if endpoint.zone:
                zones[endpoint.address] = _Zone(endpoint.zone)
    record = _Service(
        cluster=service.cluster,
        namespace=service.namespace,
        name=service.name,
        frontends={ip: _ports(service.ports) for ip in service.cluster_ips},
        backends=backends,
        hostnames=hostnames or None,
        zones=zones or None,
        labels=service.labels,
        selector=service.selector,
        include_external=True,
        shared=service.shared,
        cluster_id=cluster_id,
    )
    value = _encode(record)
    if len(value) > MAX_RECORD:
        raise CodecError(key, "backends", f"{len(backends)} backends make {len(value)} bytes, more than {MAX_RECORD}")
    return value


def decode_service(
    key: bytes, value: bytes, *, place: tuple[str, str], cluster: str, cluster_id: int
) -> ClusterService:
    """Reads the service at `place` (namespace and name) of `cluster`."""
    record = _decode(key, value, _services)
    identity_fault(key, record.cluster, record.cluster_id, cluster=cluster, cluster_id=cluster_id)
    place_fault(key, (record.namespace, record.name), place)
    frontends = record.frontends or {}
    if len(frontends) > MAX_FRONTENDS:
        raise CodecError(key, "frontends", f"more than {MAX_FRONTENDS}")
    ips = tuple(canonical_address(key, "frontends", text) for text in frontends)
    ports: dict[ServicePort, None] = {}
    for found in frontends.values():
        for port in _shared_ports(key, "frontends", found or {}):
            ports[ServicePort(port.name, port.protocol, port.port)] = None
    for label, text in (record.labels or {}).items():
        _raise(key, "labels", label_key_fault(label) or label_value_fault(text))
    for label, text in (record.selector or {}).items():
        _raise(key, "selector", label_key_fault(label) or label_value_fault(text))
    service = SharedService(
        cluster=cluster,
        namespace=sys.intern(place[0]),
        name=sys.intern(place[1]),
        shared=record.shared,
        headless=not ips,
        cluster_ips=ips,
        ports=tuple(ports),
        labels=record.labels or {},
        selector=record.selector or {},
    )
    # A record that is there but not shared is as good as none (pkg/clustermesh: it counts as deleted).
    return ClusterService(service, _slices(key, record, service) if record.shared else ())


def encode_export(key: bytes, export: SharedExport) -> bytes:
    """Writes an export. Raises CodecError for one that no reader would take."""
    _check_export(key, export)
    timeout = _AffinityConfig(_ClientIP(export.affinity_seconds)) if export.affinity_seconds else None
    record = _Export(
        cluster=export.cluster,
        name=export.name,
        namespace=export.namespace,
        created=export.created,
        ports=[
            _ExportPort(port.port, port.name, PROTOCOLS[port.protocol], port.app_protocol or None)
            for port in export.ports
        ],
        type=export.type,
        session_affinity=export.session_affinity,
        annotations=export.annotations or None,
        labels=export.labels or None,
        affinity_config=timeout,
        ip_families=list(export.ip_families) or None,
        internal_traffic_policy=export.internal_traffic_policy or None,
        traffic_distribution=export.traffic_distribution or None,
    )
    value = _encode(record)
    if len(value) > MAX_RECORD:
        raise CodecError(key, "", f"{len(value)} bytes, more than {MAX_RECORD}")
    return value


def decode_export(key: bytes, value: bytes, *, place: tuple[str, str], cluster: str) -> SharedExport:
    """Reads the export at `place` (namespace and name) of `cluster`."""
    record = _decode(key, value, _exports)
    identity_fault(key, record.cluster, 0, cluster=cluster, cluster_id=0)
    place_fault(key, (record.namespace, record.name), place)
    config = record.affinity_config
    seconds = (config.client_ip.timeout_seconds or 0) if config and config.client_ip else 0
    export = SharedExport(
        cluster=cluster,
        namespace=sys.intern(place[0]),
        name=sys.intern(place[1]),
        created=record.created,
        type=record.type,
        ports=tuple(
            ServicePort(port.name, port.protocol, port.port, port.app_protocol)
            for port in (
                port_of(key, "ports", name=p.name, protocol=p.protocol, number=p.port, app=p.app_protocol or "")
                for p in (record.ports or ())[: MAX_PORTS + 1]
            )
        ),
        session_affinity=record.session_affinity or "None",
        affinity_seconds=seconds,
        ip_families=tuple(record.ip_families or ()),
        internal_traffic_policy=record.internal_traffic_policy or "",
        traffic_distribution=record.traffic_distribution or "",
        labels=record.labels or record.old_labels or {},
        annotations=record.annotations or record.old_annotations or {},
    )
    _check_export(key, export)
    return export


def _check_export(key: bytes, export: SharedExport) -> None:
    if not _TIME.fullmatch(export.created):
        raise CodecError(key, "exportCreationTimestamp", f"{clip(export.created)} is not a time")
    if len(export.ports) > MAX_PORTS:
        raise CodecError(key, "ports", f"more than {MAX_PORTS}")
    for field, found, known in (
        ("type", export.type, _TYPES),
        ("sessionAffinity", export.session_affinity, _AFFINITIES),
        ("internalTrafficPolicy", export.internal_traffic_policy, _POLICIES),
        ("trafficDistribution", export.traffic_distribution, _DISTRIBUTIONS),
        *(("ipFamilies", family, _FAMILIES) for family in export.ip_families),
    ):
        if found not in known:
            raise CodecError(key, field, f"{clip(found)} is not one of {', '.join(filter(None, known))}")
    if len(export.ip_families) > 2:
        raise CodecError(key, "ipFamilies", "more than 2")
    if not 0 <= export.affinity_seconds <= MAX_AFFINITY:
        raise CodecError(key, "sessionAffinityConfig", f"{export.affinity_seconds} is not 0 to {MAX_AFFINITY}")
    if len(export.labels) > MAX_LABELS or len(export.annotations) > MAX_LABELS:
        raise CodecError(key, "labels", f"more than {MAX_LABELS} labels or annotations")
    for label, text in export.labels.items():
        _raise(key, "labels", label_key_fault(label) or label_value_fault(text))
    for label in export.annotations:
        _raise(key, "annotations", label_key_fault(label))


def _ports(ports: Sequence[SharedPort | ServicePort]) -> _Ports:
    return {port.name: _Address(PROTOCOLS[port.protocol], port.port) for port in ports}


def _shared_ports(key: bytes, field: str, found: _Ports) -> tuple[SharedPort, ...]:
    if len(found) > MAX_PORTS:
        raise CodecError(key, field, f"more than {MAX_PORTS} ports of an address")
    return tuple(
        port_of(key, field, name=name, protocol=address.protocol.upper(), number=address.port)
        for name, address in sorted(found.items())
    )


def _slices(key: bytes, record: _Service, service: SharedService) -> tuple[SharedSlice, ...]:
    """Puts backends that have the same family and ports together, in an order that does not depend on the others."""
    hostnames, zones = record.hostnames or {}, record.zones or {}
    checked: dict[tuple[tuple[str, str, int], ...], tuple[SharedPort, ...]] = {}
    groups: dict[tuple[int, tuple[SharedPort, ...]], list[SharedEndpoint]] = {}
    for text, found in (record.backends or {}).items():
        address = canonical_address(key, "backends", text)
        raw = tuple((name, port.protocol, port.port) for name, port in (found or {}).items())
        ports = checked.get(raw)
        if ports is None:
            ports = checked[raw] = _shared_ports(key, "backends", found or {})
        hostname, zone = hostnames.get(text, ""), zones[text].zone if text in zones else ""
        if hostname:
            _raise(key, "hostnames", name_fault(hostname, limit=63))
        _raise(key, "zones", label_value_fault(zone))
        endpoint = SharedEndpoint(address, hostname=hostname, zone=sys.intern(zone))
        groups.setdefault((6 if ":" in address else 4, ports), []).append(endpoint)
    slices: list[SharedSlice] = []
    numbers = {4: 0, 6: 0}
    for (version, ports), endpoints in sorted(groups.items(), key=lambda group: (group[0][0], _order(group[0][1]))):
        number = numbers[version]
        numbers[version] += 1
        name = service.name if (version, number) == (4, 0) else f"{service.name}.ipv{version}-{number}"
        endpoints.sort(key=lambda endpoint: endpoint.address)
        slices.append(
            SharedSlice(service.cluster, service.namespace, name, service.name, version, tuple(endpoints), ports)
        )
    return tuple(slices)


def _order(ports: tuple[SharedPort, ...]) -> tuple[tuple[str, int, int], ...]:
    return tuple((port.name, port.protocol, port.port) for port in ports)


def _decode(key: bytes, value: bytes, decoder: msgspec.json.Decoder[_T]) -> _T:
    if len(value) > MAX_VALUE:
        raise CodecError(key, "", f"value is longer than {MAX_VALUE} bytes")
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise CodecError(key, path.rstrip("`"), reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(key, "", f"not JSON: {error}") from None


def _raise(key: bytes, field: str, fault: str | None) -> None:
    if fault is not None:
        raise CodecError(key, field, fault)
