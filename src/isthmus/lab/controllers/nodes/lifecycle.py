"""Watches over heartbeats: a node whose Lease is not renewed for GRACE seconds is lost until it speaks again.

A renewal is what *this* process saw change, so clocks need not agree. Before a node is given up its Lease is read
from the server; if that fails, it is this side that is cut off, and every node's silence counts from anew when the
server is back.
"""

import asyncio

import structlog

from isthmus.kube.client import Patch
from isthmus.kube.errors import ConnectionFailed, NotFound
from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.resources import LEASES, NODES, PODS
from isthmus.lab.controllers.effects import Change, Effect, Tell
from isthmus.lab.controllers.nodes.health import lost_conditions, taints
from isthmus.lab.controllers.objects.meta import Key, reference, stamp
from isthmus.lab.controllers.objects.nodes import Lease, Node
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.world import NODE_LEASES, World

GRACE = 40.0
"""Seconds; kube-controller-manager's --node-monitor-grace-period was 40 s for long and is 50 s since 1.32."""

PERIOD = 5.0
"""Seconds between two looks: silence makes no event."""

_log = structlog.get_logger()


class NodeLifecycle:
    """One round per node, at each change that matters and every PERIOD."""

    def __init__(self, world: World, *, grace: float = GRACE) -> None:
        self._world = world
        self._grace = grace
        self._hands = world.performer("node-controller")
        self._seen: dict[str, tuple[tuple[str, str], float]] = {}
        self._cut_off = 0.0
        self.queue = KeyQueue("node-controller", self._round)
        world.nodes.listen(self._node_changed)
        world.pods.listen(self._pod_changed)

    async def serve(self) -> None:
        """Works until cancelled."""
        for store in (self._world.nodes, self._world.leases, self._world.pods):
            await store.synced.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.serve())
            group.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            for node in self._world.nodes:
                self.queue.add(node.key)

    def _node_changed(self, before: Node | None, after: Node | None) -> None:
        if after is None:
            if before is not None:
                self._seen.pop(before.metadata.name, None)
            return
        if before is None or (before.ready, before.spec) != (after.ready, after.spec):
            self.queue.add(after.key)
            if before is not None and before.ready != after.ready:
                for node in self._world.nodes:
                    self.queue.add(node.key)  # whether anybody is well decides for all

    def _pod_changed(self, before: Pod | None, after: Pod | None) -> None:
        if after is not None and after.ready and (before is None or not before.ready) and after.spec.nodeName:
            node = self._world.nodes.get("", after.spec.nodeName)
            if node is not None and node.ready == "Unknown":
                self.queue.add(node.key)

    async def _round(self, key: Key) -> float | None:
        node = self._world.nodes.get(*key)
        if node is None or node.leaving:
            return None
        now = self._world.clock()
        if node.ready != "Unknown" and await self._is_silent(node):
            # The new state wakes this node again, and then its pods and taints are seen to.
            await self._hands.perform(self._lose(node, now))
            return None
        effects = self._quiet_pods(node, now) if node.ready == "Unknown" else []
        evicting = any(other.ready == "True" for other in self._world.nodes)
        wanted = taints(node, evicting=evicting, now=now)
        if wanted != node.spec.taints:
            patch = {"spec": {"taints": list(wanted) or None}}
            effects.append(Change(NODES, "", node.metadata.name, patch, version=node.metadata.resourceVersion))
        await self._hands.perform(effects)
        return None

    async def _is_silent(self, node: Node) -> bool:
        loop = asyncio.get_running_loop()
        name = node.metadata.name
        known = self._world.leases.get(NODE_LEASES, name)
        if self._silence(name, node.heartbeat, known, now=loop.time()) <= self._grace / 2:
            return False
        try:
            lease = await self._world.client.get(LEASES, name, type=Lease, namespace=NODE_LEASES)
        except NotFound:
            lease = None
        except ConnectionFailed:
            self._cut_off = loop.time()
            raise
        return self._silence(name, node.heartbeat, lease, now=loop.time()) > self._grace

    def _silence(self, name: str, heartbeat: str, lease: Lease | None, *, now: float) -> float:
        # Both count, because a status that is back may be seen before the Lease that was renewed with it.
        signs = (heartbeat, "" if lease is None else lease.spec.renewTime)
        seen = self._seen.get(name)
        if seen is None or any(sign > before for sign, before in zip(signs, seen[0], strict=True)):
            self._seen[name] = (signs, now)
            return 0.0
        return now - max(seen[1], self._cut_off)

    def _lose(self, node: Node, now: float) -> list[Effect]:
        conditions = lost_conditions(node, now=now)
        if not conditions:
            return []
        name = node.metadata.name
        _log.warning("node fell silent", node=name)
        message = f"Node {name} status is now: NodeNotReady"
        return [
            Change(NODES, "", name, {"status": {"conditions": conditions}}, kind=Patch.STRATEGIC, subresource="status"),
            Tell(reference(node, NODES), "NodeNotReady", message),
        ]

    def _quiet_pods(self, node: Node, now: float) -> list[Effect]:
        """Takes the pods of a lost node out of their Services."""
        effects: list[Effect] = []
        for pod in self._world.pods.by("node", node.metadata.name):
            if not pod.ready:
                continue
            meta = pod.metadata
            condition = {"type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": stamp(now)}
            patch = {"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}}
            effects.append(Change(PODS, meta.namespace, meta.name, patch, kind=Patch.STRATEGIC, subresource="status"))
            effects.append(Tell(reference(pod, PODS), "NodeNotReady", "Node is not ready", "Warning"))
        return effects
