"""What people write for an end of a connection -> pods, nodes, addresses.

    [CLUSTER:][NAMESPACE/]NAME              a pod, else the pods of the workload of that name
    [CLUSTER:][NAMESPACE/]KIND/NAME         pod, deploy, sts, ds, rs, job, svc (short or long, as for kubectl)
    KIND/NAMESPACE/NAME                     the same
    [CLUSTER:][NAMESPACE/]KEY=VALUE[,...]   pods by labels
    [CLUSTER:]node/NAME                     a node
    10.0.0.1, fd00::1                       an address, whoever has it; of a Service, its backends
    outside                                 an address that nobody knows
    www.example.com                         a domain name; web.default.svc is a Service, and so is web.default if
                                            there is one, because pods find it by that name;
                                            web.default.svc.clusterset.local is what clusters export under it

Invariant: what is found is named in full, with its cluster; what is not found is said with what there is instead.
Rejected: a flag for each kind, four times the flags for what kubectl users write in one word.
"""

from collections.abc import Iterable
from ipaddress import ip_address

import msgspec

from isthmus.policy.explaining.backends import clusterset_ends, service_ends
from isthmus.policy.explaining.ends import End, TargetError, listed, of_party, of_pods
from isthmus.policy.explaining.facts import ClusterSeen, PodSeen, ServiceSeen
from isthmus.policy.explaining.groups import Grouping
from isthmus.policy.explaining.halves import Party, PartyKind, party_at
from isthmus.policy.explaining.scene import Scene

KINDS = {
    **dict.fromkeys(("pod", "pods", "po"), "Pod"),
    **dict.fromkeys(("deployment", "deployments", "deploy"), "Deployment"),
    **dict.fromkeys(("statefulset", "statefulsets", "sts"), "StatefulSet"),
    **dict.fromkeys(("daemonset", "daemonsets", "ds"), "DaemonSet"),
    **dict.fromkeys(("replicaset", "replicasets", "rs"), "ReplicaSet"),
    **dict.fromkeys(("job", "jobs"), "Job"),
    **dict.fromkeys(("cronjob", "cronjobs", "cj"), "CronJob"),
    **dict.fromkeys(("service", "services", "svc"), "Service"),
    **dict.fromkeys(("node", "nodes", "no"), "Node"),
}
OUTSIDE = ("outside", "world", "internet")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, taken apart.

    `kind` is a value of KINDS, `Labels`, `Address`, `Outside`, `Name`, `Imported` (of the ClusterSet) or "" (any).
    """

    text: str
    cluster: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    labels: tuple[tuple[str, str], ...] = ()


def parse(text: str, *, namespace: str = "default") -> Target:
    """Takes an end apart; `namespace` is meant where none is written. Raises TargetError."""
    said = text.strip()
    if not said:
        raise TargetError("is empty; write for example CLUSTER:NAMESPACE/POD, svc/NAME or an IP address")
    address = _address(said)
    if address:
        return Target(text=said, kind="Address", name=address)
    if said.lower() in OUTSIDE:
        return Target(text=said, kind="Outside")
    cluster, colon, rest = said.partition(":")
    if not colon:
        cluster, rest = "", said
    if not rest or (colon and not cluster) or "/" in cluster:
        raise TargetError(f"{said!r}: expected [CLUSTER:][NAMESPACE/]NAME")
    return _within(said, cluster, rest, namespace)


def _within(said: str, cluster: str, rest: str, namespace: str) -> Target:
    head, equals, _ = rest.partition("=")
    if equals:
        # A key may have a slash itself: what is before the first one is a namespace only if a key is left.
        space, slash, _ = head.partition("/")
        if slash and "." not in space:
            namespace, rest = space, rest[len(space) + 1 :]
        return Target(text=said, cluster=cluster, kind="Labels", namespace=namespace, labels=_labels(said, rest))
    parts = rest.split("/")
    if not all(parts) or len(parts) > 3:
        raise TargetError(f"{said!r}: expected [CLUSTER:][NAMESPACE/]NAME or [CLUSTER:][NAMESPACE/]KIND/NAME")
    match parts:
        case [name]:
            if not cluster and "." in name:
                return _named(said, name.rstrip(".").lower())
            return Target(text=said, cluster=cluster, namespace=namespace, name=name)
        case [first, name]:
            kind = KINDS.get(first.lower(), "")
            space = namespace if kind else first
            return Target(text=said, cluster=cluster, kind=kind, namespace=space, name=name)
        case [first, second, name] if second.lower() in KINDS:
            return Target(text=said, cluster=cluster, kind=KINDS[second.lower()], namespace=first, name=name)
        case [first, second, name] if first.lower() in KINDS:
            return Target(text=said, cluster=cluster, kind=KINDS[first.lower()], namespace=second, name=name)
    known = ", ".join(sorted(KINDS))
    raise TargetError(f"{said!r}: neither {parts[0]!r} nor {parts[1]!r} is a kind (known: {known})")


def _named(said: str, name: str) -> Target:
    """Returns a domain name, or the Service that it is the name of within a cluster."""
    words = name.removesuffix(".cluster.local").split(".")
    if len(words) == 3 and words[2] == "svc":
        return Target(text=said, kind="Service", namespace=words[1], name=words[0])
    if len(words) == 5 and words[2:] == ["svc", "clusterset", "local"]:
        return Target(text=said, kind="Imported", namespace=words[1], name=words[0])
    if name.endswith((".cluster.local", ".clusterset.local")):
        # Taken for an address outside, it would be judged as somebody else.
        raise TargetError(
            f"{said!r}: of the names within clusters only NAME.NAMESPACE.svc and NAME.NAMESPACE.svc.clusterset.local "
            "are known; ask for svc/NAME or pods"
        )
    return Target(text=said, kind="Name", name=name)


def _labels(said: str, text: str) -> tuple[tuple[str, str], ...]:
    found = []
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not key or not equals:
            raise TargetError(f"{said!r}: expected KEY=VALUE[,KEY=VALUE...]")
        found.append((key, value.removeprefix("=")))
    return tuple(found)


def _address(text: str) -> str:
    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        return ""


def resolve(scene: Scene, target: Target, *, cluster: str, port: tuple[int, int] | None) -> tuple[list[End], list[str]]:
    """Returns the ends that a target means, and notes for people; `cluster` is meant where none is written.

    `port` (protocol, number) is what a Service is asked for; None takes its only one. Raises TargetError.
    """
    match target.kind:
        case "Address" if (held := _service_at(scene, target.name, cluster)) is not None:
            return service_ends(scene, *held, port, said=target.text)
        case "Address":
            return [of_party(party_at(scene, target.name), target.text)], []
        case "Outside":
            return [_nowhere(scene, "outside", anyone=True)], []
        case "Name" if (near := _service_named(scene, target.name, cluster)) is not None:
            return service_ends(scene, *near, port, said=target.text)
        case "Name":
            note = f"{target.name}: taken for an address outside that no policy names; ask for its address to be exact"
            return [_nowhere(scene, target.name, domain=target.name)], [note]
        case "Imported":
            key = target.namespace, target.name
            return clusterset_ends(scene, key, port, cluster=cluster, said=target.text)
    seen = _cluster(scene, target, cluster)
    if target.kind == "Node":
        return _node(seen, target), []
    if target.kind == "Service":
        here = {service.name: service for service in seen.services if service.namespace == target.namespace}
        if target.name not in here:
            raise TargetError(_none(target, "Service", seen, here))
        return service_ends(scene, seen, here[target.name], port, said=target.text)
    pods = _pods(seen, target)
    return of_pods(scene, [(seen.name, pod) for pod in pods]), []


def _cluster(scene: Scene, target: Target, default: str) -> ClusterSeen:
    name = target.cluster or default
    known = ", ".join(sorted(scene.clusters)) or "none"
    if not name:
        raise TargetError(f"{target.text!r}: say which cluster, as {sorted(scene.clusters)[0]}:{target.text}")
    if name not in scene.clusters:
        raise TargetError(f"{target.text!r}: there is no cluster {name!r} (known: {known})")
    return scene.clusters[name]


def _nowhere(scene: Scene, name: str, *, domain: str = "", anyone: bool = False) -> End:
    """Returns addresses that nobody has, and no policy names, as one end."""
    ips = next((group.ips for group in Grouping(scene).outside() if group.name == "outside"), ())
    if not ips:
        raise TargetError(f"{name}: policies name every address that could stand for it; ask for an address")
    parties = tuple(Party(kind=PartyKind.OUTSIDE, ip=ip, name=name, domain=domain, anyone=anyone) for ip in ips)
    return End(name=name, kind=PartyKind.OUTSIDE, parties=parties, domain=domain)


def _node(seen: ClusterSeen, target: Target) -> list[End]:
    for node in seen.nodes:
        if node.name == target.name:
            if not node.addresses:
                raise TargetError(f"{target.text!r}: node {node.name} has no address")
            party = Party(kind=PartyKind.NODE, ip=node.addresses[0], cluster=seen.name, node=node.name, name=node.name)
            return [of_party(party, node.name)]
    raise TargetError(_none(target, "node", seen, [node.name for node in seen.nodes]))


def _pods(seen: ClusterSeen, target: Target) -> list[PodSeen]:
    here = [pod for pod in seen.pods if pod.namespace == target.namespace]
    if target.kind == "Labels":
        found = [pod for pod in here if all(pod.labels.get(key) == value for key, value in target.labels)]
    elif target.kind in ("", "Pod"):
        found = [pod for pod in here if pod.name == target.name]
        if not found and not target.kind:
            found = [pod for pod in here if pod.workload and pod.owner == target.name]
    else:
        found = [pod for pod in here if pod.workload == f"{target.kind}/{target.name}"]
    if not found:
        names = [pod.owner for pod in here] if target.kind != "Pod" else [pod.name for pod in here]
        what = {"": "pod or workload", "Labels": "pod with these labels"}.get(target.kind, target.kind.lower())
        raise TargetError(_none(target, what, seen, names))
    usable = [pod for pod in found if pod.ips]
    if not usable:
        raise TargetError(f"{target.text!r}: {seen.name}:{found[0].namespace}/{found[0].name} has no address yet")
    return usable


def _none(target: Target, what: str, seen: ClusterSeen, names: Iterable[str]) -> str:
    place = f"cluster {seen.name}" if what == "node" else f"namespace {target.namespace} of cluster {seen.name}"
    there = listed(names)
    named = f" {target.name}" if target.name else ""
    return f"{target.text!r}: no {what}{named} in {place}" + (f"; there are {there}" if there else "; it has none")


def _service_at(scene: Scene, ip: str, cluster: str) -> tuple[ClusterSeen, ServiceSeen] | None:
    """Returns the Service with an address, and its cluster; `cluster` goes first: clusters may use the same ones."""
    for seen in sorted(scene.picture.clusters, key=lambda other: other.name != cluster):
        for service in seen.services:
            if ip in service.ips:
                return seen, service
    return None


def _service_named(scene: Scene, name: str, cluster: str) -> tuple[ClusterSeen, ServiceSeen] | None:
    """Returns the Service that pods of `cluster` find by NAME.NAMESPACE, which their resolver completes."""
    seen, wanted = scene.clusters.get(cluster), name.split(".")
    for service in seen.services if seen is not None else ():
        if [service.name, service.namespace] == wanted:
            return scene.clusters[cluster], service
    return None
