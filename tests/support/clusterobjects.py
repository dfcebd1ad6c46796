"""Objects as the controllers see them, and an API server in memory whose watches are as late as a test wants."""

import copy
import itertools
from typing import Any

import msgspec

from isthmus.kube.errors import AlreadyExists, Conflict, ConnectionFailed, NotFound
from isthmus.kube.resources import Resource
from isthmus.kube.schema import ContainerPort
from isthmus.lab.controllers.objects.meta import Meta, OwnerReference, stamp
from isthmus.lab.controllers.objects.nodes import Node, NodeCondition, NodeSpec, NodeStatus, Taint
from isthmus.lab.controllers.objects.pods import Container, Pod, PodCondition, PodSpec, PodStatus
from isthmus.lab.controllers.objects.workloads import (
    Deployment,
    DeploymentSpec,
    DeploymentStatus,
    ReplicaSet,
    ReplicaSetSpec,
    ReplicaSetStatus,
    RollingUpdate,
    Strategy,
)

NOW = 1_800_000_000.0
TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}
SELECTOR = {"matchLabels": {"app": "a"}}


def template(image: str = "one") -> dict[str, Any]:
    made = copy.deepcopy(TEMPLATE)
    made["spec"]["containers"][0]["image"] = image
    return made


def owner(uid: str, kind: str = "ReplicaSet", name: str = "o") -> OwnerReference:
    return OwnerReference("apps/v1", kind, name, uid, controller=True, blockOwnerDeletion=True)


def pod(
    name: str,
    *,
    on: str = "n1",
    phase: str = "Running",
    ready: bool = True,
    since: float = NOW - 1000,
    leaving: bool = False,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    finalizers: tuple[str, ...] = (),
    by: OwnerReference | None = None,
    created: float = NOW - 1000,
    namespace: str = "n",
    ip: str = "",
    port: int = 8080,
    **spec: Any,
) -> Pod:
    conditions = (PodCondition("Ready", status=str(ready), lastTransitionTime=stamp(since)),)
    containers = spec.pop("containers", (Container(ports=(ContainerPort(port, name="web"),)),))
    return Pod(
        metadata=Meta(
            name=name,
            namespace=namespace,
            uid=f"uid-{name}",
            labels={"app": "a"} if labels is None else labels,
            annotations=annotations or {},
            finalizers=finalizers,
            ownerReferences=(by,) if by is not None else (),
            creationTimestamp=stamp(created),
            deletionTimestamp=stamp(NOW) if leaving else "",
        ),
        spec=PodSpec(nodeName=on, containers=containers, **spec),
        status=PodStatus(phase=phase, conditions=conditions if phase == "Running" else (), podIP=ip),
    )


def node(
    name: str,
    *,
    ready: str = "True",
    cordoned: bool = False,
    taints: tuple[Taint, ...] = (),
    labels: dict[str, str] | None = None,
    **allocatable: str,
) -> Node:
    return Node(
        metadata=Meta(name=name, uid=f"uid-{name}", labels={"kubernetes.io/hostname": name, **(labels or {})}),
        spec=NodeSpec(unschedulable=cordoned, taints=taints),
        status=NodeStatus(
            conditions=(NodeCondition(type="Ready", status=ready),), allocatable={"pods": "110", **allocatable}
        ),
    )


def replica_set(
    name: str = "r",
    *,
    replicas: int = 1,
    image: str = "one",
    observed: tuple[int, int, int] = (0, 0, 0),
    annotations: dict[str, str] | None = None,
    created: float = NOW,
    by: str = "",
    min_ready: int = 0,
) -> ReplicaSet:
    """`observed` are pods, ready pods and available pods."""
    total, ready, available = observed
    return ReplicaSet(
        metadata=Meta(
            name=name,
            namespace="n",
            uid=f"uid-{name}",
            resourceVersion="1",
            labels={"app": "a"},
            annotations=annotations or {},
            creationTimestamp=stamp(created),
            ownerReferences=(owner(by, "Deployment"),) if by else (),
        ),
        spec=ReplicaSetSpec(replicas=replicas, selector=SELECTOR, template=template(image), minReadySeconds=min_ready),
        status=ReplicaSetStatus(replicas=total, readyReplicas=ready, availableReplicas=available),
    )


def deployment(
    *,
    replicas: int = 1,
    image: str = "one",
    surge: int | str = "25%",
    unavailable: int | str = "25%",
    kind: str = "RollingUpdate",
    status: DeploymentStatus | None = None,
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> Deployment:
    return Deployment(
        metadata=Meta(
            name="d", namespace="n", uid="uid-d", resourceVersion="1", generation=1, annotations=annotations or {}
        ),
        spec=DeploymentSpec(
            replicas=replicas,
            selector=SELECTOR,
            template=template(image),
            strategy=Strategy(kind, RollingUpdate(maxSurge=surge, maxUnavailable=unavailable)),
            **spec,
        ),
        status=status or DeploymentStatus(),
    )


def names() -> Any:
    numbers = itertools.count()
    return lambda: f"{next(numbers):05}"


class FakeClient:
    """Stores what is written; `lose` makes the next creates happen without an answer. It has no watches at all."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self.lose = 0
        self.unreachable = False
        self.refuse: dict[str, Exception] = {}
        self._version = itertools.count(100)

    def put(self, resource: Resource, item: Any) -> None:
        value = msgspec.to_builtins(item) if not isinstance(item, dict) else item
        meta = value["metadata"]
        self.objects[str(resource), meta.get("namespace", ""), meta["name"]] = value

    async def get(self, resource: Resource, name: str, *, type: Any, namespace: str | None = None) -> Any:
        self._reach()
        found = self.objects.get((str(resource), namespace or "", name))
        if found is None:
            raise NotFound(status=404)
        return self._answer(found, type)

    async def create(self, resource: Resource, body: Any, *, type: Any, namespace: str | None = None) -> Any:
        self._reach()
        value = msgspec.to_builtins(body)
        meta = value["metadata"]
        self.calls.append(("create", meta["name"]))
        if error := self.refuse.get(resource.plural):
            raise error
        key = (str(resource), namespace or "", meta["name"])
        if key in self.objects:
            raise AlreadyExists(status=409, reason="AlreadyExists")
        meta |= {"uid": f"uid-{meta['name']}", "resourceVersion": str(next(self._version))}
        self.objects[key] = value
        if self.lose:
            self.lose -= 1
            raise ConnectionFailed("the answer was lost")
        return self._answer(value, type)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Any,
        *,
        type: Any,
        namespace: str | None = None,
        **how: Any,
    ) -> Any:
        self._reach()
        self.calls.append(("patch", name))
        found = self.objects.get((str(resource), namespace or "", name))
        if found is None:
            raise NotFound(status=404)
        patch = msgspec.to_builtins(body)
        patch.get("metadata", {}).pop("resourceVersion", None)
        merge(found, patch)
        found["metadata"]["resourceVersion"] = str(next(self._version))
        return self._answer(found, type)

    async def delete(
        self, resource: Resource, name: str, *, namespace: str | None = None, uid: str | None = None, **how: Any
    ) -> bytes:
        self._reach()
        self.calls.append(("delete", name))
        found = self.objects.get((str(resource), namespace or "", name))
        if found is None:
            raise NotFound(status=404)
        if uid is not None and uid != found["metadata"]["uid"]:
            raise Conflict(status=409, reason="Conflict")
        return b"{}"

    def _reach(self) -> None:
        if self.unreachable:
            raise ConnectionFailed("no route")

    def _answer(self, value: dict[str, Any], type: Any) -> Any:
        text = msgspec.json.encode(value)
        return msgspec.Raw(text) if type is msgspec.Raw else msgspec.json.decode(text, type=type)


def merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """RFC 7396."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            merge(target.setdefault(key, {}), value)
        else:
            target[key] = value
