"""Whose an address is, by what clusters tell of their nodes: pod networks, and the nodes' own addresses.

A cluster that shares a backend names an address, and whoever connects to the service is sent there; so a cluster must
not name what belongs to another. Invariants: the narrowest network that holds an address decides, and where several
clusters claim that, each of them may speak for it; an address in nobody's network is everybody's to name. An address is
one look-up for each length of networks that there is, which is two or three. Rejected: asking about each pod address as
well: it is inside its node's pod network nearly everywhere, and pods come and go a thousand times as often as nodes.
"""

from collections import Counter
from ipaddress import ip_address, ip_network

from isthmus.model.endpoint import Node

_Prefix = tuple[int, int, int]  # IP version, prefix length, the prefix's bits


class Owners:
    """The networks and addresses of all clusters' nodes."""

    def __init__(self) -> None:
        self._clusters: dict[_Prefix, Counter[str]] = {}
        self._count: Counter[tuple[int, int]] = Counter()
        self._lengths: dict[int, tuple[int, ...]] = {4: (), 6: ()}  # longest first
        self._of: dict[tuple[str, str], tuple[_Prefix, ...]] = {}

    def put(self, node: Node) -> bool:
        """Adds a node or replaces it; tells whether that may change whose an address is."""
        key = (node.cluster, node.name)
        found = {prefix for text in (*node.addresses, *node.pod_cidrs) if (prefix := _prefix(text)) is not None}
        now = tuple(sorted(found))
        before = self._of.get(key, ())
        if now == before:
            return False
        self._change(node.cluster, before, -1)
        self._change(node.cluster, now, 1)
        self._of[key] = now
        return True

    def drop(self, cluster: str, name: str) -> bool:
        """Removes a node; tells whether that may change whose an address is."""
        before = self._of.pop((cluster, name), ())
        self._change(cluster, before, -1)
        return bool(before)

    def other(self, address: str, *, cluster: str) -> str | None:
        """Returns the cluster that an address belongs to, if it is not `cluster`'s or nobody's.

        `address` is canonical text.
        """
        parsed = ip_address(address)
        bits, size = int(parsed), parsed.max_prefixlen
        for length in self._lengths[parsed.version]:
            claims = self._clusters.get((parsed.version, length, bits >> (size - length)))
            if claims:
                return None if cluster in claims else min(claims)
        return None

    def _change(self, cluster: str, prefixes: tuple[_Prefix, ...], step: int) -> None:
        for prefix in prefixes:
            claims = self._clusters.setdefault(prefix, Counter())
            claims[cluster] += step
            if not claims[cluster]:
                del claims[cluster]
                if not claims:
                    del self._clusters[prefix]
            self._count[prefix[:2]] += step
        self._count = +self._count
        for version in self._lengths:
            self._lengths[version] = tuple(sorted((n for v, n in self._count if v == version), reverse=True))


def _prefix(text: str) -> _Prefix | None:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    return (
        network.version,
        network.prefixlen,
        int(network.network_address) >> (network.max_prefixlen - network.prefixlen),
    )
