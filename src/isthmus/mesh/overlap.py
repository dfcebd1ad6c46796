"""Two clusters, one address: refused loudly. Pure; stands where the events of all clusters come together.

An address means one pod to every node of the mesh, so if two clusters hand out the same one, a policy for one pod
would let the other through. The first to tell keeps the address, or the pod network; the second is reported and
withheld until the first has let go, and then told. Invariants: what is passed on holds an address at most once; an
endpoint inside another cluster's pod network is withheld even if its address is free there now; identities are never
withheld, so what is told late still finds its identity. Rejected: state by (cluster, address) all the way down to the
kernel: packets carry addresses, not clusters.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from isthmus.mesh.source.reports import OVERLAPPING_ADDRESS, OVERLAPPING_NETWORK, Report
from isthmus.model.endpoint import Endpoint, Node
from isthmus.model.mesh import (
    ClusterLeft,
    EndpointGone,
    EndpointTold,
    MeshEvent,
    NodeGone,
    NodeTold,
)

Prefix = tuple[int, int, int]
"""(IP version, prefix length, the prefix's bits as a number)."""


class Overlaps:
    """Passes the events of several clusters through and holds back what overlaps."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        """The cluster that has each address."""
        self._withheld: dict[str, dict[str, Endpoint]] = {}
        """Endpoints that wait, by address and cluster, the first to come first."""
        self._nodes: dict[tuple[str, str], Node] = {}
        """Nodes as they were told to us."""
        self._passed: dict[tuple[str, str], Node] = {}
        """Nodes as we passed them on."""
        self._held: dict[tuple[str, str], tuple[str, ...]] = {}
        """The pod networks that each node has."""
        self._networks = _Networks()
        self._waiting_nodes: dict[tuple[str, str], None] = {}
        self._reports: list[Report] = []

    @property
    def withheld(self) -> int:
        """How many endpoints wait."""
        return sum(map(len, self._withheld.values()))

    def reports(self) -> list[Report]:
        """Returns the overlaps that were found since the last call."""
        reports, self._reports = self._reports, []
        return reports

    def apply(self, events: Sequence[MeshEvent]) -> list[MeshEvent]:
        """Returns what may be passed on."""
        passed: list[MeshEvent] = []
        for event in events:
            match event:
                case EndpointTold(found):
                    self._tell(found, passed)
                case EndpointGone(cluster, ip):
                    self._gone(cluster, ip, passed)
                case NodeTold(node):
                    self._node(node, passed)
                case NodeGone(cluster, name):
                    self._node_gone(cluster, name, passed)
                case ClusterLeft(name):
                    passed.append(event)
                    self._left(name, passed)
                case _:
                    passed.append(event)
        return passed

    # -- endpoints ---------------------------------------------------------------------------------------------

    def _tell(self, found: Endpoint, passed: list[MeshEvent]) -> None:
        owner = self._owners.get(found.ip)
        if owner is None and self._networks.foreign_owner(found.ip, cluster=found.cluster) is None:
            self._owners[found.ip] = found.cluster
            owner = found.cluster
        if owner == found.cluster:
            passed.append(EndpointTold(found))
            return
        waiting = self._withheld.setdefault(found.ip, {})
        if found.cluster not in waiting:
            holder = owner or self._networks.foreign_owner(found.ip, cluster=found.cluster)
            reason = f"cluster {found.cluster}: {OVERLAPPING_ADDRESS}: {holder}"
            self._reports.append(Report("Pod", found.namespace, found.pod, "status.podIPs", found.ip, reason))
        waiting[found.cluster] = found

    def _gone(self, cluster: str, ip: str, passed: list[MeshEvent]) -> None:
        if self._owners.get(ip) == cluster:
            del self._owners[ip]
            passed.append(EndpointGone(cluster, ip))
            self._promote(ip, passed)
            return
        waiting = self._withheld.get(ip)
        if waiting is not None and waiting.pop(cluster, None) is not None and not waiting:
            del self._withheld[ip]

    def _promote(self, ip: str, passed: list[MeshEvent]) -> None:
        """Gives a free address to the first who waits for it and may have it."""
        waiting = self._withheld.get(ip, {})
        for cluster, found in waiting.items():
            if self._networks.foreign_owner(ip, cluster=cluster) is None:
                del waiting[cluster]
                if not waiting:
                    del self._withheld[ip]
                self._owners[ip] = cluster
                passed.append(EndpointTold(found))
                return

    # -- nodes -------------------------------------------------------------------------------------------------

    def _node(self, node: Node, passed: list[MeshEvent]) -> None:
        key = (node.cluster, node.name)
        before = self._nodes.get(key)
        self._nodes[key] = node
        freed = self._let_go(key, keep=node.pod_cidrs)
        self._pass(key, passed, told=before.pod_cidrs if before is not None else ())
        if freed:
            self._reconsider(passed)

    def _node_gone(self, cluster: str, name: str, passed: list[MeshEvent]) -> None:
        key = (cluster, name)
        if self._nodes.pop(key, None) is None:
            return
        self._waiting_nodes.pop(key, None)
        self._passed.pop(key, None)
        passed.append(NodeGone(cluster, name))
        if self._let_go(key, keep=()):
            self._reconsider(passed)

    def _let_go(self, key: tuple[str, str], *, keep: Sequence[str]) -> bool:
        """Takes the networks of a node back but those in `keep`; returns whether there were any."""
        held = self._held.pop(key, ())
        kept = tuple(text for text in held if text in keep)
        if kept:
            self._held[key] = kept
        for text in held:
            if text not in keep:
                self._networks.remove(text, cluster=key[0])
        return len(kept) < len(held)

    def _pass(self, key: tuple[str, str], passed: list[MeshEvent], *, told: Sequence[str]) -> None:
        """Passes a node on with those of its networks that it may have; reports the others, unless in `told`."""
        node = self._nodes[key]
        held = self._held.get(key, ())
        allowed = []
        for text in node.pod_cidrs:
            owner = None if text in held else self._networks.overlapping(text, cluster=node.cluster)
            if owner is not None:
                if text not in told:
                    reason = f"cluster {node.cluster}: {OVERLAPPING_NETWORK}: {owner}"
                    self._reports.append(Report("Node", "", node.name, "spec.podCIDRs", text, reason))
                continue
            allowed.append(text)
            if text not in held:
                self._networks.add(text, cluster=node.cluster)
        self._held[key] = tuple(allowed)
        if len(allowed) < len(node.pod_cidrs):
            self._waiting_nodes[key] = None
        else:
            self._waiting_nodes.pop(key, None)
        record = Node(node.cluster, node.name, node.addresses, tuple(allowed), node.labels)
        if self._passed.get(key) != record:
            self._passed[key] = record
            passed.append(NodeTold(record))

    def _reconsider(self, passed: list[MeshEvent]) -> None:
        """Something was let go: tells the nodes and endpoints that it was kept from."""
        for key in list(self._waiting_nodes):
            self._pass(key, passed, told=self._nodes[key].pod_cidrs)
        for ip in list(self._withheld):
            if ip not in self._owners:
                self._promote(ip, passed)

    # -- clusters ----------------------------------------------------------------------------------------------

    def _left(self, name: str, passed: list[MeshEvent]) -> None:
        """Forgets a cluster; ClusterLeft itself has said that all of it is gone."""
        for key in [key for key in self._nodes if key[0] == name]:
            del self._nodes[key]
            self._waiting_nodes.pop(key, None)
            self._passed.pop(key, None)
            self._let_go(key, keep=())
        for ip in [ip for ip, owner in self._owners.items() if owner == name]:
            del self._owners[ip]
        for ip, waiting in list(self._withheld.items()):
            if waiting.pop(name, None) is not None and not waiting:
                del self._withheld[ip]
        self._reconsider(passed)


class _Networks:
    """Which cluster has which pod networks; nodes of one cluster may share and nest them."""

    def __init__(self) -> None:
        self._exact: dict[Prefix, Counter[str]] = {}
        self._inside: dict[Prefix, Counter[str]] = {}
        """How many networks of each cluster lie in a prefix, itself included."""
        self._lengths: Counter[tuple[int, int]] = Counter()
        """How many networks there are by IP version and length: an address is looked up in these only."""

    def add(self, text: str, *, cluster: str) -> None:
        """Counts a network for `cluster`; text that is no network is ignored."""
        self._count(text, cluster, 1)

    def remove(self, text: str, *, cluster: str) -> None:
        """Takes one `add` back."""
        self._count(text, cluster, -1)

    def overlapping(self, text: str, *, cluster: str) -> str | None:
        """Returns another cluster with a network that overlaps this one."""
        prefixes = list(_prefixes(text))
        for prefix in prefixes:
            if (other := _other(self._exact.get(prefix), cluster)) is not None:
                return other
        return _other(self._inside.get(prefixes[-1]), cluster) if prefixes else None

    def foreign_owner(self, ip: str, *, cluster: str) -> str | None:
        """Returns another cluster that has a network with this address."""
        if not self._lengths:
            return None
        try:
            address = ip_address(ip)
        except ValueError:
            return None
        bits, size = int(address), address.max_prefixlen
        for version, length in self._lengths:
            if version == address.version:
                prefix = (version, length, bits >> (size - length))
                if (other := _other(self._exact.get(prefix), cluster)) is not None:
                    return other
        return None

    def _count(self, text: str, cluster: str, step: int) -> None:
        prefixes = list(_prefixes(text))
        if not prefixes:
            return
        for prefix in prefixes:
            _step(self._inside, prefix, cluster, step)
        _step(self._exact, prefixes[-1], cluster, step)
        self._lengths[prefixes[-1][:2]] += step
        self._lengths = +self._lengths


def _prefixes(text: str) -> Iterator[Prefix]:
    """Yields every prefix that holds the network `text`, the shortest first, itself last; none if it is no network."""
    network: IPv4Network | IPv6Network
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return
    bits, size = int(network.network_address), network.max_prefixlen
    for length in range(network.prefixlen + 1):
        yield network.version, length, bits >> (size - length)


def _step(table: dict[Prefix, Counter[str]], prefix: Prefix, cluster: str, step: int) -> None:
    counts = table.setdefault(prefix, Counter())
    counts[cluster] += step
    if not counts[cluster]:
        del counts[cluster]
        if not counts:
            del table[prefix]


def _other(counts: Counter[str] | None, cluster: str) -> str | None:
    return next((name for name in counts if name != cluster), None) if counts else None
