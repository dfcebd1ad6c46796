"""What every decoder asks of a text: bounds and syntax, with the reason as a value.

Each `*_fault` returns None when the text is fine, otherwise why it is not, so that a caller can put its own key and
field beside the reason. Lengths are looked at before patterns, and no pattern can backtrack more than linearly.
"""

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from isthmus.model.labels import CLUSTERSET_CLUSTER

MAX_KEY = 1024
"""Bytes; the longest honest key (a node of a cluster) has some 330."""

MAX_VALUE = 1536 * 1024
"""Bytes; etcd's own limit for a request (`--max-request-bytes`), so nothing honest is longer."""

MAX_CLUSTER_NAME = 32
"""Cilium refuses longer names since 1.17."""

MAX_PROPERTIES = 64
"""Of one cluster."""

_DNS_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-.a-z0-9]*[a-z0-9])?")
# One address of 0-255 each without leading zeros: what `ipaddress` would say, ten times as fast, for the bulk of keys.
_IPV4 = re.compile(
    r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}"
)
_QUALIFIED = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")


class CodecError(Exception):
    """A key or value of the store is not what it should be: `key` as text, `field` within the value, `reason`."""

    def __init__(self, key: bytes | str, field: str, reason: str) -> None:
        self.key = key if isinstance(key, str) else key[:MAX_KEY].decode("utf-8", "backslashreplace")
        self.field = field
        self.reason = reason
        super().__init__(f"{self.key}: {field}: {reason}" if field else f"{self.key}: {reason}")


def clip(text: str, *, limit: int = 64) -> str:
    """Returns `text` quoted and short enough for an error message, whatever it holds."""
    return repr(text if len(text) <= limit else text[:limit] + "…")


def cluster_fault(name: str) -> str | None:
    """Why `name` cannot be a cluster's name: an RFC 1123 label of at most 32 characters, and not `default`."""
    if not name:
        return "is empty"
    if len(name) > MAX_CLUSTER_NAME:
        return f"{clip(name)} is longer than {MAX_CLUSTER_NAME} characters"
    if not _DNS_LABEL.fullmatch(name):
        return f"{clip(name)} must be lower-case letters, digits and '-', and start and end with a letter or digit"
    if name == "default":
        return "'default' is reserved for clusters outside a mesh"
    return None


def name_fault(name: str, *, limit: int = 253) -> str | None:
    """Why `name` cannot name a Kubernetes object (RFC 1123 subdomain of at most `limit` characters)."""
    if not name:
        return "is empty"
    if len(name) > limit:
        return f"{clip(name)} is longer than {limit} characters"
    if not _DNS_SUBDOMAIN.fullmatch(name):
        return f"{clip(name)} is not an RFC 1123 name"
    return None


def label_key_fault(key: str) -> str | None:
    """Why `key` cannot be a Kubernetes label key: an optional DNS prefix and '/', then a name of at most 63."""
    prefix, separator, name = key.rpartition("/")
    if separator and name_fault(prefix) is not None:
        return f"label key {clip(key)} has no valid prefix before '/'"
    if len(name) > 63 or not _QUALIFIED.fullmatch(name):
        return f"label key {clip(key)} is not of the form [prefix/]name"
    return None


def label_value_fault(value: str) -> str | None:
    """Why `value` cannot be a Kubernetes label value: empty, or at most 63 letters, digits, '-', '_', '.'."""
    if value and (len(value) > 63 or not _QUALIFIED.fullmatch(value)):
        return f"label value {clip(value)} is not at most 63 letters, digits, '-', '_' and '.'"
    return None


def properties_fault(properties: Mapping[str, str], *, cluster: str) -> tuple[str, str] | None:
    """The first ClusterProperty of `cluster` that nobody could select by, or must not believe, and why.

    A name becomes the second part of a label key and its value a label value; a value longer than that is valid in the
    API (KEP-2149), and is then nothing that a cluster can tell of itself.
    """
    if len(properties) > MAX_PROPERTIES:
        return "", f"more than {MAX_PROPERTIES} properties"
    for name, value in properties.items():
        fault = property_fault(name, value, cluster=cluster)
        if fault is not None:
            return name, fault[1]
    return None


def property_fault(name: str, value: str, *, cluster: str) -> tuple[str, str] | None:
    """Which field of a ClusterProperty `name` with `value` `cluster` cannot have, and why."""
    if (fault := name_fault(name, limit=63)) is not None:
        return "metadata.name", fault
    fault = label_value_fault(value)
    if fault is None and name == CLUSTERSET_CLUSTER and value != cluster:
        fault = f"{clip(value)} is not the name of the cluster, which is {cluster!r}"
    return ("spec.value", fault) if fault is not None else None


def is_plain_ipv4(text: str) -> bool:
    """Whether `text` is one IPv4 address in its one form."""
    return _IPV4.fullmatch(text) is not None


def address_fault(text: str) -> str | None:
    """Why `text` is not one address in canonical form; zones and IPv4-mapped IPv6 are refused."""
    if _IPV4.fullmatch(text):
        return None
    if len(text) > 45:
        return f"{clip(text)} is not an IP address"
    try:
        address = ip_address(text)
    except ValueError:
        return f"{clip(text)} is not an IP address"
    if isinstance(address, IPv6Address) and (address.scope_id is not None or address.ipv4_mapped is not None):
        return f"{clip(text)} has a zone or maps IPv4"
    if str(address) != text:
        return f"{clip(text)} is not in canonical form ({address})"
    return None


def pod_address_fault(text: str) -> str | None:
    """Why `text` cannot be the address of a pod or node on the network."""
    if (v4 := _IPV4.fullmatch(text)) is not None:
        first = int(v4[1])
        shared = text == "0.0.0.0" or first == 127 or 224 <= first <= 239
        return f"{text} cannot belong to one pod or node" if shared else None
    fault = address_fault(text)
    if fault is not None:
        return fault
    address: IPv4Address | IPv6Address = ip_address(text)
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        return f"{text} cannot belong to one pod or node"
    return None


def network_fault(text: str) -> str | None:
    """Why `text` is not a network in canonical CIDR form."""
    try:
        network = ip_network(text)
    except ValueError:
        return f"{clip(text)} is not a CIDR"
    return None if str(network) == text else f"{clip(text)} is not in canonical form ({network})"
