"""Endpoints and nodes: who holds an IP address.

State is keyed by (cluster, IP). A record carries the pod's UID so that the late delete of an old pod cannot take the
IP away from its successor.
"""

import msgspec


def family_of(ip: str) -> int:
    """Returns 4 or 6 for canonical address text."""
    return 6 if ":" in ip else 4


class NamedPort(msgspec.Struct, frozen=True, gc=False):
    """A containerPort with a name; `protocol` is TCP, UDP or SCTP, `port` is 1-65535."""

    name: str
    port: int
    protocol: str = "TCP"


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One pod IP (canonical text, one record per family) with the number of its identity."""

    cluster: str
    ip: str
    identity: int
    namespace: str
    pod: str
    uid: str = ""
    node: str = ""
    host_ip: str = ""
    service_account: str = ""
    named_ports: tuple[NamedPort, ...] = ()


class Node(msgspec.Struct, frozen=True, gc=False):
    """A node of a cluster: its addresses (canonical text) and the pod networks it owns (CIDR text)."""

    cluster: str
    name: str
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    labels: dict[str, str] = {}


class Cluster(msgspec.Struct, frozen=True, gc=False):
    """A member of the ClusterSet: `name` is an RFC 1123 label, `id` is 1-255; both unique in the set.

    `properties` are its ClusterProperties (About API, KEP-2149) that can be label values, by name.
    """

    name: str
    id: int
    properties: dict[str, str] = {}
