"""How the mesh of one cluster is: judged from the objects that agents and tracker write. Pure.

Invariants: what was not said counts as not well; an agent that has been silent for FRESH is not believed; every error
says where, which cluster, why, and what to do next. Rejected: asking agents and trackers themselves, as Cilium's
command does by running programs in pods, which needs more rights and tells nothing of what is not a pod.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from isthmus.kube.meshobjects import MeshCluster, MeshNode
from isthmus.kube.schema import LeaseSpec, Node, Service
from isthmus.mesh.joining.objects import AGENT, PORT, TRACKER
from isthmus.mesh.membership import DEPLOYMENT, NAMESPACE, PEERS, Configuration, Membership

FRESH = timedelta(seconds=150)
"""How old a node's heartbeat may be; agents renew it every minute."""


class Replicas(msgspec.Struct, frozen=True):
    """How the tracker's Deployment is: how many pods it should have, and how many of this generation are ready."""

    wanted: int
    ready: int


class Seen(msgspec.Struct, frozen=True):
    """What there is in the cluster at `now`; `replicas` None: there is no Deployment, `lease` None: no Lease."""

    configuration: Configuration
    service: Service
    now: datetime
    nodes: Sequence[Node] = ()
    replicas: Replicas | None = None
    membership: Membership = Membership()
    mesh_nodes: Sequence[MeshNode] = ()
    mesh_clusters: Sequence[MeshCluster] = ()
    lease: LeaseSpec | None = None


class Range(msgspec.Struct, frozen=True):
    """Of some numbers the least, the average and the greatest; zeros if there are none."""

    min: int = 0
    avg: float = 0.0
    max: int = 0


class Counts(msgspec.Struct, frozen=True):
    """How many know of a cluster, and how many know all of it."""

    configured: int = 0
    connected: int = 0


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong; `cluster` is "" where it is no other cluster's."""

    where: str
    cluster: str
    reason: str
    hint: str = ""


class Connectivity(msgspec.Struct, frozen=True):
    """Of nodes or trackers: how many there are, which are not ready, and what they know of each other cluster.

    `told` is whether anybody says how it is.
    """

    total: int = 0
    not_ready: tuple[str, ...] = ()
    connected: Range = Range()
    clusters: dict[str, Counts] = {}
    faults: tuple[Fault, ...] = ()
    told: bool = True


class Health(msgspec.Struct, frozen=True):
    """Which nodes cannot reach a cluster, and which have had no news of it for too long: its backends are their last
    resort. Clusters are connected all the same: this is about packets, and that about what is known."""

    unreachable: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()


class Status(msgspec.Struct, frozen=True):
    """How the mesh is; the texts that say what is missing are empty if nothing is."""

    configuration: Configuration
    service_type: str
    endpoints: tuple[str, ...]
    access_missing: str
    tracker_missing: str
    nodes: Connectivity
    trackers: Connectivity
    global_services: Range
    health: dict[str, Health] = {}

    @property
    def well(self) -> bool:
        """Whether nothing is missing and everybody knows every cluster."""
        return not (
            self.access_missing
            or self.tracker_missing
            or self.nodes.not_ready
            or self.trackers.not_ready
            or self.nodes.faults
            or self.trackers.faults
        )


def judge(seen: Seen) -> Status:
    """Returns how the mesh is."""
    endpoints, missing = access_information(seen.service, seen.nodes)
    trackers = _trackers(seen)
    fresh = [node.status for node in seen.mesh_nodes if _age(node, seen.now) <= FRESH]
    return Status(
        configuration=seen.configuration,
        service_type=seen.service.spec.type,
        endpoints=tuple(endpoints),
        access_missing=missing,
        tracker_missing=_tracker_missing(seen),
        nodes=_nodes(seen, trackers),
        trackers=trackers,
        global_services=_range([status.globalServices for status in fresh]),
        health=_health(seen),
    )


def access_information(service: Service, nodes: Sequence[Node]) -> tuple[list[str], str]:
    """Returns where the tracker's etcd is reached from other clusters (host:port), or what is missing for that."""
    spec = service.spec
    port = next((p for p in spec.ports if p.port == PORT), None)
    if port is None:
        return [], f"Service {TRACKER} has no port {PORT}"
    if spec.type == "LoadBalancer":
        ingress = [entry.ip or entry.hostname for entry in service.status.loadBalancer.ingress]
        found = [_joined(host, PORT) for host in ingress if host]
        return found, "" if found else "IP address of the load balancer is not known yet"
    if spec.type == "NodePort":
        addresses = [_internal_address(node) for node in nodes]
        found = [_joined(host, port.nodePort) for host in addresses if host and port.nodePort]
        return found, "" if found else "no node has an address"
    found = [_joined(host, PORT) for host in spec.clusterIPs or (spec.clusterIP,) if host and host != "None"]
    return found, "" if found else "the Service has no address yet"


def _nodes(seen: Seen, trackers: Connectivity) -> Connectivity:
    by_name = {node.metadata.name: node for node in seen.mesh_nodes}
    peers = _peers(seen)
    counts = {peer: [0, 0] for peer in peers}
    faults: list[Fault] = []
    connected: list[int] = []
    not_ready: list[str] = []
    for node in sorted(seen.nodes, key=lambda node: node.metadata.name):
        name = node.metadata.name
        before = len(faults)
        found = by_name.get(name)
        ready = 0
        if found is None:
            faults.append(Fault(name, "", "its agent has not been heard of", _agent_hint(seen, name)))
        elif (age := _age(found, seen.now)) > FRESH:
            silent = f"its agent has been silent for {_spoken(age)}" if age < timedelta.max else "its agent is silent"
            faults.append(Fault(name, "", silent, _agent_hint(seen, name)))
        else:
            if not found.status.ready:
                reason = f"its agent is not ready: {found.status.reason or 'no reason given'}"
                faults.append(Fault(name, "", reason, _agent_hint(seen, name)))
            known = {cluster.name: cluster for cluster in found.status.clusters}
            for peer in peers:
                cluster = known.get(peer)
                counts[peer][0] += cluster is not None
                if cluster is not None and cluster.ready:
                    counts[peer][1] += 1
                    ready += 1
                    continue
                reason = (cluster.reason or "not ready") if cluster is not None else "not known to its agent yet"
                hint = _agent_hint(seen, name)
                if trackers.clusters.get(peer, Counts()).connected < trackers.total:
                    hint = "This is likely caused by the tracker not being connected to the given cluster"
                faults.append(Fault(name, peer, reason, hint))
        connected.append(ready)
        if len(faults) > before:
            not_ready.append(name)
    return Connectivity(
        total=len(seen.nodes),
        not_ready=tuple(not_ready),
        connected=_range(connected),
        clusters={peer: Counts(*pair) for peer, pair in counts.items()},
        faults=tuple(faults),
    )


def _health(seen: Seen) -> dict[str, Health]:
    """Returns how each other cluster is seen by the nodes that there are and that have been heard of lately."""
    there = {node.metadata.name for node in seen.nodes}
    told: dict[tuple[str, str], list[str]] = {}
    for node in sorted(seen.mesh_nodes, key=lambda node: node.metadata.name):
        if node.metadata.name in there and _age(node, seen.now) <= FRESH:
            for cluster in node.status.clusters:
                told.setdefault((cluster.name, cluster.health), []).append(node.metadata.name)
    return {
        peer: Health(tuple(told.get((peer, "Unreachable"), ())), tuple(told.get((peer, "Stale"), ())))
        for peer in _peers(seen)
    }


def _trackers(seen: Seen) -> Connectivity:
    """The tracker says for all of its replicas how each cluster is."""
    total = seen.replicas.wanted if seen.replicas is not None else 1
    known = {cluster.metadata.name: cluster.status for cluster in seen.mesh_clusters}
    refused = {item.name: item.reason for item in seen.membership.refused}
    told = any(status.own for status in known.values())
    faults: list[Fault] = []
    counts: dict[str, Counts] = {}
    ready = 0
    for peer in _peers(seen):
        status = known.get(peer)
        synced = status is not None and status.state == "Synced"
        counts[peer] = Counts(total if status is not None and status.state else 0, total if synced else 0)
        ready += synced
        if peer in refused:
            reason = f"its entry in Secret {NAMESPACE}/{PEERS} cannot be used: {refused[peer]}"
            faults.append(Fault(TRACKER, peer, reason, "Repeat 'isthmus clustermesh connect'"))
        elif not synced:
            reason = "unknown status" if status is None or not status.state else status.reason or "synchronizing"
            faults.append(Fault(TRACKER, peer, reason, _tracker_hint(seen, reason)))
    return Connectivity(
        total=total,
        not_ready=(TRACKER,) * total if faults or not told else (),
        connected=_range([ready] * total),
        clusters=counts,
        faults=tuple(faults),
        told=told,
    )


def _tracker_missing(seen: Seen) -> str:
    if seen.configuration.tracker == DEPLOYMENT:
        if seen.replicas is None:
            return f"there is no Deployment {NAMESPACE}/{TRACKER}"
        if seen.replicas.ready < max(1, seen.replicas.wanted):
            return f"only {seen.replicas.ready} of {seen.replicas.wanted} replicas are available"
    own = next((cluster.status for cluster in seen.mesh_clusters if cluster.status.own), None)
    if seen.lease is not None:
        if not seen.lease.holderIdentity:
            return "it was stopped"
        age = _since(seen.lease.renewTime, seen.now)
        if age > timedelta(seconds=seen.lease.leaseDurationSeconds or FRESH.seconds):
            return f"it has been silent for {_spoken(age)}" if age < timedelta.max else "it is silent"
    if own is None:
        return "it has not said yet how its own cluster is"
    return "" if own.state == "Synced" else f"its own cluster is not synced: {own.reason or own.state or 'unknown'}"


def _peers(seen: Seen) -> list[str]:
    """Returns the other clusters, by the Secret and by what the tracker was told otherwise."""
    names = {peer.cluster.name for peer in seen.membership.peers} | {item.name for item in seen.membership.refused}
    names |= {found.metadata.name for found in seen.mesh_clusters if not found.status.own and found.status.state}
    return sorted(names - {seen.configuration.cluster.name})


def _agent_hint(seen: Seen, node: str) -> str:
    if seen.configuration.tracker != DEPLOYMENT:
        return f"Run 'isthmus lab logs {seen.configuration.cluster.name} agent-{node}' to investigate the cause"
    selector = f"-l app.kubernetes.io/name={AGENT} --field-selector spec.nodeName={node}"
    return f"Run 'kubectl get pods -n {NAMESPACE} {selector}' and look at the log of that pod"


def _tracker_hint(seen: Seen, reason: str) -> str:
    lowered = reason.lower()
    if any(word in lowered for word in ("unauthorized", "forbidden", "credential")):
        return "The credentials are refused: repeat 'isthmus clustermesh connect'"
    if any(word in lowered for word in ("connect", "certificate", "no answer", "timed out", "unreachable")):
        return "Double check that the tracker reaches that API server; 'connect' takes --destination-endpoint"
    if seen.configuration.tracker != DEPLOYMENT:
        return f"Run 'isthmus lab logs {seen.configuration.cluster.name} tracker' to investigate the cause"
    return f"Run 'kubectl logs -n {NAMESPACE} deployment/{TRACKER}' to investigate the cause"


def _age(node: MeshNode, now: datetime) -> timedelta:
    return _since(node.status.heartbeat, now)


def _since(text: str, now: datetime) -> timedelta:
    """How long ago something was heard of; for ever if it does not say. A clock that is ahead counts as now."""
    try:
        moment = datetime.fromisoformat(text)
        return max(now - (moment if moment.tzinfo else moment.replace(tzinfo=UTC)), timedelta())
    except (ValueError, OverflowError):
        return timedelta.max


def _range(numbers: Sequence[int]) -> Range:
    if not numbers:
        return Range()
    return Range(min(numbers), round(sum(numbers) / len(numbers), 1), max(numbers))


def _internal_address(node: Node) -> str:
    return next((a.address for a in node.status.addresses if a.type == "InternalIP"), "")


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _spoken(age: timedelta) -> str:
    minutes, seconds = divmod(int(age.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m" if hours else f"{minutes}m{seconds}s"
