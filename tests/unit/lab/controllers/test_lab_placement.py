"""Which node a pod goes to."""

import pytest

from isthmus.kube.schema import Condition, ObjectMeta
from isthmus.lab.controllers.objects import Node, NodeSpec, NodeStatus, Pod, PodSpec, PodStatus, Taint, Toleration
from isthmus.lab.controllers.placement import Unschedulable, choose_node


def node(
    name: str,
    *,
    ready: str = "True",
    cordoned: bool = False,
    taints: tuple[Taint, ...] = (),
    labels: dict[str, str] | None = None,
    limit: str = "110",
) -> Node:
    return Node(
        metadata=ObjectMeta(name=name, labels=labels or {}),
        spec=NodeSpec(unschedulable=cordoned, taints=taints),
        status=NodeStatus(conditions=(Condition(type="Ready", status=ready),), allocatable={"pods": limit}),
    )


def pod(name: str = "p", *, on: str = "", namespace: str = "n", phase: str = "Running", **spec: object) -> Pod:
    return Pod(
        metadata=ObjectMeta(name=name, namespace=namespace, uid=name),
        spec=PodSpec(nodeName=on, **spec),
        status=PodStatus(phase=phase),
    )


CONTROL = Taint(key="node-role.kubernetes.io/control-plane", effect="NoSchedule")


def test_pods_spread() -> None:
    nodes = [node("a"), node("b"), node("c")]
    placed: list[Pod] = []
    for number in range(9):
        chosen = choose_node(pod(f"p{number}"), nodes=nodes, pods=placed)
        placed.append(pod(f"p{number}", on=chosen))
    assert sorted(item.spec.nodeName for item in placed) == [*"aaabbbccc"]


def test_pods_of_the_same_namespace_keep_apart_first() -> None:
    others = [pod("x", on="a", namespace="n"), pod("y", on="b", namespace="other")]
    assert choose_node(pod(), nodes=[node("a"), node("b")], pods=others) == "b"


def test_pods_that_are_over_do_not_count() -> None:
    done = [pod(f"d{number}", on="a", phase="Succeeded") for number in range(5)]
    assert choose_node(pod(), nodes=[node("a"), node("b")], pods=[*done, pod("x", on="b")]) == "a"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (node("a", ready="False"), "1 node(s) were not ready"),
        (node("a", ready="Unknown"), "1 node(s) were not ready"),
        (node("a", cordoned=True), "1 node(s) were unschedulable"),
        (node("a", taints=(CONTROL,)), "untolerated taint {node-role.kubernetes.io/control-plane: }"),
        (node("a", limit="0"), "1 Too many pods"),
    ],
)
def test_a_node_that_does_not_fit_is_left_out_with_its_reason(bad: Node, reason: str) -> None:
    with pytest.raises(Unschedulable) as refused:
        choose_node(pod(), nodes=[bad], pods=[])
    assert str(refused.value).startswith("0/1 nodes are available: ")
    assert reason in str(refused.value)
    assert choose_node(pod(), nodes=[bad, node("b")], pods=[]) == "b"


def test_node_selector() -> None:
    nodes = [node("a"), node("b", labels={"disk": "ssd"})]
    assert choose_node(pod(nodeSelector={"disk": "ssd"}), nodes=nodes, pods=[]) == "b"
    with pytest.raises(Unschedulable, match="2 node\\(s\\) didn't match Pod's node affinity/selector"):
        choose_node(pod(nodeSelector={"disk": "tape"}), nodes=nodes, pods=[])


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
    wanting = pod(tolerations=(toleration,))
    if fits:
        assert choose_node(wanting, nodes=tainted, pods=[]) == "a"
    else:
        with pytest.raises(Unschedulable):
            choose_node(wanting, nodes=tainted, pods=[])
