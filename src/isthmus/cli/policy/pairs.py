"""Pairs of groups as few rows as say the same: who may, or may now, or may no longer. Pure."""

import itertools
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from isthmus.cli.service.tables import table
from isthmus.policy.explaining.cells import Cells, port_text, range_text
from isthmus.policy.explaining.effects import Effects
from isthmus.policy.explaining.groups import Group
from isthmus.policy.explaining.matrix import Matrix, of_families

PORTS = 32
"""Columns of a list of ports."""

MOST_COLUMNS = 12
SHORT = 9
"""Columns of a cell of the grid; what is longer becomes a letter with a legend."""


class Row(msgspec.Struct, frozen=True):
    """Every one of `sources` to every one of `destinations`, on `ports`."""

    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    ports: str


class Names:
    """How to speak of sets of groups: clusters and namespaces by name where all of them are meant."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self._groups = {group.name: group for group in groups}

    def spoken(self, names: frozenset[str]) -> tuple[str, ...]:
        """Returns words for a set of names of groups."""
        if len(names) > 1 and names == self._groups.keys():
            return ("anyone",)
        left = set(names)
        words = []
        for key in (self._cluster, self._namespace, self._nodes):
            whole: dict[str, set[str]] = {}
            for name, group in self._groups.items():
                if key(group):
                    whole.setdefault(key(group), set()).add(name)
            for word, members in sorted(whole.items()):
                if members <= left and (len(members) > 1 or key is self._nodes):
                    words.append(word)
                    left -= members
        return (*words, *sorted(left))

    @staticmethod
    def _cluster(group: Group) -> str:
        return f"{group.cluster}: all pods" if group.pods else ""

    @staticmethod
    def _namespace(group: Group) -> str:
        return f"{group.cluster}:{group.namespace}/*" if group.pods else ""

    @staticmethod
    def _nodes(group: Group) -> str:
        return f"{group.cluster}: all nodes" if group.cluster and not group.pods else ""


def rows(pairs: Iterable[tuple[Group, Group, str]], names: Names) -> list[Row]:
    """Joins pairs with the same ports: destinations of one source first, then sources with the same destinations."""
    reached: dict[tuple[str, str], set[str]] = {}
    for source, destination, ports in pairs:
        reached.setdefault((source.name, ports), set()).add(destination.name)
    joined: dict[tuple[str, frozenset[str]], set[str]] = {}
    for (source_name, ports), destinations in reached.items():
        joined.setdefault((ports, frozenset(destinations)), set()).add(source_name)
    found = [
        Row(names.spoken(frozenset(sources)), names.spoken(destinations), ports)
        for (ports, destinations), sources in joined.items()
    ]
    return sorted(found, key=lambda row: (row.sources, row.destinations, row.ports))


def listing(found: Sequence[Row], *, indent: int = 2) -> list[str]:
    """Returns a table, with a line for each name."""
    cells: list[list[str]] = []
    for row in found:
        ports = textwrap.wrap(row.ports, PORTS, break_long_words=False)
        lines = itertools.zip_longest(row.sources, row.destinations, ports, fillvalue="")
        cells.extend(list(line) for line in lines)
    return table(["FROM", "TO", "PORTS"], cells, indent=indent)


# -- what-if -------------------------------------------------------------------------------------------------------


def effects_text(found: Effects, groups: Iterable[Group]) -> str:
    """Returns what opens and what shuts, for people."""
    names = Names(groups)
    lines: list[str] = []
    counts = []
    for title, word, attribute in (
        ("Newly allowed:", "newly allowed", "opened"),
        ("Newly denied:", "newly denied", "shut"),
    ):
        chosen = [(e.source, e.destination, getattr(e, attribute), e.within) for e in found.effects]
        pairs = [(s, d, found.cells.spoken(mask, within=within)) for s, d, mask, within in chosen if mask]
        counts.append(f"{len(pairs)} pair{'' if len(pairs) == 1 else 's'} {word}")
        if pairs:
            lines += [title, *listing(rows(pairs, names)), ""]
    if not found.effects:
        return "Nothing changes: nobody gains or loses a connection.\n"
    return "\n".join([*lines, f"{', '.join(counts)}; all others stay as they are."]) + "\n"


def effects_data(found: Effects) -> list[dict[str, Any]]:
    """Returns each pair that changes, for machines."""
    return [
        {
            "from": group_data(effect.source),
            "to": group_data(effect.destination),
            "newlyAllowed": ports_data(found.cells, effect.opened),
            "newlyDenied": ports_data(found.cells, effect.shut),
        }
        for effect in found.effects
    ]


def group_data(group: Group) -> dict[str, Any]:
    """Returns a group for machines."""
    return {
        "name": group.name,
        "cluster": group.cluster,
        "namespace": group.namespace,
        "labels": dict(sorted(group.identity.labels.items())) if group.pods else {},
        "pods": [pod.name for pod in group.pods],
    }


def ports_data(cells: Cells, mask: int) -> list[str]:
    """Returns ranges of ports as text."""
    return [range_text(cell) for cell in cells.ranges(mask)]


# -- matrix --------------------------------------------------------------------------------------------------------


def matrix_text(found: Matrix, port: tuple[int, int] | None) -> str:
    """Returns who may talk to whom: as a grid where it fits, else as rows."""
    if not found.groups:
        return "There are no pods.\n"
    cells = _asked(found, port)

    def said(i: int, j: int) -> str:
        mask, possible = found.allowed[i][j], found.possible[i][j]
        if cells:
            some = mask & cells
            return "-" if not some else "yes" if some == cells & possible else _part(found.cells, some)
        spoken = found.cells.spoken(mask, within=possible)
        return "-" if spoken == "none" else spoken

    size = range(len(found.groups))
    texts = [[said(i, j) if _sensible(found, i, j) else "" for j in size] for i in size]
    if len(found.groups) <= MOST_COLUMNS:
        return _grid(found, texts)
    names = Names(found.groups)
    word = port_text(*port) if port is not None else ""
    pairs = [
        (found.groups[i], found.groups[j], word if texts[i][j] == "yes" else texts[i][j])
        for i in size
        for j in size
        if texts[i][j] not in ("", "-")
    ]
    lines = listing(rows(pairs, names), indent=0)
    return "\n".join([*lines, "", "Everything else is denied."]) + "\n"


def _sensible(found: Matrix, i: int, j: int) -> bool:
    """Tells whether a pair is anything that policies judge: one end must be a pod."""
    return bool(found.groups[i].pods or found.groups[j].pods)


def _grid(found: Matrix, texts: list[list[str]]) -> str:
    legend: dict[str, str] = {}
    shown: list[list[str]] = []
    for number, (group, line) in enumerate(zip(found.groups, texts, strict=True), 1):
        cells = []
        for text in line:
            if len(text) > SHORT:
                text = legend.setdefault(text, f"({chr(ord('a') + len(legend))})" if len(legend) < 26 else "(…)")
            cells.append(text)
        shown.append([f"{number}", group.name, *cells])
    head = ["", "FROM \\ TO", *(str(number) for number in range(1, len(found.groups) + 1))]
    lines = table(head, shown)
    lines += ["", *(f"{letter} {text}" for text, letter in legend.items())] if legend else []
    return "\n".join(lines) + "\n"


def _asked(found: Matrix, port: tuple[int, int] | None) -> int:
    """Returns the cells of what was asked for, 0 for everything."""
    cells = 0
    for protocol, number in of_families(port) if port is not None else ():
        cells |= found.cells.at(protocol, number)
    return cells


def _part(cells: Cells, mask: int) -> str:
    return ", ".join(range_text(cell) for cell in cells.ranges(mask))


def matrix_data(found: Matrix, port: tuple[int, int] | None) -> dict[str, Any]:
    """Returns groups and pairs for machines; "allowed" are ranges of ports, or whether the one asked for is.

    Of ICMP in one family alone it is the range.
    """
    cells = _asked(found, port)

    def allowed(i: int, j: int) -> object:
        some = found.allowed[i][j] & (cells or found.cells.everything)
        if cells and some in (0, cells & found.possible[i][j]):
            return bool(some)
        return ports_data(found.cells, some)

    size = range(len(found.groups))
    return {
        "groups": [group_data(group) for group in found.groups],
        "pairs": [
            {
                "from": found.groups[i].name,
                "to": found.groups[j].name,
                "allowed": allowed(i, j),
            }
            for i in size
            for j in size
            if _sensible(found, i, j)
        ],
    }
