"""Pods, as far as placing, counting and serving go."""

from typing import Any

import msgspec

from isthmus.kube.schema import ContainerPort, PodIP
from isthmus.lab.controllers.objects.meta import Object, seconds

Quantity = str | int | float


class Toleration(msgspec.Struct, frozen=True, gc=False):
    """core/v1 Toleration."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    tolerationSeconds: int | None = None


class Gate(msgspec.Struct, frozen=True, gc=False):
    """core/v1 PodSchedulingGate."""

    name: str


class Resources(msgspec.Struct, frozen=True, gc=False):
    """core/v1 ResourceRequirements: what is asked for."""

    requests: dict[str, Quantity] = {}


class Container(msgspec.Struct, frozen=True, gc=False):
    """core/v1 Container; `restartPolicy` Always marks an init container as a sidecar."""

    name: str = ""
    ports: tuple[ContainerPort, ...] = ()
    resources: Resources = Resources()
    restartPolicy: str = ""


class PodSpec(msgspec.Struct, frozen=True, gc=False):
    """core/v1 PodSpec; `affinity` and `topologySpreadConstraints` are looked into only by the scheduler."""

    nodeName: str = ""
    nodeSelector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    schedulerName: str = "default-scheduler"
    schedulingGates: tuple[Gate, ...] = ()
    hostNetwork: bool = False
    containers: tuple[Container, ...] = ()
    initContainers: tuple[Container, ...] = ()
    overhead: dict[str, Quantity] = {}
    affinity: dict[str, Any] = {}
    topologySpreadConstraints: tuple[dict[str, Any], ...] = ()
    hostname: str = ""
    subdomain: str = ""
    restartPolicy: str = "Always"


class PodCondition(msgspec.Struct, frozen=True, gc=False):
    """core/v1 PodCondition."""

    type: str
    status: str = ""
    reason: str = ""
    message: str = ""
    lastTransitionTime: str = ""


class Terminated(msgspec.Struct, frozen=True, gc=False):
    """core/v1 ContainerStateTerminated."""

    finishedAt: str = ""


class ContainerState(msgspec.Struct, frozen=True, gc=False):
    """core/v1 ContainerState."""

    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True, gc=False):
    """core/v1 ContainerStatus."""

    restartCount: int = 0
    state: ContainerState = ContainerState()


class PodStatus(msgspec.Struct, frozen=True, gc=False):
    """core/v1 PodStatus; `phase` is Pending, Running, Succeeded, Failed or Unknown."""

    phase: str = ""
    podIP: str = ""
    podIPs: tuple[PodIP, ...] = ()
    conditions: tuple[PodCondition, ...] = ()
    containerStatuses: tuple[ContainerStatus, ...] = ()
    initContainerStatuses: tuple[ContainerStatus, ...] = ()
    startTime: str = ""


class Pod(Object, frozen=True, gc=False, kw_only=True):
    """core/v1 Pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def over(self) -> bool:
        """Whether all its containers have ended for good."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def active(self) -> bool:
        """Whether it counts as a replica: neither over nor on its way out."""
        return not self.over and not self.leaving

    @property
    def ready(self) -> bool:
        """Its Ready condition."""
        found = self.condition("Ready")
        return found is not None and found.status == "True"

    def condition(self, kind: str) -> PodCondition | None:
        """Returns a condition."""
        for condition in self.status.conditions:
            if condition.type == kind:
                return condition
        return None

    @property
    def ready_since(self) -> float:
        """When it became ready, in seconds of the epoch; 0.0 if it is not."""
        found = self.condition("Ready")
        return seconds(found.lastTransitionTime) if found is not None and found.status == "True" else 0.0

    def available(self, min_ready: int, *, now: float) -> bool:
        """Whether it has been ready for `min_ready` seconds."""
        return self.ready and (not min_ready or self.ready_since + min_ready <= now)

    @property
    def restarts(self) -> int:
        """How often its containers were started again."""
        return sum(status.restartCount for status in self.status.containerStatuses)

    @property
    def finished_at(self) -> float:
        """When its last container ended, in seconds of the epoch; 0.0 if that is not known."""
        ends = (status.state.terminated for status in self.status.containerStatuses)
        return max((seconds(end.finishedAt) for end in ends if end is not None), default=0.0)


def soonest_available(pods: list[Pod], min_ready: int, *, now: float) -> float | None:
    """Returns in how many seconds the next ready pod will count as available; None if none will by waiting."""
    waits = [pod.ready_since + min_ready - now for pod in pods if pod.ready and not pod.available(min_ready, now=now)]
    return max(min(waits), 0.05) if waits else None
