"""All Services, endpoints and namespaces, as DNS asks for them.

Invariants: what the indexes say is what a walk through all objects would say; every change that can change an answer
moves `serial`. Rejected: records made at every change, which is work for names that nobody asks for.
"""

from collections.abc import Iterable, Iterator

from isthmus.lab.dns.data import Endpoint, Key, Port, Service, Slice


class Directory:
    """The state; `serial` counts changes and begins at the number given."""

    def __init__(self, *, serial: int = 1) -> None:
        self.serial = serial
        self._services: dict[Key, Service] = {}
        self._slices: dict[Key, Slice] = {}
        self._by_service: dict[Key, dict[Key, Slice]] = {}
        self._namespaces: set[bytes] = set()
        self._populated: dict[bytes, int] = {}
        self._by_address: dict[bytes, dict[Key, None]] = {}
        self._by_endpoint: dict[bytes, dict[Key, int]] = {}

    def put_service(self, service: Service) -> None:
        """Takes a Service, new or changed."""
        if self._services.get(service.key) == service:
            return
        self.drop_service(service.key)
        self._services[service.key] = service
        self._populated[service.key[0]] = self._populated.get(service.key[0], 0) + 1
        for address in service.addresses:
            self._by_address.setdefault(address, {})[service.key] = None
        self._changed()

    def drop_service(self, key: Key) -> None:
        """Forgets a Service."""
        old = self._services.pop(key, None)
        if old is None:
            return
        self._populated[key[0]] -= 1
        if not self._populated[key[0]]:
            del self._populated[key[0]]
        for address in old.addresses:
            keys = self._by_address[address]
            keys.pop(key, None)
            if not keys:
                del self._by_address[address]
        self._changed()

    def put_slice(self, found: Slice) -> None:
        """Takes an EndpointSlice, new or changed."""
        if self._slices.get(found.key) == found:
            return
        self.drop_slice(found.key)
        self._slices[found.key] = found
        self._by_service.setdefault(found.service, {})[found.key] = found
        for endpoint in found.endpoints:
            keys = self._by_endpoint.setdefault(endpoint.address, {})
            keys[found.service] = keys.get(found.service, 0) + 1
        self._changed()

    def drop_slice(self, key: Key) -> None:
        """Forgets an EndpointSlice."""
        old = self._slices.pop(key, None)
        if old is None:
            return
        slices = self._by_service[old.service]
        del slices[key]
        if not slices:
            del self._by_service[old.service]
        for endpoint in old.endpoints:
            keys = self._by_endpoint[endpoint.address]
            keys[old.service] -= 1
            if not keys[old.service]:
                del keys[old.service]
            if not keys:
                del self._by_endpoint[endpoint.address]
        self._changed()

    def put_namespace(self, name: bytes) -> None:
        """Takes a namespace."""
        if name not in self._namespaces:
            self._namespaces.add(name)
            self._changed()

    def drop_namespace(self, name: bytes) -> None:
        """Forgets a namespace."""
        if name in self._namespaces:
            self._namespaces.discard(name)
            self._changed()

    def keep_services(self, keys: Iterable[Key]) -> None:
        """Forgets all Services but these: what a new list does not have is gone."""
        for key in self._services.keys() - set(keys):
            self.drop_service(key)

    def keep_slices(self, keys: Iterable[Key]) -> None:
        """Forgets all EndpointSlices but these."""
        for key in self._slices.keys() - set(keys):
            self.drop_slice(key)

    def keep_namespaces(self, names: Iterable[bytes]) -> None:
        """Forgets all namespaces but these."""
        for name in self._namespaces - set(names):
            self.drop_namespace(name)

    def service(self, key: Key) -> Service | None:
        """Returns a Service by namespace and name."""
        return self._services.get(key)

    def has_namespace(self, name: bytes) -> bool:
        """Tells whether a namespace is known, by itself or by what is in it."""
        return name in self._namespaces or name in self._populated

    def endpoints(self, service: Service) -> Iterator[tuple[Endpoint, tuple[Port, ...]]]:
        """Yields the endpoints that a Service publishes, with their ports; one address may come more than once."""
        for found in self._by_service.get(service.key, {}).values():
            for endpoint in found.endpoints:
                if endpoint.ready or service.unready:
                    yield endpoint, found.ports

    def services_at(self, address: bytes) -> list[Key]:
        """Returns the Services with this cluster IP."""
        return list(self._by_address.get(address, ()))

    def services_behind(self, address: bytes) -> list[Key]:
        """Returns the Services with this endpoint."""
        return list(self._by_endpoint.get(address, ()))

    def _changed(self) -> None:
        self.serial = (self.serial + 1) % 2**32 or 1
