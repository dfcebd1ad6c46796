"""The shells of Deployment and ReplicaSet."""

from collections import Counter

import msgspec

from isthmus.kube.errors import NotFound
from isthmus.kube.resources import DEPLOYMENTS, REPLICA_SETS
from isthmus.lab.controllers import effects
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.workloads import Deployment, ReplicaSet
from isthmus.lab.controllers.performer import taken
from isthmus.lab.controllers.workloads import deployment, replicaset
from isthmus.lab.controllers.workloads.shell import Shell
from isthmus.lab.controllers.workloads.templates import Suffix, same_template, suffix
from isthmus.lab.controllers.world import World


class ReplicaSets(Shell[ReplicaSet, Pod]):
    """Keeps every ReplicaSet at its size."""

    def __init__(self, world: World, *, fresh: Suffix = suffix) -> None:
        super().__init__(world, "replicaset-controller", owners=world.replica_sets, children=world.pods)
        self._fresh = fresh

    async def round(self, item: ReplicaSet) -> float | None:
        """Makes or deletes pods and tells the status."""
        pods = await self.claimed(item, item.spec.selector)
        plan = replicaset.plan(item, pods, crowd=self._crowd(item), fresh=self._fresh)
        told, failure = await self.attempt(plan)
        if effects.creates(plan) and not failure:
            # What was made is seen already, so the status need not wait for the watch.
            pods = self.world.pods.by("owner", item.metadata.uid)
        found = replicaset.status(item, pods, failure=told, now=self.world.clock())
        await self.conclude(effects.status(item, REPLICA_SETS, found) if found is not None else None, failure)
        return replicaset.recheck(item, pods, now=self.world.clock())

    def _crowd(self, item: ReplicaSet) -> Counter[str]:
        """Counts pods by node, of this ReplicaSet and of those with the same controller."""
        owner = item.controller
        related = self.world.replica_sets.by("owner", owner.uid) if owner is not None else [item]
        pods = self.world.pods
        return Counter(pod.spec.nodeName for one in related for pod in pods.by("owner", one.metadata.uid) if pod.active)


class Deployments(Shell[Deployment, ReplicaSet]):
    """Rolls every Deployment from its old template to its new one."""

    def __init__(self, world: World) -> None:
        super().__init__(
            world,
            "deployment-controller",
            owners=world.deployments,
            children=world.replica_sets,
            also=(world.pods,),
        )
        world.pods.listen(self._pod_changed)

    def _pod_changed(self, before: Pod | None, after: Pod | None) -> None:
        """A Recreate waits for the last old pod to go, which no ReplicaSet reports."""
        if before is None or (after is not None and not after.over):
            return
        owner = before.controller
        if owner is None or owner.kind != REPLICA_SETS.kind:
            return
        one = self.world.replica_sets.get(before.metadata.namespace, owner.name)
        above = one.controller if one is not None else None
        if above is not None and above.kind == DEPLOYMENTS.kind:
            self.queue.add((before.metadata.namespace, above.name))

    async def round(self, item: Deployment) -> float | None:
        """Takes the next step of a rollout and tells the status."""
        sets = await self.claimed(item, item.spec.selector)
        now = self.world.clock()
        pods = {one.metadata.uid: self.world.pods.by("owner", one.metadata.uid) for one in sets}
        plan = deployment.plan(item, sets, pods=pods, now=now)
        told, failure = await self.attempt(plan.effects)
        if taken(failure):
            await self._resolve_collision(item)
            return 0.0
        status = deployment.failed(item, sets, told, now=now) if told else plan.status
        await self.conclude(status, failure)
        return plan.again

    async def _resolve_collision(self, item: Deployment) -> None:
        """The name of the new ReplicaSet is taken: by itself, unseen, or by another, and then the hash must change."""
        name, namespace = deployment.name_of_new(item), item.metadata.namespace
        try:
            raw = await self.world.client.get(REPLICA_SETS, name, type=msgspec.Raw, namespace=namespace)
        except NotFound:
            return
        found = msgspec.json.decode(raw, type=dict)
        owners = found["metadata"].get("ownerReferences") or ()
        ours = any(owner.get("controller") and owner.get("uid") == item.metadata.uid for owner in owners)
        if not (ours and same_template(found["spec"]["template"], item.spec.template)):
            await self.hands.perform([deployment.collided(item)])
