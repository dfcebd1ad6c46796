"""Nodes that fell silent, and pods that were left on nodes which no longer exist.

As kube-controller-manager: a node whose Lease was not renewed for GRACE becomes Unknown and is tainted, its pods not
ready. A renewal is what *this* process saw change, so clocks need not agree. Rejected: evicting the pods of a silent
node after five minutes, which would start them twice on one machine.
"""

import time
from typing import Any

import structlog

from isthmus.kube.client import Client, Patch
from isthmus.kube.errors import Conflict, NotFound
from isthmus.kube.events import EventRecorder
from isthmus.kube.resources import NODES, PODS
from isthmus.kube.schema import ObjectReference
from isthmus.lab.controllers.objects import Lease, Node, Pod
from isthmus.lab.controllers.store import Store

GRACE = 40.0
"""Seconds, kube-controller-manager's --node-monitor-grace-period until v1.31."""

UNREACHABLE = "node.kubernetes.io/unreachable"
_UNKNOWN_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")

_log = structlog.get_logger()


class NodeLifecycle:
    """Watches over heartbeats."""

    def __init__(
        self,
        client: Client,
        events: EventRecorder,
        *,
        nodes: Store[Node],
        leases: Store[Lease],
        pods: Store[Pod],
    ) -> None:
        self._client = client
        self._events = events
        self._nodes = nodes
        self._leases = leases
        self._pods = pods
        self._seen: dict[str, tuple[tuple[str, str], float]] = {}

    async def run(self) -> None:
        """Judges every node; raises KubeError."""
        for store in (self._nodes, self._leases, self._pods):
            await store.synced.wait()
        now = time.monotonic()
        names = set()
        for node in self._nodes:
            name = node.metadata.name
            names.add(name)
            silent = self._silence(node, now=now) > GRACE
            if silent and node.ready == "True":
                await self._lost(node)
            elif not silent and node.ready == "True":
                await self._untaint(node)
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        await self._collect_orphans(names)

    def _silence(self, node: Node, *, now: float) -> float:
        name = node.metadata.name
        lease = self._leases.get("kube-node-lease", name)
        # Both count, because a status that is back may be seen before the Lease that was renewed with it.
        signs = (node.heartbeat, "" if lease is None else lease.spec.renewTime)
        seen = self._seen.get(name)
        if seen is None or seen[0] != signs:
            self._seen[name] = (signs, now)
            return 0.0
        return now - seen[1]

    async def _lost(self, node: Node) -> None:
        name = node.metadata.name
        conditions = [
            {
                "type": kind,
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            for kind in _UNKNOWN_CONDITIONS
        ]
        await self._patch_node(name, {"status": {"conditions": conditions}}, subresource="status")
        taints = [{"key": UNREACHABLE, "effect": effect} for effect in ("NoSchedule", "NoExecute")]
        kept = [taint for taint in node.spec.taints if taint.key != UNREACHABLE]
        await self._set_taints(name, [*({"key": t.key, "effect": t.effect, "value": t.value} for t in kept), *taints])
        about = ObjectReference(kind="Node", name=name, uid=node.metadata.uid, apiVersion="v1")
        self._events.emit(about, reason="NodeNotReady", message=f"Node {name} status is now: NodeNotReady")
        _log.warning("node fell silent", node=name)
        for pod in self._pods:
            if pod.spec.nodeName == name and pod.ready:
                condition = {"type": "Ready", "status": "False", "reason": "NodeNotReady"}
                await self._patch_pod(pod, {"status": {"conditions": [condition]}})

    async def _untaint(self, node: Node) -> None:
        if any(taint.key == UNREACHABLE for taint in node.spec.taints):
            kept = [taint for taint in node.spec.taints if taint.key != UNREACHABLE]
            taints = [{"key": t.key, "effect": t.effect, "value": t.value} for t in kept]
            await self._set_taints(node.metadata.name, taints)

    async def _set_taints(self, name: str, taints: list[dict[str, str]]) -> None:
        try:
            await self._client.patch(NODES, name, {"spec": {"taints": taints or None}}, type=dict)
        except (NotFound, Conflict):
            return

    async def _patch_node(self, name: str, patch: dict[str, Any], *, subresource: str) -> None:
        try:
            await self._client.patch(NODES, name, patch, type=dict, kind=Patch.STRATEGIC, subresource=subresource)
        except (NotFound, Conflict):
            return

    async def _patch_pod(self, pod: Pod, patch: dict[str, Any]) -> None:
        namespace, name = pod.key
        try:
            await self._client.patch(
                PODS, name, patch, type=dict, kind=Patch.STRATEGIC, namespace=namespace, subresource="status"
            )
        except (NotFound, Conflict):
            return

    async def _collect_orphans(self, nodes: set[str]) -> None:
        for pod in self._pods:
            if pod.spec.nodeName and pod.spec.nodeName not in nodes:
                namespace, name = pod.key
                try:
                    await self._client.delete(PODS, name, namespace=namespace, uid=pod.metadata.uid, grace_period=0)
                except (NotFound, Conflict):
                    continue
                _log.info("deleted a pod of a node that is gone", pod=f"{namespace}/{name}", node=pod.spec.nodeName)
