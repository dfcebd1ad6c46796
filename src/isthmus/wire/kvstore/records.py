"""The JSON values: membership, nodes, pod addresses; and the time in heartbeats and marks.

Field names are Go's, as Cilium writes them. Two traps of Go's encoder: a network mask is base64 of its raw bytes,
because it is a byte slice there, and an empty list or map may be `null`. Unknown fields are ignored, as Cilium does,
so that newer peers can be read; known fields of a wrong type are refused.
"""

import base64
import binascii
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, TypeVar

import msgspec

from isthmus.model.endpoint import Cluster, Endpoint, NamedPort, Node
from isthmus.model.identity import MAX_CLUSTER_ID, number_range
from isthmus.model.mesh import ClusterSeen
from isthmus.wire.kvstore.checks import (
    MAX_VALUE,
    CodecError,
    address_fault,
    clip,
    label_key_fault,
    label_value_fault,
    name_fault,
    network_fault,
    pod_address_fault,
    properties_fault,
)
from isthmus.wire.kvstore.keys import config_key

MAX_NODE_ADDRESSES = 64
MAX_NODE_NETWORKS = 256
MAX_NAMED_PORTS = 256
MAX_REASON = 1024

_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e11)]


class _Capabilities(msgspec.Struct, frozen=True, rename="camel", omit_defaults=False):
    synced_canaries: bool = False
    cached: bool = False
    max_connected_clusters: int = 0
    service_exports_enabled: bool | None = None
    endpoint_slices_export_mode: str | None = ""
    isthmus_whole_mark: bool = False


class _Ours(msgspec.Struct, frozen=True):
    properties: dict[str, str] | None = None


class _Config(msgspec.Struct, frozen=True):
    id: _Number = 0
    capabilities: _Capabilities = _Capabilities()
    isthmus: _Ours | msgspec.UnsetType | None = msgspec.UNSET


class _Address(msgspec.Struct, frozen=True, rename={"type": "Type", "ip": "IP"}):
    type: str = ""
    ip: str | None = None


class _Network(msgspec.Struct, frozen=True, rename={"ip": "IP", "mask": "Mask"}):
    ip: str | None = None
    mask: str | None = None


class _Node(
    msgspec.Struct,
    frozen=True,
    rename={
        "name": "Name",
        "cluster": "Cluster",
        "addresses": "IPAddresses",
        "v4": "IPv4AllocCIDR",
        "v4_more": "IPv4SecondaryAllocCIDRs",
        "v6": "IPv6AllocCIDR",
        "v6_more": "IPv6SecondaryAllocCIDRs",
        "cluster_id": "ClusterID",
        "source": "Source",
        "encryption_key": "EncryptionKey",
        "labels": "Labels",
        "annotations": "Annotations",
    },
):
    name: str
    cluster: str
    addresses: list[_Address] | None = None
    v4: _Network | None = None
    v4_more: list[_Network] | None = None
    v6: _Network | None = None
    v6_more: list[_Network] | None = None
    cluster_id: int = 0
    source: str = "custom-resource"
    encryption_key: _Byte = 0
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _NamedPort(msgspec.Struct, frozen=True, rename="pascal"):
    name: str
    port: _Port
    protocol: str = "TCP"


class _Pair(
    msgspec.Struct,
    frozen=True,
    rename={
        "ip": "IP",
        "mask": "Mask",
        "host_ip": "HostIP",
        "identity": "ID",
        "encryption_key": "Key",
        "metadata": "Metadata",
        "namespace": "K8sNamespace",
        "pod": "K8sPodName",
        "service_account": "K8sServiceAccount",
        "uid": "K8sPodUID",
        "named_ports": "NamedPorts",
    },
):
    ip: str
    identity: _Number
    mask: str | None = None
    host_ip: str | None = None
    encryption_key: _Byte = 0
    metadata: str = ""
    namespace: str = ""
    pod: str = ""
    service_account: str = ""
    uid: str = ""
    named_ports: list[_NamedPort] | None = None


class _Seen(msgspec.Struct, frozen=True, rename="camel"):
    cluster: str
    stale_since: _Seconds
    reason: str = ""


class Membership(msgspec.Struct, frozen=True):
    """A cluster's membership record: who it is, whether it is mirrored, and whether its marks can be waited for.

    `slices`, `services` and `exports` are the kinds that are written of it; `whole` says that our own mark will be
    there when it is complete (`WholeKey`). Who says nothing of slices writes services alone.
    """

    cluster: Cluster
    cached: bool = False
    canaries: bool = True
    slices: bool = False
    services: bool = True
    exports: bool = False
    whole: bool = False


SERVICES_AND_SLICES = "services-and-endpointslices"
SLICES_ONLY = "endpointslices-only"
"""What Cilium calls the ways to write services, besides the first one, which is not named at all."""


_T = TypeVar("_T")
_encode = msgspec.json.Encoder().encode
_config_decoder = msgspec.json.Decoder(_Config)
_seen_decoder = msgspec.json.Decoder(_Seen)
_node_decoder = msgspec.json.Decoder(_Node)
_pair_decoder = msgspec.json.Decoder(_Pair)


def encode_membership(membership: Membership) -> bytes:
    """Writes a membership record: Cilium's ClusterConfig, one capability of ours, and the cluster's properties.

    These are below `isthmus`, a key that Cilium does not know. Raises CodecError for a property that no reader takes.
    """
    properties = membership.cluster.properties
    _check_properties(config_key(membership.cluster.name), properties, membership.cluster.name)
    mode = (SERVICES_AND_SLICES if membership.services else SLICES_ONLY) if membership.slices else ""
    capabilities = _Capabilities(
        synced_canaries=membership.canaries,
        cached=membership.cached,
        max_connected_clusters=MAX_CLUSTER_ID,
        service_exports_enabled=membership.exports,
        endpoint_slices_export_mode=mode,
        isthmus_whole_mark=membership.whole,
    )
    ours = _Ours(dict(sorted(properties.items()))) if properties else msgspec.UNSET
    return _encode(_Config(membership.cluster.id, capabilities, ours))


def decode_membership(key: bytes, value: bytes, *, cluster: str) -> Membership:
    """Reads the membership record of `cluster`; a mesh of 511 clusters numbers identities otherwise and is refused."""
    config = _decode(key, value, _config_decoder)
    if not 1 <= config.id <= MAX_CLUSTER_ID:
        raise CodecError(key, "id", f"{config.id} is not in 1-{MAX_CLUSTER_ID}")
    limit = config.capabilities.max_connected_clusters
    if limit not in (0, MAX_CLUSTER_ID):
        raise CodecError(key, "capabilities.maxConnectedClusters", f"{limit} is not {MAX_CLUSTER_ID}")
    mode = config.capabilities.endpoint_slices_export_mode or ""
    if mode not in ("", SERVICES_AND_SLICES, SLICES_ONLY):
        # As Cilium: of a way that is not known, who could say where the backends are?
        raise CodecError(key, "capabilities.endpointSlicesExportMode", f"{clip(mode)} is not known")
    properties = (config.isthmus.properties if config.isthmus else None) or {}
    _check_properties(key, properties, cluster)
    return Membership(
        Cluster(cluster, config.id, properties),
        cached=config.capabilities.cached,
        canaries=config.capabilities.synced_canaries,
        slices=mode != "",
        services=mode != SLICES_ONLY,
        exports=config.capabilities.service_exports_enabled or False,
        whole=config.capabilities.isthmus_whole_mark,
    )


def _check_properties(key: bytes, properties: dict[str, str], cluster: str) -> None:
    fault = properties_fault(properties, cluster=cluster)
    if fault is not None:
        raise CodecError(key, f"isthmus.properties[{clip(fault[0])}]" if fault[0] else "isthmus.properties", fault[1])


def encode_node(key: bytes, node: Node, *, cluster_id: int) -> bytes:
    """Writes a node. The first network of each family is its primary one, in Cilium's words.

    Raises CodecError for a network or label that no reader would take.
    """
    for text in node.pod_cidrs:
        _raise(key, "AllocCIDR", network_fault(text))
    for label, value in node.labels.items():
        _raise(key, "Labels", label_key_fault(label) or label_value_fault(value))
    networks = [ip_network(text) for text in node.pod_cidrs]
    v4 = [_network(n) for n in networks if isinstance(n, IPv4Network)]
    v6 = [_network(n) for n in networks if isinstance(n, IPv6Network)]
    return _encode(
        _Node(
            name=node.name,
            cluster=node.cluster,
            addresses=[_Address("InternalIP", ip) for ip in node.addresses],
            v4=v4[0] if v4 else None,
            v4_more=v4[1:] or None,
            v6=v6[0] if v6 else None,
            v6_more=v6[1:] or None,
            cluster_id=cluster_id,
            labels=node.labels,
        )
    )


def decode_node(key: bytes, value: bytes, *, name: str, cluster: str, cluster_id: int) -> Node:
    """Reads the node `name` of `cluster`; addresses of every type count, and its networks are canonical CIDRs."""
    node = _decode(key, value, _node_decoder)
    _equal(key, "Name", node.name, name)
    _equal(key, "Cluster", node.cluster, cluster)
    _equal(key, "ClusterID", str(node.cluster_id), str(cluster_id))
    addresses = [a.ip for a in node.addresses or () if a.ip]
    networks = [n for n in (node.v4, *(node.v4_more or ()), node.v6, *(node.v6_more or ())) if n is not None]
    if len(addresses) > MAX_NODE_ADDRESSES or len(networks) > MAX_NODE_NETWORKS:
        raise CodecError(
            key, "IPAddresses", f"more than {MAX_NODE_ADDRESSES} addresses or {MAX_NODE_NETWORKS} networks"
        )
    for address in addresses:
        _raise(key, "IPAddresses", pod_address_fault(address))
    labels = node.labels or {}
    for label, text in labels.items():
        _raise(key, "Labels", label_key_fault(label) or label_value_fault(text))
    return Node(
        cluster=cluster,
        name=name,
        addresses=tuple(dict.fromkeys(addresses)),
        pod_cidrs=tuple(dict.fromkeys(_cidr(key, n) for n in networks)),
        labels=labels,
    )


def encode_endpoint(endpoint: Endpoint) -> bytes:
    """Writes a pod IP (Cilium's IPIdentityPair). The node's name has no field there; its address has."""
    return _encode(
        _Pair(
            ip=endpoint.ip,
            identity=endpoint.identity,
            host_ip=endpoint.host_ip,
            namespace=endpoint.namespace,
            pod=endpoint.pod,
            service_account=endpoint.service_account,
            uid=endpoint.uid,
            named_ports=[_NamedPort(p.name, p.port, p.protocol) for p in endpoint.named_ports] or None,
        )
    )


def decode_endpoint(key: bytes, value: bytes, *, ip: str, cluster: str, cluster_id: int) -> Endpoint:
    """Reads the pod that holds `ip`; its identity must be one of `cluster`'s. CIDR entries are refused."""
    pair = _decode(key, value, _pair_decoder)
    if pair.mask or "/" in ip:
        raise CodecError(key, "Mask", "entries for a CIDR are not pods")
    _equal(key, "IP", pair.ip, ip)
    _raise(key, "IP", pod_address_fault(ip))
    if pair.identity not in number_range(cluster_id):
        raise CodecError(key, "ID", f"{pair.identity} is not a number of cluster {cluster} (ID {cluster_id})")
    host_ip = pair.host_ip or ""
    if host_ip:
        _raise(key, "HostIP", address_fault(host_ip))
    _raise(key, "K8sNamespace", name_fault(pair.namespace, limit=63))
    _raise(key, "K8sPodName", name_fault(pair.pod))
    if pair.service_account:
        _raise(key, "K8sServiceAccount", name_fault(pair.service_account))
    if pair.uid:
        _raise(key, "K8sPodUID", name_fault(pair.uid.lower(), limit=128))
    ports = pair.named_ports or []
    if len(ports) > MAX_NAMED_PORTS:
        raise CodecError(key, "NamedPorts", f"more than {MAX_NAMED_PORTS} ports")
    for port in ports:
        _raise(key, "NamedPorts", name_fault(port.name, limit=63))
        if port.protocol not in ("TCP", "UDP", "SCTP"):
            raise CodecError(key, "NamedPorts", f"protocol {clip(port.protocol)} is not TCP, UDP or SCTP")
    return Endpoint(
        cluster=cluster,
        ip=ip,
        identity=pair.identity,
        namespace=pair.namespace,
        pod=pair.pod,
        uid=pair.uid,
        host_ip=host_ip,
        service_account=pair.service_account,
        named_ports=tuple(NamedPort(p.name, p.port, p.protocol) for p in ports),
    )


def encode_seen(key: bytes, seen: ClusterSeen) -> bytes:
    """Writes since when what is told of a cluster may be old. Raises CodecError for a cluster that is fresh."""
    if seen.stale_since is None:
        raise CodecError(key, "staleSince", "is missing: of a cluster that is fresh nothing is written")
    return _encode(_Seen(seen.name, max(0.0, seen.stale_since), seen.reason[:MAX_REASON]))


def decode_seen(key: bytes, value: bytes, *, cluster: str) -> ClusterSeen:
    """Reads since when what is told of `cluster` may be old."""
    seen = _decode(key, value, _seen_decoder)
    _equal(key, "cluster", seen.cluster, cluster)
    return ClusterSeen(cluster, seen.stale_since, seen.reason[:MAX_REASON])


def encode_time(when: datetime) -> bytes:
    """Writes a time as RFC 3339 in UTC, to the second; `when` must know its zone."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


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


def _network(network: IPv4Network | IPv6Network) -> _Network:
    return _Network(str(network.network_address), base64.b64encode(network.netmask.packed).decode())


def _cidr(key: bytes, network: _Network) -> str:
    field = "AllocCIDR"
    try:
        mask = base64.b64decode(network.mask or "", validate=True)
    except (binascii.Error, ValueError):
        raise CodecError(key, field, f"mask {clip(network.mask or '')} is not base64") from None
    if len(mask) not in (4, 16):
        raise CodecError(key, field, f"mask has {len(mask)} bytes, expected 4 or 16")
    bits = int.from_bytes(mask)
    length = bits.bit_count()
    width = len(mask) * 8
    if bits != ((1 << length) - 1) << (width - length):
        raise CodecError(key, field, "mask has holes")
    address = network.ip or ""
    _raise(key, field, address_fault(address))
    if (":" in address) != (width == 128):
        raise CodecError(key, field, "address and mask are of different families")
    cidr = f"{address}/{length}"
    _raise(key, field, network_fault(cidr))
    return cidr


def _equal(key: bytes, field: str, found: str, expected: str) -> None:
    if found != expected:
        raise CodecError(key, field, f"is {clip(found)}, expected {expected!r}")


def _raise(key: bytes, field: str, fault: str | None) -> None:
    if fault is not None:
        raise CodecError(key, field, fault)
