"""Which node a pod goes to, and what is said when there is none."""

from typing import Any

import pytest

from isthmus.lab.controllers.objects.nodes import Node, Taint
from isthmus.lab.controllers.objects.pods import Container, Pod, Resources, Toleration
from isthmus.lab.controllers.quantity import amount
from isthmus.lab.controllers.scheduling.picture import Picture, requests
from isthmus.lab.controllers.scheduling.placement import Unschedulable, choose_node
from tests.support.clusterobjects import node, owner, pod

CONTROL = Taint(key="node-role.kubernetes.io/control-plane", effect="NoSchedule")


def place(wanting: Pod, nodes: list[Node], pods: list[Pod] | None = None, **how: Any) -> str:
    return choose_node(wanting, Picture(nodes, pods or [], **how))


def refusal(wanting: Pod, nodes: list[Node], pods: list[Pod] | None = None) -> str:
    with pytest.raises(Unschedulable) as refused:
        place(wanting, nodes, pods)
    return str(refused.value)


def new(name: str = "p", **how: Any) -> Pod:
    return pod(name, on="", phase="Pending", **how)


def asking(**requested: str) -> tuple[Container, ...]:
    return (Container(resources=Resources(requests=dict(requested))),)


def required(kind: str, **term: Any) -> dict[str, Any]:
    full = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "a"}}, **term}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [full]}}


def near(**expression: Any) -> dict[str, Any]:
    terms = [{"matchExpressions": [expression]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def test_pods_spread() -> None:
    nodes = [node("a"), node("b"), node("c")]
    placed: list[Pod] = []
    for number in range(9):
        placed.append(pod(f"p{number}", on=place(new(f"p{number}"), nodes, placed)))
    assert sorted(item.spec.nodeName for item in placed) == [*"aaabbbccc"]


def test_pods_of_one_owner_keep_apart_even_where_it_is_fuller() -> None:
    mine = owner("rs")
    pods = [pod("sibling", on="a", by=mine), *(pod(f"x{n}", on="b", by=owner("other")) for n in range(5))]
    assert place(new(by=mine), [node("a"), node("b")], pods) == "b"


def test_pods_of_the_same_namespace_keep_apart_first() -> None:
    others = [pod("x", on="a", namespace="n"), pod("y", on="b", namespace="other")]
    assert place(new(), [node("a"), node("b")], others) == "b"


def test_pods_that_are_over_do_not_count() -> None:
    done = [pod(f"d{number}", on="a", phase="Succeeded") for number in range(5)]
    assert place(new(), [node("a"), node("b")], [*done, pod("x", on="b")]) == "a"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (node("a", ready="False"), "1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }"),
        (node("a", cordoned=True), "1 node(s) were unschedulable"),
        (node("a", taints=(CONTROL,)), "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }"),
        (node("a", pods="0"), "1 Too many pods"),
    ],
)
def test_a_node_that_does_not_fit_is_left_out_with_its_reason(bad: Node, reason: str) -> None:
    assert refusal(new(), [bad]) == f"0/1 nodes are available: {reason}."
    assert place(new(), [bad, node("b")]) == "b"


def test_reasons_are_counted_and_sorted() -> None:
    nodes = [node("cp", taints=(CONTROL,), cpu="8"), node("a", cpu="1"), node("b", cpu="500m")]
    text = "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 Insufficient cpu"
    assert refusal(new(containers=asking(cpu="2")), nodes) == f"0/3 nodes are available: {text}."


def test_without_nodes() -> None:
    assert refusal(new(), []) == "no nodes available to schedule pods"


def test_requests_fill_a_node() -> None:
    nodes = [node("a", cpu="1", memory="1Gi")]
    running = pod("r", on="a", containers=asking(cpu="600m"))
    assert place(new(containers=asking(cpu="400m", memory="1Gi")), nodes, [running]) == "a"
    assert "Insufficient cpu" in refusal(new(containers=asking(cpu="401m")), nodes, [running])
    assert "Insufficient example.com/gpu" in refusal(new(containers=asking(**{"example.com/gpu": "1"})), nodes)


def test_init_containers_need_no_more_than_the_greatest_of_them() -> None:
    init = (*asking(cpu="2"), Container(restartPolicy="Always", resources=Resources(requests={"cpu": "1"})))
    wanting = new(containers=asking(cpu="500m"), initContainers=init)
    assert requests(wanting)["cpu"] == amount("2")


@pytest.mark.parametrize(
    ("text", "value"),
    [("100m", "0.1"), ("1Gi", str(2**30)), (2, "2"), ("1e3", "1000"), ("1E", str(10**18)), ("x", "0"), ("9" * 99, "0")],
)
def test_quantities(text: str | int, value: str) -> None:
    assert amount(text) == amount(value)


def test_node_selector_and_affinity() -> None:
    nodes = [node("a"), node("b", labels={"disk": "ssd", "size": "4"})]
    assert place(new(nodeSelector={"disk": "ssd"}), nodes) == "b"
    assert place(new(affinity=near(key="disk", operator="In", values=["ssd"])), nodes) == "b"
    assert place(new(affinity=near(key="size", operator="Gt", values=["3"])), nodes) == "b"
    assert place(new(affinity=near(key="disk", operator="DoesNotExist")), nodes) == "a"
    text = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    assert refusal(new(affinity=near(key="disk", operator="Nonsense")), nodes) == text


def test_a_pinned_pod_goes_to_its_node() -> None:
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}
    pinned = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    assert place(new(affinity=pinned), [node("a"), node("b")]) == "b"


def test_a_preference_wins_over_spreading() -> None:
    term = {"weight": 5, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}
    wish = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}
    nodes = [node("a"), node("b", labels={"disk": "ssd"})]
    assert place(new(affinity=wish), nodes, [pod("x", on="b"), pod("y", on="b")]) == "b"


def test_pods_that_must_not_meet() -> None:
    apart = required("podAntiAffinity")
    there = pod("x", on="a", affinity=apart)
    assert place(new(affinity=apart), [node("a"), node("b")], [there]) == "b"
    assert "didn't match pod anti-affinity rules" in refusal(new(affinity=apart), [node("a")], [there])
    assert "didn't satisfy existing pods anti-affinity rules" in refusal(new(), [node("a")], [there])


def test_pods_that_must_meet() -> None:
    together = required("podAffinity")
    assert place(new(affinity=together), [node("a"), node("b")], [pod("x", on="b")]) == "b"
    # The first of its kind may go anywhere.
    assert place(new(affinity=together), [node("a")]) == "a"
    stranger = new(affinity=together, labels={"app": "other"})
    assert "didn't match pod affinity rules" in refusal(stranger, [node("a")])


def test_topology_spread() -> None:
    constraint = {
        "maxSkew": 1,
        "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "a"}},
    }
    nodes = [node("a", labels={"zone": "1"}), node("b", labels={"zone": "2"}), node("none")]
    wanting = new(topologySpreadConstraints=(constraint,))
    assert place(wanting, nodes, [pod("x", on="a")]) == "b"
    full = [nodes[0], node("b", labels={"zone": "2"}, pods="0"), nodes[2]]
    text = refusal(wanting, full, [pod("x", on="a")])
    assert "1 node(s) didn't match pod topology spread constraints, " in text
    assert "1 node(s) didn't match pod topology spread constraints (missing required label)" in text


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        (Toleration(operator="Exists"), True),
        (Toleration(key=CONTROL.key, operator="Exists"), True),
        (Toleration(key=CONTROL.key, operator="Exists", effect="NoExecute"), False),
        (Toleration(key=CONTROL.key, value="x"), False),
        (Toleration(key=CONTROL.key), True),
        (Toleration(), False),
    ],
)
def test_tolerations(toleration: Toleration, fits: bool) -> None:
    tainted = [node("a", taints=(CONTROL,))]
    wanting = new(tolerations=(toleration,))
    if fits:
        assert place(wanting, tainted) == "a"
    else:
        assert "untolerated taint" in refusal(wanting, tainted)
