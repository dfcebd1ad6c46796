"""Cilium's key-value layout for mesh state: keys and values, to and from `isthmus.model`.

Why: etcd with this layout is the one wire format of the mesh, so a Cilium cluster can be read as a source and a Cilium
agent can read us. Invariants: pure and total. A decoder given any bytes returns a value that holds everything the
domain types promise or raises `CodecError`, which names the key, the field and the reason; nothing else escapes. What
a value says of its cluster is checked against the cluster that the reader expects, never believed. Rejected: a looser
decoder that repairs what it can, because two readers would then disagree on what a broken value means.

Source: Cilium `pkg/kvstore`, `pkg/identity`, `pkg/node/types`, `pkg/clustermesh/{types,store,mcsapi/types}` (v1.15 to
v1.20).
"""

from isthmus.wire.kvstore.checks import (
    MAX_PROPERTIES,
    MAX_VALUE,
    CodecError,
    cluster_fault,
    name_fault,
    property_fault,
)
from isthmus.wire.kvstore.keys import (
    CACHE,
    CONFIGS,
    EPOCH,
    FOR_OTHERS,
    HEARTBEAT,
    ROOT,
    SEEN,
    STATE,
    SYNCED,
    WHOLE,
    ConfigKey,
    DataKey,
    HeartbeatKey,
    Key,
    Kind,
    SeenKey,
    SyncedKey,
    WholeKey,
    config_key,
    endpoint_key,
    identity_key,
    node_key,
    object_key,
    parse_key,
    prefixes_of,
    seen_key,
    synced_key,
    whole_key,
)
from isthmus.wire.kvstore.labels import decode_identity, encode_identity, is_reserved_label
from isthmus.wire.kvstore.records import (
    Membership,
    decode_endpoint,
    decode_membership,
    decode_node,
    decode_seen,
    encode_endpoint,
    encode_membership,
    encode_node,
    encode_seen,
    encode_time,
)
from isthmus.wire.kvstore.services import (
    ClusterService,
    decode_export,
    decode_service,
    encode_export,
    encode_service,
)
from isthmus.wire.kvstore.slices import decode_slice, encode_slice

__all__ = [
    "CACHE",
    "CONFIGS",
    "EPOCH",
    "FOR_OTHERS",
    "HEARTBEAT",
    "MAX_PROPERTIES",
    "MAX_VALUE",
    "ROOT",
    "SEEN",
    "STATE",
    "SYNCED",
    "WHOLE",
    "ClusterService",
    "CodecError",
    "ConfigKey",
    "DataKey",
    "HeartbeatKey",
    "Key",
    "Kind",
    "Membership",
    "SeenKey",
    "SyncedKey",
    "WholeKey",
    "cluster_fault",
    "config_key",
    "decode_endpoint",
    "decode_export",
    "decode_identity",
    "decode_membership",
    "decode_node",
    "decode_seen",
    "decode_service",
    "decode_slice",
    "encode_endpoint",
    "encode_export",
    "encode_identity",
    "encode_membership",
    "encode_node",
    "encode_seen",
    "encode_service",
    "encode_slice",
    "encode_time",
    "endpoint_key",
    "identity_key",
    "is_reserved_label",
    "name_fault",
    "node_key",
    "object_key",
    "parse_key",
    "prefixes_of",
    "property_fault",
    "seen_key",
    "synced_key",
    "whole_key",
]
