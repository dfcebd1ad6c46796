"""The cluster as one round of scheduling sees it: what is on each node, kept up to date while pods are placed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal

from isthmus.lab.controllers.objects.nodes import Node
from isthmus.lab.controllers.objects.pods import Pod, Quantity
from isthmus.lab.controllers.quantity import amount

DEFAULT_PODS = "110"


class Place:
    """A node and what was asked of it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.name = node.metadata.name
        self.pods: dict[str, Pod] = {}
        self.requested: dict[str, Decimal] = {}
        self.owners: Counter[str] = Counter()
        self.namespaces: Counter[str] = Counter()
        self.room: dict[str, Decimal] = {key: amount(value) for key, value in node.status.allocatable.items()}

    def add(self, pod: Pod) -> None:
        """Puts a pod on the node."""
        self.pods[pod.metadata.uid] = pod
        for key, value in requests(pod).items():
            self.requested[key] = self.requested.get(key, Decimal(0)) + value
        self.owners[owner(pod)] += 1
        self.namespaces[pod.metadata.namespace] += 1


class Picture:
    """All nodes with their pods; `namespaces` gives the labels of each namespace."""

    def __init__(
        self, nodes: Iterable[Node], pods: Iterable[Pod], *, namespaces: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.places = {node.metadata.name: Place(node) for node in nodes if not node.leaving}
        self.namespaces = namespaces or {}
        self.picky: dict[str, Pod] = {}
        """Pods with required anti-affinity, which others have to mind."""
        for pod in pods:
            if pod.spec.nodeName and not pod.over:
                self.add(pod, pod.spec.nodeName)

    def add(self, pod: Pod, name: str) -> None:
        """Puts a pod on a node."""
        place = self.places.get(name)
        if place is None:
            return
        place.add(pod)
        if pod.spec.affinity.get("podAntiAffinity"):
            self.picky[pod.metadata.uid] = pod

    def domain(self, place: Place, key: str) -> str | None:
        """Returns the topology domain of a node; None if it has none."""
        return place.node.metadata.labels.get(key)


def owner(pod: Pod) -> str:
    """Returns what a pod's siblings are known by."""
    controller = pod.controller
    return controller.uid if controller is not None else f"{pod.metadata.namespace}/{pod.metadata.name}"


def requests(pod: Pod) -> dict[str, Decimal]:
    """Returns what a pod asks of its node: its containers together, or its greatest init container, and overhead."""
    total: dict[str, Decimal] = {}
    for container in pod.spec.containers:
        _add(total, container.resources.requests)
    sidecars: dict[str, Decimal] = {}
    greatest: dict[str, Decimal] = {}
    for container in pod.spec.initContainers:
        if container.restartPolicy == "Always":
            _add(sidecars, container.resources.requests)
            _add(total, container.resources.requests)
            step = dict(sidecars)
        else:
            step = dict(sidecars)
            _add(step, container.resources.requests)
        for key, value in step.items():
            greatest[key] = max(greatest.get(key, value), value)
    for key, value in greatest.items():
        total[key] = max(total.get(key, value), value)
    _add(total, pod.spec.overhead)
    return total


def _add(total: dict[str, Decimal], more: Mapping[str, Quantity]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, Decimal(0)) + amount(value)
