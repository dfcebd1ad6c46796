"""What people mean when they name what is to be stopped."""

import pytest

from isthmus.lab.control import ClusterState, UnitState
from isthmus.lab.faults import FaultError, targets
from isthmus.lab.plan import ClusterPlan, plan_cluster

A = plan_cluster("a", existing=[], nodes=2)
B = plan_cluster("b", existing=[A], nodes=1)


def state(plan: ClusterPlan, *, agents: bool = True) -> ClusterState:
    control = plan.control_plane.name
    places = [("apiserver", control), ("controllers", control)]
    places += [(f"node-{node.name}", node.name) for node in plan.nodes]
    if agents:
        places += [("tracker", control), *((f"agent-{node.name}", node.name) for node in plan.nodes)]
    units = tuple(UnitState(name=name, node=node, pid=1, restarts=0, state="running") for name, node in places)
    return ClusterState(plan=plan, committed=True, units=units)


BOTH = (state(A), state(B))


@pytest.mark.parametrize(
    ("kind", "names", "expected"),
    [
        ("node", ["a-worker"], [("a", "a-worker", ())]),
        ("node", ["a-worker", "a-worker", "b-control-plane"], [("a", "a-worker", ()), ("b", "b-control-plane", ())]),
        ("tracker", ["b"], [("b", "", ("tracker",))]),
        ("apiserver", ["a", "b"], [("a", "", ("apiserver",)), ("b", "", ("apiserver",))]),
        ("controllers", ["a"], [("a", "", ("controllers",))]),
        ("agent", ["a-worker"], [("a", "", ("agent-a-worker",))]),
        ("agent", ["a"], [("a", "", ("agent-a-control-plane",)), ("a", "", ("agent-a-worker",))]),
    ],
)
def test_names_of_clusters_and_nodes_mean_what_is_theirs(
    kind: str, names: list[str], expected: list[tuple[str, str, tuple[str, ...]]]
) -> None:
    assert [(found.cluster, found.node, found.units) for found in targets(BOTH, kind, names)] == expected


def test_the_only_cluster_need_not_be_named() -> None:
    assert [found.units for found in targets(BOTH[:1], "tracker", [])] == [("tracker",)]


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        ("tracker", [], "whose tracker? Name the cluster; there are: a, b"),
        ("node", [], "name the node; there are: a-control-plane, a-worker, b-control-plane"),
        ("node", ["a"], 'no node "a"; there are: a-control-plane, a-worker, b-control-plane'),
        ("apiserver", ["c"], 'no cluster "c"; there are: a, b'),
        ("agent", ["c"], 'no agent of a node or cluster "c"; nodes with agents: a-control-plane, a-worker'),
    ],
)
def test_what_means_nothing_is_refused_with_what_there_is(kind: str, names: list[str], message: str) -> None:
    with pytest.raises(FaultError) as refused:
        targets(BOTH, kind, names)
    assert message in str(refused.value)


def test_a_cluster_without_a_tracker_says_so() -> None:
    with pytest.raises(FaultError, match='cluster "a" has no tracker'):
        targets([state(A, agents=False)], "tracker", ["a"])
