"""Keys: where each fact lives, and what a key that was read is about.

A cluster's own facts live under `cilium/state`; facts of others, mirrored, under `cilium/cache`. Only in the cache do
addresses and identities carry the cluster in the key; the owner of `cilium/state` follows from who serves it.
Our own keys lie under `cilium/isthmus`, where those look who read the whole root, and no Cilium does; the store's epoch
(`isthmus.store.epoch`) is the one key outside.
"""

from enum import Enum

import msgspec

from isthmus.model.identity import MAX_CLUSTER_ID, cluster_of
from isthmus.wire.kvstore.checks import MAX_KEY, CodecError, address_fault, clip, cluster_fault, name_fault

ROOT = b"cilium/"
STATE = b"cilium/state/"
CACHE = b"cilium/cache/"
CONFIGS = b"cilium/cluster-config/"
SYNCED = b"cilium/synced/"
HEARTBEAT = b"cilium/.heartbeat"
EPOCH = b"isthmus/epoch"
SEEN = b"cilium/isthmus/seen/v1/"
WHOLE = b"cilium/isthmus/whole/v1/"

FOR_OTHERS = b"cilium/state/serviceexports/"
"""The first key of what our writers write for other readers alone: exports, whole services, marks of single kinds."""

ADDRESS_SPACE = "default"
"""The one address space that Cilium knows; stands where one would expect the cluster in `state/ip` keys."""


class Kind(Enum):
    """Kinds of facts, by the path that Cilium gives them."""

    NODES = "nodes/v1"
    ENDPOINTS = "ip/v1"
    IDENTITIES = "identities/v1"
    SERVICES = "services/v1"
    SLICES = "endpointslices/v1"
    EXPORTS = "serviceexports/v1"


_KINDS = {kind.value: kind for kind in Kind}
_NAMED = (Kind.SERVICES, Kind.SLICES, Kind.EXPORTS)
"""Kinds of objects with a namespace, whose keys say the cluster everywhere."""


class DataKey(msgspec.Struct, frozen=True):
    """A fact. `cluster` is empty where the key does not say it.

    `name` is a node name, an IP, a number, or NAMESPACE/NAME of a service, a slice or an export.
    """

    kind: Kind
    cluster: str
    name: str
    cached: bool

    @property
    def place(self) -> tuple[str, str]:
        """Namespace and name, of a kind that has both."""
        namespace, _, name = self.name.partition("/")
        return namespace, name


class ConfigKey(msgspec.Struct, frozen=True):
    """The membership record of `cluster`."""

    cluster: str


class SyncedKey(msgspec.Struct, frozen=True):
    """The mark that all facts of `kind` of `cluster` have been written."""

    cluster: str
    kind: Kind
    cached: bool


class HeartbeatKey(msgspec.Struct, frozen=True):
    """The writer's sign of life."""


class SeenKey(msgspec.Struct, frozen=True):
    """How fresh what is told of `cluster` is; no such key: it is fresh."""

    cluster: str


class WholeKey(msgspec.Struct, frozen=True):
    """The mark that everything of `cluster` has been written but what is for other readers only.

    For readers that do not look at `cilium/synced`: between it and the rest lie the service records of format v1.
    """

    cluster: str


Key = DataKey | ConfigKey | SyncedKey | HeartbeatKey | SeenKey | WholeKey


def config_key(cluster: str) -> bytes:
    """The key of a cluster's membership record."""
    return CONFIGS + cluster.encode()


def synced_key(cluster: str, kind: Kind, *, cached: bool) -> bytes:
    """The key of the mark that `kind` is complete."""
    place = CACHE if cached else STATE
    return SYNCED + cluster.encode() + b"/" + place + kind.value.encode()


def node_key(cluster: str, name: str, *, cached: bool) -> bytes:
    """The key of a node."""
    return _base(Kind.NODES, cached=cached) + f"{cluster}/{name}".encode()


def endpoint_key(cluster: str, ip: str, *, cached: bool) -> bytes:
    """The key of a pod IP."""
    return _base(Kind.ENDPOINTS, cached=cached) + f"{cluster if cached else ADDRESS_SPACE}/{ip}".encode()


def identity_key(cluster: str, number: int, *, cached: bool) -> bytes:
    """The key of an identity."""
    return _base(Kind.IDENTITIES, cached=cached) + f"{cluster + '/' if cached else ''}id/{number}".encode()


def object_key(kind: Kind, cluster: str, place: tuple[str, str], *, cached: bool) -> bytes:
    """The key of a service, a slice or an export; `place` is its namespace and name."""
    return _base(kind, cached=cached) + f"{cluster}/{place[0]}/{place[1]}".encode()


def seen_key(cluster: str) -> bytes:
    """The key of how fresh what is told of a cluster is."""
    return SEEN + cluster.encode()


def whole_key(cluster: str) -> bytes:
    """The key of the mark that a cluster is complete."""
    return WHOLE + cluster.encode()


def prefixes_of(cluster: str, *, cached: bool) -> tuple[bytes, ...]:
    """The prefixes that hold every data key of a cluster."""
    if not cached:
        return tuple(_base(kind, cached=False) for kind in Kind)
    return tuple(_base(kind, cached=True) + cluster.encode() + b"/" for kind in Kind)


def parse_key(key: bytes) -> Key | None:
    """Tells what `key` is about; None for keys that are none of our business (locks, other programs).

    Raises CodecError for a key of a kind that we do read, but of the wrong shape.
    """
    if len(key) > MAX_KEY:
        raise CodecError(key, "", f"key is longer than {MAX_KEY} bytes")
    try:
        text = key.decode()
    except UnicodeDecodeError:
        raise CodecError(key, "", "key is not UTF-8") from None
    if text == HEARTBEAT.decode():
        return HeartbeatKey()
    root, _, rest = text.partition("/")
    if root != "cilium":
        return None
    section, _, rest = rest.partition("/")
    match section:
        case "cluster-config":
            return ConfigKey(_cluster(key, rest))
        case "synced":
            return _parse_synced(key, rest)
        case "state" | "cache":
            return _parse_data(key, rest, cached=section == "cache")
        case "isthmus":
            return _parse_own(key, rest)
    return None


def _base(kind: Kind, *, cached: bool) -> bytes:
    return (CACHE if cached else STATE) + kind.value.encode() + b"/"


def _cluster(key: bytes, name: str) -> str:
    fault = cluster_fault(name)
    if fault is not None:
        raise CodecError(key, "cluster", fault)
    return name


def _parse_own(key: bytes, rest: str) -> SeenKey | WholeKey | None:
    word, _, path = rest.partition("/")
    version, _, cluster = path.partition("/")
    match word, version:
        case "seen", "v1":
            return SeenKey(_cluster(key, cluster))
        case "whole", "v1":
            return WholeKey(_cluster(key, cluster))
    return None


def _parse_synced(key: bytes, rest: str) -> SyncedKey | None:
    cluster, _, prefix = rest.partition("/")
    for cached in (False, True):
        for kind in Kind:
            if prefix.encode() == _base(kind, cached=cached)[:-1]:
                return SyncedKey(_cluster(key, cluster), kind, cached)
    return None


def _parse_data(key: bytes, rest: str, *, cached: bool) -> DataKey | None:
    word, _, path = rest.partition("/")
    version, _, path = path.partition("/")
    kind = _KINDS.get(f"{word}/{version}")
    if kind is None:
        return None
    cluster = ""
    if cached or kind is Kind.NODES or kind in _NAMED:
        cluster, _, path = path.partition("/")
        _cluster(key, cluster)
    match kind:
        case Kind.NODES:
            fault = name_fault(path)
        case Kind.ENDPOINTS:
            if not cached:
                space, _, path = path.partition("/")
                if space != ADDRESS_SPACE:
                    raise CodecError(key, "", f"address space {clip(space)} is not {ADDRESS_SPACE!r}")
            # A CIDR entry has a '/' and is told apart by its value; only its shape is bounded here.
            fault = None if "/" in path else address_fault(path)
        case Kind.IDENTITIES:
            word, _, path = path.partition("/")
            fault = _number_fault(path) if word == "id" else f"expected 'id/NUMBER', found {clip(word)}"
        case _:
            namespace, _, name = path.partition("/")
            fault = name_fault(namespace, limit=63) or name_fault(name)
    if fault is not None:
        raise CodecError(key, "", fault)
    return DataKey(kind, cluster, path, cached)


def _number_fault(text: str) -> str | None:
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or text != str(int(text)):
        return f"{clip(text)} is not a number"
    if not 1 <= cluster_of(int(text)) <= MAX_CLUSTER_ID or int(text) >= 1 << 24:
        return f"{text} is not the number of a pod identity"
    return None
