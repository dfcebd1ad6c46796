"""What is known of a global service as text in the manner of `kubectl describe`, and as JSON with stable keys. Pure."""

from typing import Any

import msgspec

from isthmus.cli.service.looking import Found, Listed
from isthmus.cli.service.tables import NONE, age, drains, spoken_drain, table
from isthmus.kube.meshobjects import GlobalService, MeshNode, ServiceInCluster
from isthmus.services.settings import AFFINITY, ALIASES, GLOBAL, ORDER, SHARED, SYNC_SLICES, WEIGHT, settings

KEYS = (GLOBAL, SHARED, AFFINITY, ORDER, WEIGHT, SYNC_SLICES, *ALIASES.values())
SILENT = 180.0
"""Seconds after which the heartbeat of an agent, which comes once a minute, is too old to count on."""

MOST_NAMED = 5

_WELL = ("Reachable", "Unknown", "Unwatched", "")


def rows(listed: Listed, *, now: float, wide: bool) -> list[list[str]]:
    """Returns a row for each GlobalService."""
    left = drains(listed.clusters, now=now)
    result = []
    for item in in_order(listed.services):
        status = item.status
        imported = _import_of(item, listed)
        row = [
            item.metadata.namespace,
            f"{imported} (import)" if imported else item.metadata.name,
            status.affinity,
            "true" if status.shared else "false",
            ", ".join(_brief(entry, left) for entry in status.clusters) or NONE,
            status.used or NONE,
            age(item.metadata.creationTimestamp, now=now),
        ]
        if wide:
            said = {condition.type: condition for condition in status.conditions}
            for type_ in ("Valid", "Conflict"):
                condition = said.get(type_)
                row.append(condition.status if condition is not None else "Unknown")
        result.append(row)
    return result


def in_order(found: list[GlobalService]) -> list[GlobalService]:
    """Returns them by namespace and name."""
    return sorted(found, key=lambda item: (item.metadata.namespace, item.metadata.name))


def _import_of(item: GlobalService, listed: Listed) -> str:
    return listed.imports.get((item.metadata.namespace, item.metadata.name), "")


def head(*, wide: bool) -> list[str]:
    """Returns the titles of `rows`."""
    titles = ["NAMESPACE", "NAME", "AFFINITY", "SHARED", "CLUSTERS", "USED", "AGE"]
    return [*titles, "VALID", "CONFLICT"] if wide else titles


def as_listed(item: GlobalService, listed: Listed, *, now: float) -> dict[str, Any]:
    """Returns a GlobalService for machines; "import" is "" where it stands for itself."""
    left = drains(listed.clusters, now=now)
    status = item.status
    return {
        "namespace": item.metadata.namespace,
        "name": item.metadata.name,
        "import": _import_of(item, listed),
        "affinity": status.affinity,
        "shared": status.shared,
        "used": [entry.name for entry in status.clusters if entry.used],
        "clusters": [_entry(entry, left, endpoints=False) for entry in status.clusters],
        "conditions": msgspec.to_builtins(status.conditions),
        "created": item.metadata.creationTimestamp,
    }


def as_json(found: Found, *, now: float) -> dict[str, Any]:
    """Returns everything for machines."""
    meta = found.object.metadata
    imports = {(meta.namespace, meta.name): found.imported}
    listed = as_listed(found.object, Listed([found.object], list(found.clusters), imports), now=now)
    left = drains(list(found.clusters), now=now)
    return {
        **listed,
        "cluster": _own(found),
        "annotations": _annotations(found),
        "clusterIPs": list(found.service.spec.clusterIPs),
        "weight": settings(found.service.metadata.annotations).weight,
        "ports": msgspec.to_builtins(found.object.status.ports),
        "clusters": [_entry(entry, left, endpoints=True) for entry in found.object.status.clusters],
        "nodes": [_node(node, found, now=now) for node in _sorted(found.nodes)],
        "events": msgspec.to_builtins(found.events),
        "warnings": list(found.warnings),
    }


def text(found: Found, *, now: float) -> str:
    """Returns everything for people."""
    service, status = found.service, found.object.status
    left = drains(list(found.clusters), now=now)
    said = settings(service.metadata.annotations, headless=service.spec.clusterIP == "None")
    noted = [f"{key}: {value}" for key, value in _annotations(found).items()]
    ports = [f"{port.name or '<unset>'}  {port.port}/{port.protocol}" for port in status.ports]
    lines = [f"Warning: {warning}" for warning in found.warnings]
    for title, values in (
        ("Name", [f"{found.imported} (import)" if found.imported else service.metadata.name]),
        *((("Service", [service.metadata.name]),) if found.imported else ()),
        ("Namespace", [service.metadata.namespace]),
        ("Cluster", [_own(found) or "<unknown>"]),
        ("Annotations", noted),
        ("IPs", [", ".join(service.spec.clusterIPs or (service.spec.clusterIP,))]),
        ("Ports", ports),
        ("Affinity", [status.affinity]),
        ("Shared", ["true" if status.shared else "false"]),
        ("Weight", [f"{said.weight} %"]),
        ("Used", [status.used]),
    ):
        lines += _field(title, values)
    lines += ["Clusters:", *_clusters(status.clusters, left)]
    lines += ["Endpoints:", *_endpoints(status.clusters)]
    lines += ["Nodes:", *_nodes(found, now=now)]
    lines += ["Conditions:"]
    conditions = [
        [c.type, c.status, c.reason or NONE, age(c.lastTransitionTime, now=now), c.message] for c in status.conditions
    ]
    lines += (
        table(["Type", "Status", "Reason", "Since", "Message"], conditions, indent=2) if conditions else [f"  {NONE}"]
    )
    lines += _events(found, now=now)
    return "\n".join(lines) + "\n"


def _field(title: str, values: list[str]) -> list[str]:
    shown = [value for value in values if value] or [NONE]
    first, *rest = shown
    return [f"{title + ':':<13} {first}", *(" " * 14 + value for value in rest)]


def _annotations(found: Found) -> dict[str, str]:
    held = found.service.metadata.annotations
    return {key: held[key] for key in KEYS if key in held}


def _own(found: Found) -> str:
    return next((entry.name for entry in found.object.status.clusters if entry.own), "")


def _brief(entry: ServiceInCluster, left: dict[str, int]) -> str:
    drain = spoken_drain(entry.name, left)
    return f"{entry.name} {entry.ready}/{entry.backends}" + (f" ({drain})" if drain else "")


def _entry(entry: ServiceInCluster, left: dict[str, int], *, endpoints: bool) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(entry)
    found["drainLeft"] = left.get(entry.name)
    if not endpoints:
        del found["endpoints"]
    return found


def _clusters(entries: tuple[ServiceInCluster, ...], left: dict[str, int]) -> list[str]:
    rows = [
        [
            entry.name + (" (this one)" if entry.own else ""),
            entry.state or "<unknown>",
            str(entry.backends),
            str(entry.ready),
            str(entry.weight),
            f"{entry.share} %",
            "yes" if entry.used else "no",
            _why(entry, left),
        ]
        for entry in entries
    ]
    titles = ["Name", "State", "Backends", "Ready", "Weight", "Share", "Used", "Why"]
    return table(titles, rows, indent=2) if rows else [f"  {NONE}"]


def _why(entry: ServiceInCluster, left: dict[str, int]) -> str:
    """Returns why a cluster is used or not; of a drain, what is left of it now: the status may be a moment older."""
    why, _, _ = entry.why.partition("; drain")
    return "; ".join(text for text in (why, spoken_drain(entry.name, left)) if text)


def _endpoints(entries: tuple[ServiceInCluster, ...]) -> list[str]:
    lines = []
    for entry in entries:
        more = entry.backends - len(entry.endpoints)
        rows = [
            [
                endpoint.address,
                ", ".join(endpoint.ports) or NONE,
                endpoint.node or NONE,
                "terminating" if endpoint.terminating else "ready" if endpoint.ready else "not ready",
            ]
            for endpoint in entry.endpoints
        ]
        lines.append(f"  {entry.name}:" + ("" if rows else f" {NONE}"))
        lines += table(["Address", "Ports", "Node", "State"], rows, indent=4) if rows else []
        lines += [f"    and {more} more"] if more > 0 and rows else []
    return lines or [f"  {NONE}"]


def _sorted(nodes: tuple[MeshNode, ...]) -> list[MeshNode]:
    return sorted(nodes, key=lambda node: node.metadata.name)


def _node(node: MeshNode, found: Found, *, now: float) -> dict[str, Any]:
    status = node.status
    concerned = {entry.name for entry in found.object.status.clusters if not entry.own}
    return {
        "name": node.metadata.name,
        "ready": status.ready,
        "reason": status.reason,
        "heartbeat": status.heartbeat,
        "silent": age_of(status.heartbeat, now=now) > SILENT,
        "clusters": [
            {
                "name": seen.name,
                "ready": seen.ready,
                "reason": seen.reason,
                "health": seen.health,
                "unreachable": list(seen.unreachable),
                "since": seen.since,
            }
            for seen in status.clusters
            if seen.name in concerned
        ],
    }


def _nodes(found: Found, *, now: float) -> list[str]:
    """Returns a line for each node that sees something else than the tracker does, or says nothing."""
    lines = []
    for node in (_node(node, found, now=now) for node in _sorted(found.nodes)):
        where = f"  {node['name']}: "
        if node["silent"]:
            lines.append(f"{where}its agent said nothing for {age(node['heartbeat'], now=now)}")
            continue
        if not node["ready"]:
            lines.append(f"{where}its agent is not ready: {node['reason'] or 'no reason given'}")
        for seen in node["clusters"]:
            since = f" since {age(seen['since'], now=now)}" if seen["since"] else ""
            if seen["health"] not in _WELL:
                who = f" ({_several(seen['unreachable'])})" if seen["unreachable"] else ""
                lines.append(f"{where}{seen['name']} is {seen['health']}{since}{who}")
            elif seen["unreachable"]:
                lines.append(f"{where}nodes of {seen['name']} do not answer: {_several(seen['unreachable'])}")
            elif not seen["ready"]:
                lines.append(f"{where}{seen['name']} is not known as a whole: {seen['reason'] or 'no reason given'}")
    if lines:
        return lines
    count = len(found.nodes)
    return [f"  All {count} nodes see every cluster." if count else f"  {NONE}: no agent has said what it sees"]


def age_of(since: str, *, now: float) -> float:
    """Returns the seconds since RFC 3339 text; infinite if it is no time."""
    from isthmus.services.draining import moment

    began = moment(since)
    return now - began if began is not None else float("inf")


def _several(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _events(found: Found, *, now: float) -> list[str]:
    if not found.events:
        return [f"Events:        {NONE}"]
    shown = [
        [
            event.type,
            event.reason,
            age(event.last, now=now) + (f" (x{event.count})" if event.count > 1 else ""),
            event.component,
            event.message,
        ]
        for event in found.events
    ]
    return ["Events:", *table(["Type", "Reason", "Age", "From", "Message"], shown, indent=2)]
