"""What the agent has been told so far, and when that is enough to act on.

Feeds every change of the inputs (policies, pods of this node, the node, the mesh) into the compiler. Pure but for the
compiler it holds: no I/O, no clock. Invariants: nothing may be written while anything is `missing`; a Snapshot is
taken as a difference, so a relist changes only what really changed; what a cluster told is forgotten when it leaves
the set, and never because it cannot be reached.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

import msgspec

from isthmus.agent.subjects import key_of, own_node, subject
from isthmus.kube.reflector import Change, Gone, Put, Snapshot
from isthmus.kube.schema import Node, Pod
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
from isthmus.policy.networkpolicy import identify, parse
from isthmus.policy.rules import ObjectRef, Policy, Problem, Scope
from isthmus.policy.world import World
from isthmus.ruleset.compiler import Compiler


class Input(Enum):
    """What must be known before anything is enforced."""

    POLICIES = "policies"
    PODS = "pods"
    NODE = "node"
    MESH = "mesh"


class Report(msgspec.Struct, frozen=True):
    """Something a user must hear of an object: its problems (none = they are mended)."""

    ref: ObjectRef
    problems: tuple[Problem, ...]


class View:
    """The inputs of one node's agent and the compiler they go to. For one thread."""

    def __init__(self, *, cluster: str, scope: Scope) -> None:
        self.cluster = cluster
        self.scope = scope
        self.compiler = Compiler(World(cluster))
        self.node_addresses: tuple[str, ...] = ()
        self.known: set[Input] = set()
        self.clusters: dict[str, bool] = {}
        """Members of the set by name, and whether all they hold has been told."""
        self.nodes: dict[str, set[str]] = {}
        """The names of each member's nodes."""
        self._problems: dict[tuple[str, str], tuple[Problem, ...]] = {}

    @property
    def missing(self) -> list[str]:
        """Returns what has not been told yet, for people."""
        waiting = [source.value for source in Input if source not in self.known and source is not Input.MESH]
        if self.cluster not in self.clusters:
            waiting.append(f"mesh state of {self.cluster}")
        return waiting + [f"mesh state of {name}" for name, synced in sorted(self.clusters.items()) if not synced]

    @property
    def locally_ready(self) -> bool:
        """Tells whether all is known but, perhaps, other clusters."""
        return {Input.POLICIES, Input.PODS, Input.NODE} <= self.known

    # -- policies ----------------------------------------------------------------------------------------------

    def policies(self, change: Change[dict[str, object]]) -> list[Report]:
        """Takes in a change of the cluster's NetworkPolicies; returns what must be said about them."""
        match change:
            case Put(obj):
                return self._change_policies((obj,))
            case Gone(obj):
                ref = identify(obj)
                self._change_policies((), gone=(ref,) if ref is not None else ())
                return []
            case Snapshot(objects):
                present = {_place(ref) for ref in map(identify, objects) if ref is not None}
                gone = [ref for ref in self.compiler.world.policies if _place(ref) not in present]
                reports = self._change_policies(objects, gone=gone)
                self.known.add(Input.POLICIES)
                return reports

    def _change_policies(
        self, objects: Iterable[Mapping[str, object]], *, gone: Sequence[ObjectRef] = ()
    ) -> list[Report]:
        for ref in gone:
            self._problems.pop(_place(ref), None)
        policies: dict[tuple[str, str], Policy] = {}
        reports: list[Report] = []
        for obj in objects:
            try:
                policy = parse(obj, cluster=self.cluster, scope=self.scope)
            except ValueError as error:
                reports.append(Report(ObjectRef("NetworkPolicy", "", "(unnamed)"), (Problem("metadata", str(error)),)))
                continue
            place = _place(policy.ref)
            before = self._problems.pop(place, ())
            if policy.problems:
                self._problems[place] = policy.problems
            if before != policy.problems:
                reports.append(Report(policy.ref, policy.problems))
            policies[place] = policy
        known = self.compiler.world.policies
        put = [policy for policy in policies.values() if known.get(policy.ref) != policy]
        if put or gone:
            self.compiler.change_policies(put=put, drop=gone)
        return reports

    @property
    def faulty(self) -> int:
        """Returns how many policies have problems."""
        return len(self._problems)

    # -- this node ---------------------------------------------------------------------------------------------

    def pods(self, change: Change[Pod]) -> None:
        """Takes in a change of the pods that are bound to this node."""
        match change:
            case Put(pod):
                self._put_pod(pod)
            case Gone(pod):
                known = self.compiler.world.pods.get(key_of(pod))
                if known is not None and known.uid == pod.metadata.uid:
                    self.compiler.drop_pod(known.key)
            case Snapshot(pods):
                for pod in pods:
                    self._put_pod(pod)
                present = {key_of(pod) for pod in pods}
                for key in [key for key in self.compiler.world.pods if key not in present]:
                    self.compiler.drop_pod(key)
                self.known.add(Input.PODS)

    def _put_pod(self, pod: Pod) -> None:
        local = subject(pod, cluster=self.cluster)
        if local is not None:
            self.compiler.put_pod(local)
        else:
            self.compiler.drop_pod(key_of(pod))

    def node(self, change: Change[Node]) -> None:
        """Takes in a change of this node's own object; while there is none, the last one holds."""
        nodes = change.objects if isinstance(change, Snapshot) else (change.object,) if isinstance(change, Put) else ()
        for node in nodes:
            addresses, pod_cidrs = own_node(node, cluster=self.cluster)
            self.compiler.set_node(addresses=addresses, pod_cidrs=pod_cidrs)
            self.node_addresses = addresses
            self.known.add(Input.NODE)

    # -- the mesh ----------------------------------------------------------------------------------------------

    def mesh(self, events: Sequence[MeshEvent]) -> None:
        """Takes in a batch of mesh events."""
        world, compiler = self.compiler.world, self.compiler
        for event in events:
            match event:
                case ClusterJoined(cluster):
                    self.clusters.setdefault(cluster.name, False)
                case ClusterSynced(name):
                    self.clusters[name] = True
                    if name == self.cluster:
                        self.known.add(Input.MESH)
                case ClusterLeft(name):
                    self.clusters.pop(name, None)
                    self.nodes.pop(name, None)
                    for ip in [ip for ip, endpoint in world.endpoints.items() if endpoint.cluster == name]:
                        compiler.drop_endpoint(ip)
                    for number in [n for n, identity in world.identities.items() if identity.cluster == name]:
                        compiler.drop_identity(number)
                case IdentityTold(identity):
                    compiler.put_identity(identity)
                case IdentityGone(_, number):
                    compiler.drop_identity(number)
                case EndpointTold(endpoint):
                    compiler.put_endpoint(endpoint)
                case EndpointGone(cluster_name, ip):
                    known = world.endpoints.get(ip)
                    if known is not None and known.cluster == cluster_name:
                        compiler.drop_endpoint(ip)
                case NodeTold(node):  # a plain address to NetworkPolicy
                    self.nodes.setdefault(node.cluster, set()).add(node.name)
                case NodeGone(cluster_name, node_name):
                    self.nodes.get(cluster_name, set()).discard(node_name)


def _place(ref: ObjectRef) -> tuple[str, str]:
    return ref.namespace, ref.name
