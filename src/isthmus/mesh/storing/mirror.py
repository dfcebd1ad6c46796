"""One cluster as a store shows it, and as our consumer was told it: the difference is what to tell next.

Two tables of facts: what the store holds (`put`, `drop`) and what was told. `tell` brings the second to the first, for
the keys that were touched or, after a listing, for all. Invariants: an address is told only while its identity is
known and told before it; an identity is taken back only after its last address. So an address whose identity is
missing or cannot be read is not told at all: it is outside the mesh, and policies fail closed. What is shared of
Services depends on nothing else.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from isthmus.model.endpoint import Endpoint, Node
from isthmus.model.identity import Identity
from isthmus.model.mesh import (
    ClusterSeen,
    EndpointGone,
    EndpointTold,
    ExportGone,
    ExportTold,
    IdentityGone,
    IdentityTold,
    MeshEvent,
    NodeGone,
    NodeTold,
    ServiceGone,
    ServiceTold,
    SliceGone,
    SliceTold,
)
from isthmus.model.service import ServiceKey
from isthmus.model.sharing import SharedExport, SharedService, SharedSlice

_K = TypeVar("_K")
_F = TypeVar("_F")

Fact = Node | Identity | Endpoint | SharedService | SharedSlice | SharedExport | ClusterSeen


class _Table(Generic[_K, _F]):
    """Facts of a kind that depends on no other: what is held, and what was told."""

    def __init__(self, told: Callable[[_F], MeshEvent], gone: Callable[[_K], MeshEvent]) -> None:
        self.told: dict[_K, _F] = {}
        self._held: dict[_K, _F] = {}
        self._touched: set[_K] = set()
        self._told, self._gone = told, gone

    def clear(self) -> None:
        self._touched |= self._held.keys() | self.told.keys()
        self._held = {}

    def put(self, key: _K, fact: _F) -> None:
        self._held[key] = fact
        self._touched.add(key)

    def drop(self, key: _K) -> None:
        self._held.pop(key, None)
        self._touched.add(key)

    def tell(self) -> Iterator[MeshEvent]:
        touched, self._touched = self._touched, set()
        for key in touched:
            fact = self._held.get(key)
            if fact is None:
                if self.told.pop(key, None) is not None:
                    yield self._gone(key)
            elif fact != self.told.get(key):
                self.told[key] = fact
                yield self._told(fact)


class Mirror:
    """The facts of cluster `name`. Each fact is known by its key: a node's name, a number, an IP, a place."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes = _Table[str, Node](NodeTold, lambda key: NodeGone(name, key))
        self._services = _Table[ServiceKey, SharedService](ServiceTold, lambda key: ServiceGone(name, key))
        self._slices = _Table[tuple[str, str], SharedSlice](SliceTold, lambda key: SliceGone(name, key))
        self._exports = _Table[ServiceKey, SharedExport](ExportTold, lambda key: ExportGone(name, key))
        self._seen = _Table[str, ClusterSeen](lambda seen: seen, lambda _: ClusterSeen(name))
        self._parts: dict[ServiceKey, tuple[tuple[str, str], ...]] = {}
        """The slices that each service record made."""
        self._identities: dict[int, Identity] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._holders: dict[int, set[str]] = {}
        self._told_identities: dict[int, Identity] = {}
        self._told_endpoints: dict[str, Endpoint] = {}
        self._touched_numbers: set[int] = set()
        self._touched_addresses: set[str] = set()
        self._all = False

    def clear(self) -> None:
        """A listing begins: the store holds nothing until `put` says so; what was told stays told."""
        self._identities, self._endpoints, self._holders, self._parts = {}, {}, {}, {}
        for table in (self._nodes, self._services, self._slices, self._exports, self._seen):
            table.clear()
        self._all = True

    def put(self, fact: Fact) -> None:
        """The store holds `fact`."""
        match fact:
            case Node():
                self._nodes.put(fact.name, fact)
            case SharedService():
                self._services.put(fact.key, fact)
            case SharedSlice():
                self._slices.put(fact.key, fact)
            case SharedExport():
                self._exports.put(fact.key, fact)
            case ClusterSeen():
                self._seen.put(fact.name, fact)
            case Identity():
                self._identities[fact.number] = fact
                self._touched_numbers.add(fact.number)
            case Endpoint():
                self.drop_endpoint(fact.ip)
                self._endpoints[fact.ip] = fact
                self._holders.setdefault(fact.identity, set()).add(fact.ip)

    def drop_node(self, name: str) -> None:
        """The store holds no such node."""
        self._nodes.drop(name)

    def drop_service(self, key: ServiceKey) -> None:
        """The store holds no such service."""
        self._services.drop(key)

    def drop_slice(self, key: tuple[str, str]) -> None:
        """The store holds no such slice."""
        self._slices.drop(key)

    def drop_export(self, key: ServiceKey) -> None:
        """The store holds no such export."""
        self._exports.drop(key)

    def drop_seen(self) -> None:
        """The store does not say that the cluster may have changed."""
        self._seen.drop(self.name)

    def put_parts(self, key: ServiceKey, slices: Sequence[SharedSlice]) -> None:
        """The store holds a service record, of which `slices` were made; none for a record that is gone."""
        for part in self._parts.pop(key, ()):
            self._slices.drop(part)
        for slice_ in slices:
            self._slices.put(slice_.key, slice_)
        if slices:
            self._parts[key] = tuple(slice_.key for slice_ in slices)

    def drop_identity(self, number: int) -> None:
        """The store holds no such identity."""
        self._identities.pop(number, None)
        self._touched_numbers.add(number)

    def drop_endpoint(self, ip: str) -> None:
        """The store holds no such address."""
        endpoint = self._endpoints.pop(ip, None)
        self._touched_addresses.add(ip)
        if endpoint is not None:
            holders = self._holders[endpoint.identity]
            holders.discard(ip)
            if not holders:
                del self._holders[endpoint.identity]

    def tell(self) -> list[MeshEvent]:
        """Returns what brings the consumer up to date, in an order that keeps every promise of `model.mesh`."""
        numbers, addresses = self._due()
        events: list[MeshEvent] = [*self._nodes.tell()]
        events.extend(self._take_back_endpoints(addresses))
        events.extend(self._tell_identities(numbers))
        events.extend(self._tell_endpoints(addresses))
        events.extend(self._take_back_identities(numbers))
        for table in (self._services, self._slices, self._exports, self._seen):
            events.extend(table.tell())
        return events

    def _due(self) -> tuple[Iterable[int], Iterable[str]]:
        numbers, self._touched_numbers = self._touched_numbers, set()
        addresses, self._touched_addresses = self._touched_addresses, set()
        if self._all:
            self._all = False
            return {*self._identities, *self._told_identities}, {*self._endpoints, *self._told_endpoints}
        for number in numbers:
            addresses |= self._holders.get(number, set())
        return numbers, addresses

    def _take_back_endpoints(self, addresses: Iterable[str]) -> Iterator[MeshEvent]:
        for ip in addresses:
            if ip in self._told_endpoints and self._tellable(ip) is None:
                del self._told_endpoints[ip]
                yield EndpointGone(self.name, ip)

    def _tell_identities(self, numbers: Iterable[int]) -> Iterator[MeshEvent]:
        for number in numbers:
            identity = self._identities.get(number)
            if identity is not None and identity != self._told_identities.get(number):
                self._told_identities[number] = identity
                yield IdentityTold(identity)

    def _tell_endpoints(self, addresses: Iterable[str]) -> Iterator[MeshEvent]:
        for ip in addresses:
            endpoint = self._tellable(ip)
            if endpoint is not None and endpoint != self._told_endpoints.get(ip):
                self._told_endpoints[ip] = endpoint
                yield EndpointTold(endpoint)

    def _take_back_identities(self, numbers: Iterable[int]) -> Iterator[MeshEvent]:
        for number in numbers:
            if number in self._told_identities and number not in self._identities:
                del self._told_identities[number]
                yield IdentityGone(self.name, number)

    def _tellable(self, ip: str) -> Endpoint | None:
        endpoint = self._endpoints.get(ip)
        return endpoint if endpoint is not None and endpoint.identity in self._identities else None

    def identities(self) -> dict[int, Identity]:
        """The identities that are told, by number."""
        return dict(self._told_identities)

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many nodes, identities and addresses are told."""
        return len(self._nodes.told), len(self._told_identities), len(self._told_endpoints)

    @property
    def services(self) -> int:
        """How many services are told of: by themselves, or by their slices alone."""
        return len(self._services.told) or len({slice_.service_key for slice_ in self._slices.told.values()})

    @property
    def slices(self) -> int:
        """How many slices are told."""
        return len(self._slices.told)
