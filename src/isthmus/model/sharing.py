"""What a cluster shares of its Services with the others: facts that travel, each of them told of one cluster.

A SharedService says that a Service takes part and how; its SharedSlices, which come and go one by one, hold who answers
for it. A dataplane needs the slices alone; people, and whoever writes objects, want both. Invariants: `cluster` is who
we heard it from, never what an object claims; addresses are canonical text of the slice's family; protocols are IANA
numbers. Rejected: one record with all backends of a Service, of which every change moves the whole list.
"""

import msgspec

from isthmus.model.service import Backend, PortKey, ServiceKey, Target

FULL_WEIGHT = 100
"""What a backend counts for when nobody says otherwise, in per cent."""


class SharedPort(msgspec.Struct, frozen=True, gc=False):
    """A port of a slice: what the backends listen on, by the name that the Service gives it ("" for the only one)."""

    name: str
    protocol: int
    port: int
    app_protocol: str = ""


class SharedEndpoint(msgspec.Struct, frozen=True, gc=False):
    """One address of a slice with the conditions of KEP-1672, defaults filled in; `node` is "" where not known."""

    address: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    hostname: str = ""
    zone: str = ""


class SharedSlice(msgspec.Struct, frozen=True, gc=False):
    """A part of who answers for a Service of a cluster: an EndpointSlice of it, of one family (`version` 4 or 6).

    `weight` is what the cluster wants its backends to count for, in per cent of a normal one (0 to 1000).
    """

    cluster: str
    namespace: str
    name: str
    service: str
    version: int
    endpoints: tuple[SharedEndpoint, ...] = ()
    ports: tuple[SharedPort, ...] = ()
    weight: int = FULL_WEIGHT

    @property
    def key(self) -> tuple[str, str]:
        """Returns namespace and name, unique in its cluster."""
        return self.namespace, self.name

    @property
    def service_key(self) -> ServiceKey:
        """Returns the Service that it is of."""
        return self.namespace, self.service

    def backends(self) -> frozenset[tuple[PortKey, Backend]]:
        """Returns who answers, by port."""
        return frozenset(
            (
                (port.name, port.protocol),
                Backend(
                    cluster=self.cluster,
                    target=Target(endpoint.address, port.port),
                    node=endpoint.node,
                    ready=endpoint.ready,
                    serving=endpoint.serving,
                    terminating=endpoint.terminating,
                ),
            )
            for port in self.ports
            for endpoint in self.endpoints
        )


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """A port at which a Service is found."""

    name: str
    protocol: int
    port: int
    app_protocol: str = ""


class SharedService(msgspec.Struct, frozen=True, gc=False):
    """A Service that is global in its cluster; with `shared` false it uses others and gives nothing.

    `cluster_ips` is empty for a headless one. `problems` are what is wrong with its annotations, for people.
    """

    cluster: str
    namespace: str
    name: str
    shared: bool = True
    headless: bool = False
    cluster_ips: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    weight: int = FULL_WEIGHT
    labels: dict[str, str] = {}
    selector: dict[str, str] = {}
    problems: tuple[str, ...] = ()

    @property
    def key(self) -> ServiceKey:
        """Returns namespace and name."""
        return self.namespace, self.name


class SharedExport(msgspec.Struct, frozen=True, gc=False):
    """A Service that is exported by a ServiceExport (MCS API, KEP-1645), as its cluster describes it.

    `created` is when the ServiceExport was made (RFC 3339), which decides conflicts: the oldest one is right. `type` is
    ClusterSetIP or Headless; `session_affinity` ClientIP or None; `affinity_seconds` 0 where it does not apply.
    """

    cluster: str
    namespace: str
    name: str
    created: str = ""
    type: str = "ClusterSetIP"
    ports: tuple[ServicePort, ...] = ()
    session_affinity: str = "None"
    affinity_seconds: int = 0
    ip_families: tuple[str, ...] = ()
    internal_traffic_policy: str = ""
    traffic_distribution: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @property
    def key(self) -> ServiceKey:
        """Returns namespace and name."""
        return self.namespace, self.name
