"""Who may talk to whom: every pair of groups, on every port. Rejected: pairs of pods, of which there are too many."""

from collections.abc import Callable

import msgspec

from isthmus.policy.explaining.cells import Cells, in_family
from isthmus.policy.explaining.groups import Group, Grouping
from isthmus.policy.explaining.judging import Judge, cells_of
from isthmus.policy.explaining.scene import Scene


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """`allowed[i][j]` are the cells that `groups[i]` may open to `groups[j]`, of those in `possible[i][j]`.

    Where both have IPv4 and IPv6 addresses, what one family is allowed counts.

    Of two groups that no policy speaks for (nodes, what is outside) nothing is said: both are 0.
    """

    groups: tuple[Group, ...]
    allowed: tuple[tuple[int, ...], ...]
    possible: tuple[tuple[int, ...], ...]
    cells: Cells


def matrix(
    scene: Scene,
    *,
    namespaces: frozenset[str] = frozenset(),
    outside: bool = True,
    nodes: bool = False,
    port: tuple[int, int] | None = None,
) -> Matrix:
    """Judges all groups of pods (of some namespaces, or of all if none is named), and what is outside.

    With `nodes` also those of all clusters, as pods of other nodes meet them: other rules hold for a pod's own node.
    `port` (protocol, number) gets a cell of its own, and so does what `of_families` adds to it.
    """
    grouping = Grouping(scene)
    groups = grouping.pods(
        (cluster.name, pod)
        for cluster in scene.picture.clusters
        for pod in cluster.pods
        if not namespaces or pod.namespace in namespaces
    )
    if nodes:
        groups += grouping.nodes()
    if outside:
        groups += grouping.outside()
    cells = cells_of(scene, ports=() if port is None else of_families(port))
    judge = Judge(scene, cells)

    def row(source: Group, judged: Callable[[Group, Group], int]) -> tuple[int, ...]:
        return tuple(judged(source, end) if source.pods or end.pods else 0 for end in groups)

    return Matrix(
        groups=tuple(groups),
        allowed=tuple(row(source, judge.pair) for source in groups),
        possible=tuple(row(source, judge.possible) for source in groups),
        cells=cells,
    )


def of_families(port: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Returns what (protocol, number) is in each family."""
    return tuple(dict.fromkeys(in_family(port, family) for family in (4, 6)))
