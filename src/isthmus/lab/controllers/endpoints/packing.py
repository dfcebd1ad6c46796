"""Endpoints into slices of at most MAX, with few writes: an endpoint stays where it is as long as it is wanted.

A slice that is written anyway takes newcomers first; then one with room for all of them; only then a new one is made.
An empty slice gets the next group rather than being deleted. Rejected: packing anew each time, which rewrites every
slice when one pod goes, and every node reads every slice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from isthmus.lab.controllers.objects.services import EndpointSlice
from isthmus.lab.controllers.workloads.templates import clean

Json = dict[str, Any]
MAX = 100
"""Endpoints of a slice (upstream's --max-endpoints-per-slice); the API allows 1,000."""


class Group(msgspec.Struct, frozen=True):
    """Endpoints that share their ports."""

    ports: Sequence[Json]
    endpoints: Sequence[Json]


class Packed(msgspec.Struct, frozen=True):
    """What shall be: contents of new slices, new contents of existing ones, and those to delete."""

    new: tuple[Group, ...] = ()
    changed: tuple[tuple[EndpointSlice, Group], ...] = ()
    surplus: tuple[EndpointSlice, ...] = ()


class _Slice:
    def __init__(self, item: EndpointSlice | None, ports: Sequence[Json]) -> None:
        self.item = item
        self.ports = ports
        self.endpoints: list[Json] = []
        self.changed = item is None

    @property
    def group(self) -> Group:
        return Group(self.ports, self.endpoints)


def pack(groups: Sequence[Group], existing: Sequence[EndpointSlice], *, limit: int = MAX) -> Packed:
    """Returns how to bring the slices of one Service and address family from what they hold to `groups`.

    There is always at least one slice, even without endpoints, so that readers know that somebody looked.
    """
    kept: list[_Slice] = []
    empty: list[EndpointSlice] = []
    by_ports: dict[bytes, list[EndpointSlice]] = {}
    for item in sorted(existing, key=lambda item: item.metadata.name):
        by_ports.setdefault(_fingerprint(item.ports), []).append(item)
    missing: list[tuple[Group, list[Json]]] = []
    for group in groups:
        wanted: dict[Any, Json] = {identity(one): one for one in group.endpoints}
        mine = []
        for item in by_ports.pop(_fingerprint(group.ports), []):
            slice = _Slice(item, group.ports)
            for held in item.endpoints:
                fresh = wanted.pop(identity(held), None)
                if fresh is None:
                    slice.changed = True
                    continue
                slice.changed |= clean(held) != clean(fresh)
                slice.endpoints.append(fresh)
            mine.append(slice)
        rest = _fill(mine, list(wanted.values()), limit)
        for slice in mine:
            if slice.endpoints:
                kept.append(slice)
            elif slice.item is not None:
                empty.append(slice.item)
        if rest:
            missing.append((group, rest))
    empty += [item for items in by_ports.values() for item in items]
    empty.sort(key=lambda item: item.metadata.name)
    new: list[_Slice] = []
    for group, rest in missing:
        for start in range(0, len(rest), limit):
            slice = _Slice(empty.pop(0) if empty else None, group.ports)
            slice.changed = True
            slice.endpoints = rest[start : start + limit]
            new.append(slice)
    if not kept and not new:
        placeholder = _Slice(empty.pop(0) if empty else None, ())
        placeholder.changed = (
            placeholder.item is None or bool(placeholder.item.endpoints) or bool(placeholder.item.ports)
        )
        new.append(placeholder)
    slices = [*kept, *new]
    return Packed(
        new=tuple(one.group for one in slices if one.item is None),
        changed=tuple((one.item, one.group) for one in slices if one.item is not None and one.changed),
        surplus=tuple(empty),
    )


def identity(endpoint: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns what makes an endpoint the same one: its address and what it stands for."""
    target = endpoint.get("targetRef") or {}
    return target.get("uid", ""), tuple(endpoint.get("addresses") or ())


def _fill(slices: Sequence[_Slice], rest: list[Json], limit: int) -> list[Json]:
    """Puts newcomers into slices that are written anyway, or all of them into one that has room; returns the rest."""
    for slice in slices:
        if slice.changed and slice.endpoints:
            room = max(limit - len(slice.endpoints), 0)
            slice.endpoints += rest[:room]
            rest = rest[room:]
    if not rest:
        return []
    tail = len(rest) % limit or limit
    roomy = [one for one in slices if one.endpoints and len(one.endpoints) + tail <= limit]
    if not roomy:
        return rest
    # The fullest that still has room, so that slices fill up.
    best = max(roomy, key=lambda one: len(one.endpoints))
    best.endpoints += rest[len(rest) - tail :]
    best.changed = True
    return rest[: len(rest) - tail]


def _fingerprint(ports: Sequence[Mapping[str, Any]]) -> bytes:
    listed = [
        [port.get("name") or "", port.get("protocol") or "TCP", port.get("port"), port.get("appProtocol") or ""]
        for port in ports
    ]
    return msgspec.json.encode(sorted(listed, key=str))
