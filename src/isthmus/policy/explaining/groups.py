"""Pods, and addresses outside, that no policy tells apart, under one name.

Invariant: what is found for one member of a group holds for all of them, for every peer that is a pod or outside. What
depends on the node (a pod and its own node) is asked of members one by one. Rejected: grouping by workload alone, which
hides the pod that somebody labelled by hand.
"""

import itertools
from collections.abc import Iterable, Sequence
from ipaddress import ip_network

import msgspec

from isthmus.model.endpoint import NamedPort, family_of
from isthmus.model.identity import THE_WORLD, Identity
from isthmus.policy.explaining.facts import PodSeen
from isthmus.policy.explaining.networks import Networks, named_networks, representatives
from isthmus.policy.explaining.scene import Scene, is_api_server, look_of, node_identity, pod_identity
from isthmus.policy.rules import NodePeer

MOST_NAMED = 3
MOST_OUTSIDE = 256
"""Networks outside that are looked at on their own."""

_OUTSIDE = {4: ("192.0.2.1", "198.51.100.1", "203.0.113.1"), 6: ("2001:db8::1", "2001:db8:ffff::1", "3fff::1")}
"""Addresses that nobody has (RFC 5737, RFC 3849, RFC 9637), to stand for one that no policy names."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Members that look the same: pods of `cluster`, or (with no pods) addresses outside, of which `ips` has one."""

    name: str
    identity: Identity
    cluster: str = ""
    pods: tuple[PodSeen, ...] = ()
    ips: tuple[str, ...] = ()
    named_ports: tuple[NamedPort, ...] = ()
    to_own_cluster: Identity | None = None
    """What it is to pods of its own cluster, where that is something else: the API server."""

    @property
    def families(self) -> frozenset[int]:
        """Returns 4, 6 or both."""
        return frozenset(map(family_of, self.ips))

    @property
    def namespace(self) -> str:
        """Returns the namespace of its pods."""
        return self.identity.namespace


class Grouping:
    """How pods are told apart, given all `scenes` that are compared."""

    def __init__(self, *scenes: Scene) -> None:
        self.scenes = scenes
        policies = [p for scene in scenes for found in scene.policies.values() for p in found.values()]
        self._near = Networks(named_networks(policies, pods=True))
        self._named = Networks(named_networks(policies, pods=False))
        self._keys = frozenset().union(*(scene.keys for scene in scenes))
        first = scenes[0]
        clusters = first.clusters.values()
        self._pod_networks = Networks(
            ip_network(text) for cluster in clusters for node in cluster.nodes for text in node.pod_cidrs
        )
        self._taken = {*first.pods_by_ip, *first.nodes_by_ip, *(ip for one in clusters for ip in one.api_servers)}
        self._node_keys = {
            term.key
            for policy in policies
            for rule in policy.rules
            for peer in rule.peers or ()
            if isinstance(peer, NodePeer)
            for term in peer.selector.terms
        }

    def pods(self, wanted: Iterable[tuple[str, PodSeen]]) -> list[Group]:
        """Returns the groups of pods, given with their clusters, in the order of their names."""
        scene = self.scenes[0]
        left_out = scene.picture.incidental - self._keys
        found: dict[object, list[tuple[str, PodSeen]]] = {}
        for cluster, pod in wanted:
            if pod.host_network or not pod.ips:
                continue
            networks = tuple(self._near.holding(ip) for ip in pod.ips)
            families = frozenset(map(family_of, pod.ips))
            look = look_of(cluster, pod, left_out)
            found.setdefault((look, pod.named_ports, networks, families), []).append((cluster, pod))
        groups = [self._group(members, left_out) for members in found.values()]
        return _told_apart(sorted(groups, key=lambda group: (group.cluster, group.namespace, group.name)))

    def _group(self, members: Sequence[tuple[str, PodSeen]], left_out: frozenset[str]) -> Group:
        cluster, first = members[0]
        pods = tuple(pod for _, pod in members)
        owners = list(dict.fromkeys(pod.owner for pod in pods))
        names = ", ".join(owners[:MOST_NAMED]) + (f" and {len(owners) - MOST_NAMED} more" if owners[3:] else "")
        return Group(
            name=f"{cluster}:{first.namespace}/{names}",
            identity=pod_identity(self.scenes[0].clusters[cluster], first, left_out),
            cluster=cluster,
            pods=pods,
            ips=first.ips,
            named_ports=first.named_ports,
        )

    def nodes(self) -> list[Group]:
        """Returns the nodes as pods of other nodes see them, those of a cluster that look the same as one group."""
        scene = self.scenes[0]
        found: dict[object, tuple[Group, list[str]]] = {}
        for cluster in scene.picture.clusters:
            for node in cluster.nodes:
                if not node.addresses:
                    continue
                at_api = is_api_server(cluster, node)
                families = frozenset(map(family_of, node.addresses))
                near = tuple(self._near.holding(ip) for ip in node.addresses)
                look = (cluster.name, at_api, near, families, self._seen(node.labels))
                if look not in found:
                    group = Group(
                        name="",
                        identity=node_identity(cluster, node),
                        cluster=cluster.name,
                        ips=node.addresses,
                        to_own_cluster=node_identity(cluster, node, api_server=True) if at_api else None,
                    )
                    found[look] = group, []
                found[look][1].append(node.name)
        return [
            msgspec.structs.replace(group, name=f"{group.cluster}:node/{names[0]}{_and_more(names)}")
            for group, names in found.values()
        ]

    def _seen(self, labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
        """Returns the labels of a node that rules select on."""
        return tuple(sorted((key, value) for key, value in labels.items() if key in self._node_keys))

    def outside(self) -> list[Group]:
        """Returns a group for each network that policies name, and one for every other address."""
        rest = tuple(ip for family in (4, 6) if (ip := self._nowhere(family)))
        groups = [Group(name="outside", identity=THE_WORLD, ips=rest)] if rest else []
        wide = (found for found in representatives(self._named, self._is_outside) if found[1].prefixlen)
        for ip, network in itertools.islice(wide, MOST_OUTSIDE):
            groups.append(Group(name=f"outside {network}", identity=THE_WORLD, ips=(ip,)))
        return groups

    def _nowhere(self, family: int) -> str:
        return next((ip for ip in _OUTSIDE[family] if self._is_outside(ip) and not self._narrow(ip)), "")

    def _narrow(self, ip: str) -> bool:
        return any(self._named.all[number].prefixlen for number in self._named.holding(ip))

    def _is_outside(self, ip: str) -> bool:
        """Tells whether nobody has an address, and no node gives it to its pods."""
        return ip not in self._taken and not self._pod_networks.holding(ip)


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _told_apart(groups: list[Group]) -> list[Group]:
    """Gives groups of the same name what tells them apart."""
    by_name: dict[str, list[Group]] = {}
    for group in groups:
        by_name.setdefault(group.name, []).append(group)
    result = []
    for group in groups:
        same = by_name[group.name]
        if len(same) > 1:
            common = set.intersection(*(set(other.identity.labels.items()) for other in same))
            own = sorted(set(group.identity.labels.items()) - common)
            words = ",".join(f"{key}={value}" for key, value in own) or ", ".join(pod.name for pod in group.pods[:2])
            group = msgspec.structs.replace(group, name=f"{group.name} ({words})")
        result.append(group)
    return result
