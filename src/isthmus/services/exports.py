"""What the exports of one Service in several clusters come to: one imported Service, and what they disagree about.

Invariants: the result depends on the set of exports and not on their order; of what cannot be merged the oldest
ServiceExport is right (creation time, then name of the cluster); ports are the union of all, and whatever an export
holds, the result is one that an API server accepts: no two ports of the same name, none of the same number and
protocol, all of them named if there is more than one, a bounded number of them. A conflict concerns all exports of the
Service, so that it is seen by whoever looks at any of them. Source: KEP-1645, "Constraints and Conflict Resolution",
and the reasons of API version v1beta1. Rejected: the newest export is right, with which one careless export takes a
Service over everywhere.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from isthmus.model.sharing import ServicePort, SharedExport

HEADLESS, CLUSTER_SET_IP = "Headless", "ClusterSetIP"
CLIENT_IP = "ClientIP"
DEFAULT_AFFINITY_SECONDS = 10800
"""How long a client stays with its backend when nobody says (the API's default)."""
MAX_PORTS = 100
"""Ports of an imported Service; what is beyond is a conflict."""
IP_FAMILIES = ("IPv4", "IPv6")
DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")
NO_CONFLICTS = "NoConflicts"
_NAMED = 3
"""Clusters that a message names; a mesh may have hundreds."""
_PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP"}
_PORT_NAME = re.compile(r"(?=.{0,63}\Z)([a-z0-9]([-a-z0-9]*[a-z0-9])?)?")
_NEVER = datetime.max.replace(tzinfo=UTC)


class Conflict(msgspec.Struct, frozen=True):
    """Something that exports disagree about: `reason` of the API, `clusters` whose value is not the one in use."""

    reason: str
    message: str
    clusters: tuple[str, ...]


class Merged(msgspec.Struct, frozen=True):
    """An imported Service, in the words of ServiceImport.spec.

    `clusters` export it (sorted), `oldest` of them is right where they disagree; `affinity_seconds` is 0 without
    affinity; `ip_families` are those of all exports, the oldest one's first, empty if none is known.
    """

    type: str
    ports: tuple[ServicePort, ...]
    session_affinity: str
    affinity_seconds: int
    ip_families: tuple[str, ...]
    internal_traffic_policy: str
    traffic_distribution: str
    labels: dict[str, str]
    annotations: dict[str, str]
    clusters: tuple[str, ...]
    oldest: str
    conflicts: tuple[Conflict, ...] = ()

    @property
    def reason(self) -> str:
        """Returns the reason of the condition Conflict, several of them with commas (as the API wants it)."""
        return ",".join(dict.fromkeys(conflict.reason for conflict in self.conflicts)) or NO_CONFLICTS

    @property
    def message(self) -> str:
        """Returns the message of the condition Conflict; "" if there is none."""
        return " ".join(conflict.message for conflict in self.conflicts)


def merge(exports: Iterable[SharedExport]) -> Merged | None:
    """Returns what the exports of one Service come to, at most one of each cluster; None if there are none."""
    ordered = sorted(exports, key=precedence)
    if not ordered:
        return None
    oldest = ordered[0]
    ports, conflicts = _ports(ordered)
    conflicts += [found for reason, field, value in _FIELDS if (found := _compare(ordered, reason, field, value))]
    return Merged(
        type=_type(oldest),
        ports=ports,
        session_affinity=_affinity(oldest),
        affinity_seconds=_seconds(oldest),
        ip_families=tuple(dict.fromkeys(f for export in ordered for f in export.ip_families if f in IP_FAMILIES)),
        internal_traffic_policy=_internal(oldest),
        traffic_distribution=_distribution(oldest),
        labels=oldest.labels,
        annotations=oldest.annotations,
        clusters=tuple(sorted({export.cluster for export in ordered})),
        oldest=oldest.cluster,
        conflicts=tuple(conflicts),
    )


def precedence(export: SharedExport) -> tuple[datetime, str]:
    """Returns what exports are sorted by, the one that is right first; a time that is none is later than all others."""
    try:
        moment = datetime.fromisoformat(export.created)
    except ValueError:
        return _NEVER, export.cluster
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC), export.cluster


def port_text(port: ServicePort) -> str:
    """Returns a port as "http 80/TCP", or "80/TCP" if it has no name."""
    text = f"{port.port}/{protocol_name(port.protocol)}"
    return f"{port.name} {text}" if port.name else text


def protocol_name(number: int) -> str:
    """Returns an IANA protocol number in the words of the Kubernetes API."""
    return _PROTOCOLS.get(number, str(number))


def _ports(ordered: Sequence[SharedExport]) -> tuple[tuple[ServicePort, ...], list[Conflict]]:
    """Merges by name, then by number and protocol (KEP-1645); the older one stays."""
    kept: list[ServicePort] = []
    names: dict[str, tuple[ServicePort, str]] = {}
    numbers: dict[tuple[int, int], tuple[ServicePort, str]] = {}
    losers: dict[str, None] = {}
    first = ""
    for export in ordered:
        for port in export.ports:
            number = (port.port, port.protocol)
            held = names.get(port.name) or numbers.get(number)
            if held is None:
                trouble = _trouble(port) or ("" if len(kept) < MAX_PORTS else f"there are more than {MAX_PORTS} ports")
                if trouble:
                    losers[export.cluster] = None
                    first = first or f"a port of cluster {export.cluster} is left out: {trouble}."
                    continue
                kept.append(port)
                names[port.name] = numbers[number] = (port, export.cluster)
                continue
            winner, owner = held
            if winner == port:
                continue
            losers[export.cluster] = None
            first = first or (
                f"{port_text(winner)}{_spoken(winner)} of the older export in cluster {owner} is used, and not "
                f"{port_text(port)}{_spoken(port)} of cluster {export.cluster}."
            )
    ports = tuple(_named(kept))
    if not losers:
        return ports, []
    text = f"Conflicting ports: {_count(losers, ordered)} disagree; {first}"
    return ports, [Conflict("PortConflict", text, tuple(losers))]


def _trouble(port: ServicePort) -> str:
    """Returns why an API server would refuse a port: it comes from another cluster, which may be told anything."""
    if not _PORT_NAME.fullmatch(port.name):
        return f"the name {port.name[:63]!r} is not a DNS label"
    if not 0 < port.port < 65536:
        return f"{port.port} is not a port"
    if port.protocol not in _PROTOCOLS:
        return f"protocol {port.protocol} is not one of a Service"
    return ""


def _named(ports: Sequence[ServicePort]) -> Iterable[ServicePort]:
    """Gives the port without a name one, if there are others: the same in every cluster, as ports join by name."""
    taken = {port.name for port in ports}
    for port in ports:
        if port.name or len(ports) == 1:
            yield port
            continue
        name = f"{protocol_name(port.protocol).lower()}-{port.port}"
        while name in taken:
            name = f"{name}-x"
        yield msgspec.structs.replace(port, name=name)


def _spoken(port: ServicePort) -> str:
    return f" ({port.app_protocol})" if port.app_protocol else ""


def _compare(
    ordered: Sequence[SharedExport], reason: str, field: str, value: Callable[[SharedExport], object]
) -> Conflict | None:
    """Returns the conflict about a field; exports of which the value is None have no say."""
    wanted = value(ordered[0])
    if wanted is None:
        return None
    losers = [export.cluster for export in ordered[1:] if value(export) not in (wanted, None)]
    if not losers:
        return None
    text = f"Conflicting {field}: {_count(losers, ordered)} disagree; {_shown(wanted)} of the oldest export, in cluster"
    return Conflict(reason, f"{text} {ordered[0].cluster}, is used.", tuple(losers))


def _count(losers: Iterable[str], ordered: Sequence[SharedExport]) -> str:
    names = sorted(set(losers))
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} of {len(ordered)} clusters ({listed})"


def _shown(value: object) -> str:
    """Returns a value for a message, bounded: labels come from other clusters."""
    match value:
        case dict():
            text = ", ".join(f"{key}={value[key]}" for key in sorted(value)[:_NAMED])
            text = f"{text[:200]}{', ...' if len(value) > _NAMED else ''}" or "none"
        case frozenset():
            text = " and ".join(sorted(value))
        case _:
            text = str(value) or "none"
    return f'"{text}"'


def _type(export: SharedExport) -> str:
    return HEADLESS if export.type == HEADLESS else CLUSTER_SET_IP


def _affinity(export: SharedExport) -> str:
    return CLIENT_IP if export.session_affinity == CLIENT_IP and export.type != HEADLESS else "None"


def _seconds(export: SharedExport) -> int:
    if _affinity(export) != CLIENT_IP:
        return 0
    return export.affinity_seconds or DEFAULT_AFFINITY_SECONDS


def _internal(export: SharedExport) -> str:
    return "Local" if export.internal_traffic_policy == "Local" else "Cluster"


def _distribution(export: SharedExport) -> str:
    return export.traffic_distribution if export.traffic_distribution in DISTRIBUTIONS else ""


def _families(export: SharedExport) -> frozenset[str] | None:
    return frozenset(export.ip_families).intersection(IP_FAMILIES) or None


_Field = tuple[str, str, Callable[[SharedExport], object]]
_FIELDS: tuple[_Field, ...] = (
    ("TypeConflict", "type", _type),
    # A headless Service has no affinity, whatever its object says.
    ("SessionAffinityConflict", "sessionAffinity", lambda e: None if e.type == HEADLESS else _affinity(e)),
    ("SessionAffinityConfigConflict", "sessionAffinityConfig.clientIP.timeoutSeconds", lambda e: _seconds(e) or None),
    ("AnnotationsConflict", "exportedAnnotations", lambda export: export.annotations),
    ("LabelsConflict", "exportedLabels", lambda export: export.labels),
    ("InternalTrafficPolicyConflict", "internalTrafficPolicy", _internal),
    ("TrafficDistributionConflict", "trafficDistribution", _distribution),
    ("IPFamilyConflict", "ipFamilies", _families),
)
