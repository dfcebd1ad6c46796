"""Addresses and the names they have: `4.3.2.1.in-addr.arpa` and `....ip6.arpa`.

A cluster IP stands for its Service, an endpoint of a headless Service for its name below the Service (specification
1.1.0, sections 2.3.3 and 2.4.3). Every other address has no name: there is nobody else to ask.
"""

from collections.abc import Sequence

from isthmus.lab.dns.directory import Directory
from isthmus.lab.dns.zone import NOTHING, UNKNOWN, Found, ServiceZone, authority
from isthmus.wire.dns import ANY, NS, PTR, SOA, Name, Record

IN_ADDR: Name = (b"in-addr", b"arpa")
IP6: Name = (b"ip6", b"arpa")
_HEX = b"0123456789abcdef"


class ReverseZone:
    """All addresses of a family."""

    def __init__(self, origin: Name, zone: ServiceZone, directory: Directory, *, ttl: int = 5) -> None:
        self.origin = origin
        self._zone = zone
        self._directory = directory
        self._ttl = ttl
        self._size = 4 if origin == IN_ADDR else 32

    def soa(self) -> Record:
        """Returns the SOA record."""
        primary = (b"ns", b"dns", *self._zone.origin)
        return authority(self.origin, primary, serial=self._directory.serial, ttl=self._ttl)

    def find(self, name: Name, type: int) -> Found:
        """Returns what is known of a name at or below the origin."""
        inner = name[: len(name) - len(self.origin)]
        if not inner:
            if type == SOA:
                return Found((self.soa(),))
            if type == NS:
                return Found((Record(self.origin, NS, self._ttl, (b"ns", b"dns", *self._zone.origin)),))
            return NOTHING
        if len(inner) < self._size:
            return NOTHING  # addresses may be below
        address = self._address(inner)
        names = [] if address is None else self._names(address)
        if not names:
            return UNKNOWN
        return Found(tuple(Record(name, PTR, self._ttl, target) for target in names) if type in (PTR, ANY) else ())

    def _names(self, address: bytes) -> list[Name]:
        names = [self._zone.name_of(key) for key in self._directory.services_at(address)]
        if names:
            return names
        found: dict[Name, None] = {}
        for key in self._directory.services_behind(address):
            service = self._directory.service(key)
            if service is None or not service.headless:
                continue
            for endpoint, _ports in self._directory.endpoints(service):
                if endpoint.address == address:
                    found[endpoint.host, *self._zone.name_of(key)] = None
        return list(found)

    def _address(self, labels: Sequence[bytes]) -> bytes | None:
        if len(labels) != self._size:
            return None
        if self._size == 4:
            numbers = [int(label) for label in labels if label.isdigit() and len(label) <= 3]
            return bytes(reversed(numbers)) if len(numbers) == 4 and max(numbers) < 256 else None
        digits = b"".join(reversed(labels))
        if len(digits) != 32 or any(len(label) != 1 for label in labels) or not set(digits) <= set(_HEX):
            return None
        return bytes.fromhex(digits.decode())
