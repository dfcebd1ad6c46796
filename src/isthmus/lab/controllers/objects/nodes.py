"""Nodes and their heartbeats."""

import msgspec

from isthmus.kube.schema import Condition
from isthmus.lab.controllers.objects.meta import Object
from isthmus.lab.controllers.objects.pods import Quantity


class Taint(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """core/v1 Taint."""

    key: str
    effect: str = ""
    value: str = ""
    timeAdded: str = ""


class NodeSpec(msgspec.Struct, frozen=True, gc=False):
    """core/v1 NodeSpec."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeCondition(Condition, frozen=True, gc=False):
    """core/v1 NodeCondition."""

    lastHeartbeatTime: str = ""


class NodeStatus(msgspec.Struct, frozen=True, gc=False):
    """core/v1 NodeStatus."""

    conditions: tuple[NodeCondition, ...] = ()
    allocatable: dict[str, Quantity] = {}


class Node(Object, frozen=True, gc=False, kw_only=True):
    """core/v1 Node."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> str:
        """Its Ready condition: True, False, Unknown; empty if it has none."""
        for condition in self.status.conditions:
            if condition.type == "Ready":
                return condition.status
        return ""

    @property
    def heartbeat(self) -> str:
        """When its status was last written by itself."""
        return max((condition.lastHeartbeatTime for condition in self.status.conditions), default="")


class LeaseSpec(msgspec.Struct, frozen=True, gc=False):
    """coordination/v1 LeaseSpec."""

    renewTime: str = ""


class Lease(Object, frozen=True, gc=False, kw_only=True):
    """coordination/v1 Lease."""

    spec: LeaseSpec = LeaseSpec()
