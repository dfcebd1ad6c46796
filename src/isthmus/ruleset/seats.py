"""How many slots each target of a list has, so that a number chosen by chance respects what its cluster counts for.

Targets that all count alike have one slot each, and nothing is kept here. Otherwise the heaviest cluster's targets get
some number of seats each and the others' in proportion; a fraction of a seat is one seat for so many of a cluster's
targets, so a cluster's share is right within half a seat however coarse the single ones are. The number is the least
that is right within a hundredth (4 for 100 against 25, 10 against 90), but the list stays within 256 seats, or 4 for
each target where that is more: beyond these, an error of half a seat is less than 0.4 % of all. It changes with the
number of targets at powers of two alone, and back only a quarter below, so a target that comes and goes is a few seats.

Invariants: no cluster that counts for anything is without a seat; seats of a target are numbered from 0 without holes,
and seat 0 is the target itself, which is what a list without weights consists of. Rejected: choosing a cluster first
and then one of its targets: another look-up for every new connection, and shares that change with every backend.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache

import msgspec

from isthmus.model.service import Target

SEATS = 256
LEAST = 4
MOST = 1 << 15
"""Seats of a list: so many are enough; but of a heaviest target, at least; and of a list, at most, if it is not longer
by itself."""


class Seat(msgspec.Struct, frozen=True, gc=False):
    """One more seat of a target; `number` counts from 1."""

    target: Target
    number: int


Item = Target | Seat
"""What takes a slot."""

Items = list[Item]


def target_of(item: Item) -> Target:
    """Returns whose seat it is."""
    return item if isinstance(item, Target) else item.target


def order(item: Item) -> tuple[int, Target]:
    """Sorts items: everyone's first seat before anyone's second."""
    return (0, item) if isinstance(item, Target) else (item.number, item.target)


class _Share(msgspec.Struct):
    """The targets of one cluster: `base` seats each, and one more for `part` of `whole` of them, who are `high`."""

    base: int
    part: int
    whole: int
    low: dict[Target, None] = {}
    high: dict[Target, None] = {}

    @property
    def wanted(self) -> int:
        """Returns how many have one more."""
        count = len(self.low) + len(self.high)
        extra = (2 * count * self.part + self.whole) // (2 * self.whole)
        return max(extra, 1) if count and not self.base else extra


class Seats:
    """The seats of one list of targets."""

    def __init__(self) -> None:
        self._weights: dict[str, int] = {}
        self._scale = 0  # seats of a heaviest target
        self._shares: dict[str, _Share] = {}

    def change(
        self,
        *,
        gone: Collection[Target],
        come: Collection[Target],
        members: Collection[Target],
        weights: Mapping[str, int],
        cluster: Callable[[Target], str],
        afresh: bool = False,
    ) -> tuple[Items, Items]:
        """Returns the seats that go and that come with a change of targets, or of what they count for.

        `weights` are those of all clusters that `cluster` names, empty where all count alike. `members` are all targets
        after the change; `afresh` says that `cluster` may name others for those that stay.
        """
        if not weights and not self._weights:
            return list(gone), list(come)
        joined = {target: cluster(target) for target in sorted(come)} if weights else {}
        counts = {name: len(share.low) + len(share.high) for name, share in self._shares.items()}
        for target in gone:
            name = self._named(target)
            if name:
                counts[name] -= 1
        if weights == self._weights and not afresh:
            for name in joined.values():
                counts[name] = counts.get(name, 0) + 1
            scale = _scale(counts, weights, now=self._scale)
            if scale == self._scale:
                return self._step(gone, joined)
        return self._anew(members, gone, come, dict(weights), cluster)

    def _named(self, target: Target) -> str | None:
        """Returns under which cluster a target has its seats."""
        for name, share in self._shares.items():
            if target in share.low or target in share.high:
                return name
        return None

    def _step(self, gone: Collection[Target], joined: Mapping[Target, str]) -> tuple[Items, Items]:
        """Lets targets go and come while everything else stays as it is."""
        left: Items = []
        new: Items = []
        touched: dict[str, None] = {}
        for target in sorted(gone):
            name = self._named(target)
            if name is not None:
                share = self._shares[name]
                left += _seats(target, 0, share.base + (target in share.high))
                share.low.pop(target, None)
                share.high.pop(target, None)
                touched[name] = None
        for target, name in joined.items():
            share = self._shares.setdefault(name, self._share(name))
            share.low[target] = None
            new += _seats(target, 0, share.base)
            touched[name] = None
        for name in touched:
            share = self._shares[name]
            while len(share.high) < share.wanted:
                target, _ = share.low.popitem()
                share.high[target] = None
                new += _seats(target, share.base, share.base + 1)
            while len(share.high) > share.wanted:
                target, _ = share.high.popitem()
                share.low[target] = None
                left += _seats(target, share.base, share.base + 1)
        return left, new

    def _share(self, name: str) -> _Share:
        heaviest = max(self._weights.values())
        base, part = divmod(self._weights[name] * self._scale, heaviest)
        nearest = base + (2 * part >= heaviest)
        if nearest and 100 * abs(nearest * heaviest - self._weights[name] * self._scale) <= nearest * heaviest:
            base, part = nearest, 0
        return _Share(base, part, heaviest)

    def _anew(
        self,
        members: Collection[Target],
        gone: Collection[Target],
        come: Collection[Target],
        weights: dict[str, int],
        cluster: Callable[[Target], str],
    ) -> tuple[Items, Items]:
        """Gives everyone the seats that other weights or another scale give them."""
        if self._weights:
            before = {
                target: share.base + high
                for share in self._shares.values()
                for high, targets in enumerate((share.low, share.high))
                for target in targets
            }
        else:
            before = dict.fromkeys((set(members) - set(come)) | set(gone), 1)
        self._weights = weights
        self._shares = {}
        if not weights:
            self._scale = 0
            return _difference(before, dict.fromkeys(members, 1))
        named: dict[str, list[Target]] = {}
        for target in sorted(members):
            named.setdefault(cluster(target), []).append(target)
        self._scale = _scale({name: len(targets) for name, targets in named.items()}, weights, now=0)
        after: dict[Target, int] = {}
        for name, targets in named.items():
            share = self._shares[name] = self._share(name)
            share.low = dict.fromkeys(targets)
            # Who had more keeps more, so that fewer seats move.
            targets.sort(key=lambda target: -before.get(target, 0))
            for target in targets[: share.wanted]:
                del share.low[target]
                share.high[target] = None
            after |= dict.fromkeys(share.low, share.base) | dict.fromkeys(share.high, share.base + 1)
        return _difference(before, after)


def _seats(target: Target, first: int, last: int) -> Iterable[Item]:
    return (Seat(target, number) if number else target for number in range(first, last))


def _difference(before: Mapping[Target, int], after: Mapping[Target, int]) -> tuple[Items, Items]:
    left: Items = []
    new: Items = []
    for target in before.keys() | after.keys():
        was, now = before.get(target, 0), after.get(target, 0)
        left += _seats(target, now, was)
        new += _seats(target, was, now)
    return left, new


def _scale(counts: Mapping[str, int], weights: Mapping[str, int], *, now: int) -> int:
    """Returns how many seats a heaviest target gets; `now` if that will do.

    Exact for what there is, or for a quarter less: so a target that comes and goes does not change it each time.
    """
    heaviest = max(weights.values())
    load = sum(counts.get(name, 0) * weight for name, weight in weights.items())
    wanted = _wanted(frozenset(weights.values()))
    fewest = min(wanted, _most(load, heaviest))
    return now if fewest <= now <= min(wanted, _most(load * 3 // 4, heaviest)) else fewest


def _most(load: int, heaviest: int) -> int:
    """Returns the power of two that keeps a list of that weight in its bounds."""
    load = max(load, 1)
    enough = max(LEAST, SEATS * heaviest // load)
    return _power(max(1, min(enough, MOST * heaviest // load)))


def _power(number: int) -> int:
    return 1 << number.bit_length() - 1


@lru_cache(maxsize=256)
def _wanted(weights: frozenset[int]) -> int:
    """Returns the least number of seats for a heaviest target that gives everyone whole ones, within a hundredth."""
    heaviest = max(weights)
    for scale in range(1, heaviest):
        if all(_whole(weight * scale, heaviest) for weight in weights):
            return scale
    return heaviest


def _whole(part: int, whole: int) -> bool:
    nearest = (2 * part + whole) // (2 * whole)
    return bool(nearest) and 100 * abs(nearest * whole - part) <= nearest * whole
