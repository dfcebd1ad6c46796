"""Affinity of pods to nodes and to each other (core/v1 Affinity), as far as kube-scheduler filters and scores by it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from isthmus.lab.controllers.objects.nodes import Node
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.selection import selects

Json = dict[str, Any]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def _holds(requirement: Json, value: str | None) -> bool:
    values: Sequence[str] = requirement.get("values") or ()
    match requirement.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            try:
                number, bound = int(value or ""), int(values[0])
            except (ValueError, IndexError):
                return False
            return number > bound if operator == "Gt" else number < bound
        case _:
            return False


def node_matches(term: Json, node: Node) -> bool:
    """Whether a NodeSelectorTerm matches a node; an empty term matches none."""
    expressions = term.get("matchExpressions") or ()
    fields = term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    labels = node.metadata.labels
    return all(_holds(one, labels.get(one.get("key", ""))) for one in expressions) and all(
        one.get("key") == "metadata.name" and _holds(one, node.metadata.name) for one in fields
    )


def fits_node(pod: Pod, node: Node) -> bool:
    """Whether a pod's nodeSelector and required node affinity allow a node."""
    return allows(node, selector=pod.spec.nodeSelector, affinity=pod.spec.affinity)


def allows(node: Node, *, selector: Mapping[str, str], affinity: Json) -> bool:
    """Whether a nodeSelector and the required node affinity in an Affinity allow a node."""
    labels = node.metadata.labels
    if any(labels.get(key) != value for key, value in selector.items()):
        return False
    required = (affinity.get("nodeAffinity") or {}).get(REQUIRED)
    return required is None or any(node_matches(term, node) for term in required.get("nodeSelectorTerms") or ())


def preference(pod: Pod, node: Node) -> int:
    """Returns the weight of the node affinity terms that a node meets."""
    preferred = (pod.spec.affinity.get("nodeAffinity") or {}).get(PREFERRED) or ()
    return sum(int(one.get("weight", 0)) for one in preferred if node_matches(one.get("preference") or {}, node))


def pod_terms(pod: Pod, kind: str) -> Sequence[Json]:
    """Returns the required terms of `podAffinity` or `podAntiAffinity`."""
    return (pod.spec.affinity.get(kind) or {}).get(REQUIRED) or ()


def preferred_pod_terms(pod: Pod, kind: str) -> Iterable[tuple[int, Json]]:
    """Returns the preferred terms of `podAffinity` or `podAntiAffinity` with their weights."""
    for one in (pod.spec.affinity.get(kind) or {}).get(PREFERRED) or ():
        yield int(one.get("weight", 0)), one.get("podAffinityTerm") or {}


def term_selects(term: Json, of: Pod, other: Pod, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether a term of pod `of` means pod `other`; `namespaces` gives the labels of each namespace."""
    place = other.metadata.namespace
    listed: Sequence[str] = term.get("namespaces") or ()
    selector = term.get("namespaceSelector")
    if selector is not None:
        near = place in listed or not selector or selects(selector, dict(namespaces.get(place, {})))
    else:
        near = place in (listed or (of.metadata.namespace,))
    labels = term.get("labelSelector")
    if labels is None:
        return False
    # An empty LabelSelector means every pod; selection.selector_of takes it for none.
    return near and (labels == {} or selects(labels, other.metadata.labels))
