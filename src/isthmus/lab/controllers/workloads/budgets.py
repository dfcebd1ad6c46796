"""The shell of PodDisruptionBudget: counts whenever a budget or one of its pods changes."""

from isthmus.kube.keyqueue import KeyQueue
from isthmus.lab.controllers import effects
from isthmus.lab.controllers.objects.meta import Key
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.store import Store
from isthmus.lab.controllers.workloads import disruption
from isthmus.lab.controllers.workloads.disruption import BUDGETS, Budget
from isthmus.lab.controllers.world import World

_NAME = "disruption-controller"


class Budgets:
    """Tells every budget how much of it is left. `budgets` is a store of its own, to be served."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.budgets = Store(world.client, BUDGETS, Budget)
        self.budgets.index("namespace", lambda item: (item.metadata.namespace,))
        self._hands = world.performer(_NAME)
        self.queue = KeyQueue(_NAME, self._work)
        self.budgets.listen(self._budget_changed)
        world.pods.listen(self._pod_changed)

    async def serve(self) -> None:
        """Works until cancelled, as soon as everything needed was read."""
        world = self.world
        needed = (self.budgets, world.pods, world.replica_sets, world.stateful_sets, world.deployments)
        for store in needed:
            await store.synced.wait()
        await self.queue.serve()

    def _budget_changed(self, before: Budget | None, after: Budget | None) -> None:
        item = after or before
        if item is not None:
            self.queue.add(item.key)

    def _pod_changed(self, before: Pod | None, after: Pod | None) -> None:
        for pod in (before, after):
            if pod is not None:
                for item in self.budgets.by("namespace", pod.metadata.namespace):
                    if item.covers(pod.metadata.labels):
                        self.queue.add(item.key)

    async def _work(self, key: Key) -> float | None:
        item = self.budgets.get(*key)
        if item is None or item.leaving:
            self.queue.forget(key)
            return None
        near = self.world.pods.by("namespace", item.metadata.namespace)
        pods = [pod for pod in near if item.covers(pod.metadata.labels)]
        scale = disruption.scale_of(pods, self._replicas(item.metadata.namespace))
        patch, again = disruption.status(item, pods, scale=scale, now=self.world.clock())
        if patch is not None:
            failure = await self._hands.perform([effects.status(item, BUDGETS, patch)])
            if failure is not None:
                raise failure
        return again

    def _replicas(self, namespace: str) -> dict[str, int]:
        """Returns uid of ReplicaSet or StatefulSet -> the size that it, or the Deployment above it, wants."""
        world = self.world
        above = {item.metadata.uid: item.spec.replicas for item in world.deployments.by("namespace", namespace)}
        found = {item.metadata.uid: item.spec.replicas for item in world.stateful_sets.by("namespace", namespace)}
        for item in world.replica_sets.by("namespace", namespace):
            owner = item.controller
            found[item.metadata.uid] = above.get(owner.uid, item.spec.replicas) if owner else item.spec.replicas
        return found
