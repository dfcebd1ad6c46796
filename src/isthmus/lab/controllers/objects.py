"""What the controllers read of API objects."""

from collections.abc import Sequence
from typing import Any

import msgspec

from isthmus.kube.schema import Condition, Container, KubeObject, ObjectMeta


class Toleration(msgspec.Struct, frozen=True):
    """core/v1 Toleration."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class Taint(msgspec.Struct, frozen=True):
    """core/v1 Taint."""

    key: str
    effect: str
    value: str = ""


class Gate(msgspec.Struct, frozen=True):
    """core/v1 PodSchedulingGate."""

    name: str


class PodSpec(msgspec.Struct, frozen=True):
    """core/v1 PodSpec, as far as placing and serving go."""

    nodeName: str = ""
    nodeSelector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    schedulerName: str = "default-scheduler"
    schedulingGates: tuple[Gate, ...] = ()
    hostNetwork: bool = False
    containers: tuple[Container, ...] = ()


class PodStatus(msgspec.Struct, frozen=True):
    """core/v1 PodStatus."""

    phase: str = ""
    podIP: str = ""
    conditions: tuple[Condition, ...] = ()


class Pod(KubeObject, frozen=True, kw_only=True):
    """core/v1 Pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.metadata.namespace, self.metadata.name

    @property
    def over(self) -> bool:
        """Whether all its containers have ended for good."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def ready(self) -> bool:
        """Its Ready condition."""
        return _condition(self.status.conditions, "Ready") == "True"


class NodeSpec(msgspec.Struct, frozen=True):
    """core/v1 NodeSpec."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeCondition(Condition, frozen=True):
    """core/v1 NodeCondition."""

    lastHeartbeatTime: str = ""


class NodeStatus(msgspec.Struct, frozen=True):
    """core/v1 NodeStatus."""

    conditions: tuple[NodeCondition, ...] = ()
    allocatable: dict[str, Any] = {}


class Node(KubeObject, frozen=True, kw_only=True):
    """core/v1 Node."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> str:
        """Its Ready condition: True, False or Unknown."""
        return _condition(self.status.conditions, "Ready")

    @property
    def heartbeat(self) -> str:
        """When its status was last written by itself."""
        return max((condition.lastHeartbeatTime for condition in self.status.conditions), default="")


class NamespaceSpec(msgspec.Struct, frozen=True):
    """core/v1 NamespaceSpec."""

    finalizers: tuple[str, ...] = ()


class NamespaceStatus(msgspec.Struct, frozen=True):
    """core/v1 NamespaceStatus."""

    phase: str = "Active"


class Namespace(KubeObject, frozen=True, kw_only=True):
    """core/v1 Namespace."""

    spec: NamespaceSpec = NamespaceSpec()
    status: NamespaceStatus = NamespaceStatus()


class LeaseSpec(msgspec.Struct, frozen=True):
    """coordination/v1 LeaseSpec."""

    renewTime: str = ""


class Lease(KubeObject, frozen=True, kw_only=True):
    """coordination/v1 Lease."""

    spec: LeaseSpec = LeaseSpec()


class Meta(KubeObject, frozen=True, kw_only=True):
    """Any object, when its existence matters."""

    metadata: ObjectMeta


def _condition(conditions: Sequence[Condition], kind: str) -> str:
    for condition in conditions:
        if condition.type == kind:
            return condition.status
    return "Unknown"
