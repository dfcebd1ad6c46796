"""One pod on this node: from its binding to its end.

A worker is level-triggered: whatever happens (the API object changed, a run ended, a delay is over) wakes it, and it
compares what is with what should be. Invariants: the pod's address is in the API before its first container starts, so
that policies can know it; records are on disk before anything is started from them; a pod that is being deleted
disappears from the API only after its processes and its network are gone.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from isthmus.aio.backoff import Backoff
from isthmus.kube.errors import Conflict, KubeError, NotFound
from isthmus.kube.resources import PODS
from isthmus.lab.node.containers.output import Output
from isthmus.lab.node.containers.paths import PodDir
from isthmus.lab.node.containers.run import adopt, still_there
from isthmus.lab.node.network import sandbox
from isthmus.lab.node.pods.conditions import OURS
from isthmus.lab.node.pods.lifecycle import after_reboot, is_over, next_step
from isthmus.lab.node.pods.record import Waiting
from isthmus.lab.node.pods.spec import Pod
from isthmus.lab.node.pods.status import pod_status
from isthmus.lab.node.volumes.projection import VolumeError
from isthmus.lab.node.worker.care import SHORTEST_GRACE, Care
from isthmus.lab.node.worker.context import NodeContext
from isthmus.lab.node.worker.ground import Ground, GroundError
from isthmus.lab.node.worker.launch import RETRY, FailedStart, launch
from isthmus.lab.node.worker.publisher import StatusPublisher
from isthmus.lab.node.worker.state import PodState

PUBLISH_LIMIT = 10.0
"""Seconds that a pod's start waits for the API server to take its address."""
NODE_NOT_READY = "NodeNotReady"
"""The reason with which the node controller overwrites conditions that are ours."""
DEADLINE = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")

_log = structlog.get_logger()


class PodWorker:
    """Runs one pod; `serve` ends when the pod is gone."""

    def __init__(self, context: NodeContext, pod: Pod, place: PodDir) -> None:
        self.state = PodState(context, pod, place)
        self._context = context
        self._care = Care(self.state)
        self._ground = Ground(self.state)
        self._retry_at = 0.0
        self._trouble_told = ""
        self._stale = False
        self._conditions = pod.status.conditions
        self._publisher = StatusPublisher(
            context.client, namespace=pod.metadata.namespace, name=pod.metadata.name, uid=pod.metadata.uid
        )
        self._stopping: set[asyncio.Task[None]] = set()

    def update(self, pod: Pod) -> None:
        """Takes a newer version of the API object."""
        before, now = self.state.pod.metadata, pod.metadata
        if (before.labels, before.annotations) != (now.labels, now.annotations):
            # All that a volume can show of a pod's object and that can change; our own status comes by here often.
            self._stale = True
        self.state.pod = pod
        if any(condition.get("reason") == NODE_NOT_READY for condition in pod.status.conditions):
            # The node controller thought this node lost.
            self._publisher.refresh()
        self.state.wake.set()

    def objects_changed(self) -> None:
        """Tells that a ConfigMap or Secret that the pod needs has changed."""
        self._stale = True
        self._retry_at = 0.0
        for record in list(self.state.records.values()):
            if record.waiting is Waiting.CONFIG_ERROR:
                self.state.put(msgspec.structs.replace(record, not_before=0.0))
        self.state.wake.set()

    def gone(self) -> None:
        """Tells that the API object does not exist any more: stop at once."""
        self.state.gone = True
        self.state.wake.set()

    async def serve(self) -> None:
        """Works until the pod is gone; never raises but for cancellation."""
        state = self.state
        publishing = asyncio.create_task(self._publisher.serve())
        try:
            await self._adopt()
            while not (state.gone or state.pod.metadata.deletionTimestamp):
                state.wake.clear()
                try:
                    wake_at = await self._step()
                except OSError as error:
                    wake_at = self._trouble("FailedCreatePodSandBox", f"{error}")
                except Exception as error:
                    # Whatever it is, this pod is tried again, and the others go on.
                    state.log.exception("pod worker failed")
                    wake_at = self._trouble("FailedSync", f"error syncing pod: {error}")
                self._publish()
                limit = None if wake_at is None else max(wake_at - time.time(), 0.0)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(limit):
                        await state.wake.wait()
            await self._end()
        except Exception:
            state.log.exception("pod worker failed")
        finally:
            state.volumes.forget(state.pod)
            publishing.cancel()
            self._care.close()
            for task in self._stopping:
                task.cancel()

    # --- keeping the pod up

    async def _step(self) -> float | None:
        state = self.state
        if state.pod.status.phase in ("Succeeded", "Failed") and not state.runs:
            # Over for good; only its deletion is left to do, and to give back what it held.
            await self._ground.release()
            return None
        now = time.time()
        if not state.record.begun_at:
            state.save(begun_at=now)
        deadline = self._check_deadline(now)
        if state.record.failure[0]:
            if not state.runs:
                await self._settle()
            return None
        if not self._ground.ready:
            if now < self._retry_at:
                return min(self._retry_at, deadline or self._retry_at)
            problem_at = await self._prepare()
            if problem_at is not None:
                return min(problem_at, deadline or problem_at)
        await self._refresh_volumes()
        step = next_step(state.pod, state.records, now=time.time())
        async with asyncio.TaskGroup() as group:
            for name in step.start:
                group.create_task(self._start(name))
        if step.start:
            # Its turn may be another container's now, and something that failed has a time to be tried again.
            state.wake.set()
        for name in step.stop:
            self._stop_later(name)
        if is_over(state.pod, state.records) and not state.runs:
            await self._settle()
            return None
        times = [moment for moment in (step.wake_at, deadline, state.volumes.renew_at) if moment is not None]
        return min(times, default=None)

    async def _settle(self) -> None:
        """Nothing runs and nothing will: says so, then gives back what the pod held."""
        self._publish()
        await self._publisher.flush(limit=PUBLISH_LIMIT)
        await self._ground.release()

    async def _prepare(self) -> float | None:
        """Makes what containers stand on; returns when to try again if that failed."""
        state = self.state
        try:
            if not await self._ground.prepare():
                return time.time() + RETRY  # something is not known yet; its arrival wakes us
        except VolumeError as error:
            return self._trouble("FailedMount", str(error))
        except GroundError as error:
            return self._trouble("FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
        self._trouble_told = ""
        self._stale = False
        self._publish()
        if not await self._publisher.flush(limit=PUBLISH_LIMIT):
            state.log.warning("pod starts before the API server knows its address", ip=state.record.ip)
        return None

    async def _start(self, name: str) -> None:
        container = self.state.container(name)
        try:
            launched = await launch(self.state, container)
        except FailedStart as failure:
            self._care.failed(container, failure)
            return
        if launched is not None:
            self._care.began(container, launched)

    async def _refresh_volumes(self) -> None:
        state = self.state
        renew_at = state.volumes.renew_at
        if not self._stale and (renew_at is None or time.time() < renew_at):
            return
        self._stale = False
        try:
            await state.volumes.write(state.pod, state.facts)
        except VolumeError as error:
            # What was there stays (kubelets do the same), and says so once.
            if str(error) != self._trouble_told:
                self._trouble_told = str(error)
                state.tell("FailedMount", str(error), type="Warning")

    def _check_deadline(self, now: float) -> float | None:
        """Ends a pod that has been active for too long; returns when that will be."""
        state = self.state
        seconds = state.pod.spec.activeDeadlineSeconds
        if seconds is None or state.record.failure[0]:
            return None
        deadline = state.record.begun_at + seconds
        if now < deadline:
            return deadline
        state.save(failure=DEADLINE)
        state.tell(*DEADLINE)
        task = asyncio.create_task(self._stop_all(grace=float(state.pod.spec.terminationGracePeriodSeconds)))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
        return None

    async def _adopt(self) -> None:
        """Takes over what an earlier process of this node left running; the rest counts as ended."""
        state = self.state
        if not state.record.ip:
            return
        await self._ground.adopt()
        for name, record in list(state.records.items()):
            container = state.container(name)
            files = state.place.container(name, record.attempt)
            if record.process is not None and still_there(record.process):
                run = await adopt(files, record.process, keeper=self._context.keeper, tty=container.tty)
                self._care.adopted(container, run)
                continue
            state.outputs[name] = finished = Output(files.log)
            finished.finish()
            code = files.exit_code()
            # A pod in its node's network has no sandbox that could be missing; but nobody saw its processes end.
            rebooted = not self._ground.ready or (state.pod.spec.hostNetwork and code is None)
            if record.process is not None:
                self._care.ended(container, after_reboot(record) if rebooted else record, code=code)
            if rebooted:
                state.put(after_reboot(state.records[name]))

    # --- taking the pod down

    async def _end(self) -> None:
        state = self.state
        grace = 0.0
        if not state.gone:
            chosen = state.pod.metadata.deletionGracePeriodSeconds
            grace = float(state.pod.spec.terminationGracePeriodSeconds if chosen is None else chosen)
        # What has been ending already, with more time than this, gets no more than this.
        limit = grace + SHORTEST_GRACE * (1 + len(state.pod.spec.initContainers))
        last = asyncio.get_running_loop().call_later(limit, self._kill_all)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._stop_all(grace=grace))
                await self._until_stopped()
        finally:
            last.cancel()
        await self._ground.release()
        if not state.gone:
            if state.records:
                self._publish()
                await self._publisher.flush(limit=PUBLISH_LIMIT)
            await self._delete_object()
        await asyncio.to_thread(sandbox.remove_files, state.place)

    async def _stop_all(self, *, grace: float) -> None:
        """Ends all containers, sidecars after the others and the last one first; returns when they have ended."""
        state = self.state
        deadline = time.monotonic() + grace
        sidecars = [c.name for c in reversed(state.pod.spec.initContainers) if state.pod.is_sidecar(c)]
        async with asyncio.TaskGroup() as group:
            for name in list(state.runs):
                if name not in sidecars or not grace:
                    group.create_task(self._care.stop(name, grace=grace))
        for name in sidecars:
            await self._care.stop(name, grace=max(deadline - time.monotonic(), SHORTEST_GRACE))

    def _stop_later(self, name: str) -> None:
        grace = float(self.state.pod.spec.terminationGracePeriodSeconds)
        task = asyncio.create_task(self._care.stop(name, grace=grace))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def _kill_all(self) -> None:
        for run in self.state.runs.values():
            run.kill()

    async def _until_stopped(self) -> None:
        state = self.state
        while state.runs:
            state.wake.clear()
            if state.gone or state.pod.metadata.deletionGracePeriodSeconds == 0:
                # The deletion was forced, perhaps in the meantime.
                self._kill_all()
            # Each run's end wakes us; SIGKILL after the grace period makes sure that it comes.
            await state.wake.wait()

    async def _delete_object(self) -> None:
        backoff = Backoff(base=0.2, cap=5.0)
        meta = self.state.pod.metadata
        while not self.state.gone:
            try:
                await self._context.client.delete(
                    PODS, meta.name, namespace=meta.namespace, uid=meta.uid, grace_period=0
                )
            except (NotFound, Conflict):
                return
            except KubeError as error:
                self.state.log.warning("pod not deleted", reason=str(error))
                await asyncio.sleep(backoff.next())
            else:
                return

    # --- small things

    def _trouble(self, reason: str, message: str) -> float:
        self._retry_at = time.time() + RETRY
        self.state.tell(reason, message, type="Warning")
        if message != self._trouble_told:
            self._trouble_told = message
            self.state.log.warning("pod cannot start", reason=message)
        return self._retry_at

    def _publish(self) -> None:
        state = self.state
        if state.pod.status.phase in ("Succeeded", "Failed") and not state.records:
            return
        status = pod_status(
            state.pod,
            state.records,
            host_ips=self._context.host_ips,
            pod_ips=state.ips,
            now=time.time(),
            previous=self._known_conditions(),
            failure=state.record.failure,
        )
        self._conditions = tuple(status["conditions"])
        self._publisher.set(status)

    def _known_conditions(self) -> tuple[dict[str, Any], ...]:
        """Ours as last written, others' as last read."""
        ours = {condition["type"]: condition for condition in self._conditions if condition["type"] in OURS}
        theirs = {condition.get("type", ""): condition for condition in self.state.pod.status.conditions}
        return tuple({**theirs, **ours}.values())


Finder = Callable[[str, str], PodWorker | None]
"""Finds a pod of this node by namespace and name."""
