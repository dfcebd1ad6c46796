"""The picture made ready for judging: policies read, identities given, and the world of any node on demand.

Identities are given as a tracker's importer gives them, with the same result for every verdict: a label that is left
out is one that no policy of the ClusterSet selects on. Invariants: a Scene never changes; its worlds share identities
and endpoints, so a node costs its own pods and nothing else. Rejected: one world for a cluster: own nodes differ.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from ipaddress import ip_network

import msgspec

from isthmus.model.endpoint import Endpoint
from isthmus.model.identity import FIRST_NODE, HOST, THE_API_SERVER, Identity
from isthmus.model.labels import stamp
from isthmus.policy import parsing
from isthmus.policy.context import Context, Parsed, ServiceFacts
from isthmus.policy.explaining.facts import ClusterSeen, NodeSeen, Object, Picture, PodSeen, place
from isthmus.policy.rules import EndpointPeer, ObjectRef, Peer, PodPeer, Policy, Problem
from isthmus.policy.world import LocalPod, World

Look = tuple[str, str, tuple[tuple[str, str], ...], str]
"""Cluster, namespace, labels that count, service account."""


class Unreadable(msgspec.Struct, frozen=True):
    """An object that is no policy we can tell from others, and why."""

    cluster: str
    ref: ObjectRef
    reason: str


class Scene:
    """What a picture means to policy. What `reuse` has read already, and is the same, is not read again."""

    def __init__(self, picture: Picture, *, reuse: "Scene | None" = None) -> None:
        self.picture = picture
        self._reuse = reuse
        self._read_as: dict[tuple[str, int], Parsed] = {}
        """What was read, by cluster and id of the object, which the picture keeps alive."""
        self.clusters = {cluster.name: cluster for cluster in picture.clusters}
        self.parsed: dict[str, list[Parsed]] = {}
        self.objects: dict[tuple[str, str, str, str], Object] = {}
        """Objects by cluster, kind, namespace and name."""
        self.unreadable: list[Unreadable] = []
        for cluster in picture.clusters:
            self.parsed[cluster.name] = list(self._read(cluster))
        self._reuse = None  # it is not to be kept alive for this
        self.policies: dict[str, dict[ObjectRef, Policy]] = {
            name: {policy.ref: policy for parsed in found for policy in parsed.policies}
            for name, found in self.parsed.items()
        }
        self._worlds: dict[tuple[str, str], World] = {}
        self._numbers: dict[Look, int] = {}
        self.identities: dict[int, Identity] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.pods_by_ip: dict[str, tuple[str, PodSeen]] = {}
        self.nodes_by_ip: dict[str, tuple[str, NodeSeen]] = {}
        self._node_numbers: dict[tuple[str, str], int] = {}
        for cluster in picture.clusters:
            for pod in cluster.pods:
                self._place(cluster, pod)
            self._place_nodes(cluster)

    # -- policies ----------------------------------------------------------------------------------------------

    def _read(self, cluster: ClusterSeen) -> Iterator[Parsed]:
        context = context_of(cluster)
        before = self._reuse.clusters.get(cluster.name) if self._reuse is not None else None
        same = before is not None and _about(before) == _about(cluster)
        for obj in cluster.policies:
            known = self._reuse._read_as.get((cluster.name, id(obj))) if self._reuse is not None and same else None
            try:
                parsed = known or parsing.read(obj, context)
            except ValueError as error:
                self.unreadable.append(Unreadable(cluster.name, ObjectRef(*place(obj)), str(error)))
                continue
            ref = parsed.ref
            self.objects[cluster.name, ref.kind, ref.namespace, ref.name] = obj
            self._read_as[cluster.name, id(obj)] = parsed
            yield parsed

    def object_of(self, cluster: str, ref: ObjectRef) -> Object | None:
        """Returns the API object behind a policy."""
        return self.objects.get((cluster, ref.kind, ref.namespace, ref.name))

    def problems_of(self, cluster: str, ref: ObjectRef) -> tuple[Problem, ...]:
        """Returns all that is wrong with the object behind a policy."""
        return self._problems.get((cluster, ref.kind, ref.namespace, ref.name), ())

    @cached_property
    def _problems(self) -> dict[tuple[str, str, str, str], tuple[Problem, ...]]:
        return {
            (cluster, parsed.ref.kind, parsed.ref.namespace, parsed.ref.name): parsed.problems
            for cluster, found in self.parsed.items()
            for parsed in found
        }

    @cached_property
    def keys(self) -> frozenset[str]:
        """Returns the keys of pod labels that policies select on."""
        found: set[str] = set()
        for policies in self.policies.values():
            for policy in policies.values():
                found.update(_keys(policy.subject))
                for rule in policy.rules:
                    for peer in rule.peers or ():
                        found.update(_keys(peer))
        return frozenset(found)

    # -- who is who --------------------------------------------------------------------------------------------

    def number_of(self, cluster: str, pod: PodSeen) -> int:
        """Returns the number of a pod's identity; pods that look the same have the same."""
        left_out = self.picture.incidental - self.keys
        look = look_of(cluster, pod, left_out)
        number = self._numbers.get(look)
        if number is None:
            # Beyond the numbers that are reserved, and far below those of nodes.
            number = self._numbers[look] = 256 + len(self._numbers)
            self.identities[number] = pod_identity(self.clusters[cluster], pod, left_out, number=number)
        return number

    def _place(self, cluster: ClusterSeen, pod: PodSeen) -> None:
        if pod.host_network:
            return
        number = self.number_of(cluster.name, pod)
        for ip in pod.ips:
            known = self.pods_by_ip.get(ip)
            if known is not None and (known[1].standing, known[1].uid, known[1].name) >= (
                pod.standing,
                pod.uid,
                pod.name,
            ):
                continue
            self.pods_by_ip[ip] = cluster.name, pod
            self.endpoints[ip] = Endpoint(
                cluster.name, ip, number, pod.namespace, pod.name, pod.uid, pod.node, named_ports=pod.named_ports
            )

    def _place_nodes(self, cluster: ClusterSeen) -> None:
        for node in cluster.nodes:
            number = self._node_numbers[cluster.name, node.name] = FIRST_NODE + len(self._node_numbers)
            self.identities[number] = node_identity(cluster, node, number=number)
            for ip in node.addresses:
                self.nodes_by_ip.setdefault(ip, (cluster.name, node))

    # -- worlds ------------------------------------------------------------------------------------------------

    def world(self, cluster: str, node: str) -> World:
        """Returns the world as a node of a cluster sees it; `node` "" is one that nobody knows, without addresses."""
        found = self._worlds.get((cluster, node))
        if found is None:
            found = self._worlds[cluster, node] = self._world(self.clusters[cluster], node)
        return found

    def _world(self, cluster: ClusterSeen, name: str) -> World:
        node = next((node for node in cluster.nodes if node.name == name), NodeSeen(name=name))
        own = frozenset(node.addresses)
        identities = dict(self.identities)
        nodes = {ip: THE_API_SERVER.number for ip in cluster.api_servers if ip not in own}
        # Of two nodes that claim an address the own cluster's has it.
        for seen in sorted(self.picture.clusters, key=lambda other: other is cluster):
            for other in seen.nodes:
                number = self._node_numbers[seen.name, other.name]
                nodes.update((ip, number) for ip in other.addresses if ip not in own)
                if seen is cluster and is_api_server(cluster, other):
                    identities[number] = node_identity(cluster, other, number=number, api_server=True)
        words = ("host", "kube-apiserver") if is_api_server(cluster, node) else ("host",)
        identities[HOST] = Identity(
            HOST, cluster.name, "", node.labels, {}, properties=cluster.properties, reserved=words
        )
        pods = {pod.key: local_pod(cluster, pod) for pod in cluster.pods if pod.node == name and not pod.host_network}
        return World(
            cluster.name,
            policies=self.policies[cluster.name],
            pods=pods,
            identities=identities,
            endpoints=self.endpoints,
            node_addresses=own,
            pod_cidrs=tuple(ip_network(text) for text in node.pod_cidrs),
            nodes=nodes,
        )


def _about(cluster: ClusterSeen) -> ClusterSeen:
    """Returns what the reading of policies depends on besides them."""
    return ClusterSeen(
        name=cluster.name, scope=cluster.scope, services=cluster.services, cidr_groups=cluster.cidr_groups
    )


def look_of(cluster: str, pod: PodSeen, left_out: frozenset[str]) -> Look:
    """Returns what of a pod policies can see, without the labels `left_out`: those that make every pod unique."""
    labels = tuple(sorted((key, value) for key, value in pod.labels.items() if key not in left_out))
    return cluster, pod.namespace, labels, pod.service_account


def pod_identity(cluster: ClusterSeen, pod: PodSeen, left_out: frozenset[str], *, number: int = 0) -> Identity:
    """Returns the identity of all pods that look like this one."""
    _, namespace, labels, account = look_of(cluster.name, pod, left_out)
    spaces = cluster.namespaces.get(namespace, {})
    return Identity(number, cluster.name, namespace, dict(labels), spaces, account, cluster.properties)


def is_api_server(cluster: ClusterSeen, node: NodeSeen) -> bool:
    """Tells whether the API server of a cluster is on one of its nodes."""
    return not set(node.addresses).isdisjoint(cluster.api_servers)


def node_identity(cluster: ClusterSeen, node: NodeSeen, *, number: int = 0, api_server: bool = False) -> Identity:
    """Returns what a node is to pods of other nodes; to those of its own cluster it may be the API server besides."""
    words = ("kube-apiserver", "remote-node") if api_server else ("remote-node",)
    return Identity(number, cluster.name, "", node.labels, {}, properties=cluster.properties, reserved=words)


def context_of(cluster: ClusterSeen) -> Context:
    """Returns what the policies of a cluster are read against."""
    return Context(
        cluster.name,
        cluster.scope,
        {group.name: group for group in cluster.cidr_groups},
        {
            (service.namespace, service.name): ServiceFacts(
                service.namespace,
                service.name,
                service.labels,
                service.selector,
                () if service.selector is not None else service.backends,
            )
            for service in cluster.services
        },
    )


def local_pod(cluster: ClusterSeen, pod: PodSeen) -> LocalPod:
    """Returns a pod as the policies of its cluster can have it as their subject."""
    return LocalPod(
        pod.namespace,
        pod.name,
        pod.uid,
        stamp(pod.labels, cluster=cluster.name),
        pod.ips,
        pod.named_ports,
        pod.standing,
        cluster.namespaces.get(pod.namespace, {}),
        pod.service_account,
        cluster.properties,
    )


def _keys(peer: Peer) -> Iterable[str]:
    match peer:
        case PodPeer(pods=selector) | EndpointPeer(selector=selector):
            return [term.key for term in selector.terms]
        case _:
            return ()
