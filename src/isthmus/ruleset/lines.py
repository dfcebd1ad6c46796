"""One port of a service in one family: its backends, which of them are in use, and in which slots.

What is told goes in, and out comes what moved in the slots; the table is not known here. Invariant: slots hold what the
pool says is usable, as often as it counts. Rejected: leaving this to the ServiceCompiler, which knows of frontends and
elements and should not know of seats.
"""

from collections.abc import Iterable

import msgspec

from isthmus.model.service import Backend, Target
from isthmus.ruleset.seats import Seats
from isthmus.ruleset.service_layout import MOST_NEAR, MOST_SLOTS
from isthmus.ruleset.slots import Move, Slots
from isthmus.services.choice import Choice
from isthmus.services.frontends import Frontend, FrontendKey
from isthmus.services.pool import Pool, Reach, Turn

_ROOM = {Reach.ALL: MOST_SLOTS, Reach.NEAR: MOST_NEAR}


class Shift(msgspec.Struct, frozen=True, gc=False):
    """What a change did to the slots of one reach; `gone` are the targets whose tokens are to be forgotten after it."""

    reach: Reach
    moves: list[Move]
    gone: list[Target]


class Line:
    """A port's backends, their slots, and the frontends that lead there."""

    def __init__(self, node: str, choice: Choice | None) -> None:
        self.pool = Pool(node, choice)
        self.slots = {reach: Slots() for reach in Reach}
        self.frontends: dict[FrontendKey, Frontend] = {}
        self._seats: Seats | None = None  # of all, as long as they do not count alike

    def __bool__(self) -> bool:
        return bool(self.pool or self.frontends)

    @property
    def waiting(self) -> int:
        """Returns how many targets there is no room for."""
        return sum(isinstance(item, Target) for slots in self.slots.values() for item in slots.waiting)

    def refill(self, *, gone: Iterable[Backend], come: Iterable[Backend]) -> list[Shift]:
        """Takes backends out and in."""
        turns = self.pool.change(gone=gone, come=come)
        return [shift for reach, turn in turns.items() if (shift := self._shift(reach, turn)) is not None]

    def follow(self, choice: Choice | None) -> tuple[list[Shift], bool]:
        """Takes another choice; tells also whether a backend may not keep its connections any more."""
        turns, astray = self.pool.set_choice(choice)
        found = (self._shift(reach, turns.get(reach, Turn()), afresh=True) for reach in Reach)
        return [shift for shift in found if shift is not None], astray

    def _shift(self, reach: Reach, turn: Turn, *, afresh: bool = False) -> Shift | None:
        weights = self.pool.weights(reach)
        if reach is Reach.NEAR or (not weights and self._seats is None):
            if not turn:
                return None
            moves = self.slots[reach].change(gone=turn.gone, come=turn.come, room=_ROOM[reach])
            return Shift(reach, moves, list(turn.gone))
        seats = self._seats or Seats()
        gone, come = seats.change(
            gone=turn.gone,
            come=turn.come,
            members=self.pool.usable(reach),
            weights=weights,
            cluster=self.pool.cluster,
            afresh=afresh,
        )
        self._seats = seats if weights else None
        if not gone and not come:
            return None
        moves = self.slots[reach].change(gone=gone, come=come, room=_ROOM[reach])
        return Shift(reach, moves, [item for item in gone if isinstance(item, Target)])
