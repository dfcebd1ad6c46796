"""One cluster as a store shows it, and as our consumer was told it: the difference is what to tell next.

Two tables of facts: what the store holds (`put`, `drop`) and what was told. `tell` brings the second to the first, for
the keys that were touched or, after a listing, for all. Invariants: an address is told only while its identity is
known and told before it; an identity is taken back only after its last address. So an address whose identity is
missing or cannot be read is not told at all: it is outside the mesh, and policies fail closed.
"""

from collections.abc import Iterable, Iterator

from isthmus.model.endpoint import Endpoint, Node
from isthmus.model.identity import Identity
from isthmus.model.mesh import (
    EndpointGone,
    EndpointTold,
    IdentityGone,
    IdentityTold,
    MeshEvent,
    NodeGone,
    NodeTold,
)


class Mirror:
    """The facts of cluster `name`. Each fact is known by its key: a node's name, a number, an IP."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: dict[str, Node] = {}
        self._identities: dict[int, Identity] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._holders: dict[int, set[str]] = {}
        self._told_nodes: dict[str, Node] = {}
        self._told_identities: dict[int, Identity] = {}
        self._told_endpoints: dict[str, Endpoint] = {}
        self._touched_nodes: set[str] = set()
        self._touched_numbers: set[int] = set()
        self._touched_addresses: set[str] = set()
        self._all = False

    def clear(self) -> None:
        """A listing begins: the store holds nothing until `put` says so; what was told stays told."""
        self._nodes, self._identities, self._endpoints, self._holders = {}, {}, {}, {}
        self._all = True

    def put(self, fact: Node | Identity | Endpoint) -> None:
        """The store holds `fact`."""
        match fact:
            case Node():
                self._nodes[fact.name] = fact
                self._touched_nodes.add(fact.name)
            case Identity():
                self._identities[fact.number] = fact
                self._touched_numbers.add(fact.number)
            case Endpoint():
                self.drop_endpoint(fact.ip)
                self._endpoints[fact.ip] = fact
                self._holders.setdefault(fact.identity, set()).add(fact.ip)

    def drop_node(self, name: str) -> None:
        """The store holds no such node."""
        self._nodes.pop(name, None)
        self._touched_nodes.add(name)

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
        nodes, numbers, addresses = self._due()
        events: list[MeshEvent] = []
        events.extend(self._tell_nodes(nodes))
        events.extend(self._take_back_endpoints(addresses))
        events.extend(self._tell_identities(numbers))
        events.extend(self._tell_endpoints(addresses))
        events.extend(self._take_back_identities(numbers))
        return events

    def _due(self) -> tuple[Iterable[str], Iterable[int], Iterable[str]]:
        nodes, self._touched_nodes = self._touched_nodes, set()
        numbers, self._touched_numbers = self._touched_numbers, set()
        addresses, self._touched_addresses = self._touched_addresses, set()
        if self._all:
            self._all = False
            return (
                {*self._nodes, *self._told_nodes},
                {*self._identities, *self._told_identities},
                {*self._endpoints, *self._told_endpoints},
            )
        for number in numbers:
            addresses |= self._holders.get(number, set())
        return nodes, numbers, addresses

    def _tell_nodes(self, names: Iterable[str]) -> Iterator[MeshEvent]:
        for name in names:
            node = self._nodes.get(name)
            if node == self._told_nodes.get(name):
                continue
            if node is None:
                del self._told_nodes[name]
                yield NodeGone(self.name, name)
            else:
                self._told_nodes[name] = node
                yield NodeTold(node)

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
        return len(self._told_nodes), len(self._told_identities), len(self._told_endpoints)
