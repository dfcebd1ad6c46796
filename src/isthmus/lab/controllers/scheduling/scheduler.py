"""Binds pods to nodes.

Invariants: a pod bound a moment ago counts on its node although the watch does not show it yet (`_assumed`), so a
burst of pods is spread as well as a trickle; binds go out side by side, at most BINDS at once; why a pod has no node
is told when the reason changes, not at each try.
"""

import asyncio

import structlog
from msgspec.structs import replace

from isthmus.kube.client import Patch
from isthmus.kube.errors import ApiError, Conflict, KubeError, NotFound
from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.resources import PODS
from isthmus.lab.controllers.objects.meta import Key, reference, stamp
from isthmus.lab.controllers.objects.nodes import Node
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.scheduling.picture import Picture
from isthmus.lab.controllers.scheduling.placement import Unschedulable, choose_node
from isthmus.lab.controllers.world import World

NAME = "default-scheduler"
BINDS = 16
_ROUND = ("", "round")

_log = structlog.get_logger()


class Scheduler:
    """Places the pods that ask for the default scheduler."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._events = world.recorder(NAME)
        self._assumed: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self.queue = KeyQueue(NAME, self._round, workers=1)
        world.pods.listen(self._pod_changed)
        world.nodes.listen(self._node_changed)

    async def serve(self) -> None:
        """Works until cancelled, as soon as pods, nodes and namespaces were read."""
        for store in (self._world.pods, self._world.nodes, self._world.namespaces):
            await store.synced.wait()
        await self.queue.serve()

    def _pod_changed(self, before: Pod | None, after: Pod | None) -> None:
        if after is None:
            if before is not None:
                self._assumed.pop(before.metadata.uid, None)
                self._told.pop(before.metadata.uid, None)
            self.queue.add(_ROUND)
            return
        if after.spec.nodeName:
            self._assumed.pop(after.metadata.uid, None)
            self._told.pop(after.metadata.uid, None)
        if waits(after) or (after.over and (before is None or not before.over)):
            self.queue.add(_ROUND)

    def _node_changed(self, before: Node | None, after: Node | None) -> None:
        if before is None or after is None or _offer(before) != _offer(after):
            self.queue.add(_ROUND)

    async def _round(self, _: Key) -> float | None:
        """Binds every pod that can be bound. Raises KubeError when the API server fails."""
        waiting = [pod for pod in self._world.pods if waits(pod) and pod.metadata.uid not in self._assumed]
        if not waiting:
            return None
        picture = Picture(
            self._world.nodes,
            self._world.pods,
            namespaces={one.metadata.name: one.metadata.labels for one in self._world.namespaces},
        )
        pods = {pod.metadata.uid: pod for pod in self._world.pods} if self._assumed else {}
        for uid, node in self._assumed.items():
            if uid in pods and not pods[uid].spec.nodeName:
                picture.add(_on(pods[uid], node), node)
        chosen: list[tuple[Pod, str]] = []
        refused: list[tuple[Pod, str]] = []
        for pod in sorted(waiting, key=lambda pod: (pod.metadata.creationTimestamp, pod.metadata.name)):
            try:
                node = choose_node(pod, picture)
            except Unschedulable as reason:
                refused.append((pod, str(reason)))
            else:
                picture.add(_on(pod, node), node)
                chosen.append((pod, node))
        limit = asyncio.Semaphore(BINDS)
        async with asyncio.TaskGroup() as group:
            bound = [group.create_task(self._bind(pod, node, limit)) for pod, node in chosen]
            told = [group.create_task(self._tell(pod, message, limit)) for pod, message in refused]
        failures = [task.result() for task in (*bound, *told) if task.result() is not None]
        if failures and failures[0] is not None:
            raise failures[0]
        return None

    async def _bind(self, pod: Pod, node: str, limit: asyncio.Semaphore) -> KubeError | None:
        """Binds a pod; returns what failed, unless the pod went or changed meanwhile."""
        namespace, name = pod.key
        uid = pod.metadata.uid
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        self._assumed[uid] = node
        async with limit:
            try:
                await self._world.client.create(
                    PODS, binding, type=dict, namespace=namespace, name=name, subresource="binding"
                )
            except (NotFound, Conflict):
                # Somebody else bound or deleted it, and the watch will say so.
                self._assumed.pop(uid, None)
                return None
            except KubeError as error:
                self._assumed.pop(uid, None)
                return error
        message = f"Successfully assigned {namespace}/{name} to {node}"
        self._events.emit(reference(pod, PODS), reason="Scheduled", message=message, type="Normal")
        current = self._world.pods.get(namespace, name)
        if current is None or current.metadata.uid != uid or current.spec.nodeName:
            self._assumed.pop(uid, None)  # the watch was faster than the answer
        return None

    async def _tell(self, pod: Pod, message: str, limit: asyncio.Semaphore) -> KubeError | None:
        """Says why a pod has no node, once per reason."""
        if self._told.get(pod.metadata.uid) == message:
            return None
        namespace, name = pod.key
        known = pod.condition("PodScheduled")
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": known.lastTransitionTime
            if known is not None and known.status == "False" and known.lastTransitionTime
            else stamp(self._world.clock()),
        }
        async with limit:
            try:
                if known is None or (known.reason, known.message) != ("Unschedulable", message):
                    await self._world.client.patch(
                        PODS,
                        name,
                        {"status": {"conditions": [condition]}},
                        type=dict,
                        kind=Patch.STRATEGIC,
                        namespace=namespace,
                        subresource="status",
                    )
            except (NotFound, Conflict):
                return None
            except ApiError as error:
                _log.warning("pod condition not written", pod=f"{namespace}/{name}", reason=str(error))
            except KubeError as error:
                return error
        self._told[pod.metadata.uid] = message
        self._events.emit(reference(pod, PODS), reason="FailedScheduling", message=message)
        return None


def waits(pod: Pod) -> bool:
    """Whether a pod waits for this scheduler."""
    spec = pod.spec
    return (
        not spec.nodeName
        and not spec.schedulingGates
        and spec.schedulerName == NAME
        and not pod.leaving
        and not pod.over
    )


def _offer(node: Node) -> tuple[object, ...]:
    """What of a node matters to pods: a heartbeat does not."""
    return node.metadata.labels, node.spec, node.ready, node.status.allocatable, node.leaving


def _on(pod: Pod, node: str) -> Pod:
    return replace(pod, spec=replace(pod.spec, nodeName=node))
