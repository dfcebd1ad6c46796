"""Services and who answers for them, as far as a dataplane must know: plain facts, no API object.

A backend carries its cluster, so that those of other clusters are only more of the same. Addresses are canonical text,
protocols IANA numbers. Rejected: keeping the API's own types, which say in a dozen optional fields and defaults what
must be decided once.
"""

from ipaddress import IPv4Network, IPv6Network

import msgspec

Network = IPv4Network | IPv6Network

ServiceKey = tuple[str, str]
"""Namespace and name."""

SliceKey = tuple[str, ...]
"""Namespace and name, and before them the cluster's name where it is another's."""

PortKey = tuple[str, int]
"""Name of the port ("" for the only one) and protocol: what leads from a Service to the backends of a slice."""


class Target(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where a connection is sent to: an address in canonical text, and a port."""

    address: str
    port: int


class Backend(msgspec.Struct, frozen=True, order=True, gc=False):
    """Something that answers for a port of a Service.

    The flags are those of EndpointSlice conditions with their defaults filled in (KEP-1672): `ready` is true also of
    terminating endpoints where publishNotReadyAddresses says so. `node` is "" where it is not known. `reachable` is
    this node's own finding: false where the backend's node does not answer, or nothing is heard of its cluster.
    """

    cluster: str
    target: Target
    node: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    reachable: bool = True


class Slice(msgspec.Struct, frozen=True, gc=False):
    """A part of a Service's backends: one EndpointSlice, or what another cluster tells. `key` is unique."""

    key: SliceKey
    service: ServiceKey
    backends: frozenset[tuple[PortKey, Backend]]


class Port(msgspec.Struct, frozen=True, gc=False):
    """A port of a Service; `node_port` is 0 if it has none."""

    name: str
    protocol: int
    port: int
    node_port: int = 0

    @property
    def key(self) -> PortKey:
        """Returns what the port is known by in slices."""
        return self.name, self.protocol


class Service(msgspec.Struct, frozen=True, gc=False):
    """A Service that has addresses; `affinity` is in seconds, 0 for none.

    `sources` are the networks whose clients may use the `ingress_ips`; None for everyone.
    """

    namespace: str
    name: str
    uid: str = ""
    ports: tuple[Port, ...] = ()
    cluster_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    ingress_ips: tuple[str, ...] = ()
    sources: tuple[Network, ...] | None = None
    local_internal: bool = False
    local_external: bool = False
    affinity: int = 0

    @property
    def key(self) -> ServiceKey:
        """Returns namespace and name."""
        return self.namespace, self.name
