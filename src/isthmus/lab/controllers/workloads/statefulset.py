"""StatefulSet: pods with names and an order.

OrderedReady makes and ends one pod at a time, each only when those before it are ready; Parallel does not wait.
Updates go from the highest ordinal down to the partition, one by one, each waiting for the one before. Volume claims
are not made: a lab has no storage.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from isthmus.kube.resources import PODS, STATEFUL_SETS
from isthmus.lab.controllers.effects import Change, Create, Effect, Tell, delete
from isthmus.lab.controllers.objects.meta import reference
from isthmus.lab.controllers.objects.pods import Pod, soonest_available
from isthmus.lab.controllers.objects.workloads import StatefulSet
from isthmus.lab.controllers.workloads.templates import REVISION_HASH, new_pod

Json = dict[str, Any]
POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"
ORDERED = "OrderedReady"


class Picture(msgspec.Struct, frozen=True):
    """A StatefulSet, its pods by ordinal, and the templates of its revisions by name."""

    item: StatefulSet
    pods: Mapping[int, Pod]
    templates: Mapping[str, Json]
    current: str
    update: str

    @property
    def ordinals(self) -> range:
        """The ordinals that should exist."""
        start = self.item.spec.ordinals.start
        return range(start, start + self.item.spec.replicas)


def ordinal(item: StatefulSet, pod: Pod) -> int | None:
    """Returns a pod's ordinal; None if its name is not one of the set's."""
    prefix = f"{item.metadata.name}-"
    rest = pod.metadata.name.removeprefix(prefix)
    return int(rest) if pod.metadata.name.startswith(prefix) and rest.isdecimal() else None


def plan(picture: Picture, *, now: float) -> list[Effect]:
    """Returns the next writes."""
    item = picture.item
    if item.leaving:
        return []
    return _Round(picture, now).effects()


class _Round:
    def __init__(self, picture: Picture, now: float) -> None:
        self._picture = picture
        self._item = picture.item
        self._now = now
        self._about = reference(picture.item, STATEFUL_SETS)
        self._ordered = picture.item.spec.podManagementPolicy == ORDERED

    def effects(self) -> list[Effect]:
        effects: list[Effect] = []
        for number in self._picture.ordinals:
            pod = self._picture.pods.get(number)
            if pod is None:
                effects.append(self._create(number))
                if self._ordered:
                    return effects
            elif pod.over and not pod.leaving:
                effects += self._replace(pod)
                if self._ordered:
                    return effects
            elif self._ordered and not self._healthy(pod):
                # Repairs of identity wait, too: one thing at a time.
                return effects
            else:
                effects += self._identity(number, pod)
        surplus = self._surplus()
        if surplus is None:
            return effects
        effects += surplus
        if effects and self._ordered:
            return effects
        return [*effects, *self._update()]

    def _surplus(self) -> list[Effect] | None:
        """Returns what is done about pods that are too many; None when the rest has to wait for that."""
        effects: list[Effect] = []
        wanted = self._picture.ordinals
        everyone = sorted(self._picture.pods)
        unhealthy = [number for number in everyone if not self._healthy(self._picture.pods[number])]
        for number in reversed([number for number in everyone if number not in wanted]):
            pod = self._picture.pods[number]
            if pod.leaving:
                if self._ordered:
                    return None
                continue
            if self._ordered and unhealthy and unhealthy[0] != number and not self._healthy(pod):
                return None
            effects.append(self._delete(pod))
            if self._ordered:
                return effects
        return effects

    def _update(self) -> list[Effect]:
        """Returns the deletion of the next pod that is not of the update revision, unless one is on its way."""
        strategy = self._item.spec.updateStrategy
        if strategy.type != "RollingUpdate":
            return []
        first = self._picture.ordinals.start + strategy.rollingUpdate.partition
        for number in reversed(self._picture.ordinals):
            if number < first:
                break
            pod = self._picture.pods.get(number)
            if pod is None:
                return []
            if revision_of(pod) != self._picture.update and not pod.leaving:
                return [self._delete(pod)]
            if not self._healthy(pod):
                return []
        return []

    def _healthy(self, pod: Pod) -> bool:
        running = pod.status.phase == "Running" and not pod.leaving
        return running and pod.available(self._item.spec.minReadySeconds, now=self._now)

    def _create(self, number: int) -> Create:
        item = self._item
        name = f"{item.metadata.name}-{number}"
        revision = self._revision_for(number)
        template = self._picture.templates.get(revision, item.spec.template)
        labels = {POD_NAME: name, POD_INDEX: str(number), REVISION_HASH: revision}
        body = new_pod(item, STATEFUL_SETS, template, name=name, generate_name=f"{item.metadata.name}-", labels=labels)
        body["spec"]["hostname"] = name
        if item.spec.serviceName:
            body["spec"]["subdomain"] = item.spec.serviceName
        words = ("SuccessfulCreate", f"create Pod {name} in StatefulSet {item.metadata.name} successful")
        return Create(PODS, body, owner=self._about, words=words)

    def _revision_for(self, number: int) -> str:
        """Returns the revision that a new pod gets: the current one where the update has not come yet."""
        item, picture = self._item, self._picture
        strategy = item.spec.updateStrategy
        if strategy.type != "RollingUpdate":
            return picture.update
        start = picture.ordinals.start
        if number < start + strategy.rollingUpdate.partition:
            return picture.current
        # While the update comes down from the top, what is below it keeps the current revision.
        old = sum(revision_of(pod) == picture.current and not pod.leaving for pod in picture.pods.values())
        if not strategy.rollingUpdate.partition and number < start + old:
            return picture.current
        return picture.update

    def _replace(self, pod: Pod) -> list[Effect]:
        reason = "RecreatingFailedPod" if pod.status.phase == "Failed" else "RecreatingTerminatedPod"
        where = f"{self._item.metadata.namespace}/{self._item.metadata.name}"
        message = f"StatefulSet {where} is recreating {pod.status.phase.lower()} Pod {pod.metadata.name}"
        return [Tell(self._about, reason, message, "Warning"), self._delete(pod)]

    def _delete(self, pod: Pod) -> Effect:
        words = (
            "SuccessfulDelete",
            f"delete Pod {pod.metadata.name} in StatefulSet {self._item.metadata.name} successful",
        )
        return delete(pod, PODS, owner=self._about, words=words)

    def _identity(self, number: int, pod: Pod) -> list[Effect]:
        """Returns what gives a pod back the labels by which it is known."""
        wanted = {POD_NAME: pod.metadata.name, POD_INDEX: str(number)}
        if wanted.items() <= pod.metadata.labels.items():
            return []
        meta = pod.metadata
        return [Change(PODS, meta.namespace, meta.name, {"metadata": {"labels": wanted}}, uid=meta.uid)]


def revision_of(pod: Pod) -> str:
    """Returns the name of the revision that a pod was made of."""
    return pod.metadata.labels.get(REVISION_HASH, "")


def status(picture: Picture, *, now: float) -> dict[str, Any] | None:
    """Returns the new status; None if it would say the same."""
    item = picture.item
    pods = [pod for pod in picture.pods.values() if pod.status.phase]
    alive = [pod for pod in pods if not pod.leaving]
    running = [pod for pod in pods if pod.status.phase == "Running" and pod.ready]
    found: dict[str, Any] = {
        "observedGeneration": item.metadata.generation,
        "replicas": len(pods),
        "readyReplicas": len(running),
        "availableReplicas": sum(pod.available(item.spec.minReadySeconds, now=now) for pod in running),
        "currentReplicas": sum(revision_of(pod) == picture.current for pod in alive),
        "updatedReplicas": sum(revision_of(pod) == picture.update for pod in alive),
        "currentRevision": picture.current,
        "updateRevision": picture.update,
    }
    wanted = item.spec.replicas
    whole = found["updatedReplicas"] == found["readyReplicas"] == found["replicas"] == wanted
    if item.spec.updateStrategy.type == "RollingUpdate" and whole:
        found["currentReplicas"] = found["updatedReplicas"]
        found["currentRevision"] = picture.update
    if all(getattr(item.status, key) == value for key, value in found.items()):
        return None
    shown = {key: value or None for key, value in found.items()}
    return {**shown, "replicas": found["replicas"], "availableReplicas": found["availableReplicas"]}


def recheck(item: StatefulSet, pods: Sequence[Pod], *, now: float) -> float | None:
    """Returns in how many seconds a pod becomes available by waiting."""
    limit = item.spec.minReadySeconds
    return soonest_available([pod for pod in pods if pod.active], limit, now=now) if limit else None
