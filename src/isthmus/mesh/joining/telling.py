"""The status of the mesh in words, as people know them from Cilium's command, and as JSON with stable keys. Pure."""

from typing import Any

import msgspec

from isthmus.mesh.joining.objects import TRACKER
from isthmus.mesh.joining.status import Connectivity, Range, Status
from isthmus.mesh.membership import DEPLOYMENT


def summary(status: Status) -> str:
    """Returns all of it as text; the last line ends with a newline."""
    lines = []
    if status.service_type == "NodePort":
        lines.append("⚠️  Service type NodePort detected! Service may fail when nodes are removed from the cluster!")
    lines.append(f'✅ Service "{TRACKER}" of type "{status.service_type}" found')
    if status.access_missing:
        lines.append(f"❌ Cluster access information is missing: {status.access_missing}")
    else:
        lines += ["✅ Cluster access information is available:", *(f"  - {text}" for text in status.endpoints)]
    tracker = f"Deployment {TRACKER}" if status.configuration.tracker == DEPLOYMENT else f"{TRACKER} of the lab"
    if status.tracker_missing:
        lines.append(f"❌ {tracker} is not ready: {status.tracker_missing}")
    else:
        lines.append(f"✅ {tracker} is ready")
    lines += ["", _all(status.nodes, "nodes")]
    if status.trackers.told:
        lines.append(_all(status.trackers, "trackers"))
    lines.append("")
    if status.nodes.clusters:
        lines.append("🔌 Cluster Connections:")
        lines += [_connection(status, name) for name in status.nodes.clusters]
        lines += _last_resorts(status)
    else:
        lines.append("🔌 No cluster connected")
    lines += ["", f"🔀 Global services: [ {_of(status.global_services)} ]"]
    faults = (*status.trackers.faults, *status.nodes.faults)
    if faults:
        lines += ["", f"❌ {len(faults)} Errors:"]
        for fault in faults:
            reason = _brief(fault.reason)
            what = f"is not connected to cluster {fault.cluster}: {reason}" if fault.cluster else reason
            lines.append(f"  ❌ {fault.where} {what}" if fault.cluster else f"  ❌ {fault.where}: {what}")
            if fault.hint:
                lines.append(f"     💡 {fault.hint}")
    return "\n".join(lines) + "\n"


def waiting_for(status: Status) -> str:
    """Returns what is waited for and why, as in "for access information: ..."; empty if all is well."""
    if status.access_missing:
        return f"for access information: {status.access_missing}"
    if status.tracker_missing:
        kind = f"deployment {TRACKER}" if status.configuration.tracker == DEPLOYMENT else f"{TRACKER} of the lab"
        return f"for {kind} to become ready: {status.tracker_missing}"
    for found, what in ((status.nodes, "nodes"), (status.trackers, "trackers")):
        if found.not_ready:
            return f"for clusters to be connected: {len(found.not_ready)} {what} are not ready"
    return "" if status.well else "for clusters to be connected"


def as_json(status: Status) -> dict[str, Any]:
    """Returns what `-o json` prints: the keys of Cilium's command, and our own beside them."""
    cluster = status.configuration.cluster
    return {
        "cluster": {"name": cluster.name, "id": cluster.id},
        "access_information": {
            "service_type": status.service_type,
            "endpoints": list(status.endpoints),
            "missing": status.access_missing,
        },
        "tracker": {"kind": status.configuration.tracker, "missing": status.tracker_missing},
        "connectivity": _json(status.nodes),
        "kvstoremesh": {"enabled": True, "status": _json(status.trackers) if status.trackers.told else None},
        "global_services": msgspec.to_builtins(status.global_services),
        "health": {name: msgspec.to_builtins(health) for name, health in status.health.items()},
        "well": status.well,
    }


def _all(found: Connectivity, what: str) -> str:
    told = f"[{_of(found.connected)}]"
    if found.not_ready:
        return f"⚠️  {len(found.not_ready)}/{found.total} {what} are not connected to all clusters {told}"
    return f"✅ All {found.total} {what} are connected to all clusters {told}"


def _connection(status: Status, name: str) -> str:
    nodes, all_nodes = status.nodes.clusters[name], status.nodes.total
    line = f"  - {name}: {nodes.configured}/{all_nodes} configured, {nodes.connected}/{all_nodes} connected"
    trackers = status.trackers
    if not trackers.told or name not in trackers.clusters:
        return f"{line} - tracker: status not available"
    counts = trackers.clusters[name]
    total = trackers.total
    return f"{line} - tracker: {counts.configured}/{total} configured, {counts.connected}/{total} connected"


def _brief(reason: str) -> str:
    """Returns the first of several reasons, which are mostly one: a watch of each kind that does not come through."""
    first, *more = reason.split("; ")
    return f"{first} (and {len(more)} more: -o json)" if more else first


def _last_resorts(status: Status) -> list[str]:
    """Returns a line for each cluster that nodes cannot reach or have no news of; the mesh is well all the same."""
    then = "its backends are used only if nothing else is left"
    lines = []
    for name, health in status.health.items():
        for nodes, what in ((health.unreachable, f"cannot reach {name}"), (health.stale, f"have no news of {name}")):
            if nodes:
                lines.append(f"⚠️  {len(nodes)}/{status.nodes.total} nodes {what}: {then}")
    return lines


def _of(numbers: Range) -> str:
    return f"min:{numbers.min} / avg:{numbers.avg:.1f} / max:{numbers.max}"


def _json(found: Connectivity) -> dict[str, Any]:
    errors: dict[str, dict[str, str]] = {}
    for fault in found.faults:
        errors.setdefault(fault.where, {})[fault.cluster] = fault.reason
    return {
        "clusters": {name: msgspec.to_builtins(counts) for name, counts in found.clusters.items()},
        "connected": msgspec.to_builtins(found.connected),
        "total": found.total,
        "not_ready": len(found.not_ready),
        "errors": errors,
    }
