"""What DNS keeps of Services, EndpointSlices, ServiceImports and Namespaces.

Invariants: an object of the API becomes one of these or nothing, never an exception: what a server sends that makes no
sense is left out, field by field; names are in lower case, as the API has them. Small tuples, because a cluster may
have tens of thousands of endpoints.
"""

import socket
from typing import Any, NamedTuple

from isthmus.wire.dns import DnsError, Name, parse_name

Json = dict[str, Any]
Key = tuple[bytes, bytes]
"""Namespace and name."""

SERVICE_LABEL = "kubernetes.io/service-name"
IMPORT_LABEL = "multicluster.kubernetes.io/service-name"
CLUSTER_LABEL = "multicluster.kubernetes.io/source-cluster"


class Port(NamedTuple):
    """A port by name; `protocol` in lower case."""

    name: bytes
    protocol: bytes
    number: int


class Service(NamedTuple):
    """A Service: cluster addresses, or headless, or another name."""

    key: Key
    addresses: tuple[bytes, ...] = ()
    """Packed cluster IPs; empty for headless Services."""
    ports: tuple[Port, ...] = ()
    alias: Name | None = None
    """The target of an ExternalName."""
    unready: bool = False
    """publishNotReadyAddresses."""

    @property
    def headless(self) -> bool:
        """Whether its names lead to its endpoints."""
        return not self.addresses and self.alias is None


class Endpoint(NamedTuple):
    """One address behind a Service; `host` is its label below the Service's name, below `cluster` if that is given."""

    host: bytes
    address: bytes
    ready: bool
    cluster: bytes = b""

    @property
    def labels(self) -> Name:
        """What its name begins with, before the Service's name."""
        return (self.host, self.cluster) if self.cluster else (self.host,)


class Slice(NamedTuple):
    """An EndpointSlice."""

    key: Key
    service: Key
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[Port, ...] = ()


def service(item: Json) -> Service | None:
    """Returns what is kept of a Service; None for one without a usable name."""
    key = key_of(item)
    spec = _dict(item.get("spec"))
    if key is None:
        return None
    unready = spec.get("publishNotReadyAddresses") is True
    if spec.get("type") == "ExternalName":
        return _external(key, spec.get("externalName"))
    listed = _list(spec.get("clusterIPs")) or [spec.get("clusterIP")]
    addresses = tuple(found for text in listed if (found := packed(text)) is not None)
    ports = tuple(_ports(_list(spec.get("ports")), default=b"tcp"))
    if not addresses and "None" not in listed:
        return None  # it has no address yet
    return Service(key, addresses, ports, None, unready)


def service_import(item: Json) -> Service | None:
    """Returns what is kept of a ServiceImport (KEP-1645); None for one without a usable name or an address yet."""
    key = key_of(item)
    spec = _dict(item.get("spec"))
    if key is None:
        return None
    headless = spec.get("type") == "Headless"
    addresses = [] if headless else [found for text in _list(spec.get("ips")) if (found := packed(text)) is not None]
    if not addresses and not headless:
        return None
    return Service(key, tuple(addresses), tuple(_ports(_list(spec.get("ports")), default=b"tcp")))


def endpoint_slice(item: Json) -> Slice | None:
    """Returns what is kept of an EndpointSlice; None for one without a usable name or Service."""
    return _slice(item, SERVICE_LABEL, cluster=b"")


def imported_slice(item: Json) -> Slice | None:
    """Returns an EndpointSlice as one of a ServiceImport; None if it is of none, or does not say of which cluster."""
    labels = _dict(_dict(item.get("metadata")).get("labels"))
    cluster = _label(labels.get(CLUSTER_LABEL))
    return None if cluster is None else _slice(item, IMPORT_LABEL, cluster=cluster)


def _slice(item: Json, label: str, *, cluster: bytes) -> Slice | None:
    key = key_of(item)
    labels = _dict(_dict(item.get("metadata")).get("labels"))
    owner = _label(labels.get(label))
    if key is None or owner is None:
        return None
    endpoints = []
    for row in _list(item.get("endpoints")):
        if not isinstance(row, dict):
            continue
        ready = _dict(row.get("conditions")).get("ready") is not False
        host = _label(row.get("hostname"))
        for text in _list(row.get("addresses")):
            address = packed(text)
            if address is not None:
                endpoints.append(Endpoint(host or dashed(address), address, ready, cluster))
    return Slice(key, (key[0], owner), tuple(endpoints), tuple(_ports(_list(item.get("ports")), default=b"tcp")))


def key_of(item: Json) -> Key | None:
    """Returns an object's namespace and name; None if they cannot be labels of a name."""
    meta = _dict(item.get("metadata"))
    namespace, name = meta.get("namespace") or "", meta.get("name")
    # The name of an EndpointSlice may have dots: it is no label, only a key.
    if not isinstance(namespace, str) or not isinstance(name, str) or not name:
        return None
    if not namespace.isascii() or not name.isascii() or len(namespace) > 63 or len(name) > 253:
        return None
    return namespace.lower().encode(), name.lower().encode()


def packed(text: Any) -> bytes | None:
    """Returns an address as 4 or 16 bytes; None if it is none."""
    if not isinstance(text, str) or len(text) > 64:
        return None
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
    return None


def dashed(address: bytes) -> bytes:
    """Returns the label of an address: 10-1-2-3, fd00--1."""
    if len(address) == 4:
        return b"-".join(b"%d" % byte for byte in address)
    text = socket.inet_ntop(socket.AF_INET6, address).replace(":", "-")
    # A label must not begin or end with a hyphen.
    return (f"0{text}" if text.startswith("-") else text).encode() + (b"0" if text.endswith("-") else b"")


def undashed(label: bytes) -> bytes | None:
    """Returns the address in a label; None if there is none."""
    text = label.decode("ascii", "replace")
    return packed(text.replace("-", "." if text.count("-") == 3 and "--" not in text else ":"))


def _external(key: Key, target: Any) -> Service | None:
    if not isinstance(target, str) or packed(target) is not None:
        return None
    try:
        name = parse_name(target.strip())
    except DnsError:
        return None
    return Service(key, alias=name) if name else None


def _ports(rows: list[Any], *, default: bytes) -> list[Port]:
    found = []
    for row in rows:
        if not isinstance(row, dict):
            continue
        number, name, protocol = row.get("port"), row.get("name") or "", row.get("protocol")
        if type(number) is int and 0 < number < 65536 and isinstance(name, str) and name.isascii():
            kind = protocol.lower().encode("ascii", "replace") if isinstance(protocol, str) else default
            found.append(Port(name.lower().encode(), kind, number))
    return found


def _label(text: Any) -> bytes | None:
    if not isinstance(text, str) or not text.isascii() or not 0 < len(text) <= 63 or "." in text:
        return None
    return text.lower().encode()


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
