"""Whom a Service leads to, and on which port of theirs.

The port of a backend is what its EndpointSlices say, which is what a service proxy goes by; without slices the number
in the Service or, for a port with a name, what the pod itself calls so, pods of the host's network too. Invariants: a
backend whose port nobody knows is left out and said, as a service proxy leaves it out, and is an error where no other
is left; a Service of several clusters leads to those that have the same port. Rejected: the number of the Service for a
backend that has no such name, an answer about a port on which nobody listens.
"""

from collections.abc import Iterable, Sequence

import msgspec

from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.policy.explaining.cells import port_text
from isthmus.policy.explaining.ends import End, TargetError, listed, of_party, of_pods
from isthmus.policy.explaining.facts import ClusterSeen, PodSeen, ServicePortSeen, ServiceSeen
from isthmus.policy.explaining.halves import party_at
from isthmus.policy.explaining.scene import Scene

Holder = tuple[ClusterSeen, ServiceSeen]
MOST_TOLD = 3
"""Backends without a port that are named."""


def service_ends(
    scene: Scene, seen: ClusterSeen, service: ServiceSeen, port: tuple[int, int] | None, *, said: str
) -> tuple[list[End], list[str]]:
    """Returns the backends of a Service as pods of cluster `seen` reach it, and notes for people.

    `port` is (protocol, number), None for its only one; `said` is what was asked for. Raises TargetError.
    """
    holders = [(seen, service)]
    if service.is_global:
        for other in scene.picture.clusters:
            twin = find(other, service.namespace, service.name)
            if other.name != seen.name and twin is not None and twin.is_global and twin.shared:
                holders.append((other, twin))
    if service.stands_for:
        return _imported(scene, (service.namespace, service.stands_for), holders, service.ports, port, said=said)
    name = f"service {service.namespace}/{service.name}"
    wanted = _asked(service.ports, port, where=f"{name} of cluster {seen.name}")
    ends, notes = _of_holders(scene, holders, wanted, name=name)
    if not ends:
        raise TargetError(f"{said!r}: {'; '.join(notes)}")
    preferred = f", affinity {service.preference}" if service.preference not in ("", "none") else ""
    kind = f"global{preferred}" if service.is_global else f"of {seen.name} alone (not global)"
    return ends, [f"{name}: {kind}, {_places(ends)}", *notes]


def clusterset_ends(
    scene: Scene, key: tuple[str, str], port: tuple[int, int] | None, *, cluster: str, said: str
) -> tuple[list[End], list[str]]:
    """Returns whom NAME.NAMESPACE.svc.clusterset.local leads to, for `key` (namespace, name), as `service_ends`.

    That is what the derived Service of the import has behind it, or (in manifests, which have none) the Services of the
    clusters that hold a ServiceExport. Source: KEP-1645.
    """
    clusters = sorted(scene.picture.clusters, key=lambda other: other.name != cluster)
    for seen in clusters:
        for derived in seen.services:
            if (derived.namespace, derived.stands_for) == key:
                return service_ends(scene, seen, derived, port, said=said)
    exporting = [seen for seen in scene.picture.clusters if key in seen.exports]
    holders = [(seen, service) for seen in exporting if (service := find(seen, *key)) is not None]
    space, name = key
    if holders:
        ports = [one for _, service in holders for one in service.ports]
        return _imported(scene, key, holders, ports, port, said=said)
    if exporting:
        names = ", ".join(seen.name for seen in exporting)
        raise TargetError(
            f"{said!r}: there is a ServiceExport {space}/{name} in {names}, but no Service {space}/{name}"
        )
    known = {f"{one.namespace}/{one.stands_for}" for seen in clusters for one in seen.services if one.stands_for}
    known |= {f"{found[0]}/{found[1]}" for seen in clusters for found in seen.exports}
    there = f"; imported are {listed(known)}" if known else "; nothing else is imported either"
    raise TargetError(
        f"{said!r}: no cluster imports such a Service: it needs ServiceExport {space}/{name} (multicluster.x-k8s.io) "
        f"in a cluster that has Service {space}/{name}, and a tracker that makes ServiceImports of it{there}"
    )


def find(cluster: ClusterSeen, namespace: str, name: str) -> ServiceSeen | None:
    """Returns a Service of a cluster."""
    wanted = (namespace, name)
    return next((found for found in cluster.services if (found.namespace, found.name) == wanted), None)


def _imported(
    scene: Scene,
    key: tuple[str, str],
    holders: Sequence[Holder],
    ports: Iterable[ServicePortSeen],
    port: tuple[int, int] | None,
    *,
    said: str,
) -> tuple[list[End], list[str]]:
    name = f"service {key[0]}/{key[1]} of the ClusterSet"
    ends, notes = _of_holders(scene, holders, _asked(ports, port, where=name), name=name)
    if not ends:
        raise TargetError(f"{said!r}: {'; '.join(notes) or f'{name} has no backends'}")
    return ends, [f"{name}: {_places(ends)}", *notes]


def _places(ends: Sequence[End]) -> str:
    return f"backends in {', '.join(dict.fromkeys(end.cluster or 'outside' for end in ends))}"


def _asked(ports: Iterable[ServicePortSeen], port: tuple[int, int] | None, *, where: str) -> tuple[int, int]:
    """Returns the port that is meant, of those that a Service has."""
    there = list(dict.fromkeys((one.protocol, one.port) for one in ports))
    words = ", ".join(port_text(*one) for one in there) or "none"
    if port is None:
        if len(there) == 1:
            return there[0]
        raise TargetError(f"{where} has several ports; say which with --port (it has {words})")
    if port not in there:
        raise TargetError(f"{where} has no port {port_text(*port)} (it has {words})")
    return port


def _of_holders(
    scene: Scene, holders: Sequence[Holder], wanted: tuple[int, int], *, name: str
) -> tuple[list[End], list[str]]:
    ends: list[End] = []
    notes: list[str] = []
    for cluster, service in holders:
        port = next((one for one in service.ports if (one.protocol, one.port) == wanted), None)
        if port is None:
            notes.append(f"{name} has no port {port_text(*wanted)} in {cluster.name}")
            continue
        found, faults = _backends(scene, cluster, service, port, name=name)
        ends += found
        where = f"service {service.namespace}/{service.name} of cluster {cluster.name}"
        notes += [f"{where}: {fault}" for fault in faults[:MOST_TOLD]]
        if len(faults) > MOST_TOLD:
            notes.append(f"{where}: so it is with {len(faults) - MOST_TOLD} more")
        if not found and not faults and not service.stands_for:  # an import is in every cluster, its pods are not
            notes.append(f"{where} has no backends")
    return ends, notes


def _backends(
    scene: Scene, cluster: ClusterSeen, service: ServiceSeen, port: ServicePortSeen, *, name: str
) -> tuple[list[End], list[str]]:
    """Returns the backends that a cluster has, with the port of each, and those that are none on this port."""
    pods: dict[int, list[PodSeen]] = {}
    others: dict[int, list[str]] = {}
    faults: list[str] = []
    for ip in service.backends:
        for number, pod in _behind(scene, cluster, service, port, ip):
            if isinstance(number, str):
                faults.append(number)
                continue
            others.setdefault(number, [])
            if pod is None:
                others[number].append(ip)
            elif pod not in pods.setdefault(number, []):
                pods[number].append(pod)
    ends = []
    for number, ips in others.items():
        found = [msgspec.structs.replace(of_party(party_at(scene, ip), ip), service=name) for ip in ips]
        found += of_pods(scene, [(cluster.name, pod) for pod in pods.get(number, ())], service=name)
        ends += [msgspec.structs.replace(end, port=(port.protocol, number)) for end in found]
    return ends, list(dict.fromkeys(faults))


def _behind(
    scene: Scene, cluster: ClusterSeen, service: ServiceSeen, port: ServicePortSeen, ip: str
) -> list[tuple[int | str, PodSeen | None]]:
    """Returns ports and pods of an address, None for what is no known pod; text is why it has no port."""
    pods = _pods_at(scene, cluster, service, ip)
    asked = port_text(port.protocol, port.port)
    told = service.told.get(ip)
    if told:
        # Of several pods in the network of a node nobody knows which one it is; to policy all of them are the node.
        pod = pods[0] if len(pods) == 1 else None
        numbers = [number for name, protocol, number in told if (name, protocol) == (port.name, port.protocol)]
        if numbers:
            return [(number, pod) for number in numbers]
        who = f"pod {pod.namespace}/{pod.name}" if pod is not None else ip
        named = f" named {port.name!r}" if port.name else ""
        return [(f"port {asked} does not lead to {who}, which has no port{named} in its EndpointSlice", pod)]
    if isinstance(port.target, int):
        return [(port.target or port.port, pod) for pod in pods or (None,)]
    where = f"the number of targetPort {port.target!r} of port {asked} is not known for"
    if not pods:
        return [(f"{where} {ip}: no EndpointSlice says it, and no known pod has this address", None)]
    return [
        (
            _named(pod, port)
            or f"{where} pod {pod.namespace}/{pod.name}: nothing in spec.containers[].ports has this name, and no "
            "EndpointSlice says it",
            pod,
        )
        for pod in pods
    ]


def _pods_at(scene: Scene, cluster: ClusterSeen, service: ServiceSeen, ip: str) -> list[PodSeen]:
    held = scene.pods_by_ip.get(ip)
    if held is not None:
        return [held[1]] if held[0] == cluster.name else []
    if service.selector is None:
        return []
    wanted = service.selector.items()
    return [
        pod
        for pod in cluster.pods
        if pod.host_network and ip in pod.ips and pod.namespace == service.namespace and wanted <= pod.labels.items()
    ]


def _named(pod: PodSeen, port: ServicePortSeen) -> int | None:
    for named in pod.named_ports:
        if named.name == port.target and PORT_PROTOCOLS[named.protocol] == port.protocol:
            return named.port
    return None
