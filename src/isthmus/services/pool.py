"""Which of a port's backends get connections: ready ones, and serving terminating ones if there are no others.

The rule is kube-proxy's (KEP-1669): for everyone, and for those who may only use this node's. Kept one change at a
time, because a port may have thousands of backends and one of them changes. Invariant: `usable` depends on the backends
that are in the pool now, never on the order in which they came. A backend that several slices tell of is in the pool
until the last of them drops it, and is as well as the best of them says.
"""

from collections import Counter
from collections.abc import Iterable
from enum import Enum

import msgspec

from isthmus.model.service import Backend, Target


class Reach(Enum):
    """Whose backends may be used."""

    ALL = "all"
    NEAR = "near"  # those of this node


class Turn(msgspec.Struct, frozen=True, gc=False):
    """Targets that came into use and went out of it."""

    come: frozenset[Target] = frozenset()
    gone: frozenset[Target] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.come or self.gone)


_Group = tuple[Reach, bool]  # whose, and ready (or else serving while terminating)


class Pool:
    """The backends of one port of a service, of one address family."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._told: Counter[Backend] = Counter()
        self._by_target: dict[Target, tuple[Backend, ...]] = {}  # mostly one: a set takes five times as much
        self._groups: dict[_Group, set[Target]] = {(reach, ready): set() for reach in Reach for ready in (True, False)}

    def __bool__(self) -> bool:
        return bool(self._told)

    @property
    def serving(self) -> frozenset[Target]:
        """Returns the targets that answer, in use or not: connections that they have may stay."""
        return frozenset(backend.target for backend in self._told if backend.ready or backend.serving)

    def usable(self, reach: Reach) -> set[Target]:
        """Returns the targets in use; not to be changed."""
        return self._groups[reach, True] or self._groups[reach, False]

    def change(self, *, gone: Iterable[Backend] = (), come: Iterable[Backend] = ()) -> dict[Reach, Turn]:
        """Takes backends out and in, and returns what that means for who is in use."""
        touched: set[Target] = set()
        for backend in gone:
            self._told[backend] -= 1
            if self._told[backend] <= 0:
                del self._told[backend]
                told = tuple(other for other in self._by_target.pop(backend.target) if other != backend)
                if told:
                    self._by_target[backend.target] = told
                touched.add(backend.target)
        for backend in come:
            self._told[backend] += 1
            if self._told[backend] == 1:
                self._by_target[backend.target] = (*self._by_target.get(backend.target, ()), backend)
                touched.add(backend.target)
        leading = {reach: self._leading(reach) for reach in Reach}
        moves: dict[_Group, tuple[set[Target], set[Target]]] = {}
        for group, members in self._groups.items():
            now = {target for target in touched if self._belongs(target, group)}
            before = touched & members
            moves[group] = (now - before, before - now)
            members |= now
            members -= before - now
        turns: dict[Reach, Turn] = {}
        for reach in Reach:
            old, new = leading[reach], self._leading(reach)
            come_in, go_out = moves[reach, new]
            if old is new:
                turns[reach] = Turn(frozenset(come_in), frozenset(go_out))
            else:
                came, went = moves[reach, old]
                before = (self._groups[reach, old] - came) | went
                after = self._groups[reach, new]
                turns[reach] = Turn(frozenset(after - before), frozenset(before - after))
        return turns

    def _leading(self, reach: Reach) -> bool:
        return bool(self._groups[reach, True])

    def _belongs(self, target: Target, group: _Group) -> bool:
        reach, ready = group
        mine = [b for b in self._by_target.get(target, ()) if reach is Reach.ALL or b.node == self._node]
        best = any(b.ready for b in mine)
        return best if ready else not best and any(b.serving and b.terminating for b in mine)
