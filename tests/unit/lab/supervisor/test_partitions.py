"""Which nodes do not hear each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.plan import ClusterPlan, plan_cluster
from isthmus.lab.supervisor.partition import Partitions, UnknownEndError
from isthmus.lab.supervisor.segment import cut_script, mac_address

A = plan_cluster("a", existing=[], nodes=3)
B = plan_cluster("b", existing=[A], nodes=2)
PLANS: list[ClusterPlan] = [A, B]
NODES = [node for plan in PLANS for node in plan.nodes]
ENDS = ["a", "b", *(node.name for node in NODES)]


def deaf(partitions: Partitions) -> set[tuple[str, str]]:
    """Returns (hearer, speaker) for every pair of nodes of which the first does not hear the second."""
    return {
        (node.name, peer.name)
        for node in NODES
        for peer in NODES
        if mac_address(peer) in partitions.cut_off(node, plans=PLANS)
    }


def test_a_partition_of_clusters_cuts_each_node_of_one_from_each_of_the_other() -> None:
    partitions = Partitions()
    partitions.cut("b", "a", plans=PLANS)
    assert partitions.pairs == (("a", "b"),)
    assert deaf(partitions) == {(x.name, y.name) for x in NODES for y in NODES if x.name[0] != y.name[0]}


def test_a_node_can_be_cut_from_the_rest_of_its_cluster() -> None:
    partitions = Partitions()
    partitions.cut("a", "a-worker", plans=PLANS)
    others = ("a-control-plane", "a-worker2")
    assert deaf(partitions) == {("a-worker", other) for other in others} | {(other, "a-worker") for other in others}


def test_cutting_and_healing_twice_is_as_good_as_once() -> None:
    partitions = Partitions()
    partitions.cut("a", "b", plans=PLANS)
    partitions.cut("b", "a", plans=PLANS)
    partitions.heal("b", "a", plans=PLANS)
    partitions.heal("a", "b", plans=PLANS)
    assert partitions.pairs == ()


def test_a_cluster_that_is_gone_takes_its_partitions_along() -> None:
    partitions = Partitions()
    for one, other in (("a", "b"), ("a-worker", "b-worker"), ("a-worker", "a-worker2")):
        partitions.cut(one, other, plans=PLANS)
    partitions.forget(B)
    assert partitions.pairs == (("a-worker", "a-worker2"),)


@pytest.mark.parametrize(("one", "other"), [("a", "c"), ("c", "a"), ("a", "a"), ("a", "")])
def test_a_name_that_means_nothing_is_refused(one: str, other: str) -> None:
    partitions = Partitions()
    with pytest.raises(UnknownEndError):
        partitions.cut(one, other, plans=PLANS)
    assert partitions.pairs == ()


@given(st.lists(st.tuples(st.sampled_from(ENDS), st.sampled_from(ENDS))))
def test_nobody_hears_whom_he_cannot_reach_and_everybody_hears_himself(pairs: list[tuple[str, str]]) -> None:
    partitions = Partitions()
    for one, other in pairs:
        if one != other:
            partitions.cut(one, other, plans=PLANS)
    found = deaf(partitions)
    assert found == {(y, x) for x, y in found}
    assert not any(x == y for x, y in found)
    partitions.heal("", "", plans=PLANS)
    assert deaf(partitions) == set()


def test_the_script_replaces_what_was_cut_before() -> None:
    assert "add element inet lab cut { 02:00:ac:1e:01:01, 02:00:ac:1e:01:02 }" in cut_script(
        mac_address(node) for node in reversed(A.nodes[:2])
    )
    assert "add element" not in cut_script([])
    assert "flush set inet lab cut" in cut_script([])
