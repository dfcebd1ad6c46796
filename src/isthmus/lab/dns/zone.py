"""Names below a cluster's domain and what they stand for.

Source: Kubernetes DNS-Based Service Discovery 1.1.0, and CoreDNS where that leaves a choice (names of endpoints without
a host name, SRV of a Service without a port, NXDOMAIN for a headless Service without endpoints). Invariant: the answer
depends on the directory, the name and the type alone. Rejected: wildcards (`*.default.svc`), which CoreDNS has dropped.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from isthmus.lab.dns.data import Key, Port, Service, undashed
from isthmus.lab.dns.directory import Directory
from isthmus.wire.dns import AAAA, ANY, CNAME, NS, SOA, SRV, TXT, A, Name, Record, Soa, Srv, text_data

VERSION = b"1.1.0"
"""Of the specification: the answer to `dns-version`."""
DNS_SERVICE: Key = (b"kube-system", b"kube-dns")
_POD, _SERVICE = b"pod", b"svc"


class Found(NamedTuple):
    """What a zone says: records, records that help to use them, whether the name exists at all, another name."""

    records: tuple[Record, ...] = ()
    additionals: tuple[Record, ...] = ()
    exists: bool = True
    alias: Name | None = None
    """The target of a CNAME among the records, which is to be looked up too."""


NOTHING = Found()
"""The name exists, without records of the type."""
UNKNOWN = Found(exists=False)


class Zone(Protocol):
    """A part of the tree of names that is answered for."""

    @property
    def origin(self) -> Name:
        """The zone's name, in lower case."""

    def find(self, name: Name, type: int) -> Found:
        """Returns what is known of a name (in lower case, at or below the origin)."""

    def soa(self) -> Record:
        """Returns the zone's SOA record."""


class ServiceZone:
    """The zone of a cluster: `NAME.NAMESPACE.svc.DOMAIN`."""

    def __init__(
        self,
        origin: Name,
        directory: Directory,
        *,
        ttl: int = 5,
        pods: bool = True,
        primary: Name | None = None,
    ) -> None:
        """`ttl` in seconds; `pods` tells whether 10-1-2-3.NAMESPACE.pod.DOMAIN has an address.

        `primary` is the name server's name, if that is not in this zone.
        """
        self.origin = origin
        self._directory = directory
        self._ttl = ttl
        self._pods = pods
        self.primary = primary or (b"ns", b"dns", *origin)
        self._serves_itself = primary is None

    def soa(self) -> Record:
        """Returns the SOA record."""
        return authority(self.origin, self.primary, serial=self._directory.serial, ttl=self._ttl)

    def find(self, name: Name, type: int) -> Found:
        """Returns what is known of a name at or below the origin."""
        inner = name[: len(name) - len(self.origin)]
        if not inner:
            return self._apex(type)
        kind = inner[-1]
        if kind == _SERVICE:
            return self._below_services(name, inner[:-1], type)
        if kind == _POD:
            return self._below_pods(name, inner[:-1], type)
        if inner == (b"dns-version",):
            return Found((Record(name, TXT, self._ttl, text_data(VERSION)),)) if type in (TXT, ANY) else NOTHING
        if kind == b"dns" and len(inner) <= 2 and self._serves_itself:
            if len(inner) == 1:
                return NOTHING
            service = self._directory.service(DNS_SERVICE)
            if inner[0] == b"ns" and service is not None:
                return Found(tuple(self._addresses(name, service.addresses, type)))
        return UNKNOWN

    def name_of(self, key: Key) -> Name:
        """Returns the name of a Service."""
        return (key[1], key[0], _SERVICE, *self.origin)

    def _apex(self, type: int) -> Found:
        if type == SOA:
            return Found((self.soa(),))
        if type in (NS, ANY):
            record = Record(self.origin, NS, self._ttl, self.primary)
            return Found((record,) if type == NS else (self.soa(), record))
        return NOTHING

    def _below_services(self, name: Name, inner: Name, type: int) -> Found:
        if not inner:
            return NOTHING
        if len(inner) == 1:
            return NOTHING if self._directory.has_namespace(inner[0]) else UNKNOWN
        *rest, service_name, namespace = inner
        service = self._directory.service((namespace, service_name))
        if service is None or len(rest) > 2:
            return UNKNOWN
        if service.alias is not None:
            if rest:
                return UNKNOWN
            record = Record(name, CNAME, self._ttl, service.alias)
            return Found((record,), alias=None if type in (CNAME, ANY) else service.alias)
        if len(rest) == 2 and rest[0].startswith(b"_") and rest[1].startswith(b"_"):
            return self._service(name, service, type, port=rest[0][1:], protocol=rest[1][1:])
        return self._endpoint(name, service, tuple(rest), type) if rest else self._service(name, service, type)

    def _service(
        self, name: Name, service: Service, type: int, *, port: bytes | None = None, protocol: bytes = b""
    ) -> Found:
        def wanted(ports: Iterable[Port]) -> list[Port]:
            return [found for found in ports if port is None or (found.name, found.protocol) == (port, protocol)]

        base = self.name_of(service.key)
        if not service.headless:
            own = wanted(service.ports)
            if port is not None and not own:
                return UNKNOWN
            if type != SRV:
                return Found(tuple(self._addresses(name, service.addresses, type)))
            rows = [(found.number, base, address) for found in own for address in service.addresses]
            return self._services(name, rows)
        rows = []
        addresses: dict[bytes, None] = {}
        for endpoint, ports in self._directory.endpoints(service):
            chosen = wanted(ports)
            if port is not None and not chosen:
                continue
            addresses[endpoint.address] = None
            rows += [(found.number, (*endpoint.labels, *base), endpoint.address) for found in chosen]
        if not addresses:
            return UNKNOWN
        if type == SRV:
            return self._services(name, rows)
        return Found(tuple(self._addresses(name, addresses, type)))

    def _endpoint(self, name: Name, service: Service, labels: Name, type: int) -> Found:
        target = (*labels, *self.name_of(service.key))
        addresses: dict[bytes, None] = {}
        rows: list[tuple[int, Name, bytes]] = []
        for endpoint, ports in self._directory.endpoints(service):
            if endpoint.labels == labels:
                addresses[endpoint.address] = None
                rows += [(found.number, target, endpoint.address) for found in ports]
        if not addresses:
            return UNKNOWN
        if type == SRV:
            return self._services(name, rows)
        return Found(tuple(self._addresses(name, addresses, type)))

    def _services(self, name: Name, rows: Iterable[tuple[int, Name, bytes]]) -> Found:
        """Returns SRV records of (port, target, address), with the addresses of the targets."""
        pairs = dict.fromkeys((number, target) for number, target, _ in rows)
        weight = max(100 // len(pairs), 1) if pairs else 0
        records = tuple(Record(name, SRV, self._ttl, Srv(0, weight, number, target)) for number, target in pairs)
        helpers = dict.fromkeys((target, address) for _, target, address in rows)
        return Found(records, tuple(self._address(target, address) for target, address in helpers))

    def _below_pods(self, name: Name, inner: Name, type: int) -> Found:
        if not self._pods:
            return UNKNOWN
        if not inner:
            return NOTHING
        if len(inner) > 2 or not self._directory.has_namespace(inner[-1]):
            return UNKNOWN
        if len(inner) == 1:
            return NOTHING
        address = undashed(inner[0])
        return UNKNOWN if address is None else Found(tuple(self._addresses(name, (address,), type)))

    def _addresses(self, name: Name, addresses: Iterable[bytes], type: int) -> list[Record]:
        size = {A: (4,), AAAA: (16,), ANY: (4, 16)}.get(type, ())
        return [self._address(name, address) for address in addresses if len(address) in size]

    def _address(self, name: Name, address: bytes) -> Record:
        return Record(name, A if len(address) == 4 else AAAA, self._ttl, address)


def authority(origin: Name, primary: Name, *, serial: int, ttl: int) -> Record:
    """Returns an SOA record; its minimum is how long an absence is remembered (RFC 2308)."""
    contact = (b"hostmaster", *origin)
    return Record(origin, SOA, ttl, Soa(primary, contact, serial, 7200, 1800, 86400, ttl))
