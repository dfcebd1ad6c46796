"""What a change of policies does: which groups may talk on which ports that could not before, and the other way round.

Invariant: pairs that are not listed are as they were, for every port; a pair can only change if what concerns one of
its ends did, so nothing else is looked at. Rejected: comparing two whole matrices, which asks everything twice to find
what one policy touched.
"""

import msgspec

from isthmus.policy.explaining.cells import Cells
from isthmus.policy.explaining.groups import Group, Grouping
from isthmus.policy.explaining.judging import Judge, cells_of
from isthmus.policy.explaining.scene import Scene
from isthmus.policy.rules import Direction


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What changes for a pair: the cells that open, and those that shut; `within` are those that the pair can have.

    A pair with both families may have a cell that opens in one and shuts in the other.
    """

    source: Group
    destination: Group
    opened: int
    shut: int
    within: int


class Effects(msgspec.Struct, frozen=True):
    """All that changes, by source and destination; `cells` say what the numbers mean."""

    effects: tuple[Effect, ...]
    cells: Cells


def effects(before: Scene, after: Scene) -> Effects:
    """Compares two scenes of the same clusters, pods and nodes."""
    grouping = Grouping(before, after)
    pods = grouping.pods((cluster.name, pod) for cluster in before.picture.clusters for pod in cluster.pods)
    others = [*grouping.nodes(), *grouping.outside()]
    cells = cells_of(before, after)
    old, new = Judge(before, cells), Judge(after, cells)
    leaving = {id(group) for group in pods if _differs(old, new, group, Direction.EGRESS)}
    arriving = {id(group) for group in pods if _differs(old, new, group, Direction.INGRESS)}
    found = []
    for source in (*pods, *others):
        for destination in (*pods, *others):
            if id(source) not in leaving and id(destination) not in arriving:
                continue
            opened = shut = 0
            for family in new.families(source, destination):
                was, now = (judge.within(family, source, destination) for judge in (old, new))
                opened |= now & ~was
                shut |= was & ~now
            if opened or shut:
                found.append(
                    Effect(
                        source=source,
                        destination=destination,
                        opened=opened,
                        shut=shut,
                        within=new.possible(source, destination),
                    )
                )
    return Effects(tuple(found), cells)


def _differs(old: Judge, new: Judge, group: Group, direction: Direction) -> bool:
    return old.program(group, direction) != new.program(group, direction)
