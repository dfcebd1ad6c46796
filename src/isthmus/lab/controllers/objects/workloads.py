"""What makes pods: Deployment, ReplicaSet, StatefulSet, DaemonSet, Job, and the revisions that some of them keep.

Pod templates stay dictionaries: they are copied and compared, never read field by field.
"""

from typing import Any

import msgspec

from isthmus.lab.controllers.objects.meta import Object

Json = dict[str, Any]


class Condition(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A condition of a workload; Jobs have `lastProbeTime`, Deployments `lastUpdateTime`."""

    type: str
    status: str = ""
    lastProbeTime: str = ""
    lastUpdateTime: str = ""
    lastTransitionTime: str = ""
    reason: str = ""
    message: str = ""


def condition_of(conditions: tuple[Condition, ...], kind: str) -> Condition | None:
    """Returns the condition of a type."""
    for condition in conditions:
        if condition.type == kind:
            return condition
    return None


class ReplicaSetSpec(msgspec.Struct, frozen=True, gc=False):
    """apps/v1 ReplicaSetSpec."""

    replicas: int = 1
    minReadySeconds: int = 0
    selector: Json = {}
    template: Json = {}


class ReplicaSetStatus(msgspec.Struct, frozen=True, gc=False):
    """apps/v1 ReplicaSetStatus."""

    replicas: int = 0
    fullyLabeledReplicas: int = 0
    readyReplicas: int = 0
    availableReplicas: int = 0
    observedGeneration: int = 0
    conditions: tuple[Condition, ...] = ()


class ReplicaSet(Object, frozen=True, gc=False, kw_only=True):
    """apps/v1 ReplicaSet."""

    spec: ReplicaSetSpec = ReplicaSetSpec()
    status: ReplicaSetStatus = ReplicaSetStatus()


class RollingUpdate(msgspec.Struct, frozen=True, gc=False):
    """The rolling update of a Deployment, DaemonSet or StatefulSet; counts or percentages."""

    maxSurge: int | str | None = None
    maxUnavailable: int | str | None = None
    partition: int = 0


class Strategy(msgspec.Struct, frozen=True, gc=False):
    """How pods are replaced; `type` is RollingUpdate, Recreate or OnDelete."""

    type: str = "RollingUpdate"
    rollingUpdate: RollingUpdate = RollingUpdate()


class DeploymentSpec(msgspec.Struct, frozen=True, gc=False):
    """apps/v1 DeploymentSpec."""

    replicas: int = 1
    minReadySeconds: int = 0
    selector: Json = {}
    template: Json = {}
    strategy: Strategy = Strategy()
    paused: bool = False
    progressDeadlineSeconds: int = 600
    revisionHistoryLimit: int = 10


class DeploymentStatus(msgspec.Struct, frozen=True, gc=False):
    """apps/v1 DeploymentStatus."""

    observedGeneration: int = 0
    replicas: int = 0
    updatedReplicas: int = 0
    readyReplicas: int = 0
    availableReplicas: int = 0
    unavailableReplicas: int = 0
    collisionCount: int = 0
    conditions: tuple[Condition, ...] = ()


class Deployment(Object, frozen=True, gc=False, kw_only=True):
    """apps/v1 Deployment."""

    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


class Ordinals(msgspec.Struct, frozen=True, gc=False):
    """apps/v1 StatefulSetOrdinals."""

    start: int = 0


class StatefulSetSpec(msgspec.Struct, frozen=True, gc=False):
    """apps/v1 StatefulSetSpec."""

    replicas: int = 1
    minReadySeconds: int = 0
    selector: Json = {}
    template: Json = {}
    serviceName: str = ""
    podManagementPolicy: str = "OrderedReady"
    updateStrategy: Strategy = Strategy()
    revisionHistoryLimit: int = 10
    ordinals: Ordinals = Ordinals()


class StatefulSetStatus(msgspec.Struct, frozen=True, gc=False):
    """apps/v1 StatefulSetStatus."""

    observedGeneration: int = 0
    replicas: int = 0
    readyReplicas: int = 0
    currentReplicas: int = 0
    updatedReplicas: int = 0
    availableReplicas: int = 0
    currentRevision: str = ""
    updateRevision: str = ""
    collisionCount: int = 0


class StatefulSet(Object, frozen=True, gc=False, kw_only=True):
    """apps/v1 StatefulSet."""

    spec: StatefulSetSpec = StatefulSetSpec()
    status: StatefulSetStatus = StatefulSetStatus()


class DaemonSetSpec(msgspec.Struct, frozen=True, gc=False):
    """apps/v1 DaemonSetSpec."""

    minReadySeconds: int = 0
    selector: Json = {}
    template: Json = {}
    updateStrategy: Strategy = Strategy()
    revisionHistoryLimit: int = 10


class DaemonSetStatus(msgspec.Struct, frozen=True, gc=False):
    """apps/v1 DaemonSetStatus."""

    observedGeneration: int = 0
    currentNumberScheduled: int = 0
    desiredNumberScheduled: int = 0
    numberMisscheduled: int = 0
    numberReady: int = 0
    updatedNumberScheduled: int = 0
    numberAvailable: int = 0
    numberUnavailable: int = 0
    collisionCount: int = 0


class DaemonSet(Object, frozen=True, gc=False, kw_only=True):
    """apps/v1 DaemonSet."""

    spec: DaemonSetSpec = DaemonSetSpec()
    status: DaemonSetStatus = DaemonSetStatus()


class ControllerRevision(Object, frozen=True, gc=False, kw_only=True):
    """apps/v1 ControllerRevision: `data` is a patch that brings a template back."""

    data: Json = msgspec.field(default_factory=dict)
    revision: int = 0


class JobSpec(msgspec.Struct, frozen=True, gc=False):
    """batch/v1 JobSpec."""

    parallelism: int = 1
    completions: int | None = None
    completionMode: str = "NonIndexed"
    backoffLimit: int = 6
    activeDeadlineSeconds: int | None = None
    ttlSecondsAfterFinished: int | None = None
    suspend: bool = False
    selector: Json = {}
    template: Json = {}


class Uncounted(msgspec.Struct, frozen=True, gc=False):
    """batch/v1 UncountedTerminatedPods: uids of pods that are over and not in the counters yet."""

    succeeded: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


class JobStatus(msgspec.Struct, frozen=True, gc=False):
    """batch/v1 JobStatus."""

    active: int = 0
    ready: int = 0
    terminating: int = 0
    succeeded: int = 0
    failed: int = 0
    startTime: str = ""
    completionTime: str = ""
    completedIndexes: str = ""
    uncountedTerminatedPods: Uncounted = Uncounted()
    conditions: tuple[Condition, ...] = ()


class Job(Object, frozen=True, gc=False, kw_only=True):
    """batch/v1 Job."""

    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()
