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
from isthmus.kube.client import Client
from isthmus.kube.errors import Conflict, KubeError, NotFound
from isthmus.kube.events import EventRecorder
from isthmus.kube.resources import PODS
from isthmus.kube.schema import ObjectReference
from isthmus.lab.images.catalog import UnknownImage, find_image, served_ports
from isthmus.lab.images.rootfs import Rootfs
from isthmus.lab.node import sandbox
from isthmus.lab.node.addresses import AddressPool, ExhaustedError
from isthmus.lab.node.container import Run, StartError, adopt, start
from isthmus.lab.node.environment import UnsupportedError
from isthmus.lab.node.lifecycle import after_exit, next_step
from isthmus.lab.node.output import Output
from isthmus.lab.node.paths import PodDir
from isthmus.lab.node.pod import Container, Pod
from isthmus.lab.node.process import is_alive, listens_on
from isthmus.lab.node.publisher import StatusPublisher
from isthmus.lab.node.record import Ended, Record, SandboxRecord, Waiting
from isthmus.lab.node.runspec import run_spec
from isthmus.lab.node.status import container_id, pod_status

PUBLISH_LIMIT = 10.0
"""Seconds that a pod's start waits for the API server to take its address."""
SERVE_LIMIT = 15.0
"""Seconds that a server program may take until it listens; after that it counts as ready all the same."""
_SERVE_PAUSE = 0.02
NODE_NOT_READY = "NodeNotReady"
"""The reason with which the node controller overwrites conditions that are ours."""
_RETRY = 10.0
"""Seconds until something that the pod cannot do without is tried again."""
_KEPT_RUNS = 2
"""Logs of this many runs stay: the current one and the one before, for `kubectl logs --previous`."""

_log = structlog.get_logger()


class NodeContext(msgspec.Struct, frozen=True):
    """What all pods of a node share."""

    name: str
    address: str
    nameserver: str
    client: Client
    events: EventRecorder
    pool: AddressPool
    rootfs: Rootfs


class PodWorker:
    """Runs one pod; `serve` ends when the pod is gone."""

    def __init__(self, context: NodeContext, pod: Pod, place: PodDir) -> None:
        self.pod = pod
        self.place = place
        self.runs: dict[str, Run] = {}
        self.outputs: dict[str, Output] = {}
        """The output of each container's latest run, also after its end."""
        self._context = context
        self._log = _log.bind(pod=pod.where)
        self._record = place.load() or SandboxRecord(
            uid=pod.metadata.uid, namespace=pod.metadata.namespace, name=pod.metadata.name, ip=""
        )
        self._made = False
        self._gone = False
        self._retry_at = 0.0
        self._conditions = pod.status.conditions
        self._wake = asyncio.Event()
        self._wake.set()
        self._publisher = StatusPublisher(
            context.client, namespace=pod.metadata.namespace, name=pod.metadata.name, uid=pod.metadata.uid
        )
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def records(self) -> dict[str, Record]:
        """The records of the pod's containers, by name."""
        return self._record.containers

    @property
    def ip(self) -> str:
        """The pod's address; empty before it has one."""
        return self._record.ip

    @property
    def link(self) -> str:
        """The node's end of the pod's link."""
        return self._record.link

    def update(self, pod: Pod) -> None:
        """Takes a newer version of the API object."""
        self.pod = pod
        if any(condition.get("reason") == NODE_NOT_READY for condition in pod.status.conditions):
            # The node controller thought this node lost.
            self._publisher.refresh()
        self._wake.set()

    def gone(self) -> None:
        """Tells that the API object does not exist any more: stop at once."""
        self._gone = True
        self._wake.set()

    async def serve(self) -> None:
        """Works until the pod is gone; never raises but for cancellation."""
        publishing = asyncio.create_task(self._publisher.serve())
        try:
            self._adopt()
            while not (self._gone or self.pod.metadata.deletionTimestamp):
                self._wake.clear()
                try:
                    wake_at = await self._step()
                except OSError as error:
                    wake_at = self._trouble("FailedCreatePodSandBox", f"{error}")
                self._publish()
                limit = None if wake_at is None else max(wake_at - time.time(), 0.0)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(limit):
                        await self._wake.wait()
            await self._end()
        except Exception:
            self._log.exception("pod worker failed")
        finally:
            publishing.cancel()
            for task in self._tasks:
                task.cancel()

    # --- keeping the pod up

    async def _step(self) -> float | None:
        if self.pod.status.phase in ("Succeeded", "Failed") and not self._record.containers:
            return None  # ended before this node's process came to life; only its deletion is left to do
        now = time.time()
        if not self._made:
            if now < self._retry_at:
                return self._retry_at
            if not await self._make_sandbox():
                return self._retry_at
        step = next_step(self.pod, self.records, now=now)
        for name in step.start:
            await self._start(self._container(name))
        if step.start:
            # Its turn may be another container's now, and something that failed has a time to be tried again.
            self._wake.set()
        return step.wake_at

    async def _make_sandbox(self) -> bool:
        for volume in self.pod.spec.volumes:
            if volume.emptyDir is None:
                message = f'volume "{volume.name}": only emptyDir volumes are supported by the lab'
                self._trouble("FailedMount", message)
                return False
        if self.pod.spec.hostNetwork:
            self._save(ip=self._context.address)
        elif not await self._make_network():
            return False
        sandbox.write_etc(self.place, self.pod, ip=self._record.ip, nameserver=self._context.nameserver)
        for volume in self.pod.spec.volumes:
            self.place.volume(volume.name).mkdir(mode=0o777, parents=True, exist_ok=True)
        self._made = True
        self._publish()
        if not await self._publisher.flush(limit=PUBLISH_LIMIT):
            self._log.warning("pod starts before the API server knows its address", ip=self._record.ip)
        return True

    async def _make_network(self) -> bool:
        link = sandbox.link_name(self.pod.metadata.uid)
        try:
            ip = self._record.ip or self._context.pool.take()
            self._save(ip=ip, link=link)
            await sandbox.make_namespaces(
                self.place, hostname=self.pod.hostname, ip=ip, link=link, host_ip=self._context.address
            )
        except (ExhaustedError, sandbox.SandboxError) as error:
            self._trouble("FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            return False
        return True

    async def _start(self, container: Container) -> None:
        before = self.records.get(container.name) or Record(container.name)
        try:
            image = find_image(container.image)
        except UnknownImage as error:
            self._image_trouble(container, before, error)
            return
        attempt = before.attempt + 1
        files = self.place.container(container.name, attempt)
        try:
            spec = run_spec(
                self.pod, container, image=image, place=self.place, rootfs=self._context.rootfs, ip=self._record.ip,
                host_ip=self._context.address,
            )  # fmt: skip
        except UnsupportedError as error:
            self._put(msgspec.structs.replace(
                before, waiting=Waiting.CONFIG_ERROR, message=str(error), not_before=time.time() + _RETRY
            ))  # fmt: skip
            self._tell("Failed", f"Error: {error}", type="Warning", container=container)
            return
        self._tell("Pulled", f'Container image "{container.image}" already present on machine', container=container)
        started_at = time.time()
        record = Record(
            container.name, attempt=attempt, started_at=started_at, before=before.ended or before.before,
            failures=before.failures,
        )  # fmt: skip
        try:
            enter = sandbox.words_into(self.place, host_network=self.pod.spec.hostNetwork)
            run = await start(files, spec=spec, enter=enter, stdin=container.stdin, tty=container.tty)
        except StartError as error:
            self._tell("Failed", f"Error: {error}", type="Warning", container=container)
            self._ended(container, record, code=128, reason="StartError", message=str(error))
            return
        self._tell("Created", f"Created container: {container.name}", container=container)
        self._tell("Started", f"Started container {container.name}", container=container)
        ports = served_ports(spec["argv"])
        self._put(msgspec.structs.replace(record, process=run.process, ready=not ports))
        self._follow(container, run, ports=ports)
        self.place.container(container.name, attempt - _KEPT_RUNS).remove()

    def _adopt(self) -> None:
        """Takes over what an earlier process of this node left running; the rest counts as ended."""
        if not self._record.ip:
            return
        self._made = self.pod.spec.hostNetwork or sandbox.exists(self.place)
        for name, record in list(self.records.items()):
            container = self._container(name)
            files = self.place.container(name, record.attempt)
            self.outputs[name] = finished = Output(files.log)
            if record.process is None:
                finished.finish()
            elif is_alive(record.process):
                self._follow(container, adopt(files, record.process), ports=served_ports(()))
            else:
                finished.finish()
                code = files.exit_code()
                self._ended(container, record, code=137 if code is None else code)

    def _follow(self, container: Container, run: Run, *, ports: tuple[int, ...]) -> None:
        self.runs[container.name] = run
        self.outputs[container.name] = run.output
        self._spawn(self._await_end(container, run))
        self._spawn(self._await_serving(container, run, ports))

    async def _await_end(self, container: Container, run: Run) -> None:
        code = await run.wait()
        if self.runs.get(container.name) is run:
            del self.runs[container.name]
        self._ended(container, self.records[container.name], code=code)
        self._wake.set()

    async def _await_serving(self, container: Container, run: Run, ports: tuple[int, ...]) -> None:
        deadline = time.monotonic() + SERVE_LIMIT
        while ports and time.monotonic() < deadline:
            pid = run.pid
            if pid is None:
                return
            if all(listens_on(pid, port) for port in ports):
                break
            await asyncio.sleep(_SERVE_PAUSE)
        record = self.records[container.name]
        if record.process == run.process and not record.ready:
            self._put(msgspec.structs.replace(record, ready=True))
            self._wake.set()

    def _ended(self, container: Container, record: Record, *, code: int, reason: str = "", message: str = "") -> None:
        now = time.time()
        ended = Ended(
            exit_code=code,
            started_at=record.started_at or now,
            finished_at=now,
            reason=reason,
            message=message,
            container_id=container_id(self.pod, container, record.attempt),
        )
        after = after_exit(self.pod, container, record, ended=ended)
        self._put(after)
        if after.failures > 1 and not self.pod.metadata.deletionTimestamp:
            text = f"Back-off restarting failed container {container.name} in pod {self.pod.where}"
            self._tell("BackOff", text, type="Warning", container=container)

    def _image_trouble(self, container: Container, before: Record, error: UnknownImage) -> None:
        again = before.waiting in (Waiting.PULL_ERROR, Waiting.PULL_BACK_OFF)
        waiting = Waiting.PULL_BACK_OFF if before.waiting is Waiting.PULL_ERROR else Waiting.PULL_ERROR
        if not again:
            self._tell("Pulling", f'Pulling image "{container.image}"', container=container)
            self._tell(
                "Failed", f'Failed to pull image "{container.image}": {error}', type="Warning", container=container
            )
        if waiting is Waiting.PULL_BACK_OFF:
            text = f'Back-off pulling image "{container.image}"'
            self._tell("BackOff", text, container=container)
            message = f"{text}: ErrImagePull: {error}"
        else:
            message = str(error)
        delay = 2.0 if not again else _RETRY
        self._put(msgspec.structs.replace(before, waiting=waiting, message=message, not_before=time.time() + delay))

    # --- taking the pod down

    async def _end(self) -> None:
        grace = 0.0
        if not self._gone:
            chosen = self.pod.metadata.deletionGracePeriodSeconds
            grace = float(self.pod.spec.terminationGracePeriodSeconds if chosen is None else chosen)
        for name in self.runs:
            self._tell("Killing", f"Stopping container {name}", container=self._container(name))
        async with asyncio.TaskGroup() as group:
            for run in list(self.runs.values()):
                group.create_task(run.stop(grace=grace))
            await self._until_stopped()
        if self._record.link:
            await sandbox.remove_namespaces(self.place, link=self._record.link)
            self._context.pool.give_back(self._record.ip)
        if not self._gone:
            if self._record.containers:
                self._publish()
                await self._publisher.flush(limit=PUBLISH_LIMIT)
            await self._delete_object()
        await asyncio.to_thread(sandbox.remove_files, self.place)

    async def _until_stopped(self) -> None:
        while self.runs:
            self._wake.clear()
            # Each run's end wakes us; SIGKILL after the grace period makes sure that it comes.
            await self._wake.wait()
            if self._gone or self.pod.metadata.deletionGracePeriodSeconds == 0:
                # The deletion was forced in the meantime.
                for run in self.runs.values():
                    run.kill()

    async def _delete_object(self) -> None:
        backoff = Backoff(base=0.2, cap=5.0)
        meta = self.pod.metadata
        while not self._gone:
            try:
                await self._context.client.delete(
                    PODS, meta.name, namespace=meta.namespace, uid=meta.uid, grace_period=0
                )
            except (NotFound, Conflict):
                return
            except KubeError as error:
                self._log.warning("pod not deleted", reason=str(error))
                await asyncio.sleep(backoff.next())
            else:
                return

    # --- small things

    def _trouble(self, reason: str, message: str) -> float:
        self._retry_at = time.time() + _RETRY
        self._tell(reason, message, type="Warning")
        self._log.warning("pod cannot start", reason=message)
        return self._retry_at

    def _container(self, name: str) -> Container:
        for container in (*self.pod.spec.initContainers, *self.pod.spec.containers):
            if container.name == name:
                return container
        return Container(name=name)

    def _put(self, record: Record) -> None:
        self._save(containers={**self._record.containers, record.name: record})

    def _save(self, **changes: Any) -> None:
        self._record = msgspec.structs.replace(self._record, **changes)
        self.place.save(self._record)

    def _publish(self) -> None:
        if self.pod.status.phase in ("Succeeded", "Failed") and not self._record.containers:
            return
        status = pod_status(
            self.pod,
            self.records,
            host_ip=self._context.address,
            pod_ip=self._record.ip,
            now=time.time(),
            previous=self._known_conditions(),
        )
        self._conditions = tuple(status["conditions"])
        self._publisher.set(status)

    def _known_conditions(self) -> tuple[dict[str, Any], ...]:
        """Ours as last written, others' as last read."""
        ours = {condition["type"]: condition for condition in self._conditions}
        theirs = {condition.get("type", ""): condition for condition in self.pod.status.conditions}
        return tuple({**theirs, **ours}.values())

    def _tell(self, reason: str, message: str, *, type: str = "Normal", container: Container | None = None) -> None:
        meta = self.pod.metadata
        field = ""
        if container is not None:
            kind = "initContainers" if container in self.pod.spec.initContainers else "containers"
            field = f"spec.{kind}{{{container.name}}}"
        about = ObjectReference(
            kind="Pod", namespace=meta.namespace, name=meta.name, uid=meta.uid, apiVersion="v1", fieldPath=field
        )
        self._context.events.emit(about, reason=reason, message=message, type=type)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


Finder = Callable[[str, str], PodWorker | None]
"""Finds a pod of this node by namespace and name."""
