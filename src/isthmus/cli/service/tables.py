"""Tables, times and drains as people read them. Pure.

Ages are written as kubectl writes them, so that they look the same in both. Rejected: a library for tables, which is
slower to import than the whole command is to run.
"""

from collections.abc import Mapping, Sequence

from isthmus.kube.meshobjects import MeshCluster
from isthmus.services.draining import moment, percent_left

NONE = "<none>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, indent: int = 0) -> list[str]:
    """Returns lines with columns as wide as they need to be."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        " " * indent + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def age(since: str, *, now: float) -> str:
    """Returns how long ago RFC 3339 text was: 45s, 3m20s, 15m, 5h10m, 2d3h, 40d; <unknown> if it is no time."""
    began = moment(since)
    if began is None:
        return "<unknown>"
    seconds = max(0, int(now - began))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _both(minutes, "m", seconds % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _both(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _both(days, "d", hours % 24, "h")
    return f"{days}d" if days < 730 else f"{days // 365}y"


def _both(whole: int, unit: str, rest: int, smaller: str) -> str:
    return f"{whole}{unit}{rest}{smaller}" if rest else f"{whole}{unit}"


def drains(clusters: Sequence[MeshCluster], *, now: float) -> dict[str, int]:
    """Returns how much is left (per cent) of the clusters that are drained, by name."""
    found = {}
    for cluster in clusters:
        drain = cluster.spec.drain
        if drain is not None:
            found[cluster.metadata.name] = percent_left(drain.since, drain.over, now=now)[0]
    return found


def spoken_drain(name: str, left: Mapping[str, int]) -> str:
    """Returns what to say of a cluster's drain: "draining, 40 % left", "drained", or nothing."""
    percent = left.get(name)
    if percent is None:
        return ""
    return f"draining, {percent} % left" if percent else "drained"
