"""What the agent has been told so far, and when that is enough to act on.

Feeds every change of the inputs (policies and what they refer to, pods of this node, namespaces, nodes, the mesh) into
the compiler. Pure but for the compiler it holds: no I/O, no clock. Invariants: nothing may be written while anything is
`missing`; a Snapshot is taken as a difference, so a relist changes only what really changed; what a cluster told is
forgotten when it leaves the set, and never because it cannot be reached; a pod is a subject only with the labels of its
namespace, and until these are known it is an address of this node that nobody knows, which fails closed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum

import msgspec

from isthmus.agent.nodes import NodeBook
from isthmus.agent.policies.book import Outcome, PolicyBook
from isthmus.agent.policies.references import ApiServers, References
from isthmus.agent.policies.reports import Report
from isthmus.agent.subjects import key_of, labels_of, own_labels, own_node, subject
from isthmus.kube.reflector import Change, Gone, Put, Snapshot
from isthmus.kube.resources import NETWORK_POLICIES, POLICY_KINDS, Resource
from isthmus.kube.schema import Bare, EndpointSlice, Node, Pod, Service
from isthmus.model.endpoint import Cluster
from isthmus.model.identity import Identity
from isthmus.model.mesh import (
    ClusterJoined,
    ClusterLeft,
    ClusterSynced,
    EndpointGone,
    EndpointTold,
    IdentityGone,
    IdentityTold,
    MeshEvent,
    NodeGone,
    NodeTold,
)
from isthmus.policy.context import Context, Use
from isthmus.policy.rules import ObjectRef, Scope
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.compiler import Compiler


class Input(Enum):
    """What must be known before anything is enforced, besides policies and the mesh."""

    PODS = "pods"
    NAMESPACES = "namespaces"
    NODE = "node"
    API_SERVERS = "addresses of the API server"


_NEEDED = {Input.PODS, Input.NAMESPACES, Input.NODE}


class View:
    """The inputs of one node's agent and the compiler they go to. For one thread.

    `earlier` are the versions of policies that an earlier run kept, as PolicyBook has it.
    """

    def __init__(
        self,
        *,
        cluster: str,
        scope: Scope,
        keep_live: bool = False,
        earlier: Mapping[ObjectRef, bytes] | None = None,
    ) -> None:
        self.cluster = cluster
        self.compiler = Compiler(World(cluster), keep_live=keep_live)
        self.references = References()
        self.book = PolicyBook(
            Context(cluster, scope, cidr_groups=self.references.groups, services=self.references.services), earlier
        )
        self.nodes = NodeBook(self.compiler, own=cluster)
        self.node_addresses: tuple[str, ...] = ()
        self.known: set[Input] = set()
        self.kinds: set[str] = set()
        """The kinds of policies that were told, or that there are none of."""
        self.clusters: dict[str, bool] = {}
        """Members of the set by name, and whether all they hold has been told."""
        self._properties: dict[str, dict[str, str]] = {}
        self._namespaces: dict[str, dict[str, str]] = {}
        self._pods: dict[str, LocalPod] = {}  # as the compiler was told
        self._homeless: dict[str, LocalPod] = {}  # pods of namespaces that are not known yet
        self._api_servers = ApiServers()

    @property
    def missing(self) -> list[str]:
        """Returns what has not been told yet, for people."""
        waiting = self._missing_here
        if self.cluster not in self.clusters:
            waiting.append(f"mesh state of {self.cluster}")
        return waiting + [f"mesh state of {name}" for name, synced in sorted(self.clusters.items()) if not synced]

    @property
    def locally_ready(self) -> bool:
        """Tells whether all is known but, perhaps, other clusters."""
        return not self._missing_here

    @property
    def able(self) -> bool:
        """Tells whether what is known is enough to enforce policies with, if it must be.

        What may be missing is a kind of policy that the API server has and does not give, what policies refer to, and
        where the API server is, which then counts as outside.
        """
        return NETWORK_POLICIES.kind in self.kinds and _NEEDED <= self.known

    @property
    def _missing_here(self) -> list[str]:
        return [
            *(str(resource) for resource in POLICY_KINDS if resource.kind not in self.kinds),
            *(f"{use.value} objects that policies refer to" for use in Use if use in self.book.waiting),
            *(source.value for source in Input if source not in self.known),
        ]

    # -- policies ----------------------------------------------------------------------------------------------

    def policies(self, change: Change[dict[str, object]], resource: Resource = NETWORK_POLICIES) -> list[Report]:
        """Takes in a change of the cluster's policies of one kind; returns what must be said about them."""
        reports = self._enforce(self.book.take(resource, change))
        if isinstance(change, Snapshot):
            self.kinds.add(resource.kind)
        return reports

    def groups(self, change: Change[dict[str, object]]) -> list[Report]:
        """Takes in a change of CiliumCIDRGroups; returns what must be said about policies."""
        return self._refer(Use.CIDR_GROUPS, self.references.on_groups(change))

    def services(self, change: Change[Service]) -> list[Report]:
        """Takes in a change of Services that policies may refer to; returns what must be said about policies."""
        return self._refer(Use.SERVICES, self.references.on_services(change))

    def slices(self, change: Change[EndpointSlice]) -> list[Report]:
        """Takes in a change of EndpointSlices of such Services; returns what must be said about policies."""
        return self._refer(Use.SERVICES, self.references.on_slices(change))

    def _refer(self, use: Use, changed: set[str]) -> list[Report]:
        if use is Use.SERVICES and not (self.references.services_known and self.references.slices_known):
            return []
        if use in self.book.known and not changed:
            return []
        return self._enforce(self.book.refer(use, changed))

    def _enforce(self, outcome: Outcome) -> list[Report]:
        if outcome.put or outcome.drop:
            self.compiler.change_policies(put=outcome.put.values(), drop=outcome.drop)
            self.nodes.select_by(self.book.node_keys.keys())
        return outcome.reports

    # -- this node ---------------------------------------------------------------------------------------------

    def pods(self, change: Change[Pod]) -> None:
        """Takes in a change of the pods that are bound to this node."""
        match change:
            case Put(pod):
                self._put_pod(pod)
            case Gone(pod):
                key = key_of(pod)
                known = self._pods.get(key) or self._homeless.get(key)
                if known is not None and known.uid == pod.metadata.uid:
                    self._drop_pod(key)
            case Snapshot(pods):
                for pod in pods:
                    self._put_pod(pod)
                present = {key_of(pod) for pod in pods}
                for key in [key for key in (*self._pods, *self._homeless) if key not in present]:
                    self._drop_pod(key)
                self.known.add(Input.PODS)

    def _put_pod(self, pod: Pod) -> None:
        local = subject(pod, cluster=self.cluster)
        if local is None:
            self._drop_pod(key_of(pod))
            return
        labels = self._namespaces.get(local.namespace)
        if labels is None:
            before = self._pods.get(local.key)
            if before is None or before.uid != local.uid:
                self._drop_pod(local.key)
                self._homeless[local.key] = local
                return
            labels = before.namespace_labels  # the namespace is going, and the pod is not gone yet
        self._settle(local, labels)

    def _settle(self, pod: LocalPod, labels: dict[str, str]) -> None:
        """Gives the compiler a pod with what its namespace and its cluster say."""
        properties = self._properties.get(self.cluster, {})
        settled = msgspec.structs.replace(pod, namespace_labels=labels, properties=properties)
        self._pods[pod.key] = settled
        self.compiler.put_pod(settled)

    def _drop_pod(self, key: str) -> None:
        self._homeless.pop(key, None)
        if self._pods.pop(key, None) is not None:
            self.compiler.drop_pod(key)

    def namespaces(self, change: Change[Bare]) -> None:
        """Takes in a change of the own cluster's Namespaces."""
        match change:
            case Put(namespace):
                self._put_namespaces((namespace,))
            case Gone(namespace):
                self._namespaces.pop(namespace.metadata.name, None)
            case Snapshot(namespaces):
                present = {namespace.metadata.name for namespace in namespaces}
                for name in [name for name in self._namespaces if name not in present]:
                    del self._namespaces[name]
                self._put_namespaces(namespaces)
                self.known.add(Input.NAMESPACES)

    def _put_namespaces(self, namespaces: Collection[Bare]) -> None:
        changed: set[str] = set()
        for namespace in namespaces:
            name, labels = namespace.metadata.name, labels_of(namespace, cluster=self.cluster)
            if self._namespaces.get(name) != labels:
                self._namespaces[name] = labels
                changed.add(name)
        if changed:
            self._settle_all(lambda pod: pod.namespace in changed)
            for key in [key for key, pod in self._homeless.items() if pod.namespace in changed]:
                pod = self._homeless.pop(key)
                self._settle(pod, self._namespaces[pod.namespace])

    def _settle_all(self, concerned: Callable[[LocalPod], bool]) -> None:
        for pod in [pod for pod in self._pods.values() if concerned(pod)]:
            self._settle(pod, self._namespaces.get(pod.namespace, pod.namespace_labels))

    def node(self, change: Change[Node]) -> None:
        """Takes in a change of this node's own object; while there is none, the last one holds."""
        nodes = change.objects if isinstance(change, Snapshot) else (change.object,) if isinstance(change, Put) else ()
        for node in nodes:
            record, pod_cidrs = own_node(node, cluster=self.cluster)
            self.compiler.set_node(addresses=record.addresses, pod_cidrs=pod_cidrs)
            self.nodes.put_own(record)
            self.node_addresses = record.addresses
            self.known.add(Input.NODE)

    def api_servers(self, change: Change[EndpointSlice]) -> None:
        """Takes in a change of EndpointSlices, of which those of the API server count."""
        self._api_servers.take(change)
        self.nodes.put_api_servers(self._api_servers.addresses)
        if isinstance(change, Snapshot):
            self.known.add(Input.API_SERVERS)

    # -- the mesh ----------------------------------------------------------------------------------------------

    def mesh(self, events: Sequence[MeshEvent]) -> None:
        """Takes in a batch of mesh events."""
        world, compiler = self.compiler.world, self.compiler
        for event in events:
            match event:
                case ClusterJoined(cluster):
                    self.clusters.setdefault(cluster.name, False)
                    self._put_properties(cluster)
                case ClusterSynced(name):
                    self.clusters[name] = True
                case ClusterLeft(name):
                    self._drop_cluster(name)
                case IdentityTold(identity):
                    compiler.put_identity(self._stamped(identity))
                case IdentityGone(_, number):
                    compiler.drop_identity(number)
                case EndpointTold(endpoint):
                    compiler.put_endpoint(endpoint)
                case EndpointGone(cluster_name, ip):
                    known = world.endpoints.get(ip)
                    if known is not None and known.cluster == cluster_name:
                        compiler.drop_endpoint(ip)
                case NodeTold(node):
                    self.nodes.put(node)
                case NodeGone(cluster_name, node_name):
                    self.nodes.drop(cluster_name, node_name)

    def _drop_cluster(self, name: str) -> None:
        world, compiler = self.compiler.world, self.compiler
        self.clusters.pop(name, None)
        self._properties.pop(name, None)
        for ip in [ip for ip, endpoint in world.endpoints.items() if endpoint.cluster == name]:
            compiler.drop_endpoint(ip)
        for identity in self._identities_of(name):
            compiler.drop_identity(identity.number)
        self.nodes.drop_cluster(name)

    def _identities_of(self, cluster: str) -> list[Identity]:
        """Returns the identities of a cluster's pods."""
        return [one for one in self.compiler.world.identities.values() if one.is_pod and one.cluster == cluster]

    def _put_properties(self, cluster: Cluster) -> None:
        """Takes in the ClusterProperties of a cluster, which its pods and nodes are selected by."""
        if self._properties.get(cluster.name, {}) == cluster.properties:
            return
        self._properties[cluster.name] = cluster.properties
        for identity in self._identities_of(cluster.name):
            self.compiler.put_identity(self._stamped(identity))
        self.nodes.put_properties(cluster.name, cluster.properties)
        if cluster.name == self.cluster:
            self._settle_all(lambda _: True)

    def _stamped(self, identity: Identity) -> Identity:
        """Returns the identity with what only its cluster can say of it, and without what nobody else may."""
        properties = self._properties.get(identity.cluster, {})
        labels, namespace_labels = own_labels(identity.labels), own_labels(identity.namespace_labels)
        if len(labels) == len(identity.labels) and len(namespace_labels) == len(identity.namespace_labels):
            if identity.properties == properties:
                return identity
            labels, namespace_labels = identity.labels, identity.namespace_labels
        return msgspec.structs.replace(
            identity, labels=labels, namespace_labels=namespace_labels, properties=properties
        )
