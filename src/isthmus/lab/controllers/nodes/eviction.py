"""Sends pods away from nodes whose taints they do not tolerate (any more), and removes what is left of lost pods.

Invariants: a time-out counts from the taint's own time, so a restart of this process neither shortens nor prolongs
it; a pod is removed without its node's word only if the server confirms that the node is gone.
"""

from isthmus.kube.client import Patch
from isthmus.kube.errors import NotFound
from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.resources import NODES, PODS
from isthmus.lab.controllers.effects import Change, Delete, Effect, Tell
from isthmus.lab.controllers.nodes.health import eviction, remains
from isthmus.lab.controllers.objects.meta import Key, Object, reference, stamp
from isthmus.lab.controllers.objects.nodes import Node
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.scheduling.taints import NO_EXECUTE
from isthmus.lab.controllers.world import World


class TaintEviction:
    """One round per pod that is on a node with NoExecute taints."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hands = world.performer("taint-eviction-controller")
        self._since: dict[str, float] = {}
        self.queue = KeyQueue("taint-eviction-controller", self._round)
        world.nodes.listen(self._node_changed)
        world.pods.listen(self._pod_changed)

    async def serve(self) -> None:
        """Works until cancelled."""
        await self._world.nodes.synced.wait()
        await self._world.pods.synced.wait()
        await self.queue.serve()

    def _node_changed(self, before: Node | None, after: Node | None) -> None:
        item = after or before
        if item is None:
            return
        name = item.metadata.name
        if after is None or not _sends_away(after):
            self._since.pop(name, None)
        else:
            self._since.setdefault(name, self._world.clock())
        if after is not None and _sends_away(after) and (before is None or before.spec.taints != after.spec.taints):
            for pod in self._world.pods.by("node", name):
                self.queue.add(pod.key)

    def _pod_changed(self, before: Pod | None, after: Pod | None) -> None:
        if after is None:
            if before is not None:
                self.queue.forget(before.key)
        elif after.spec.nodeName and (before is None or before.spec != after.spec):
            node = self._world.nodes.get("", after.spec.nodeName)
            if node is not None and _sends_away(node):
                self.queue.add(after.key)

    async def _round(self, key: Key) -> float | None:
        pod = self._world.pods.get(*key)
        if pod is None or pod.leaving or not pod.spec.nodeName:
            return None
        node = self._world.nodes.get("", pod.spec.nodeName)
        if node is None or not _sends_away(node):
            return None
        now = self._world.clock()
        verdict = eviction(pod, node, since=self._since.get(node.metadata.name, now), now=now)
        if not verdict.now:
            return verdict.after
        message = f"Marking for deletion Pod {key[0]}/{key[1]}"
        why = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
        failure = await self._hands.perform(
            [
                Tell(reference(pod, PODS), "TaintManagerEviction", message),
                disrupted(pod, *why, now=now),
                Delete(PODS, key[0], key[1], pod.metadata.uid),
            ]
        )
        if failure is not None:
            raise failure
        return None


class PodCollection:
    """Removes pods whose node is gone, and those that were deleted before they had one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hands = world.performer("pod-garbage-collector")
        self.queue = KeyQueue("pod-garbage-collector", self._round)
        world.nodes.listen(self._node_changed)
        world.pods.listen(self._pod_changed)

    async def serve(self) -> None:
        """Works until cancelled."""
        await self._world.nodes.synced.wait()
        await self._world.pods.synced.wait()
        for pod in self._world.pods:
            self.queue.add(pod.key)
        await self.queue.serve()

    def _node_changed(self, before: Node | None, after: Node | None) -> None:
        item = after or before
        if item is not None and (after is None or (before is not None and before.spec.taints != after.spec.taints)):
            for pod in self._world.pods.by("node", item.metadata.name):
                self.queue.add(pod.key)

    def _pod_changed(self, before: Pod | None, after: Pod | None) -> None:
        if after is None:
            return
        if after.leaving or (after.spec.nodeName and self._world.nodes.get("", after.spec.nodeName) is None):
            self.queue.add(after.key)

    async def _round(self, key: Key) -> float | None:
        pod = self._world.pods.get(*key)
        if pod is None:
            return None
        name = pod.spec.nodeName
        node = self._world.nodes.get("", name)
        why = remains(pod, node)
        if why is None:
            return None
        if name and node is None and await self._lives(name):
            return 1.0  # the watch will show it in a moment
        effects: list[Effect] = []
        if why and not pod.over:
            effects.append(disrupted(pod, "DeletionByPodGC", why, now=self._world.clock(), fail=True))
        effects.append(Delete(PODS, key[0], key[1], pod.metadata.uid, grace=0))
        failure = await self._hands.perform(effects)
        if failure is not None:
            raise failure
        return None

    async def _lives(self, name: str) -> bool:
        try:
            await self._world.client.get(NODES, name, type=Object)
        except NotFound:
            return False
        return True


def disrupted(pod: Pod, reason: str, message: str, *, now: float, fail: bool = False) -> Change:
    """Returns the change that says why a pod is taken away; `fail` ends it, for there is nobody else to do so."""
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": stamp(now),
    }
    status: dict[str, object] = {"conditions": [condition]}
    if fail:
        status["phase"] = "Failed"
    meta = pod.metadata
    patch = {"metadata": {"uid": meta.uid}, "status": status}
    return Change(PODS, meta.namespace, meta.name, patch, kind=Patch.STRATEGIC, subresource="status")


def _sends_away(node: Node) -> bool:
    return any(taint.effect == NO_EXECUTE for taint in node.spec.taints)
