"""What each cluster has of one Service, for people and for the plans: backends by address, counts, what does not fit.

Invariants: an address is one backend, however many slices and ports tell of it, and of two families only the fuller one
counts, because a pod with two addresses is one pod; a backend counts only at ports that the local Service has, by name
and protocol; a cluster that has not been heard yet is what the stored status says of it. Rejected: counting endpoints
of slices, which shows twice the pods of every dual-stack Service.
"""

from collections.abc import Iterable, Mapping

import msgspec

from isthmus.kube.meshobjects import EndpointSeen, ServiceInCluster
from isthmus.mesh.control.facts import OwnService, protocol_word
from isthmus.mesh.control.world import World
from isthmus.model.service import PortKey
from isthmus.model.sharing import ServicePort, SharedService, SharedSlice
from isthmus.services.explaining import Counts

MOST_SHOWN = 50
"""Endpoints of one cluster in one status."""

MOST_IN_ALL = 1000
"""Endpoints in one status: an object may have 1.5 MB, and there may be 255 clusters."""

MOST_PORTS = 8
"""Ports of one endpoint in a status."""

LONGEST_NAME = 253


class Misfit(msgspec.Struct, frozen=True):
    """Ports that do not meet; `reason` is PortMismatch or ProtocolMismatch."""

    reason: str
    text: str


class Part(msgspec.Struct, frozen=True):
    """What a cluster has of a Service; `shared` is False for one that keeps its backends for itself."""

    cluster: str
    counts: Counts
    endpoints: tuple[EndpointSeen, ...] = ()
    shared: bool = True
    weight: int | None = None
    """What it says that its backends count for; None where only its own settings know."""
    misfit: Misfit | None = None


def parts_of(world: World, service: OwnService) -> dict[str, Part]:
    """Returns what every cluster has of a Service that is global here, by name, the own one first."""
    by_cluster: dict[str, list[SharedSlice]] = {}
    for found in world.slices(service.key):
        by_cluster.setdefault(found.cluster, []).append(found)
    told = world.shared(service.key)
    stored = world.global_services.get(service.key)
    before = {entry.name: entry for entry in stored.status.clusters} if stored is not None else {}
    names = {*told, *by_cluster, *before} - {world.own}
    most = min(MOST_SHOWN, max(1, MOST_IN_ALL // (len(names) + 1)))
    parts = {world.own: _part(world, service, world.own, by_cluster.get(world.own, []), None, most=most)}
    for name in sorted(names):
        if name in before and name not in by_cluster and world.unheard(name):
            parts[name] = _remembered(before[name], stale=name in world.stale)
        elif name in told or name in by_cluster:
            parts[name] = _part(world, service, name, by_cluster.get(name, []), told.get(name), most=most)
    return parts


def _part(
    world: World,
    service: OwnService,
    cluster: str,
    slices: Iterable[SharedSlice],
    told: SharedService | None,
    *,
    most: int,
) -> Part:
    shared = told is None or told.shared
    endpoints, counts = _merged(slices if shared else (), service, stale=cluster in world.stale, most=most)
    misfit = _misfit(service, told.ports, cluster=cluster) if told is not None and shared else None
    return Part(cluster, counts, endpoints, shared, told.weight if told is not None else None, misfit)


def _remembered(entry: ServiceInCluster, *, stale: bool) -> Part:
    counts = Counts(entry.backends, entry.ready, 0, entry.backends if stale else 0, stale)
    return Part(entry.name, counts, entry.endpoints)


class _Backend(msgspec.Struct):
    version: int
    node: str
    ports: set[str]
    ready: bool
    dying: bool
    """Serving, but terminating."""
    terminating: bool


def _merged(
    slices: Iterable[SharedSlice], service: OwnService, *, stale: bool, most: int
) -> tuple[tuple[EndpointSeen, ...], Counts]:
    wanted = wanted_ports(service)
    found: dict[str, _Backend] = {}
    for part in slices:
        ports = [port for port in part.ports if wanted is None or (port.name, port.protocol) in wanted]
        if wanted and not ports:
            continue
        words = {f"{port.name}:" * bool(port.name) + f"{port.port}/{protocol_word(port.protocol)}" for port in ports}
        for endpoint in part.endpoints:
            dying = endpoint.serving and endpoint.terminating and not endpoint.ready
            known = found.get(endpoint.address)
            if known is None:
                found[endpoint.address] = _Backend(
                    part.version, endpoint.node, set(words), endpoint.ready, dying, endpoint.terminating
                )
            else:
                # As well as the best that is told of it, as the pool has it.
                known.ports |= words
                known.ready |= endpoint.ready
                known.dying |= dying
                known.terminating &= endpoint.terminating
    sizes = {version: sum(backend.version == version for backend in found.values()) for version in (4, 6)}
    family = 4 if sizes[4] >= sizes[6] else 6
    counted = [backend for backend in found.values() if backend.version == family]
    counts = Counts(
        backends=len(counted),
        ready=sum(backend.ready for backend in counted),
        terminating=sum(backend.dying and not backend.ready for backend in counted),
        unreachable=len(counted) if stale else 0,
        stale=stale,
    )
    order = sorted(found, key=lambda address: (found[address].version != family, not found[address].ready, address))
    shown = tuple(
        EndpointSeen(
            address, tuple(sorted(found[address].ports)[:MOST_PORTS]), found[address].node[:LONGEST_NAME],
            found[address].ready, found[address].terminating,
        )
        for address in order[:most]
    )  # fmt: skip
    return shown, counts


def wanted_ports(service: OwnService) -> frozenset[PortKey] | None:
    """Returns the ports at which backends may join a Service; None for a headless one without ports: all."""
    if not service.ports and service.headless:
        return None
    return frozenset((port.name, port.protocol) for port in service.ports)


def _misfit(service: OwnService, theirs: tuple[ServicePort, ...], *, cluster: str) -> Misfit | None:
    """Returns which of our ports a cluster has nothing for; backends of it get no connections there."""
    there = {(port.name, port.protocol) for port in theirs}
    missing = [port for port in service.ports if (port.name, port.protocol) not in there]
    if not missing:
        return None
    names = {port.name for port in theirs}
    reason = "ProtocolMismatch" if all(port.name in names for port in missing) else "PortMismatch"
    here = ", ".join(_port(port) for port in missing[:8])
    return Misfit(reason, f"{cluster} has nothing for port {here} here; it has {_ports(theirs)}")


def _ports(ports: tuple[ServicePort, ...]) -> str:
    return ", ".join(_port(port) for port in ports[:8]) or "no ports"


def _port(port: ServicePort) -> str:
    return (f"{port.name}:" if port.name else "") + f"{port.port}/{protocol_word(port.protocol)}"


def told_weights(parts: Mapping[str, Part]) -> dict[str, int]:
    """Returns what other clusters say that their backends count for."""
    return {name: part.weight for name, part in parts.items() if part.weight is not None}
