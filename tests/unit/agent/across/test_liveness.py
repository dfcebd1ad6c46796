"""When a node counts as unreachable, and as reachable again; who is probed how often."""

import pytest

from isthmus.agent.across.liveness import (
    BUDGET,
    HOLD,
    MEMORY,
    MISSES,
    MOST_HOLD,
    MOST_REMEMBERED,
    STABLE,
    TICK,
    Health,
    Liveness,
    Place,
)

A, B = Place("west", "w1", 4), Place("west", "w2", 4)
ADDRESSES = {A: "172.18.0.5", B: "172.18.0.6"}


class Net:
    """Nodes that answer after a while or never, and a clock that goes in ticks."""

    def __init__(self, *places: Place, rtt: float = 0.01, own: str = "") -> None:
        self.now = 1000.0
        self.told: list[tuple[Place, Health]] = []
        self.liveness = Liveness(lambda place, health: self.told.append((place, health)), own=own)
        self.dead: set[Place] = set()
        self.rtt = rtt
        self.sent: list[tuple[float, Place]] = []
        self._answers: list[tuple[float, int]] = []
        self.watch(*places)

    def watch(self, *places: Place) -> tuple[int, ...]:
        return self.liveness.watch({place: ADDRESSES.get(place, "172.18.1.1") for place in places}, now=self.now)

    def run(self, seconds: float, *, late: float = 0.0) -> None:
        """Goes on for a while; every tick comes `late` seconds after it was due."""
        end = self.now + seconds
        while (due := self.liveness.next_tick) is not None and due + late <= end:
            self.now = max(self.now, due + late)
            for at, number in [answer for answer in self._answers if answer[0] <= self.now]:
                self._answers.remove((at, number))
                self.liveness.answered(number, now=at)
            for probe in self.liveness.tick(self.now).start:
                self.sent.append((self.now, probe.place))
                if probe.place not in self.dead:
                    self._answers.append((self.now + self.rtt, probe.number))
        self.now = end

    def health(self, place: Place = A) -> Health:
        return self.liveness.health(place)

    def until(self, health: Health, *, limit: float = 200.0) -> float:
        """Goes on until A is that, and returns how long it took."""
        began = self.now
        while self.health() is not health:
            self.run(TICK)
            assert self.now - began < limit, "for ever"
        return self.now - began


def test_a_node_that_stops_answering_is_unreachable_within_a_quarter_of_a_second():
    net = Net(A, B)
    net.run(2)
    assert net.told == [(A, Health.REACHABLE), (B, Health.REACHABLE)]

    net.dead.add(A)
    took = net.until(Health.UNREACHABLE)
    assert took <= 0.3
    assert net.health(B) is Health.REACHABLE


@pytest.mark.parametrize(
    ("outage", "waits"), [(0.5, HOLD), (20, 20.0), (300, MOST_HOLD)], ids=["short", "longer", "very long"]
)
def test_nodes_of_another_cluster_answer_for_as_long_as_they_were_silent_before_they_are_trusted(outage, waits):
    for own, expected in (("east", waits), ("west", HOLD)):
        net = Net(A, own=own)
        net.run(2)
        net.dead.add(A)
        net.run(outage)
        net.dead.clear()
        took = net.until(Health.REACHABLE)
        assert expected <= took <= expected + 1.5, own


def test_a_node_that_never_answered_is_unknown_whatever_it_misses_and_is_probed_less_often():
    net = Net(A)
    net.dead.add(A)
    net.run(60)
    assert net.health() is Health.UNKNOWN and net.told == []
    assert len(net.sent) < 80

    net.dead.clear()
    assert net.until(Health.REACHABLE) <= 1.1


@pytest.mark.parametrize("rtt", [0.0001, 0.05, 0.3, 0.9])
def test_a_far_node_is_as_well_as_a_near_one(rtt):
    net = Net(A, rtt=rtt)
    net.run(60)
    assert net.told == [(A, Health.REACHABLE)]

    net.dead.add(A)
    assert net.until(Health.UNREACHABLE) < 0.3 + 3 * max(rtt, 0.1) + 1


def test_answers_that_become_slow_are_learned_and_the_node_is_back():
    net = Net(A, rtt=0.001)
    net.run(10)
    net.rtt = 0.4
    net.run(30)
    assert net.health() is Health.REACHABLE
    assert len(net.told) <= 3


def test_one_answer_between_misses_starts_the_count_again():
    net = Net(A)
    net.run(1)
    net.dead.add(A)
    for _ in range(40):
        net.run((MISSES - 1) * TICK)
        net.dead.clear()
        net.run(TICK)
        net.dead.add(A)
    assert net.told == [(A, Health.REACHABLE)]


def test_what_the_network_says_is_a_miss_at_once_and_what_fails_here_is_none():
    net = Net(A)
    net.run(1)
    net.dead.add(A)
    for _ in range(20):
        net.now = net.liveness.next_tick
        for probe in net.liveness.tick(net.now).start:
            net.liveness.unable(probe.number)
    assert net.health() is Health.REACHABLE

    misses = 0
    while net.health() is Health.REACHABLE:
        net.now = net.liveness.next_tick
        for probe in net.liveness.tick(net.now).start:
            net.liveness.missed(probe.number, now=net.now)
            misses += 1
    assert 1 < misses <= MISSES, "one may have been under way"


def test_a_node_is_reachable_again_after_it_has_answered_for_a_second_without_a_miss():
    net = Net(A)
    net.run(1)
    net.dead.add(A)
    net.until(Health.UNREACHABLE)
    net.run(20)
    net.dead.clear()
    assert HOLD <= net.until(Health.REACHABLE) <= HOLD + 0.6


def test_a_node_that_flaps_must_answer_for_longer_each_time_and_one_that_was_stable_starts_anew():
    net = Net(A)
    net.run(1)
    waits = []
    for _ in range(9):
        net.dead.add(A)
        net.until(Health.UNREACHABLE)
        net.dead.clear()
        waits.append(net.until(Health.REACHABLE))
    assert [round(wait) for wait in waits[:6]] == [1, 2, 4, 8, 16, 32]
    assert waits[-1] <= MOST_HOLD + 1

    net.run(STABLE)
    net.dead.add(A)
    net.until(Health.UNREACHABLE)
    net.dead.clear()
    assert net.until(Health.REACHABLE) <= HOLD + 0.6


def test_a_loop_that_is_late_blames_nobody_for_answers_that_it_could_not_see():
    net = Net(A)
    net.run(1)
    net.dead.add(A)
    net.run(20, late=0.11)
    assert net.health() is Health.REACHABLE
    net.run(2, late=0.06)
    assert net.health() is Health.UNREACHABLE


@pytest.mark.parametrize("pause", [0.05, 0.09, 0.11, 0.2, 3])
def test_short_pauses_of_the_whole_machine_are_no_outages_either(pause):
    net = Net(A, rtt=0.03)
    for _ in range(50):
        net.run(0.33)
        net._answers = [(at + pause, number) for at, number in net._answers]
        net.now += pause
    assert net.told == [(A, Health.REACHABLE)]


def test_a_pause_of_the_whole_machine_is_no_outage_of_the_others():
    net = Net(A, B)
    net.run(1)
    answers, net._answers = net._answers, []
    net.now += 30
    net._answers = [(net.now + 0.02, number) for _, number in answers]
    net.run(5)
    assert {net.health(A), net.health(B)} == {Health.REACHABLE}
    assert len(net.told) == 2


@pytest.mark.parametrize(("count", "crowd", "interval"), [(1, 1, 0.05), (10, 50, 0.05), (1000, 1, 5.0), (4, 400, 0.4)])
def test_probes_a_second_are_bounded_for_who_sends_and_for_who_gets_them(count, crowd, interval):
    places = [Place("west", f"w{n}", 4) for n in range(count)]
    net = Net(*places)
    net.liveness.crowd = crowd
    net.run(20)

    assert net.liveness.interval == pytest.approx(interval)
    assert len(net.sent) <= BUDGET * 20 + BUDGET * TICK
    assert len(net.sent) == pytest.approx(count * 20 / interval, rel=0.06)
    if interval < 20:
        assert {place for _, place in net.sent} == set(places)


def test_who_is_not_watched_for_a_moment_keeps_what_was_known_and_is_unknown_after_a_while():
    net = Net(A)
    net.run(1)
    net.dead.add(A)
    net.until(Health.UNREACHABLE)
    net.watch()
    assert net.health() is Health.UNKNOWN and net.told[-1] == (A, Health.UNKNOWN)
    assert net.liveness.next_tick is None

    net.now += 5
    net.watch(A)
    assert net.health() is Health.UNREACHABLE and net.told[-1] == (A, Health.UNREACHABLE)

    net.watch()
    net.now += MEMORY + 1
    net.watch(A)
    assert net.health() is Health.UNKNOWN


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_node_that_an_earlier_run_knew_is_not_excused(when):
    net = Net()
    net.dead.add(A)
    if when == "before":
        net.liveness.recall([("west", "w1"), ("west", "w99")])
    net.watch(A, B)
    if when == "after":
        net.liveness.recall([("west", "w1")])
    assert net.told == [(A, Health.REACHABLE)]
    assert net.until(Health.UNREACHABLE) <= 1.5
    net.dead.clear()
    assert net.until(Health.REACHABLE) <= HOLD + 0.6


def test_what_was_known_of_a_node_at_another_address_is_not_remembered():
    net = Net(A)
    net.run(1)
    net.watch()
    net.liveness.watch({A: "172.18.0.99"}, now=net.now)
    assert net.health() is Health.UNKNOWN


@pytest.mark.parametrize("broken", ["silence", "not watched"])
def test_a_node_must_answer_for_the_whole_time_without_a_break(broken):
    net = Net(A)
    net.run(1)
    net.dead.add(A)
    net.until(Health.UNREACHABLE)
    net.dead.clear()
    net.run(HOLD * 0.7)
    if broken == "silence":
        net.dead.add(A)
        net.run(3)
        net.dead.clear()
    else:
        net.watch()
        net.run(0)
        net.now += 3
        net.watch(A)
    assert net.health() is Health.UNREACHABLE
    assert net.until(Health.REACHABLE) >= HOLD


def test_so_many_nodes_are_remembered_and_no_more():
    net = Net(*(Place("west", f"w{number}", 4) for number in range(MOST_REMEMBERED + 10)))
    net.watch()
    assert len(net.liveness._remembered) == MOST_REMEMBERED


def test_the_word_of_an_earlier_run_holds_for_a_node_only_as_long_as_it_is_watched():
    net = Net()
    net.liveness.recall([("west", "w1")])
    net.watch(A)
    assert net.health() is Health.REACHABLE
    net.watch()
    net.run(MEMORY)
    net.now += 2 * MEMORY
    net.dead.add(A)
    net.watch(A)
    net.run(10)
    assert net.health() is Health.UNKNOWN, "another node of that name, of which nobody knows whether it may be probed"


def test_another_address_is_another_node_and_probes_of_the_old_one_are_given_up():
    net = Net(A)
    net.run(1)
    net.dead.add(A)
    net.until(Health.UNREACHABLE)
    assert net.liveness.watch({A: "172.18.0.99"}, now=net.now)
    assert net.health() is Health.UNKNOWN
    assert net.told[-1] == (A, Health.UNKNOWN)
