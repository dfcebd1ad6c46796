"""The pods of a node: a worker for each, found again after a restart, ended when the API no longer has them."""

import asyncio
import contextlib
from pathlib import Path

import structlog

from isthmus.kube.reflector import Gone, Put, Snapshot, follow
from isthmus.kube.resources import PODS
from isthmus.lab.node import sandbox
from isthmus.lab.node.container import adopt
from isthmus.lab.node.paths import PodDir
from isthmus.lab.node.pod import Pod
from isthmus.lab.node.process import is_alive
from isthmus.lab.node.worker import NodeContext, PodWorker
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
            meta = worker.pod.metadata
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
                for name, container in record.containers.items():
                    if container.process is not None and is_alive(container.process):
                        adopted = adopt(place.container(name, container.attempt), container.process)
                        await adopted.stop(grace=0)
                        adopted.output.finish()
                await sandbox.remove_namespaces(place, link=record.link)
            await asyncio.to_thread(sandbox.remove_files, place)
            _log.info("removed a pod that no longer exists", uid=path.name)
        with contextlib.suppress(CommandError):
            for link in sandbox.stray_links(links):
                run(["ip", "link", "delete", link])


def addresses_in_use(root: Path, *, host_ip: str) -> set[str]:
    """Returns the addresses that pods of this node hold, according to their records."""
    found = set()
    for path in root.glob("pods/*"):
        record = PodDir(path, run=path).load()
        if record is not None and record.ip and record.ip != host_ip:
            found.add(record.ip)
    return found
