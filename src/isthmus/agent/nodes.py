"""The nodes of the mesh, and the API server of the own cluster, as identities and addresses of the compiler.

The own node is HOST with all its labels. Other nodes share an identity where policy cannot tell them apart: cluster,
those labels that some policy in force asks for, and whether the API server is there. So a thousand nodes are an element
each and one identity, until somebody selects among them. Pure but for the compiler. Invariants: an address has one
holder (the own node, then nodes of the own cluster, then by cluster and name), whatever was told in which order; an
identity is there before the first address with it and goes after the last; addresses of the API server that are no
node's are KUBE_APISERVER. Rejected: an identity for each node, which would make every node a row of every rule that
names an entity.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import count

import msgspec

from isthmus.model.endpoint import Node
from isthmus.model.identity import FIRST_NODE, HOST, KUBE_APISERVER, THE_API_SERVER, Identity
from isthmus.ruleset.compiler import Compiler

API_SERVER = "kube-apiserver"

_Name = tuple[str, str]  # cluster, name


class _Look(msgspec.Struct, frozen=True):
    """What policy can tell of a node."""

    cluster: str
    labels: tuple[tuple[str, str], ...]
    api_server: bool


class NodeBook:
    """Nodes as they are told; keeps the compiler's nodes as they must be. `own` is the cluster."""

    def __init__(self, compiler: Compiler, *, own: str) -> None:
        self._compiler = compiler
        self._own = own
        self._own_node: Node | None = None
        self._nodes: dict[_Name, Node] = {}
        self._keys: frozenset[str] = frozenset()
        self._api: frozenset[str] = frozenset()
        self._properties: dict[str, Mapping[str, str]] = {}
        self._claims: dict[str, set[_Name]] = {}
        self._numbers: dict[_Look, int] = {}
        self._looks: dict[int, _Look] = {}
        self._users: Counter[int] = Counter()
        self._told: dict[str, int] = {}
        compiler.put_identity(THE_API_SERVER)

    def count(self) -> Counter[str]:
        """Returns how many nodes each cluster has."""
        return Counter(cluster for cluster, _ in self._nodes)

    def put_own(self, node: Node) -> None:
        """Says what the node of this agent is like."""
        before, self._own_node = self._own_node, node
        self._put_host()
        told = self._nodes.get((self._own, node.name))
        self._settle({ip for one in (node, before, told) if one is not None for ip in one.addresses})

    def put(self, node: Node) -> None:
        """Adds a node of the mesh, or replaces what is known of it."""
        key = node.cluster, node.name
        before = self._nodes.get(key)
        if before == node:
            return
        self._nodes[key] = node
        old = before.addresses if before is not None else ()
        for ip in old:
            self._unclaim(ip, key)
        for ip in node.addresses:
            self._claims.setdefault(ip, set()).add(key)
        self._settle({*old, *node.addresses})

    def drop(self, cluster: str, name: str) -> None:
        """Removes a node."""
        node = self._nodes.pop((cluster, name), None)
        if node is not None:
            for ip in node.addresses:
                self._unclaim(ip, (cluster, name))
            self._settle(node.addresses)

    def drop_cluster(self, cluster: str) -> None:
        """Removes all nodes of a cluster that left the set."""
        for _, name in [key for key in self._nodes if key[0] == cluster]:
            self.drop(cluster, name)
        self._properties.pop(cluster, None)

    def select_by(self, keys: Collection[str]) -> None:
        """Says which labels of nodes policies ask for."""
        if self._keys != frozenset(keys):
            self._keys = frozenset(keys)
            self._settle(list(self._told))

    def put_api_servers(self, addresses: Iterable[str]) -> None:
        """Says at which addresses the API server of the own cluster is."""
        now = frozenset(addresses)
        if now != self._api:
            before, self._api = self._api, now
            self._put_host()
            # Also the other addresses of the nodes that it is on, or was.
            touched = {key for ip in before | now for key in self._claims.get(ip, ())}
            self._settle({*before, *now, *(ip for key in touched for ip in self._nodes[key].addresses)})

    def put_properties(self, cluster: str, properties: Mapping[str, str]) -> None:
        """Says which ClusterProperties a cluster has."""
        if self._properties.get(cluster, {}) == properties:
            return
        self._properties[cluster] = properties
        for look, number in self._numbers.items():
            if look.cluster == cluster:
                self._compiler.put_identity(self._identity(number, look))
        if cluster == self._own:
            self._put_host()

    def _put_host(self) -> None:
        node = self._own_node
        if node is None:
            return
        reserved = ("host", API_SERVER) if self._api.intersection(node.addresses) else ("host",)
        properties = dict(self._properties.get(self._own, {}))
        identity = Identity(HOST, self._own, "", dict(node.labels), {}, properties=properties, reserved=reserved)
        self._compiler.put_identity(identity)

    def _unclaim(self, ip: str, key: _Name) -> None:
        claims = self._claims[ip]
        claims.discard(key)
        if not claims:
            del self._claims[ip]

    def _settle(self, ips: Iterable[str]) -> None:
        """Tells the compiler who holds each of `ips` now."""
        for ip in ips:
            before = self._told.pop(ip, None)
            number = self._number_at(ip)
            if number is None:
                if before is not None:
                    self._compiler.drop_node_address(ip)
            else:
                self._told[ip] = number
                self._users[number] += 1
                if number != before:
                    self._compiler.put_node_address(ip, number)
            if before is not None:
                self._leave(before)

    def _number_at(self, ip: str) -> int | None:
        own = self._own_node
        if own is not None and ip in own.addresses:
            return None
        claims = self._claims.get(ip, set())
        if own is not None:
            claims = claims - {(self._own, own.name)}
        if not claims:
            return KUBE_APISERVER if ip in self._api else None
        node = self._nodes[min(claims, key=lambda key: (key[0] != self._own, key))]
        labels = tuple(sorted((key, value) for key, value in node.labels.items() if key in self._keys))
        look = _Look(node.cluster, labels, not self._api.isdisjoint(node.addresses))
        number = self._numbers.get(look)
        if number is None:
            number = next(free for free in count(FIRST_NODE) if free not in self._looks)
            self._numbers[look], self._looks[number] = number, look
            self._compiler.put_identity(self._identity(number, look))
        return number

    def _identity(self, number: int, look: _Look) -> Identity:
        reserved = (API_SERVER, "remote-node") if look.api_server else ("remote-node",)
        properties = dict(self._properties.get(look.cluster, {}))
        return Identity(number, look.cluster, "", dict(look.labels), {}, properties=properties, reserved=reserved)

    def _leave(self, number: int) -> None:
        self._users[number] -= 1
        if not self._users[number]:
            del self._users[number]
            look = self._looks.pop(number, None)
            if look is not None:
                del self._numbers[look]
                self._compiler.drop_identity(number)
