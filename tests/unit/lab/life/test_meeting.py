"""Which clusters of a lab a new one is joined with."""

import threading

import msgspec

from isthmus.lab.life.meeting import Meeting
from isthmus.lab.plan import ClusterPlan, plan_cluster


def plan(name: str, number: int, *, connect: bool = True) -> ClusterPlan:
    made = plan_cluster(name, existing=[], cluster_id=number, nodes=1)
    return msgspec.structs.replace(made, connect=connect)


A, B, C = plan("a", 1), plan("b", 2), plan("c", 3)
ALONE = plan("alone", 4, connect=False)


def test_a_new_cluster_meets_those_that_run_and_those_that_came_before_it() -> None:
    meeting = Meeting([A])
    assert meeting.come(B) == [A]
    assert meeting.come(C) == [A, B]


def test_a_cluster_that_is_to_stay_alone_meets_nobody_and_nobody_meets_it() -> None:
    meeting = Meeting([A, ALONE])
    assert meeting.come(B) == [A]
    alone = plan("other", 5, connect=False)
    assert meeting.come(alone) == []
    assert meeting.come(C) == [A, B]


def test_a_cluster_that_failed_is_met_by_nobody() -> None:
    meeting = Meeting([])
    meeting.come(A)
    meeting.leave(A)
    assert meeting.come(B) == []


def test_of_clusters_that_come_together_each_pair_meets_once() -> None:
    plans = [plan(f"c{number}", number) for number in range(1, 20)]
    meeting = Meeting([])
    met: list[tuple[str, str]] = []

    def come(one: ClusterPlan) -> None:
        met.extend((one.name, other.name) for other in meeting.come(one))

    threads = [threading.Thread(target=come, args=(one,)) for one in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pairs = [frozenset(pair) for pair in met]
    assert len(pairs) == len(set(pairs)) == 19 * 18 // 2
