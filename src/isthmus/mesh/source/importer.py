"""One cluster's pods, namespaces and nodes -> mesh events. Pure: a state machine without I/O or clock.

Why: everything that makes a mesh wrong in a dangerous way happens here, so it is all in one testable place. Invariants:
- what is told says the cluster's name because we read it from that cluster, never because an object claims it;
- the result depends only on the objects as they are now, not on the order in which they came (but for the numbers of
  identities), so a replay and a relist agree with what was told event by event;
- an address has at most one endpoint. If several pods claim it, `PodFacts.claim` decides, and the loser takes over
  when the winner lets go; a delete counts only for the pod (by UID) that it speaks of;
- a pod whose namespace is not known yet has no endpoint: its identity would be a guess;
- the order that `isthmus.model.mesh` promises: identity, then endpoint; the last endpoint, then no identity.

Rejected: reacting to each kind of change with its own code path (update the endpoint, the identity, the owner). Every
change only says which addresses to look at again, and one function makes told state and wanted state agree.
"""

from collections.abc import Iterable, Sequence

from isthmus.kube.schema import Namespace, Node, Pod
from isthmus.kube.watch import Change, Gone, Put, Snapshot
from isthmus.mesh.source.identities import Allocator, Exhausted, LabelFilter, Looks
from isthmus.mesh.source.objects import PodFacts, foreign_claims, namespace_labels, node_facts, pod_facts
from isthmus.mesh.source.reports import NO_IDENTITY, SHARED_ADDRESS, Report, Reports
from isthmus.model import endpoint
from isthmus.model.endpoint import Cluster, Endpoint
from isthmus.model.mesh import EndpointGone, EndpointTold, IdentityGone, IdentityTold, MeshEvent, NodeGone, NodeTold

PodKey = tuple[str, str]
"""(namespace, name)."""


class Importer:
    """Holds what a cluster is known to contain and what was told of it. Each method returns the events to tell."""

    def __init__(
        self, cluster: Cluster, *, label_filter: LabelFilter | None = None, allocator: Allocator | None = None
    ) -> None:
        self.cluster = cluster
        self.allocator = Allocator(cluster) if allocator is None else allocator
        self._filter = label_filter or LabelFilter()
        self._reports = Reports()
        self._namespaces: dict[str, dict[str, str]] = {}
        self._uids: dict[str, str] = {}
        """UIDs of the namespaces."""
        self._pods: dict[PodKey, PodFacts] = {}
        self._pods_in: dict[str, set[PodKey]] = {}
        self._claims: dict[str, set[PodKey]] = {}
        """The pods that claim each address."""
        self._told: dict[str, Endpoint] = {}
        self._nodes: dict[str, endpoint.Node] = {}
        self._starved: dict[str, PodKey] = {}
        """Addresses whose pods found no number, and the pods."""
        self._disputed: dict[str, PodKey] = {}
        """Addresses that two living pods claim, and the pod that does not have it."""

    @property
    def counts(self) -> dict[str, int]:
        """Returns how much of each kind there is, for metrics; `waiting` are claimed addresses without endpoint."""
        return {
            "namespaces": len(self._namespaces),
            "pods": len(self._pods),
            "nodes": len(self._nodes),
            "identities": len(self.allocator),
            "endpoints": len(self._told),
            "waiting": len(self._claims) - len(self._told),
        }

    def reports(self) -> list[Report]:
        """Returns the problems that were found since the last call."""
        return self._reports.take()

    def settle(self) -> None:
        """Everything that the cluster held at the start has been put in."""
        self.allocator.settle()

    def select(self, keys: Iterable[str]) -> list[MeshEvent]:
        """Takes the label keys that policies anywhere in the mesh select on."""
        changed = self._filter.selecting(keys)
        if changed == self._filter:
            return []
        affected = changed.selected ^ self._filter.selected
        self._filter = changed
        touched = {key for key, facts in self._pods.items() if not affected.isdisjoint(facts.labels)}
        return self._agree(ip for key in sorted(touched) for ip in self._pods[key].ips)

    # -- pods --------------------------------------------------------------------------------------------------

    def pods(self, change: Change[Pod]) -> list[MeshEvent]:
        """Takes a change of the cluster's pods."""
        touched: dict[str, None] = {}
        match change:
            case Put(pod):
                self._put_pod(pod, touched)
            case Gone(pod):
                key = (pod.metadata.namespace, pod.metadata.name)
                known = self._pods.get(key)
                if known is None or known.uid == pod.metadata.uid:
                    self._drop_pod(key, touched)
                    self._reports.forget("Pod", *key)
            case Snapshot(pods):
                return self.retain_pods(pods) + self.put_pods(pods)
        return self._agree(touched)

    def retain_pods(self, pods: Sequence[Pod]) -> list[MeshEvent]:
        """Drops the pods that are not among `pods`: the first half of taking a snapshot."""
        touched: dict[str, None] = {}
        present = {(pod.metadata.namespace, pod.metadata.name) for pod in pods}
        for key in [key for key in self._pods if key not in present]:
            self._drop_pod(key, touched)
        self._reports.retain("Pod", present)
        return self._agree(touched)

    def put_pods(self, pods: Sequence[Pod]) -> list[MeshEvent]:
        """Takes pods in: the second half of taking a snapshot, which may be done in pieces."""
        touched: dict[str, None] = {}
        for pod in pods:
            self._put_pod(pod, touched)
        return self._agree(touched)

    def _put_pod(self, pod: Pod, touched: dict[str, None]) -> None:
        key = (pod.metadata.namespace, pod.metadata.name)
        facts, problems = pod_facts(pod)
        problems += foreign_claims(pod.metadata.labels, cluster=self.cluster.name)
        self._reports.tell("Pod", *key, problems)
        if facts is not None and facts == self._pods.get(key):
            return
        self._drop_pod(key, touched)
        if facts is None:
            return
        self._pods[key] = facts
        self._pods_in.setdefault(facts.namespace, set()).add(key)
        for ip in facts.ips:
            self._claims.setdefault(ip, set()).add(key)
            touched[ip] = None

    def _drop_pod(self, key: PodKey, touched: dict[str, None]) -> None:
        facts = self._pods.pop(key, None)
        if facts is None:
            return
        siblings = self._pods_in[facts.namespace]
        siblings.discard(key)
        if not siblings:
            del self._pods_in[facts.namespace]
        for ip in facts.ips:
            claims = self._claims[ip]
            claims.discard(key)
            if not claims:
                del self._claims[ip]
            touched[ip] = None

    # -- namespaces --------------------------------------------------------------------------------------------

    def namespaces(self, change: Change[Namespace]) -> list[MeshEvent]:
        """Takes a change of the cluster's namespaces."""
        touched: list[str] = []
        match change:
            case Put(namespace):
                self._put_namespace(namespace, touched)
            case Gone(namespace):
                name = namespace.metadata.name
                if self._uids.get(name) == namespace.metadata.uid:
                    self._drop_namespace(name, touched)
            case Snapshot(namespaces):
                present = {namespace.metadata.name for namespace in namespaces}
                for name in [name for name in self._namespaces if name not in present]:
                    self._drop_namespace(name, touched)
                for namespace in namespaces:
                    self._put_namespace(namespace, touched)
        keys = (key for name in touched for key in sorted(self._pods_in.get(name, ())))
        return self._agree(ip for key in keys for ip in self._pods[key].ips)

    def _put_namespace(self, namespace: Namespace, touched: list[str]) -> None:
        name = namespace.metadata.name
        found, problems = namespace_labels(namespace, cluster=self.cluster.name)
        self._reports.tell("Namespace", "", name, problems)
        self._uids[name] = namespace.metadata.uid
        if self._namespaces.get(name) != found:
            self._namespaces[name] = found
            touched.append(name)

    def _drop_namespace(self, name: str, touched: list[str]) -> None:
        del self._namespaces[name], self._uids[name]
        self._reports.forget("Namespace", "", name)
        touched.append(name)

    # -- nodes -------------------------------------------------------------------------------------------------

    def nodes(self, change: Change[Node]) -> list[MeshEvent]:
        """Takes a change of the cluster's nodes."""
        match change:
            case Put(node):
                return self._put_node(node)
            case Gone(node):
                return self._drop_node(node.metadata.name)
            case Snapshot(nodes):
                present = {node.metadata.name for node in nodes}
                gone = [name for name in self._nodes if name not in present]
                events = [event for name in gone for event in self._drop_node(name)]
                return events + [event for node in nodes for event in self._put_node(node)]

    def _put_node(self, node: Node) -> list[MeshEvent]:
        name = node.metadata.name
        record, problems = node_facts(node, cluster=self.cluster.name)
        problems += foreign_claims(node.metadata.labels, cluster=self.cluster.name)
        self._reports.tell("Node", "", name, problems)
        if self._nodes.get(name) == record:
            return []
        self._nodes[name] = record
        return [NodeTold(record)]

    def _drop_node(self, name: str) -> list[MeshEvent]:
        self._reports.forget("Node", "", name)
        return [NodeGone(self.cluster.name, name)] if self._nodes.pop(name, None) is not None else []

    # -- what is told ------------------------------------------------------------------------------------------

    def _agree(self, ips: Iterable[str]) -> list[MeshEvent]:
        """Makes what was told of `ips` agree with what is now; then tries those that found no number before."""
        events: list[MeshEvent] = []
        for ip in list(ips):
            self._agree_on(ip, events)
        if self._starved and self.allocator.has_room:
            for ip in sorted(self._starved):
                self._agree_on(ip, events)
        return events

    def _agree_on(self, ip: str, events: list[MeshEvent]) -> None:
        owner = self._owner(ip)
        before = self._told.get(ip)
        looks = self._looks(owner) if owner is not None else None
        if owner is None or looks is None:
            self._fed(ip)
            self._untell(ip, before, events)
            return
        try:
            identity, is_new = self.allocator.acquire(looks)
        except Exhausted as error:
            self._starve(ip, owner, str(error))
            self._untell(ip, before, events)
            return
        self._fed(ip)
        if is_new:
            events.append(IdentityTold(identity))
        record = Endpoint(
            cluster=self.cluster.name,
            ip=ip,
            identity=identity.number,
            namespace=owner.namespace,
            pod=owner.name,
            uid=owner.uid,
            node=owner.node,
            host_ip=owner.host_ip,
            service_account=owner.service_account,
            named_ports=owner.named_ports,
        )
        if record != before:
            self._told[ip] = record
            events.append(EndpointTold(record))
        if before is not None:
            self._release(before.identity, events)

    def _untell(self, ip: str, before: Endpoint | None, events: list[MeshEvent]) -> None:
        if before is not None:
            del self._told[ip]
            events.append(EndpointGone(self.cluster.name, ip))
            self._release(before.identity, events)

    def _release(self, number: int, events: list[MeshEvent]) -> None:
        if self.allocator.release(number):
            events.append(IdentityGone(self.cluster.name, number))

    def _owner(self, ip: str) -> PodFacts | None:
        claims = self._claims.get(ip, ())
        if len(claims) < 2:
            if ip in self._disputed:
                self._dispute(ip, None, None)
            return self._pods[next(iter(claims))] if claims else None
        winner, second, *_ = sorted((self._pods[key] for key in claims), key=lambda f: f.claim, reverse=True)
        self._dispute(ip, None if second.terminating else second, winner)
        return winner

    def _dispute(self, ip: str, loser: PodFacts | None, winner: PodFacts | None) -> None:
        """Notes who claims `ip` in vain; a dying pod that kept its address too long is no dispute."""
        key = (loser.namespace, loser.name) if loser is not None else None
        before = self._disputed.pop(ip, None)
        if before is not None and before != key:
            self._reports.tell("Pod", *before, [], aspect=f"claim {ip}")
        if key is not None and winner is not None:
            self._disputed[ip] = key
            reason = f"{SHARED_ADDRESS}: {winner.namespace}/{winner.name}"
            self._reports.tell("Pod", *key, [("status.podIPs", ip, reason)], aspect=f"claim {ip}")

    def _starve(self, ip: str, pod: PodFacts, reason: str) -> None:
        if self._starved.get(ip) != (pod.namespace, pod.name):
            self._fed(ip)
        self._starved[ip] = (pod.namespace, pod.name)
        problem = ("status.podIPs", ip, f"{NO_IDENTITY}: {reason}")
        self._reports.tell("Pod", pod.namespace, pod.name, [problem], aspect=f"number {ip}")

    def _fed(self, ip: str) -> None:
        key = self._starved.pop(ip, None)
        if key is not None:
            self._reports.tell("Pod", *key, [], aspect=f"number {ip}")

    def _looks(self, pod: PodFacts) -> Looks | None:
        namespace = self._namespaces.get(pod.namespace)
        if namespace is None:
            return None
        return Looks(pod.namespace, self._filter.keep(pod.labels), namespace, pod.service_account)
