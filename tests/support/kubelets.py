"""Nodes that run nothing and say that they do: they register, renew their Leases, and bring pods to Ready and away.

Against any API server. `hold` keeps pods pending, `permits` lets only so many become ready, `broken` makes those whose
image is in it never ready.
"""

import asyncio
import contextlib
import datetime
import itertools
from collections.abc import AsyncIterator
from typing import Any

from isthmus.kube.client import Client, Patch
from isthmus.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from isthmus.kube.reflector import Gone, Put, Snapshot, follow
from isthmus.kube.resources import LEASES, NODES, PODS


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Kubelets:
    """Several nodes on one watch; `silent` are those that do not speak any more."""

    def __init__(self, client: Client, names: tuple[str, ...], *, cpu: str = "64", pods: str = "200") -> None:
        self.client = client
        self.names = names
        self.silent: set[str] = set()
        self.broken: set[str] = set()
        self.finish: dict[str, str] = {}
        """Phases in which pods with an image end at once."""
        self.hold = False
        self.permits: int | None = None
        self._capacity = {"cpu": cpu, "memory": "64Gi", "pods": pods}
        self._numbers = itertools.count(2)
        self._known: dict[str, dict[str, Any]] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._limit = asyncio.Semaphore(16)
        self._over = asyncio.Event()

    async def register(self) -> None:
        for number, name in enumerate(self.names):
            labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
            node["spec"] = {"podCIDR": f"10.10.{number}.0/24", "podCIDRs": [f"10.10.{number}.0/24"]}
            with contextlib.suppress(AlreadyExists):
                await self.client.create(NODES, node, type=dict)
            await self.beat(name)

    async def beat(self, name: str) -> None:
        kinds = {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}
        conditions = [
            {"type": kind, "status": status, "reason": "Kubelet", "message": "", "lastHeartbeatTime": now()}
            | {"lastTransitionTime": now()}
            for kind, status in kinds.items()
        ]
        status = {"conditions": conditions, "capacity": self._capacity, "allocatable": self._capacity}
        await self.client.patch(NODES, name, {"status": status}, type=dict, kind=Patch.STRATEGIC, subresource="status")
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}
        lease["spec"] = {"holderIdentity": name, "renewTime": stamp, "leaseDurationSeconds": 40}
        with contextlib.suppress(KubeError):
            try:
                await self.client.create(LEASES, lease, type=dict, namespace="kube-node-lease")
            except AlreadyExists:
                await self.client.patch(LEASES, name, {"spec": lease["spec"]}, type=dict, namespace="kube-node-lease")

    @contextlib.asynccontextmanager
    async def running(self, *, beat: float = 1.0) -> AsyncIterator["Kubelets"]:
        await self.register()
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._serve())
            group.create_task(self._beat(beat))
            try:
                yield self
            finally:
                # Requests come to their end: a connection cut in its handshake is closed by the collector alone.
                self._over.set()
                watch.cancel()
                while self._busy:
                    await asyncio.wait(self._busy.values())

    async def _beat(self, pause: float) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._over.wait()
            for name in self.names:
                if name not in self.silent:
                    with contextlib.suppress(KubeError):
                        await self.beat(name)

    async def _serve(self) -> None:
        async with contextlib.aclosing(follow(self.client, PODS, dict)) as changes:
            async for change in changes:
                match change:
                    case Snapshot(pods):
                        self._known = {pod["metadata"]["uid"]: pod for pod in pods}
                        for uid in self._known:
                            self.look(uid)
                    case Put(pod):
                        self._known[pod["metadata"]["uid"]] = pod
                        self.look(pod["metadata"]["uid"])
                    case Gone(pod):
                        self._known.pop(pod["metadata"]["uid"], None)

    def look_again(self) -> None:
        for uid in self._known:
            self.look(uid)

    def look(self, uid: str) -> None:
        if self._over.is_set():
            return
        if uid in self._busy:
            self._again.add(uid)
            return
        task = self._busy[uid] = asyncio.get_running_loop().create_task(self._sync(uid))
        task.add_done_callback(lambda _: self._done(uid))

    def _done(self, uid: str) -> None:
        self._busy.pop(uid, None)
        if uid in self._again:
            self._again.discard(uid)
            self.look(uid)

    async def _sync(self, uid: str) -> None:
        pod = self._known.get(uid)
        if pod is None or pod["spec"].get("nodeName") not in self.names or pod["spec"]["nodeName"] in self.silent:
            return
        meta = pod["metadata"]
        async with self._limit:
            with contextlib.suppress(NotFound, Conflict):
                if meta.get("deletionTimestamp"):
                    await self.client.delete(PODS, meta["name"], namespace=meta["namespace"], uid=uid, grace_period=0)
                    return
                status = self._status(pod)
                if status is not None:
                    await self.client.patch(
                        PODS,
                        meta["name"],
                        {"metadata": {"uid": uid}, "status": status},
                        type=dict,
                        kind=Patch.STRATEGIC,
                        namespace=meta["namespace"],
                        subresource="status",
                    )

    def _status(self, pod: dict[str, Any]) -> dict[str, Any] | None:
        status = pod.get("status") or {}
        if self.hold or status.get("phase") in ("Succeeded", "Failed"):
            return None
        images = {container["image"] for container in pod["spec"]["containers"]}
        phase = next((self.finish[image] for image in images if image in self.finish), "Running")
        ready = phase == "Running" and not images & self.broken
        held = {one["type"]: one["status"] for one in status.get("conditions") or ()}
        if ready and held.get("Ready") != "True" and self.permits is not None:
            ready = self.permits > 0
            self.permits -= ready
        if status.get("phase") == phase and held.get("Ready") == str(ready):
            return None
        number = next(self._numbers)
        ip = status.get("podIP") or f"10.10.{number // 250 % 250}.{number % 250 + 1}"
        conditions = [
            {"type": kind, "status": str(ready), "lastTransitionTime": now()} for kind in ("Ready", "ContainersReady")
        ]
        return {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions, "startTime": now()}
