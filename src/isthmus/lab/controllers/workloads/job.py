"""Job: pods until enough of them succeeded, or too many failed.

Every pod bears a finalizer until it is counted, in three steps that may be cut anywhere: its uid goes into the status
(uncounted), then the finalizer goes, then the uid becomes a number. So no pod is counted twice and none is lost,
whoever deletes it and whenever this process dies (KEP-2307). Left out: podFailurePolicy, successPolicy,
backoffLimitPerIndex.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from isthmus.kube.resources import JOBS, PODS
from isthmus.lab.controllers.effects import Change, Create, Delete, Effect, Tell, delete
from isthmus.lab.controllers.effects import status as status_change
from isthmus.lab.controllers.objects.meta import reference, seconds, stamp
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.workloads import Condition, Job, Uncounted, condition_of
from isthmus.lab.controllers.workloads.indexes import parse, spell
from isthmus.lab.controllers.workloads.templates import Suffix, new_pod, prefixed

Json = dict[str, Any]
TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
BACKOFF, SLOWEST = 10.0, 600.0
"""Seconds until the first pod after a failure, doubled with each failure up to the second number."""

MAX_UNCOUNTED = 500
COMPLETE, FAILED, SUSPENDED = "Complete", "Failed", "Suspended"
TARGETS = {COMPLETE: "SuccessCriteriaMet", FAILED: "FailureTarget"}
"""The condition that says how it will end, while pods still have to go."""


class Plan(msgspec.Struct, frozen=True):
    """First the pods to end or make, then the status, then the finalizers that are not needed any more."""

    effects: tuple[Effect, ...] = ()
    status: Change | None = None
    finalizers: tuple[Change, ...] = ()
    again: float | None = None


def plan(item: Job, pods: Sequence[Pod], *, fresh: Suffix, now: float) -> Plan:
    """Returns the next step of a Job."""
    return _Round(item, pods, fresh, now).plan()


def is_over(item: Job) -> bool:
    """Whether a Job is complete or failed."""
    return _end_of(item) is not None


def expires_in(item: Job, *, now: float) -> float | None:
    """Returns in how many seconds a Job that is over is to be deleted; None for never."""
    ttl, end = item.spec.ttlSecondsAfterFinished, _end_of(item)
    return None if ttl is None or end is None else max(seconds(end.lastTransitionTime) + ttl - now, 0.0)


def _end_of(item: Job) -> Condition | None:
    for condition in item.status.conditions:
        if condition.type in (COMPLETE, FAILED) and condition.status == "True":
            return condition
    return None


def index_of(pod: Pod) -> int | None:
    """Returns a pod's completion index."""
    text = pod.metadata.annotations.get(INDEX, "")
    return int(text) if text.isdecimal() else None


class _Round:
    def __init__(self, item: Job, pods: Sequence[Pod], fresh: Suffix, now: float) -> None:
        self.item = item
        self.pods = pods
        self.fresh = fresh
        self.now = now
        self.about = reference(item, JOBS)
        self.indexed = item.spec.completionMode == "Indexed"
        self.status = item.status
        self.active = [pod for pod in pods if pod.active]
        self.done = parse(item.status.completedIndexes)

    def plan(self) -> Plan:
        item = self.item
        if is_over(item) or item.leaving:
            loose = tuple(untracked(pod) for pod in self.pods if TRACKING in pod.metadata.finalizers)
            return Plan(finalizers=loose)
        if not self.status.startTime and not item.spec.suspend:
            self.status = replace(self.status, startTime=stamp(self.now))
        self._count()
        ending = self._ending()
        effects: list[Effect] = []
        again: float | None = None
        if ending is not None:
            effects += self._end(ending)
        elif item.spec.suspend:
            effects += self._suspend()
        else:
            self._resume(effects)
            more, again = self._manage()
            effects += more
        self._numbers(effects)
        if ending is not None:
            effects += self._finish(ending)
        deadline = item.spec.activeDeadlineSeconds
        if deadline is not None and self.status.startTime and ending is None and not item.spec.suspend:
            left = max(seconds(self.status.startTime) + deadline - self.now, 0.0) + 0.05
            again = left if again is None else min(again, left)
        return Plan(tuple(effects), self._written(), self._finalizers(), again)

    def _count(self) -> None:
        """Turns uncounted pods without finalizer into numbers, and takes up those that ended since."""
        before = self.status.uncountedTerminatedPods
        tracked = {pod.metadata.uid: pod for pod in self.pods if TRACKING in pod.metadata.finalizers}
        succeeded = [uid for uid in before.succeeded if uid in tracked]
        failed = [uid for uid in before.failed if uid in tracked]
        status = replace(
            self.status,
            succeeded=self.status.succeeded + len(before.succeeded) - len(succeeded),
            failed=self.status.failed + len(before.failed) - len(failed),
        )
        for uid, pod in tracked.items():
            if uid in before.succeeded or uid in before.failed or len(succeeded) + len(failed) >= MAX_UNCOUNTED:
                continue
            index = index_of(pod)
            if pod.status.phase == "Succeeded":
                if self.indexed:
                    # An index is complete once; the counter of an indexed Job is the number of its indexes.
                    if index is None or index in self.done or index >= (self.item.spec.completions or 0):
                        continue
                    self.done.add(index)
                    continue
                succeeded.append(uid)
            elif pod.over or pod.leaving:
                # One that is being deleted counts at once: it may never get to say how it ended.
                failed.append(uid)
        status = replace(status, uncountedTerminatedPods=Uncounted(tuple(succeeded), tuple(failed)))
        if self.indexed:
            status = replace(status, completedIndexes=spell(self.done), succeeded=len(self.done))
        self.status = status

    @property
    def succeeded(self) -> int:
        return self.status.succeeded + len(self.status.uncountedTerminatedPods.succeeded)

    @property
    def failures(self) -> int:
        return self.status.failed + len(self.status.uncountedTerminatedPods.failed)

    def _ending(self) -> Condition | None:
        """Returns how the Job ends, if it does: the condition that says so."""
        for kind, target in TARGETS.items():
            known = condition_of(self.item.status.conditions, target)
            if known is not None and known.status == "True":
                return self._said(kind, known.reason, known.message)
        item = self.item
        restarts = sum(pod.restarts for pod in self.active if pod.spec.restartPolicy == "OnFailure")
        limit = item.spec.backoffLimit
        if self.failures > limit or (restarts and restarts >= max(limit, 1)):
            return self._said(FAILED, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        deadline = item.spec.activeDeadlineSeconds
        if deadline is not None and self.status.startTime and not item.spec.suspend:
            if self.now - seconds(self.status.startTime) >= deadline:
                message = "Job was active longer than specified deadline"
                return self._said(FAILED, "DeadlineExceeded", message)
        if item.spec.completions is None:
            # A work queue: one success means that the work is done, and the others are left to end by themselves.
            if self.succeeded and not self.active:
                return self._said(COMPLETE, "CompletionsReached", "Reached expected number of succeeded pods")
        elif self.succeeded >= item.spec.completions:
            return self._said(COMPLETE, "CompletionsReached", "Reached expected number of succeeded pods")
        return None

    def _said(self, kind: str, reason: str, message: str) -> Condition:
        at = stamp(self.now)
        return Condition(
            type=kind, status="True", lastProbeTime=at, lastTransitionTime=at, reason=reason, message=message
        )

    def _put(self, condition: Condition) -> None:
        known = condition_of(self.status.conditions, condition.type)
        if known is not None and (known.status, known.reason) == (condition.status, condition.reason):
            return
        others = tuple(one for one in self.status.conditions if one.type != condition.type)
        self.status = replace(self.status, conditions=(*others, condition))

    def _end(self, ending: Condition) -> list[Effect]:
        """Ends what still runs, and says how the Job will end."""
        self._put(replace(ending, type=TARGETS[ending.type]))
        return [delete(pod, PODS, owner=self.about) for pod in self.active]

    def _finish(self, ending: Condition) -> list[Effect]:
        """Says that the Job is over, once no pod is left that could still change the numbers."""
        uncounted = self.status.uncountedTerminatedPods
        if self.active or any(pod.leaving and not pod.over for pod in self.pods):
            return []
        if uncounted.succeeded or uncounted.failed:
            return []
        if any(TRACKING in pod.metadata.finalizers and not self._counted(pod) for pod in self.pods):
            return []
        target = condition_of(self.item.status.conditions, TARGETS[ending.type])
        if target is None or target.status != "True":
            return []  # first the target is written, so that everyone sees it come
        self._put(ending)
        if ending.type == COMPLETE:
            self.status = replace(self.status, completionTime=ending.lastTransitionTime)
            return [Tell(self.about, "Completed", "Job completed")]
        return [Tell(self.about, ending.reason, ending.message, "Warning")]

    def _counted(self, pod: Pod) -> bool:
        return self.indexed and pod.status.phase == "Succeeded"

    def _suspend(self) -> list[Effect]:
        known = condition_of(self.status.conditions, SUSPENDED)
        effects = self._dismiss(self.active)
        if known is None or known.status != "True":
            self._put(self._said(SUSPENDED, "JobSuspended", "Job suspended"))
            effects.append(Tell(self.about, "Suspended", "Job suspended"))
        self.status = replace(self.status, startTime="")
        return effects

    def _dismiss(self, pods: Sequence[Pod]) -> list[Effect]:
        """Returns what ends pods without counting them as failures: nobody asked for their work any more."""
        loose: list[Effect] = [untracked(pod) for pod in pods if TRACKING in pod.metadata.finalizers]
        return [*loose, *(delete(pod, PODS, owner=self.about) for pod in pods)]

    def _resume(self, effects: list[Effect]) -> None:
        known = condition_of(self.status.conditions, SUSPENDED)
        if known is not None and known.status == "True":
            self._put(replace(self._said(SUSPENDED, "JobResumed", "Job resumed"), status="False"))
            self.status = replace(self.status, startTime=stamp(self.now))
            effects.append(Tell(self.about, "Resumed", "Job resumed"))

    def _manage(self) -> tuple[list[Effect], float | None]:
        """Returns the pods to make or to end, and when to look again."""
        item = self.item
        parallel, completions = item.spec.parallelism, item.spec.completions
        wanted = parallel
        if completions is not None:
            wanted = min(parallel, completions - self.succeeded)
        elif self.succeeded:
            wanted = min(parallel, len(self.active))
        if len(self.active) > wanted:
            surplus = sorted(self.active, key=lambda pod: (pod.ready, pod.metadata.creationTimestamp))
            return self._dismiss(surplus[: len(self.active) - max(wanted, 0)]), None
        missing = wanted - len(self.active)
        if missing <= 0:
            return [], None
        wait = self._backoff()
        if wait > 0:
            return [], wait
        if not self.indexed:
            return [self._create(None) for _ in range(min(missing, 500))], None
        busy = {index_of(pod) for pod in self.pods if not pod.over}
        free = [index for index in range(completions or 0) if index not in self.done and index not in busy]
        return [self._create(index) for index in free[: min(missing, 500)]], None

    def _backoff(self) -> float:
        """Returns how long to wait for, because pods failed since the last success."""
        ends = [(pod.finished_at, pod.status.phase) for pod in self.pods if pod.over]
        last_good = max((end for end, phase in ends if phase == "Succeeded"), default=0.0)
        bad = [end for end, phase in ends if phase == "Failed" and end > last_good]
        if not bad:
            return 0.0
        return max(bad) + min(BACKOFF * 2.0 ** (len(bad) - 1), SLOWEST) - self.now

    def _create(self, index: int | None) -> Effect:
        item = self.item
        annotations: dict[str, str] = {}
        labels: dict[str, str] = {}
        base = item.metadata.name
        if index is not None:
            annotations[INDEX] = labels[INDEX] = str(index)
            base = f"{base}-{index}"
        prefix, name = prefixed(base, self.fresh, room=63)
        body = new_pod(
            item,
            JOBS,
            item.spec.template,
            name=name,
            generate_name=prefix,
            labels=labels,
            annotations=annotations,
            finalizers=(TRACKING,),
        )
        if index is not None:
            body["spec"].setdefault("hostname", f"{item.metadata.name[:57]}-{index}")
            path = f"metadata.labels['{INDEX}']"
            variable = {"name": INDEX_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for kind in ("initContainers", "containers"):
                for container in body["spec"].get(kind) or ():
                    known = container.get("env") or []
                    if all(one.get("name") != INDEX_VARIABLE for one in known):
                        container["env"] = [*known, variable]
        return Create(PODS, body, owner=self.about)

    def _numbers(self, effects: Sequence[Effect]) -> None:
        gone = {effect.uid for effect in effects if isinstance(effect, Delete)}
        stay = [pod for pod in self.active if pod.metadata.uid not in gone]
        leaving = [pod for pod in self.pods if not pod.over and (pod.leaving or pod.metadata.uid in gone)]
        self.status = replace(
            self.status,
            active=len(stay) + sum(isinstance(effect, Create) for effect in effects),
            ready=sum(pod.ready for pod in stay),
            terminating=len(leaving),
        )

    def _finalizers(self) -> tuple[Change, ...]:
        """Returns what takes the finalizer off pods whose end is in the status by now."""
        uncounted = self.status.uncountedTerminatedPods
        known = {*uncounted.succeeded, *uncounted.failed}
        return tuple(
            untracked(pod)
            for pod in self.pods
            if TRACKING in pod.metadata.finalizers
            and (pod.metadata.uid in known or (self.indexed and pod.status.phase == "Succeeded"))
        )

    def _written(self) -> Change | None:
        item, status = self.item, self.status
        if status == item.status:
            return None
        uncounted = status.uncountedTerminatedPods
        patch: Json = {
            key: getattr(status, key) or None
            for key in ("active", "succeeded", "failed", "startTime", "completionTime", "completedIndexes")
        }
        patch |= {"ready": status.ready, "terminating": status.terminating}
        patch["conditions"] = list(status.conditions) or None
        patch["uncountedTerminatedPods"] = {
            "succeeded": list(uncounted.succeeded) or None,
            "failed": list(uncounted.failed) or None,
        }
        return status_change(item, JOBS, patch)


def untracked(pod: Pod) -> Change:
    """Returns what takes the finalizer off a pod that is counted, or of which nobody keeps count."""
    meta = pod.metadata
    kept = [word for word in meta.finalizers if word != TRACKING]
    patch = {"metadata": {"finalizers": kept or None}}
    return Change(PODS, meta.namespace, meta.name, patch, version=meta.resourceVersion, uid=meta.uid)
