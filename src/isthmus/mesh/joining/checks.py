"""What must be true of clusters before they are joined. Pure.

Invariant: a refusal names both clusters and what to change; what may be meant (networks that overlap and are translated
somewhere) is only warned of.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_network

from isthmus.kube.schema import Node
from isthmus.mesh.membership import Configuration, Membership

MAX_TOLD = 3
"""Pairs of overlapping networks that are told one by one."""


def unfit_pair(one: Configuration, other: Configuration) -> str:
    """Returns why two clusters cannot be joined, empty if they can."""
    a, b = one.cluster, other.cluster
    if a.name == b.name:
        return f"both clusters are called {a.name}; names must differ ('isthmus clustermesh enable --cluster-name')"
    if a.id == b.id:
        return f"clusters {a.name} and {b.name} have the same ID {a.id} ('isthmus clustermesh enable --cluster-id')"
    if one.max_connected != other.max_connected:
        return (
            f"clusters {a.name} and {b.name} differ in max-connected-clusters: "
            f"{one.max_connected} and {other.max_connected}"
        )
    for configuration in (one, other):
        if configuration.cluster.id > configuration.max_connected:
            limit = configuration.max_connected
            return f"cluster {configuration.cluster.name} has ID {configuration.cluster.id}, and the highest is {limit}"
    return ""


def unfit_newcomer(reader: Configuration, known: Membership, newcomer: Configuration) -> str:
    """Returns why a cluster that knows these peers cannot take another, empty if it can."""
    for peer in known.peers:
        if peer.cluster.id == newcomer.cluster.id and peer.cluster.name != newcomer.cluster.name:
            return (
                f"cluster {reader.cluster.name} is connected to {peer.cluster.name}, which has ID {peer.cluster.id} "
                f"as {newcomer.cluster.name} has"
            )
    return ""


def overlaps(one: Iterable[Node], other: Iterable[Node]) -> list[str]:
    """Returns what two clusters' nodes have both: pod networks that overlap, addresses; at most MAX_TOLD and a rest."""
    found = _networks_of_both(_pod_networks(one := list(one)), _pod_networks(other := list(other)))
    common = sorted(_addresses(one) & _addresses(other))
    told = [f"pod networks {a} and {b} overlap" for a, b in found] + [f"node address {a} is in both" for a in common]
    return told if len(told) <= MAX_TOLD else [*told[:MAX_TOLD], f"and {len(told) - MAX_TOLD} more"]


_Span = tuple[int, int, int, str]
"""IP version, first address, last address, text."""


def _pod_networks(nodes: Iterable[Node]) -> list[_Span]:
    spans = set()
    for node in nodes:
        for text in node.spec.podCIDRs or (node.spec.podCIDR,):
            try:
                network = ip_network(text, strict=False)
            except ValueError:
                continue  # none, or nothing that could overlap
            spans.add((network.version, int(network[0]), int(network[-1]), text))
    return sorted(spans)


def _networks_of_both(one: Sequence[_Span], other: Sequence[_Span]) -> list[tuple[str, str]]:
    """Sweeps over both at the same time; networks of one side that hold each other are rare, and then one is told."""
    found: list[tuple[str, str]] = []
    i = j = 0
    while i < len(one) and j < len(other):
        a, b = one[i], other[j]
        if a[0] == b[0] and a[1] <= b[2] and b[1] <= a[2]:
            found.append((a[3], b[3]))
        if (a[0], a[2]) < (b[0], b[2]):
            i += 1
        else:
            j += 1
    return found


def _addresses(nodes: Iterable[Node]) -> set[str]:
    return {a.address for node in nodes for a in node.status.addresses if a.type == "InternalIP"}
