"""Which node a pod goes to: a pure function with kube-scheduler's filters, as far as a lab has them.

A node is out if it is not ready, cordoned, does not match nodeSelector, has a taint that the pod does not tolerate, or
is full; among the rest the one with the fewest pods wins, those of the pod's own namespace counting twice, so that the
pods of one application spread. Rejected: resource requests, because nothing in a lab enforces them.
"""

from collections.abc import Iterable, Sequence

from isthmus.lab.controllers.objects import Node, Pod, Taint, Toleration


class Unschedulable(Exception):
    """No node fits; the message is kube-scheduler's, with a count for each reason."""


def choose_node(pod: Pod, *, nodes: Sequence[Node], pods: Iterable[Pod]) -> str:
    """Returns a node's name; raises Unschedulable."""
    load = {node.metadata.name: 0 for node in nodes}
    count = dict.fromkeys(load, 0)
    for other in pods:
        if other.spec.nodeName in load and not other.over:
            count[other.spec.nodeName] += 1
            load[other.spec.nodeName] += 2 if other.metadata.namespace == pod.metadata.namespace else 1
    reasons: dict[str, int] = {}
    fitting = []
    for node in nodes:
        reason = unfit(pod, node, pods=count[node.metadata.name])
        if reason:
            reasons[reason] = reasons.get(reason, 0) + 1
        else:
            fitting.append(node)
    if not fitting:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        raise Unschedulable(f"0/{len(nodes)} nodes are available: {listed or 'no nodes are registered'}.")
    return min(fitting, key=lambda node: (load[node.metadata.name], node.metadata.name)).metadata.name


def unfit(pod: Pod, node: Node, *, pods: int) -> str:
    """Returns why the pod cannot go to the node; empty if it can."""
    if node.ready != "True":
        return "node(s) were not ready"
    if node.spec.unschedulable and not _tolerated(
        Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule"), pod.spec.tolerations
    ):
        return "node(s) were unschedulable"
    if any(node.metadata.labels.get(key) != value for key, value in pod.spec.nodeSelector.items()):
        return "node(s) didn't match Pod's node affinity/selector"
    for taint in node.spec.taints:
        if taint.effect in ("NoSchedule", "NoExecute") and not _tolerated(taint, pod.spec.tolerations):
            return f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"
    limit = str(node.status.allocatable.get("pods", "110"))
    if limit.isdigit() and pods >= int(limit):
        return "Too many pods"
    return ""


def _tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    for toleration in tolerations:
        if toleration.effect and toleration.effect != taint.effect:
            continue
        if not toleration.key:
            if toleration.operator == "Exists":
                return True
            continue
        if toleration.key == taint.key and (toleration.operator == "Exists" or toleration.value == taint.value):
            return True
    return False
