"""Whether nodes answer: when to probe which, and what to make of answers and of silence. No I/O, no clock.

A node is probed once per interval; three misses in a row make it unreachable, and answers for a while make it reachable
again, for longer each time it fails soon after. A node of another cluster must answer for as long as it was silent: our
tracker heard nothing of that cluster either, and its connection repeats what was lost no sooner than that, since TCP
doubles its pauses; until then we would lead clients to pods that are gone by now. Invariants: a node that has never
answered is unknown, whatever it misses, because a firewall between us says nothing about its pods; a miss counts only
if this program was on time to see the answer; probes a second are bounded however many nodes there are; a node that is
not watched for a moment keeps what was known of it. Rejected: asking the other cluster's API server, which may be away
while its pods are well, and says nothing of the way between; and counting connections of clients that fail, which needs
victims.

The shell tells what came (`answered`, `missed`, `unable`) before each `tick`. Times are seconds of one steady clock.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

import msgspec

TICK = 0.05
"""Between two looks at what is due; also the shortest interval between two probes of a node."""

BUDGET = 200.0
"""Probes a second that leave this node at most."""

RECEIVED = 1000.0
"""Probes a second that a node is to get from all agents together: what 50 agents send at the shortest interval."""

MISSES = 3
LEAST_PATIENCE = 0.1
MOST_PATIENCE = 1.0
"""How long an answer may take: four times its usual deviation over the usual, within these."""

LATE = LEAST_PATIENCE
"""A tick that is later than this judges nobody: what was under way gets its whole time again.

Answers that came while only this program was busy are seen all the same. It is for pauses of the whole machine; a
shorter one makes fewer than MISSES misses, and a busy machine on which every tick is somewhat late still finds outages.
"""

HOLD = 1.0
MOST_HOLD = 60.0
"""For how long a node must answer before it counts as reachable again; doubled each time it failed soon.

The longest is also the most that is waited for news of another cluster after an outage.
"""

STABLE = 2 * MOST_HOLD
"""A node that was reachable for so long starts with HOLD again."""

SLOW = {"unknown": 1.0, "unreachable": 0.25}
"""Least seconds between two probes of a node that does not answer."""

MEMORY = 60.0
MOST_REMEMBERED = 4096
"""For how long, and of how many, it is remembered how they were when they were watched last."""

IN_FLIGHT = 8
"""Probes of one node under way at most."""


class Place(msgspec.Struct, frozen=True, order=True, gc=False):
    """A node as seen in one address family: `version` is 4 or 6. `node` is an address where no name is known."""

    cluster: str
    node: str
    version: int


class Health(Enum):
    """How a node is."""

    UNKNOWN = "unknown"
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"


class Probe(msgspec.Struct, frozen=True, gc=False):
    """A connection to try; `number` is what the shell tells its outcome by."""

    number: int
    place: Place
    address: str


class Turn(msgspec.Struct, frozen=True, gc=False):
    """What a tick asks for: probes to start, and numbers of probes to give up."""

    start: tuple[Probe, ...] = ()
    drop: tuple[int, ...] = ()


class _Node(msgspec.Struct):
    """What is known of a place."""

    address: str
    health: Health = Health.UNKNOWN
    misses: int = 0  # in a row
    under_way: int = 0
    sent: float = float("-inf")  # when the last probe was sent
    heard: float = float("-inf")  # when the last probe that was answered had been sent
    usual: float | None = None  # time to an answer, smoothed
    deviation: float = 0.0
    hold: float = HOLD
    fell: float = 0.0  # when the last probe that was answered before the outage had been sent
    wait: float = HOLD  # how long this streak has to last
    streak: float | None = None  # since when an unreachable node answers
    recovered: float | None = None  # when it became reachable again, if it ever did
    left: float = 0.0  # when it was watched last

    @property
    def patience(self) -> float:
        """Returns how long an answer may take."""
        if self.health is not Health.REACHABLE or self.usual is None:
            return MOST_PATIENCE
        return min(max(self.usual + 4 * self.deviation, LEAST_PATIENCE), MOST_PATIENCE)


class _Flight(msgspec.Struct):
    """A probe under way."""

    place: Place
    node: _Node
    sent: float
    deadline: float


class Liveness:
    """The places that are watched. `on_change` is told of each change of health, inside the call that finds it.

    `own` is the cluster of which news does not depend on these nodes; "" if that is so of all.
    """

    def __init__(self, on_change: Callable[[Place, Health], None], *, own: str = "") -> None:
        self._on_change = on_change
        self._own = own
        self._nodes: dict[Place, _Node] = {}
        self._order: deque[Place] = deque()
        self._remembered: dict[Place, _Node] = {}
        self._flights: dict[int, _Flight] = {}
        self._number = 0
        self._credit = 0.0
        self._due: float | None = None
        self._familiar: set[tuple[str, str]] = set()
        self.crowd = 1
        """How many agents there are that may probe the same nodes, roughly."""

    # -- what is asked -----------------------------------------------------------------------------------------

    def health(self, place: Place) -> Health:
        """Returns how a place is; unknown if it is not watched."""
        node = self._nodes.get(place)
        return node.health if node is not None else Health.UNKNOWN

    def places(self) -> Mapping[Place, Health]:
        """Returns how every place that is watched is."""
        return {place: node.health for place, node in self._nodes.items()}

    @property
    def next_tick(self) -> float | None:
        """Returns when to call `tick`; None while there is nothing to do."""
        return self._due

    @property
    def interval(self) -> float:
        """Returns the seconds between two probes of a node that answers."""
        return max(TICK, len(self._nodes) / BUDGET, self.crowd / RECEIVED)

    # -- what is told ------------------------------------------------------------------------------------------

    def recall(self, nodes: Iterable[tuple[str, str]]) -> None:
        """Says which nodes, by cluster and name, an earlier run knew to answer: their silence is not to be excused."""
        self._familiar = set(nodes)
        for place, node in self._nodes.items():
            if node.health is Health.UNKNOWN and (place.cluster, place.node) in self._familiar:
                self._turn(place, node, Health.REACHABLE)

    def watch(self, wanted: Mapping[Place, str], *, now: float) -> tuple[int, ...]:
        """Watches these places, at these addresses, and no others; returns the numbers of probes to give up."""
        dropped: set[Place] = set()
        for place in [place for place, node in self._nodes.items() if wanted.get(place) != node.address]:
            node = self._nodes.pop(place)
            dropped.add(place)
            self._familiar.discard((place.cluster, place.node))  # whoever has that name later may be another node
            if place not in wanted:
                node.left, node.under_way = now, 0
                self._remembered.pop(place, None)
                self._remembered[place] = node
            if node.health is not Health.UNKNOWN:
                self._on_change(place, Health.UNKNOWN)
        while len(self._remembered) > MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        for place, address in wanted.items():
            if place not in self._nodes:
                known = self._remembered.pop(place, None)
                if known is None or known.address != address or now - known.left > MEMORY:
                    known = _Node(address)
                    if (place.cluster, place.node) in self._familiar:
                        known.health = Health.REACHABLE
                known.streak = None
                self._nodes[place] = known
                if known.health is not Health.UNKNOWN:
                    self._on_change(place, known.health)
        self._order = deque(place for place in self._order if place in self._nodes and place not in dropped)
        present = set(self._order)
        self._order.extend(place for place in self._nodes if place not in present)
        if not self._nodes:
            self._due = None
        elif self._due is None:
            self._due = now
        gone = tuple(number for number, flight in self._flights.items() if flight.place in dropped)
        for number in gone:
            del self._flights[number]
        return gone

    def answered(self, number: int, *, now: float) -> None:
        """The node answered a probe, if only to refuse it."""
        flight = self._land(number)
        if flight is None:
            return
        node = flight.node
        node.misses = 0
        node.heard = max(node.heard, flight.sent)
        took = now - flight.sent
        if node.usual is None:
            node.usual, node.deviation = took, took / 2
        else:  # as RFC 6298 does it
            node.deviation += (abs(node.usual - took) - node.deviation) / 4
            node.usual += (took - node.usual) / 8
        if node.health is Health.UNKNOWN:
            self._turn(flight.place, node, Health.REACHABLE)
        elif node.health is Health.UNREACHABLE:
            if node.streak is None:
                node.streak = now
                silent = now - node.fell if self._own and flight.place.cluster != self._own else 0.0
                node.wait = max(node.hold, min(silent, MOST_HOLD))
            elif now - node.streak >= node.wait:
                node.streak, node.recovered = None, now
                self._turn(flight.place, node, Health.REACHABLE)

    def missed(self, number: int, *, now: float) -> None:
        """The network says that the node cannot be reached."""
        flight = self._land(number)
        if flight is not None:
            self._miss(flight, now)

    def unable(self, number: int) -> None:
        """The probe could not be made for a reason of our own, which says nothing of the node."""
        self._land(number)

    def tick(self, now: float) -> Turn:
        """Judges what is overdue and says what to probe next. Does nothing before `next_tick`."""
        if self._due is None or now < self._due:
            return Turn()
        late = now - self._due > LATE
        self._due = now + TICK if late else self._due + TICK
        overdue = [number for number, flight in self._flights.items() if flight.deadline <= now]
        if late:
            for number in overdue:
                self._flights[number].deadline = now + self._flights[number].node.patience
            overdue = []
        for number in overdue:
            flight = self._land(number)
            if flight is not None:
                self._miss(flight, now)
        return Turn(tuple(self._start(now)), tuple(overdue))

    # -- inside ------------------------------------------------------------------------------------------------

    def _start(self, now: float) -> list[Probe]:
        """Takes as many places as are due in a tick, in turn."""
        count = len(self._order)
        self._credit = min(self._credit + count * TICK / self.interval, count, BUDGET * TICK)
        started: list[Probe] = []
        while self._credit >= 1 - 1e-9:
            self._credit -= 1
            place = self._order[0]
            self._order.rotate(-1)
            node = self._nodes[place]
            if node.under_way >= IN_FLIGHT or now - node.sent < _pause(node) - TICK / 2:
                continue
            self._number += 1
            node.sent = now
            node.under_way += 1
            self._flights[self._number] = _Flight(place, node, now, now + node.patience)
            started.append(Probe(self._number, place, node.address))
        return started

    def _land(self, number: int) -> _Flight | None:
        flight = self._flights.pop(number, None)
        if flight is not None:
            flight.node.under_way -= 1
        return flight

    def _miss(self, flight: _Flight, now: float) -> None:
        node = flight.node
        if flight.sent <= node.heard:
            return  # one that was sent later has been answered
        node.misses += 1
        node.streak = None
        if node.health is Health.REACHABLE and node.misses >= MISSES:
            soon = node.recovered is not None and now - node.recovered < STABLE
            node.hold = min(2 * node.hold, MOST_HOLD) if soon else HOLD
            node.fell = node.heard
            self._turn(flight.place, node, Health.UNREACHABLE)

    def _turn(self, place: Place, node: _Node, health: Health) -> None:
        node.health = health
        self._on_change(place, health)


def _pause(node: _Node) -> float:
    if node.health is Health.REACHABLE or node.misses < MISSES:
        return 0.0
    return SLOW[node.health.value]
