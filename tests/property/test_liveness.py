"""Whether nodes answer: what holds whatever the network, the clock and the list of nodes do."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from isthmus.agent.across.liveness import BUDGET, HOLD, IN_FLIGHT, LATE, MISSES, TICK, Health, Liveness, Place

PLACES = [Place("west", f"w{n}", version) for n in range(3) for version in (4, 6)]


class Nodes(RuleBasedStateMachine):
    """Nodes that come, go, answer and fall silent in any order, and a loop that is sometimes late."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.told: dict[Place, Health] = {}
        self.liveness = Liveness(self._on_change)
        self.flights: dict[int, tuple[Place, float]] = {}
        self.answered: set[Place] = set()
        self.silence: dict[Place, int] = {}
        self.starts: list[float] = []

    def _on_change(self, place: Place, health: Health) -> None:
        assert self.told.get(place, Health.UNKNOWN) is not health, "told once"
        self.told[place] = health
        if health is Health.UNREACHABLE:
            assert place in self.answered, "who has never answered is unknown"

    @rule(places=st.sets(st.sampled_from(PLACES)), moved=st.booleans())
    def watch(self, places: set[Place], moved: bool) -> None:
        wanted = {place: f"192.0.2.{PLACES.index(place)}{'0' * moved}" for place in places}
        for number in self.liveness.watch(wanted, now=self.now):
            del self.flights[number]
        assert {place for place, _ in self.flights.values()} <= places

    @rule(late=st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.2, 40.0]), times=st.integers(1, 30))
    def tick(self, late: float, times: int) -> None:
        for _ in range(times):
            due = self.liveness.next_tick
            if due is None:
                return
            before = dict(self.told)
            self.now = max(self.now, due + late)
            turn = self.liveness.tick(self.now)
            for number in turn.drop:
                del self.flights[number]
            if late > LATE:
                assert not turn.drop and before == self.told, "who was late judges nobody"
            for probe in turn.start:
                self.flights[probe.number] = (probe.place, self.now)
                self.starts.append(self.now)
            assert len(turn.start) <= BUDGET * TICK

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), took=st.floats(0, 1))
    def answer(self, data: st.DataObject, took: float) -> None:
        number = data.draw(st.sampled_from(sorted(self.flights)))
        place, sent = self.flights.pop(number)
        self.now = max(self.now, sent + took)
        self.answered.add(place)
        self.liveness.answered(number, now=self.now)
        self.liveness.answered(number, now=self.now)

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), refused=st.booleans())
    def fail(self, data: st.DataObject, refused: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.flights)))
        del self.flights[number]
        if refused:
            self.liveness.missed(number, now=self.now)
        else:
            self.liveness.unable(number)

    @invariant()
    def what_was_told_is_how_it_is(self) -> None:
        for place, health in self.liveness.places().items():
            assert self.told.get(place, Health.UNKNOWN) is health
        for place in set(PLACES) - self.liveness.places().keys():
            assert self.told.get(place) is not Health.UNREACHABLE, "nobody is flagged who is not watched"

    @invariant()
    def probes_are_bounded(self) -> None:
        counts = [sum(1 for place, _ in self.flights.values() if place == one) for one in PLACES]
        assert max(counts) <= IN_FLIGHT
        assert (self.liveness.next_tick is None) == (not self.liveness.places())


Nodes.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestNodes = Nodes.TestCase


@given(rtt=st.floats(0.0001, 0.9), outage=st.floats(1.5, 30), phase=st.floats(0, 0.2))
@settings(max_examples=25, deadline=None)
def test_an_outage_is_noticed_and_ends_whatever_the_distance(rtt: float, outage: float, phase: float):
    told: list[tuple[float, Health]] = []
    now = 0.0
    liveness = Liveness(lambda _, health: told.append((now, health)))
    liveness.watch({PLACES[0]: "192.0.2.1"}, now=0.0)
    began, ends = 5.0 + phase, 5.0 + phase + outage
    answers: list[tuple[float, int]] = []
    while now < ends + 5 * HOLD:
        now = liveness.next_tick or 0.0
        for at, number in sorted(answers):
            if at <= now:
                answers.remove((at, number))
                liveness.answered(number, now=at)
        for probe in liveness.tick(now).start:
            if not began <= now + rtt / 2 < ends:
                answers.append((now + rtt, probe.number))

    assert [health for _, health in told] == [Health.REACHABLE, Health.UNREACHABLE, Health.REACHABLE]
    patience = max(0.1, 2.5 * rtt) if rtt < 0.4 else 1.0
    assert began < told[1][0] <= began + rtt + patience + (MISSES + 1) * max(TICK, rtt / IN_FLIGHT)
    assert ends + HOLD <= told[2][0] <= ends + HOLD + 2 * rtt + 1
