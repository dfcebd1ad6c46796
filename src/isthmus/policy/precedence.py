"""First match, in as few steps: rules of an ordered tier change places where nobody can tell, and meet their like.

Policies of a hundred teams, each a denial and an exception, would be two hundred steps for every packet. Most of them
are about different ports or different pods, and then their order does not matter: a rule may go before earlier ones of
another action that mean nothing it means, up to the first that has its own action, and be asked together with those.

Invariant: for every flow the first match has the action that it had before. What cannot be told apart by looking at
the rules alone (ports by name, selectors on different keys) is taken to overlap. Work is bounded: beyond MOST_LOOKS
comparisons the rest stays in its order, which costs packets time and nothing else.
Rejected: telling rules apart by which identities they match now; gates would change with every pod.
"""

from collections.abc import Iterable
from itertools import chain

from isthmus.policy.overlap import peers_overlap, ports_overlap
from isthmus.policy.rules import Action, IcmpType, Peer, PortName, PortRange

MOST_LOOKS = 100_000
"""Comparisons of two rules for one gate: some 0.1 s."""

Ports = PortRange | IcmpType | None
Meaning = tuple[Peer | None, tuple[Ports, ...], tuple[PortName, ...]]
"""What a rule is about: a peer (None = anyone), ports by number (None = all), ports by name."""


class Step:
    """Rules of one action between which order does not matter."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.meanings: list[Meaning] = []
        self._single: dict[tuple[int, int], list[Meaning]] = {}
        self._wide: list[Meaning] = []

    def add(self, meaning: Meaning) -> None:
        """Adds a rule."""
        self.meanings.append(meaning)
        keys = _singles(meaning)
        if keys is None:
            self._wide.append(meaning)
        for key in keys or ():
            self._single.setdefault(key, []).append(meaning)

    def rivals(self, meaning: Meaning) -> Iterable[Meaning]:
        """Returns the rules of this step whose ports may be among those of `meaning`."""
        keys = _singles(meaning)
        if keys is None:
            return self.meanings
        return chain(self._wide, *(self._single.get(key, ()) for key in keys))


def steps(rules: Iterable[tuple[Action, Meaning]], *, most_looks: int = MOST_LOOKS) -> list[Step]:
    """Returns `rules`, of which the first that matches decides, as steps of which the first that matches decides."""
    found: list[Step] = []
    looks = 0
    for action, meaning in rules:
        place = len(found)
        for index in range(len(found) - 1, -1, -1):
            step = found[index]
            if step.action is action:
                place = index
                continue
            clear = True
            for rival in step.rivals(meaning):
                looks += 1
                if looks > most_looks or overlap(meaning, rival):
                    clear = False
                    break
            if not clear:
                break
        if place == len(found):
            found.append(Step(action))
        found[place].add(meaning)
    return found


def overlap(one: Meaning, other: Meaning) -> bool:
    """Tells whether a flow could be meant by both; True where that cannot be told."""
    return _ports_overlap(one, other) and (one[0] is None or other[0] is None or peers_overlap(one[0], other[0]))


def _singles(meaning: Meaning) -> tuple[tuple[int, int], ...] | None:
    """Returns the ports and types (with their protocol) if there is nothing else: no range, no name."""
    _, ports, names = meaning
    keys: list[tuple[int, int]] = []
    for port in ports:
        if isinstance(port, IcmpType):
            keys.append((port.protocol, port.type))
        elif port is not None and port.first == port.last:
            keys.append((port.protocol, port.first))
        else:
            return None
    return None if names else tuple(keys)


def _ports_overlap(one: Meaning, other: Meaning) -> bool:
    return any(
        a is None or b is None or ports_overlap(a, b) for a in chain(one[1], one[2]) for b in chain(other[1], other[2])
    )
