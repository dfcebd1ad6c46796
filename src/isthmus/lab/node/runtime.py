"""The pods of a node: a worker for each, found again after a restart, ended when the API no longer has them."""

import asyncio
import contextlib
import signal
from pathlib import Path

import structlog

from isthmus.kube.reflector import Gone, Put, Snapshot, follow
from isthmus.kube.resources import PODS
from isthmus.lab.node.containers.paths import PodDir
from isthmus.lab.node.containers.process import is_alive, send, wait_for_end
from isthmus.lab.node.network import sandbox
from isthmus.lab.node.network.sandbox import SandboxError
from isthmus.lab.node.pods.record import Process, SandboxRecord
from isthmus.lab.node.pods.spec import Pod
from isthmus.lab.node.worker.context import NodeContext
from isthmus.lab.node.worker.pod import PodWorker
from isthmus.lab.supervisor.commands import CommandError, run

_log = structlog.get_logger()


class Runtime:
    """All pods of one node; `root` and `run` are where their files and namespaces are."""

    def __init__(self, context: NodeContext, *, root: Path, run: Path) -> None:
        self._context = context
        self._root = root
        self._run = run
        self._workers: dict[str, PodWorker] = {}
        self._names: dict[tuple[str, str], str] = {}

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """Returns the worker of a pod by name."""
        return self._workers.get(self._names.get((namespace, name), ""))

    def objects_changed(self, uid: str) -> None:
        """Tells a pod that something it refers to has changed."""
        worker = self._workers.get(uid)
        if worker is not None:
            worker.objects_changed()

    async def serve(self) -> None:
        """Follows the API until cancelled."""
        async with asyncio.TaskGroup() as group:
            changes = follow(self._context.client, PODS, Pod, field_selector=f"spec.nodeName={self._context.name}")
            first = True
            async with contextlib.aclosing(changes):
                async for change in changes:
                    match change:
                        case Snapshot(objects):
                            if first:
                                await self._remove_strays({pod.metadata.uid for pod in objects})
                                first = False
                            self._take_all(group, objects)
                        case Put(pod):
                            self._take(group, pod)
                        case Gone(pod):
                            self._lose(pod.metadata.uid)

    def _take_all(self, group: asyncio.TaskGroup, pods: tuple[Pod, ...]) -> None:
        there = {pod.metadata.uid for pod in pods}
        for uid in list(self._workers):
            if uid not in there:
                self._lose(uid)
        for pod in pods:
            self._take(group, pod)

    def _take(self, group: asyncio.TaskGroup, pod: Pod) -> None:
        uid = pod.metadata.uid
        self._names[pod.metadata.namespace, pod.metadata.name] = uid
        worker = self._workers.get(uid)
        if worker is not None:
            worker.update(pod)
            return
        worker = self._workers[uid] = PodWorker(self._context, pod, self._place(uid))
        group.create_task(self._work(worker, uid))

    async def _work(self, worker: PodWorker, uid: str) -> None:
        try:
            await worker.serve()
        finally:
            del self._workers[uid]
            meta = worker.state.pod.metadata
            if self._names.get((meta.namespace, meta.name)) == uid:
                del self._names[meta.namespace, meta.name]

    def _lose(self, uid: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            worker.gone()

    def _place(self, uid: str) -> PodDir:
        return PodDir(self._root / "pods" / uid, run=self._run / "pods" / uid)

    async def _remove_strays(self, known: set[str]) -> None:
        """Ends pods that were deleted while no process of this node lived, and links without a pod."""
        links = {sandbox.link_name(uid) for uid in known}
        for path in sorted(self._root.glob("pods/*")):
            if path.name in known:
                continue
            place = self._place(path.name)
            record = place.load()
            if record is not None:
                await self._end(record)
                with contextlib.suppress(SandboxError):
                    await sandbox.remove_namespaces(self._context.keeper, place, link=record.link)
            await asyncio.to_thread(sandbox.remove_files, place)
            _log.info("removed a pod that no longer exists", uid=path.name)
        for run_dir in sandbox.directories(self._run):
            if run_dir.name not in known:
                with contextlib.suppress(SandboxError):
                    await sandbox.remove_namespaces(self._context.keeper, self._place(run_dir.name), link="")
        with contextlib.suppress(CommandError):
            for link in sandbox.stray_links(links):
                run(["ip", "link", "delete", link])

    async def _end(self, record: SandboxRecord) -> None:
        processes: list[Process | None] = [container.process for container in record.containers.values()]
        for process in (*processes, record.infra):
            if process is not None and is_alive(process):
                send(process.pid, signal.SIGKILL)
                await wait_for_end(process)


def addresses_in_use(root: Path) -> tuple[set[str], set[str]]:
    """Returns the IPv4 and the IPv6 addresses that pods of this node hold, according to their records."""
    found: tuple[set[str], set[str]] = (set(), set())
    for path in root.glob("pods/*"):
        record = PodDir(path, run=path).load()
        # Without a link it is a pod of the host network, or one that is over and has given its address back.
        if record is not None and record.link:
            for ip, addresses in zip((record.ip, record.ip6), found, strict=True):
                if ip:
                    addresses.add(ip)
    return found
