"""Keys: where each fact lives, and what a key that was read is about.

A cluster's own facts live under `cilium/state`; facts of others, mirrored, under `cilium/cache`. Only in the cache do
addresses and identities carry the cluster in the key; the owner of `cilium/state` follows from who serves it.
Our one key outside Cilium's root is the store's epoch (`isthmus.store.epoch`).
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

ADDRESS_SPACE = "default"
"""The one address space that Cilium knows; stands where one would expect the cluster in `state/ip` keys."""


class Kind(Enum):
    """Kinds of facts, by the path that Cilium gives them."""

    NODES = "nodes/v1"
    ENDPOINTS = "ip/v1"
    IDENTITIES = "identities/v1"
    SERVICES = "services/v1"


_READ = {kind.value: kind for kind in Kind if kind is not Kind.SERVICES}


class DataKey(msgspec.Struct, frozen=True):
    """A fact. `cluster` is empty where the key does not say it; `name` is a node name, an IP or a number."""

    kind: Kind
    cluster: str
    name: str
    cached: bool


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


Key = DataKey | ConfigKey | SyncedKey | HeartbeatKey


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


def prefixes_of(cluster: str, *, cached: bool) -> tuple[bytes, ...]:
    """The prefixes that hold every data key of a cluster."""
    if not cached:
        return tuple(_base(kind, cached=False) for kind in Kind)
    return tuple(_base(kind, cached=True) + cluster.encode() + b"/" for kind in Kind)


def parse_key(key: bytes) -> Key | None:
    """Tells what `key` is about; None for keys that are none of our business (services, locks, other programs).

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
    return None


def _base(kind: Kind, *, cached: bool) -> bytes:
    return (CACHE if cached else STATE) + kind.value.encode() + b"/"


def _cluster(key: bytes, name: str) -> str:
    fault = cluster_fault(name)
    if fault is not None:
        raise CodecError(key, "cluster", fault)
    return name


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
    kind = _READ.get(f"{word}/{version}")
    if kind is None:
        return None
    cluster = ""
    if cached or kind is Kind.NODES:
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
    if fault is not None:
        raise CodecError(key, "", fault)
    return DataKey(kind, cluster, path, cached)


def _number_fault(text: str) -> str | None:
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or text != str(int(text)):
        return f"{clip(text)} is not a number"
    if not 1 <= cluster_of(int(text)) <= MAX_CLUSTER_ID or int(text) >= 1 << 24:
        return f"{text} is not the number of a pod identity"
    return None
