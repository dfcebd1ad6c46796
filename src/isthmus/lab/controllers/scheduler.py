"""Binds pods to nodes.

Invariant: a pod bound a moment ago counts on its node although the watch does not show it yet (`_assumed`), so a burst
of pods is spread as well as a trickle.
"""

import structlog
from msgspec.structs import replace

from isthmus.kube.client import Client, Patch
from isthmus.kube.errors import ApiError, Conflict, NotFound
from isthmus.kube.events import EventRecorder
from isthmus.kube.resources import PODS
from isthmus.kube.schema import ObjectReference
from isthmus.lab.controllers.objects import Node, Pod
from isthmus.lab.controllers.placement import Unschedulable, choose_node
from isthmus.lab.controllers.store import Store

NAME = "default-scheduler"

_log = structlog.get_logger()


class Scheduler:
    """Places the pods that ask for the default scheduler."""

    def __init__(self, client: Client, events: EventRecorder, *, pods: Store[Pod], nodes: Store[Node]) -> None:
        self._client = client
        self._events = events
        self._pods = pods
        self._nodes = nodes
        self._assumed: dict[str, str] = {}
        self._told: dict[str, str] = {}

    async def run(self) -> None:
        """Binds every pod that can be bound; raises KubeError when the API server fails."""
        await self._pods.synced.wait()
        await self._nodes.synced.wait()
        pods = {pod.metadata.uid: pod for pod in self._pods}
        for uid in list(self._assumed):
            if uid not in pods or pods[uid].spec.nodeName:
                del self._assumed[uid]
            else:
                pods[uid] = replace(pods[uid], spec=replace(pods[uid].spec, nodeName=self._assumed[uid]))
        self._told = {uid: text for uid, text in self._told.items() if uid in pods}
        nodes = list(self._nodes)
        for uid, pod in pods.items():
            if not _waits(pod):
                continue
            try:
                node = choose_node(pod, nodes=nodes, pods=pods.values())
            except Unschedulable as reason:
                await self._tell(pod, str(reason))
                continue
            if await self._bind(pod, node):
                self._assumed[uid] = node
                pods[uid] = replace(pod, spec=replace(pod.spec, nodeName=node))

    async def _bind(self, pod: Pod, node: str) -> bool:
        namespace, name = pod.key
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self._client.create(PODS, binding, type=dict, namespace=namespace, name=name, subresource="binding")
        except (NotFound, Conflict):
            return False
        message = f"Successfully assigned {namespace}/{name} to {node}"
        self._events.emit(_reference(pod), reason="Scheduled", message=message, type="Normal")
        return True

    async def _tell(self, pod: Pod, message: str) -> None:
        """Says why a pod has no node, once per reason."""
        if self._told.get(pod.metadata.uid) == message:
            return
        namespace, name = pod.key
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        try:
            await self._client.patch(
                PODS,
                name,
                {"status": {"conditions": [condition]}},
                type=dict,
                kind=Patch.STRATEGIC,
                namespace=namespace,
                subresource="status",
            )
        except (NotFound, Conflict):
            return
        except ApiError as error:
            _log.warning("pod condition not written", pod=f"{namespace}/{name}", reason=str(error))
        self._told[pod.metadata.uid] = message
        self._events.emit(_reference(pod), reason="FailedScheduling", message=message)


def _waits(pod: Pod) -> bool:
    spec = pod.spec
    return (
        not spec.nodeName
        and not spec.schedulingGates
        and spec.schedulerName == NAME
        and not pod.metadata.deletionTimestamp
        and not pod.over
    )


def _reference(pod: Pod) -> ObjectReference:
    meta = pod.metadata
    return ObjectReference(kind="Pod", namespace=meta.namespace, name=meta.name, uid=meta.uid, apiVersion="v1")
