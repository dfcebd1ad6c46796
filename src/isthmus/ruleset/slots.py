"""The backends of one list in slots 0 to n-1, so that a number chosen by chance is a choice among them.

What has a slot is a target, or one more seat of it (see `isthmus.ruleset.seats`). Invariant: no holes, nothing twice.
An item that goes gives its slot to one that comes in the same change, else to the last; so a change of one item moves
at most one other. Tokens are numbers of targets that hold as long as the
target is in the list, and over a restart, because they are made from the target itself.
"""

from collections.abc import Iterable
from hashlib import blake2b
from heapq import nsmallest

import msgspec

from isthmus.model.service import Target
from isthmus.ruleset.seats import Item, order

TOKEN = 1 << 31
"""Tokens have this bit and slots do not: both are looked up in the same maps."""


class Move(msgspec.Struct, frozen=True, gc=False):
    """What is in a slot now, and was before; None for nothing."""

    slot: int
    before: Item | None
    after: Item | None


class Slots:
    """Targets and their further seats with slots, and tokens of the targets."""

    def __init__(self) -> None:
        self._order: list[Item] = []
        self._slot: dict[Item, int] = {}
        self._token: dict[Target, int] = {}
        self._tokens: set[int] = set()
        self.waiting: set[Item] = set()
        """What found no room."""

    def __len__(self) -> int:
        return len(self._order)

    @property
    def items(self) -> tuple[Item, ...]:
        """Returns what there is in the order of the slots."""
        return tuple(self._order)

    def token(self, target: Target) -> int:
        """Returns the token of a target in the list; it is worked out when it is asked for first."""
        token = self._token.get(target)
        if token is None:
            digest = blake2b(f"{target.address} {target.port}".encode(), digest_size=4).digest()
            token = TOKEN | int.from_bytes(digest, "big")
            while token in self._tokens:  # two in a list of 5,000: once in 170 such lists
                token = TOKEN | (token + 1) & 0xFFFFFFFF
            self._token[target] = token
            self._tokens.add(token)
        return token

    def change(self, *, gone: Iterable[Item], come: Iterable[Item], room: int) -> list[Move]:
        """Takes items out and in, at most `room` of them; returns what moved. Others wait until there is room.

        Tokens of targets that went stay known until `forget`, since the caller has yet to remove them.
        """
        before = len(self._order)
        touched: dict[int, Item | None] = {}
        gone = set(gone)
        self.waiting -= gone
        free = [self._slot.pop(item) for item in sorted(gone, key=order) if item in self._slot]
        for slot in free:
            touched[slot] = self._order[slot]
        self.waiting.update(item for item in come if item not in self._slot)
        # Sorted, so that the same changes make the same slots; whoever waited takes part, if there is room for anyone.
        vacant = len(free) + max(0, room - before)
        for item in nsmallest(vacant, self.waiting, key=order) if vacant else ():
            if free:
                slot = free.pop()
                self._order[slot] = item
            else:
                slot = len(self._order)
                self._order.append(item)
                touched.setdefault(slot, None)
            self.waiting.discard(item)
            self._slot[item] = slot
        holes = set(free)
        while holes:
            last = len(self._order) - 1
            item = self._order.pop()
            if last in holes:
                holes.discard(last)
                continue
            touched.setdefault(last, item)
            slot = holes.pop()
            self._order[slot] = item
            self._slot[item] = slot
        after = len(self._order)
        moves = [
            Move(slot, old if slot < before else None, self._order[slot] if slot < after else None)
            for slot, old in touched.items()
        ]
        return [move for move in moves if move.before != move.after]

    def forget(self, target: Target) -> None:
        """Frees the token of a target that is out of the list."""
        if target not in self._slot:
            self._tokens.discard(self._token.pop(target, 0))
