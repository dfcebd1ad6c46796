"""Whose an address is agrees with looking at every network of every node."""

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent.across.ownership import Owners
from isthmus.model.endpoint import Node

ADDRESSES = ("10.0.0.1", "10.0.0.130", "10.0.1.1", "10.1.0.1", "fd00::1", "fd00:0:0:1::1")
NETWORKS = ("10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24", "10.0.0.128/25", "10.0.0.1/32", "fd00::/64", "fd00::/48", "?")

_node = st.builds(
    Node,
    cluster=st.sampled_from(["east", "west", "north"]),
    name=st.sampled_from("ab"),
    addresses=st.lists(st.sampled_from(ADDRESSES), max_size=2).map(tuple),
    pod_cidrs=st.lists(st.sampled_from(NETWORKS), max_size=3).map(tuple),
)


def _plainly(nodes: list[Node], address: str, cluster: str) -> str | None:
    claims: dict[int, set[str]] = {}
    for node in nodes:
        for text in (*node.addresses, *(text for text in node.pod_cidrs if text != "?")):
            network = ip_network(text)
            if ip_address(address) in network:
                claims.setdefault(network.prefixlen, set()).add(node.cluster)
    owners = claims[max(claims)] if claims else {cluster}
    return None if cluster in owners else min(owners)


@given(st.lists(st.tuples(st.booleans(), _node), max_size=20))
def test_the_narrowest_network_decides_whatever_came_and_went_before(changes: list[tuple[bool, Node]]):
    owners, nodes = Owners(), {}
    for comes, node in changes:
        if comes:
            owners.put(node)
            assert owners.put(node) is False
            nodes[node.cluster, node.name] = node
        else:
            owners.drop(node.cluster, node.name)
            nodes.pop((node.cluster, node.name), None)

    for address in ADDRESSES:
        for cluster in ("east", "west", "south"):
            assert owners.other(address, cluster=cluster) == _plainly(list(nodes.values()), address, cluster)
