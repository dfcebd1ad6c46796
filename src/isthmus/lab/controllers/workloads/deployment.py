"""Deployment: a ReplicaSet for each template, and the way from the old ones to the new one.

Follows upstream's order in one round: find the new ReplicaSet and its revision; when paused or scaled, only scale;
else let the strategy move pods: first the new ReplicaSet grows, and only a round that did not grow it shrinks the old
ones. So every round starts from what the ReplicaSets report, and a controller that was killed goes on where it was.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import asdict

from isthmus.kube.resources import DEPLOYMENTS, REPLICA_SETS
from isthmus.lab.controllers.effects import Change, Create, Effect, Tell, delete
from isthmus.lab.controllers.effects import status as status_change
from isthmus.lab.controllers.objects.meta import owned_by, reference
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.workloads import (
    Deployment,
    DeploymentStatus,
    ReplicaSet,
    condition_of,
)
from isthmus.lab.controllers.workloads import progress
from isthmus.lab.controllers.workloads.progress import PROGRESSING, News
from isthmus.lab.controllers.workloads.rollout import (
    DESIRED,
    MAXIMUM,
    Member,
    is_scaling,
    new_size,
    shrink_old,
    size_notes,
    spread_scale,
)
from isthmus.lab.controllers.workloads.templates import MAX_NAME, TEMPLATE_HASH, encoded_hash, same_template

REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
_NOT_COPIED = (
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
)
MAX_HISTORY = 2000
"""Characters of the revision-history annotation."""


class Plan(msgspec.Struct, frozen=True):
    """What to do, what the status shall be, and when to look again (seconds)."""

    effects: tuple[Effect, ...] = ()
    status: Change | None = None
    again: float | None = None


def plan(item: Deployment, sets: Sequence[ReplicaSet], *, pods: Mapping[str, Sequence[Pod]], now: float) -> Plan:
    """Returns the next step; `sets` are the ReplicaSets owned, `pods` their pods by the ReplicaSet's uid."""
    return _Round(item, sets, pods, now).plan()


def failed(item: Deployment, sets: Sequence[ReplicaSet], message: str, *, now: float) -> Change | None:
    """Returns the status after the new ReplicaSet could not be made."""
    status = progress.counted(item, sets, None, now=now)
    if progress.has_deadline(item):
        status = progress.told(status, News("ReplicaSetCreateError", message, ok=False), now=now)
    return _written(item, status, "")


def collided(item: Deployment) -> Change:
    """Returns the status that makes the next ReplicaSet's name another one."""
    return status_change(item, DEPLOYMENTS, {"collisionCount": item.status.collisionCount + 1})


def name_of_new(item: Deployment) -> str:
    """Returns the name of the ReplicaSet for the Deployment's template."""
    return f"{item.metadata.name[: MAX_NAME - 11]}-{_hash(item)}"


def _hash(item: Deployment) -> str:
    return encoded_hash(item.spec.template, item.status.collisionCount)


class _Round:
    def __init__(
        self, item: Deployment, sets: Sequence[ReplicaSet], pods: Mapping[str, Sequence[Pod]], now: float
    ) -> None:
        self.item = item
        self.sets = sets
        self.pods = pods
        self.now = now
        members = sorted(map(Member, sets), key=lambda member: member.age)
        same = [member for member in members if same_template(member.item.spec.template, item.spec.template)]
        self.new = same[0] if same else None
        self.old = [member for member in members if member is not self.new]
        self.created: Create | None = None
        self.removed: list[Effect] = []
        self.news = News()
        self.revision = ""

    def plan(self) -> Plan:
        item = self.item
        if item.leaving:
            return Plan(status=_written(item, self._counted(), ""))
        members = [*self.old, *([self.new] if self.new is not None else [])]
        if item.spec.paused or is_scaling(item, members):
            self._note_new()
            spread_scale(item, self.new, self.old)
            if item.spec.paused:
                self._clean_up()
            return self._finish(progress.paused(item, self._counted(), now=self.now))
        if item.spec.strategy.type == "Recreate":
            self._recreate()
        else:
            self._roll()
        status = progress.paused(item, self._counted(), now=self.now)
        if self.news.reason and progress.has_deadline(item):
            status = progress.told(status, self.news, now=self.now)
        new = self.new.item if self.new is not None else None
        return self._finish(progress.progressed(item, status, self.sets, new, now=self.now))

    def _counted(self) -> DeploymentStatus:
        new = self.new.item if self.new is not None else None
        return progress.counted(self.item, self.sets, new, now=self.now)

    def _finish(self, status: DeploymentStatus) -> Plan:
        effects: list[Effect] = [self.created] if self.created is not None else []
        for member in (*self.old, *([self.new] if self.new is not None else [])):
            effects += _changes(self.item, member)
        effects += self.removed
        written = _written(self.item, status, self.revision)
        return Plan(tuple(effects), written, progress.deadline_in(self.item, status, now=self.now))

    def _roll(self) -> None:
        item = self.item
        if self.new is None:
            self._create(new_size(item, 0, sum(member.replicas for member in self.old)))
            return
        self._note_new()
        total = sum(member.replicas for member in (*self.old, self.new))
        if self.new.replicas != item.spec.replicas:
            size = new_size(item, self.new.replicas, total)
            if size != self.new.replicas:
                self.new.resize(size, item)
                return
        if not shrink_old(item, self.new, self.old):
            self._clean_up_when_done()

    def _recreate(self) -> None:
        item = self.item
        if self.new is not None:
            self._note_new()
        if sum(member.replicas for member in self.old):
            for member in self.old:
                if member.replicas:
                    member.resize(0, item)
            return
        if self._old_pods_run():
            return
        if self.new is None:
            self._create(item.spec.replicas)
        elif not self.new.resize(item.spec.replicas, item):
            self._clean_up_when_done()

    def _old_pods_run(self) -> bool:
        return any(not pod.over for member in self.old for pod in self.pods.get(member.item.metadata.uid, ()))

    def _note_new(self) -> None:
        """Brings annotations and revision of the new ReplicaSet up to date."""
        new, item = self.new, self.item
        if new is None:
            return
        wanted = max((_revision(member.item) for member in self.old), default=0) + 1
        for key, value in _copied(item).items():
            if new.annotation(key) != value:
                new.annotations[key] = value
        current = _revision(new.item)
        if current < wanted:
            new.annotations[REVISION] = str(wanted)
            if current:
                history = new.annotation(HISTORY)
                listed = f"{history},{current}" if history else str(current)
                while len(listed) > MAX_HISTORY and "," in listed:
                    listed = listed.partition(",")[2]
                new.annotations[HISTORY] = listed
        if new.item.spec.minReadySeconds != item.spec.minReadySeconds:
            new.extra["minReadySeconds"] = item.spec.minReadySeconds
        self.revision = new.annotation(REVISION)
        if condition_of(item.status.conditions, PROGRESSING) is None:
            self.news = News("FoundNewReplicaSet", f'Found new replica set "{new.item.metadata.name}"')

    def _create(self, size: int) -> None:
        item = self.item
        name, hash_ = name_of_new(item), _hash(item)
        template = item.spec.template
        labels = {**((template.get("metadata") or {}).get("labels") or {}), TEMPLATE_HASH: hash_}
        self.revision = str(max((_revision(member.item) for member in self.old), default=0) + 1)
        metadata = {
            "name": name,
            "namespace": item.metadata.namespace,
            "labels": labels,
            "annotations": {**_copied(item), **size_notes(item), REVISION: self.revision},
            "ownerReferences": [owned_by(item, DEPLOYMENTS)],
        }
        selector = item.spec.selector
        spec = {
            "replicas": size,
            "minReadySeconds": item.spec.minReadySeconds,
            "selector": {
                **selector,
                "matchLabels": {**(selector.get("matchLabels") or {}), TEMPLATE_HASH: hash_},
            },
            "template": {**template, "metadata": {**(template.get("metadata") or {}), "labels": labels}},
        }
        body = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": spec}
        words = ("ScalingReplicaSet", f"Scaled up replica set {name} from 0 to {size}") if size else ("", "")
        self.created = Create(REPLICA_SETS, body, owner=reference(item, DEPLOYMENTS), words=words)
        self.news = News("NewReplicaSetCreated", f'Created new replica set "{name}"')

    def _clean_up_when_done(self) -> None:
        if progress.is_complete(self.item, self._counted()):
            self._clean_up()

    def _clean_up(self) -> None:
        """Forgets the oldest revisions beyond the limit, those without pods."""
        alive = [member.item for member in self.old if not member.item.leaving]
        surplus = len(alive) - self.item.spec.revisionHistoryLimit
        if surplus <= 0:
            return
        for one in sorted(alive, key=_revision)[:surplus]:
            busy = one.status.replicas or one.spec.replicas
            if not busy and one.metadata.generation <= one.status.observedGeneration:
                self.removed.append(delete(one, REPLICA_SETS))


def _changes(item: Deployment, member: Member) -> list[Effect]:
    """Returns what writes a member's new size and annotations, and tells of it."""
    before, after = member.item.spec.replicas, member.replicas
    patch: dict[str, Any] = {}
    if before != after or member.extra:
        patch["spec"] = {**member.extra, **({"replicas": after} if before != after else {})}
    if member.annotations:
        patch["metadata"] = {"annotations": member.annotations}
    if not patch:
        return []
    meta = member.item.metadata
    effects: list[Effect] = [Change(REPLICA_SETS, meta.namespace, meta.name, patch, uid=meta.uid)]
    if before != after:
        way = "up" if after > before else "down"
        message = f"Scaled {way} replica set {meta.name} from {before} to {after}"
        effects.append(Tell(reference(item, DEPLOYMENTS), "ScalingReplicaSet", message))
    return effects


def _written(item: Deployment, status: DeploymentStatus, revision: str) -> Change | None:
    """Returns the write of a status and of the revision; None if both are there."""
    patch: dict[str, Any] = {}
    if status != item.status:
        shown = {key: value or None for key, value in asdict(status).items()}
        patch["status"] = {**shown, "conditions": list(status.conditions)}
    if revision and item.metadata.annotations.get(REVISION) != revision:
        # Through the status: a change of annotations through the front door would count as a new generation.
        patch["metadata"] = {"annotations": {REVISION: revision}}
    if not patch:
        return None
    meta = item.metadata
    return Change(DEPLOYMENTS, meta.namespace, meta.name, patch, subresource="status", version=meta.resourceVersion)


def _copied(item: Deployment) -> dict[str, str]:
    return {key: value for key, value in item.metadata.annotations.items() if key not in _NOT_COPIED}


def _revision(item: ReplicaSet) -> int:
    text = item.metadata.annotations.get(REVISION, "0")
    return int(text) if text.isdecimal() else 0
