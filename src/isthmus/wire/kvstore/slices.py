"""The value of an EndpointSlice: protobuf in a zstd frame, one key for each slice, so that a change moves one of them.

Cilium's `ClusterEndpointSlice` (services v2, 1.20). Invariants: a frame that says, or turns out, to hold more than
`MAX_TEXT` is refused before that much is allocated; addresses are of the slice's family, and come out in canonical
form. The weight that the exporter wants is an annotation of ours, which other readers pass over. Rejected: the whole
EndpointSlice object, most of which (owners, targetRefs, managedFields) nobody elsewhere can use.
"""

import sys
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.model.sharing import FULL_WEIGHT, SharedEndpoint, SharedPort, SharedSlice
from isthmus.wire.kvstore.checks import (
    MAX_VALUE,
    CodecError,
    clip,
    is_plain_ipv4,
    label_key_fault,
    label_value_fault,
    name_fault,
)

if TYPE_CHECKING:
    import zstandard

SERVICE_NAME = "kubernetes.io/service-name"
WEIGHT = "isthmus.dev/weight"
MAX_WEIGHT = 1000
MAX_TEXT = 16 << 20
"""Bytes of a value when inflated, as Cilium has it."""

MAX_ENDPOINTS = 1000
MAX_PORTS = 1000
MAX_BACKENDS = 100_000
"""Endpoints, ports, and the product of both, of one slice: what our importer lets through."""

PROTOCOLS = {int(number): word for word, number in PORT_PROTOCOLS.items()}
_VERSIONS = {"IPv4": 4, "IPv6": 6}
_TYPES = {version: word for word, version in _VERSIONS.items()}


def encode_slice(key: bytes, shared: SharedSlice, *, cluster_id: int) -> bytes:
    """Writes a slice. Raises CodecError for one that no reader would take."""
    _bound(key, len(shared.endpoints), len(shared.ports))
    record = _messages().ClusterEndpointSlice(
        cluster=shared.cluster,
        clusterID=cluster_id,
        namespace=shared.namespace,
        name=shared.name,
        labels={SERVICE_NAME: shared.service},
        addressType=_TYPES[shared.version],
    )
    if shared.weight != FULL_WEIGHT:
        record.annotations[WEIGHT] = str(shared.weight)
    for endpoint in shared.endpoints:
        added = record.endpoints.add(addresses=[endpoint.address])
        conditions = added.conditions
        conditions.ready, conditions.serving = endpoint.ready, endpoint.serving
        conditions.terminating = endpoint.terminating
        if endpoint.hostname:
            added.hostname = endpoint.hostname
        if endpoint.node:
            added.nodeName = endpoint.node
        if endpoint.zone:
            added.zone = endpoint.zone
    for port in shared.ports:
        written = record.ports.add(name=port.name, protocol=PROTOCOLS[port.protocol], port=port.port)
        if port.app_protocol:
            written.appProtocol = port.app_protocol
    value = _compressor().compress(record.SerializeToString(deterministic=True))
    if len(value) > MAX_VALUE:
        raise CodecError(key, "", f"value is longer than {MAX_VALUE} bytes")
    return value


def decode_slice(key: bytes, value: bytes, *, place: tuple[str, str], cluster: str, cluster_id: int) -> SharedSlice:
    """Reads the slice at `place` (namespace and name) of `cluster`."""
    record = _parse(key, value)
    identity_fault(key, _text(key, "cluster", record.cluster), record.clusterID, cluster=cluster, cluster_id=cluster_id)
    found = (_text(key, "namespace", record.namespace), _text(key, "name", record.name))
    place_fault(key, found, place)
    kind = _text(key, "addressType", record.addressType)
    version = _VERSIONS.get(kind)
    if version is None:
        raise CodecError(key, "addressType", f"{clip(kind)} is not IPv4 or IPv6")
    service = _text(key, "labels", record.labels.get(SERVICE_NAME, ""))
    _raise(key, f"labels[{SERVICE_NAME}]", name_fault(service))
    _bound(key, len(record.endpoints), len(record.ports))
    return SharedSlice(
        cluster=cluster,
        namespace=sys.intern(place[0]),
        name=place[1],
        service=sys.intern(service),
        version=version,
        endpoints=tuple(_endpoint(key, endpoint, version) for endpoint in record.endpoints),
        # A port without a number stands for all: nothing that a Service could forward to.
        ports=tuple(_port(key, port) for port in record.ports if port.HasField("port")),
        weight=_weight(key, _text(key, "annotations", record.annotations.get(WEIGHT, ""))),
    )


def _bound(key: bytes, endpoints: int, ports: int) -> None:
    if endpoints > MAX_ENDPOINTS or ports > MAX_PORTS or endpoints * ports > MAX_BACKENDS:
        most = f"{MAX_ENDPOINTS} endpoints, {MAX_PORTS} ports or {MAX_BACKENDS} of both"
        raise CodecError(key, "endpoints", f"{endpoints} endpoints with {ports} ports are more than {most}")


def identity_fault(key: bytes, name: str, number: int, *, cluster: str, cluster_id: int) -> None:
    """Raises CodecError if a record says to be of another cluster."""
    if name != cluster:
        raise CodecError(key, "cluster", f"is {clip(name)}, expected {cluster!r}")
    if number != cluster_id:
        raise CodecError(key, "clusterID", f"is {number}, expected {cluster_id}")


def place_fault(key: bytes, found: tuple[str, str], expected: tuple[str, str]) -> None:
    """Raises CodecError if a record says to be another object than its key."""
    for field, one, other in zip(("namespace", "name"), found, expected, strict=True):
        if one != other:
            raise CodecError(key, field, f"is {clip(one)}, expected {other!r}")


def canonical_address(key: bytes, field: str, text: str, *, version: int = 0) -> str:
    """Returns an address as everyone writes it. Raises CodecError for a zone, another family, or no address."""
    if is_plain_ipv4(text):
        if version != 6:
            return text
        raise CodecError(key, field, f"{clip(text)} is not an IPv6 address")
    try:
        address = ip_address(text) if len(text) <= 45 else None
    except ValueError:
        address = None
    if not isinstance(address, IPv6Address):
        raise CodecError(key, field, f"{clip(text)} is not an IP address")
    if address.scope_id is not None or address.ipv4_mapped is not None:
        raise CodecError(key, field, f"{clip(text)} has a zone or maps IPv4")
    if version == 4:
        raise CodecError(key, field, f"{clip(text)} is not an IPv4 address")
    return str(address)


def port_of(key: bytes, field: str, *, name: str, protocol: str, number: int, app: str = "") -> SharedPort:
    """Returns a port. Raises CodecError for what no Service could have."""
    if name:
        _raise(key, f"{field}.name", name_fault(name, limit=63))
    known = PORT_PROTOCOLS.get(protocol or "TCP")
    if known is None:
        raise CodecError(key, f"{field}.protocol", f"{clip(protocol)} is not TCP, UDP or SCTP")
    if not 1 <= number <= 65535:
        raise CodecError(key, f"{field}.port", f"{number} is no port")
    if app:
        _raise(key, f"{field}.appProtocol", label_key_fault(app))
    return SharedPort(sys.intern(name), int(known), number, sys.intern(app))


def _endpoint(key: bytes, record: Any, version: int) -> SharedEndpoint:
    if not record.addresses:
        raise CodecError(key, "endpoints", "an endpoint has no address")
    said = record.conditions
    ready = said.ready if said.HasField("ready") else True
    address = _text(key, "endpoints.addresses", record.addresses[0])
    hostname = _text(key, "endpoints.hostname", record.hostname)
    node = _text(key, "endpoints.nodeName", record.nodeName)
    zone = _text(key, "endpoints.zone", record.zone)
    if hostname:
        _raise(key, "endpoints.hostname", name_fault(hostname, limit=63))
    _raise(key, "endpoints.nodeName", _node_fault(node))
    _raise(key, "endpoints.zone", label_value_fault(zone))
    return SharedEndpoint(
        address=canonical_address(key, "endpoints.addresses", address, version=version),
        ready=ready,
        serving=said.serving if said.HasField("serving") else ready,
        terminating=said.terminating,
        node=sys.intern(node),
        hostname=hostname,
        zone=sys.intern(zone),
    )


def _text(key: bytes, field: str, value: str | bytes) -> str:
    """Returns text; what is not UTF-8 comes from the parser as bytes."""
    if isinstance(value, str):
        return value
    raise CodecError(key, field, "is not UTF-8")


@lru_cache(maxsize=4096)
def _node_fault(name: str) -> str | None:
    """Nodes are few and named by every endpoint."""
    return name_fault(name) if name else None


def _port(key: bytes, record: Any) -> SharedPort:
    name, protocol = _text(key, "ports.name", record.name), _text(key, "ports.protocol", record.protocol)
    app = _text(key, "ports.appProtocol", record.appProtocol)
    return port_of(key, "ports", name=name, protocol=protocol, number=record.port, app=app)


def _weight(key: bytes, text: str) -> int:
    if not text:
        return FULL_WEIGHT
    if not (text.isascii() and text.isdigit()) or len(text) > 4 or int(text) > MAX_WEIGHT:
        raise CodecError(key, f"annotations[{WEIGHT}]", f"{clip(text)} is not a number from 0 to {MAX_WEIGHT}")
    return int(text)


def _parse(key: bytes, value: bytes) -> Any:
    from google.protobuf.message import DecodeError

    record = _messages().ClusterEndpointSlice()
    try:
        record.ParseFromString(_inflate(key, value))
    except (DecodeError, ValueError, RecursionError) as error:
        raise CodecError(key, "", f"not a slice in protobuf: {clip(str(error))}") from None
    return record


def _inflate(key: bytes, value: bytes) -> bytes:
    import zstandard

    if len(value) > MAX_VALUE:
        raise CodecError(key, "", f"value is longer than {MAX_VALUE} bytes")
    try:
        size = zstandard.frame_content_size(value)
        if size > MAX_TEXT:
            raise CodecError(key, "", f"holds {size} bytes when inflated, more than {MAX_TEXT}")
        if size >= 0:
            return _decompressor().decompress(value, max_output_size=MAX_TEXT, allow_extra_data=False)
        parts, length = [], 0
        reader = _decompressor().decompressobj()
        # A block of 4 bytes may say "128 KiB of this": so much only at a time that the rest cannot exceed 8 MiB.
        for start in range(0, len(value), 256):
            parts.append(reader.decompress(value[start : start + 256]))
            length += len(parts[-1])
            if length > MAX_TEXT:
                raise CodecError(key, "", f"holds more than {MAX_TEXT} bytes when inflated")
        if not reader.eof or reader.unused_data:
            raise CodecError(key, "", "not a zstd frame: cut short, or followed by something")
    except (zstandard.ZstdError, MemoryError) as error:
        raise CodecError(key, "", f"not a zstd frame: {clip(str(error))}") from None
    return b"".join(parts)


@lru_cache(maxsize=1)
def _messages() -> Any:
    # Late, as zstd below: a process that never meets a slice does not pay for the messages.
    from isthmus.wire.mesh import slices_pb2

    return slices_pb2


@lru_cache(maxsize=1)
def _compressor() -> "zstandard.ZstdCompressor":
    import zstandard

    return zstandard.ZstdCompressor(level=3)


@lru_cache(maxsize=1)
def _decompressor() -> "zstandard.ZstdDecompressor":
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=MAX_TEXT)


def _raise(key: bytes, field: str, fault: str | None) -> None:
    if fault is not None:
        raise CodecError(key, field, fault)
