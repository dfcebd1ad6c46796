"""A Service -> the addresses and ports at which it is found, and who may be sent where from each.

A frontend of a ClusterIP follows internalTrafficPolicy. At a node port, an external IP or a load balancer's IP,
externalTrafficPolicy: Local binds only clients from outside: pods of this node, and the node itself, get every backend,
as with kube-proxy. Two services may claim one frontend; `rank` says whose it is, the same on every node.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum

import msgspec

from isthmus.model.endpoint import family_of
from isthmus.model.flow import Protocol
from isthmus.model.service import Network, Port, Service, ServiceKey
from isthmus.services.pool import Reach

FrontendKey = tuple[str, int, int]
"""Address, protocol, port."""


class Kind(IntEnum):
    """What an address is; of two claims on one frontend, the smaller kind has it."""

    CLUSTER_IP = 0
    NODE_PORT = 1
    LOAD_BALANCER = 2
    EXTERNAL_IP = 3

    @property
    def field(self) -> str:
        """Returns the field of the Service that the address comes from."""
        return _FIELDS[self]


_FIELDS = {
    Kind.CLUSTER_IP: "spec.clusterIPs",
    Kind.NODE_PORT: "spec.ports",
    Kind.LOAD_BALANCER: "status.loadBalancer.ingress",
    Kind.EXTERNAL_IP: "spec.externalIPs",
}


class Frontend(msgspec.Struct, frozen=True, gc=False):
    """Where a port of a service is found.

    `outside` is None where clients from outside are no different, `sources` where every client may come.
    """

    service: ServiceKey
    port: Port
    address: str
    number: int
    kind: Kind
    inside: Reach = Reach.ALL
    outside: Reach | None = None
    affinity: int = 0
    sources: tuple[Network, ...] | None = None

    @property
    def key(self) -> FrontendKey:
        """Returns what a packet is matched by."""
        return self.address, self.port.protocol, self.number

    @property
    def version(self) -> int:
        """Returns 4 or 6."""
        return family_of(self.address)

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.version == 6 else self.address
        return f"{host}:{self.number}/{Protocol(self.port.protocol).name}"

    @property
    def rank(self) -> tuple[int, ServiceKey, str, int]:
        """Orders claims on one frontend: the least has it. No two claims of one frontend are equal in it."""
        return self.kind, self.service, self.port.name, self.port.port


def frontends(service: Service, *, node_addresses: Iterable[str]) -> Iterator[Frontend]:
    """Yields the frontends of a service on a node that has `node_addresses`; a key may come twice."""
    addresses = list(node_addresses)
    outside = Reach.NEAR if service.local_external else None
    families = {family_of(ip) for ip in service.cluster_ips}
    for port in service.ports:
        for ip in service.cluster_ips:
            inside = Reach.NEAR if service.local_internal else Reach.ALL
            yield Frontend(service.key, port, ip, port.port, Kind.CLUSTER_IP, inside, None, service.affinity)
        for ip in service.ingress_ips:
            balancer = Frontend(service.key, port, ip, port.port, Kind.LOAD_BALANCER, Reach.ALL, outside)
            yield msgspec.structs.replace(balancer, affinity=service.affinity, sources=service.sources)
        for ip in service.external_ips:
            yield Frontend(service.key, port, ip, port.port, Kind.EXTERNAL_IP, Reach.ALL, outside, service.affinity)
        if port.node_port:
            for ip in addresses:
                if family_of(ip) in families:
                    yield Frontend(
                        service.key, port, ip, port.node_port, Kind.NODE_PORT, Reach.ALL, outside, service.affinity
                    )
