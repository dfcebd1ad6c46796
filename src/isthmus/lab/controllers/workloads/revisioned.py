"""The shells of StatefulSet and DaemonSet, which both keep ControllerRevisions."""

from typing import Any

from isthmus.kube.errors import Conflict
from isthmus.kube.resources import DAEMON_SETS, STATEFUL_SETS
from isthmus.lab.controllers import effects
from isthmus.lab.controllers.objects.nodes import Node
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.workloads import ControllerRevision, DaemonSet, StatefulSet
from isthmus.lab.controllers.performer import taken
from isthmus.lab.controllers.workloads import daemonset, revisions, statefulset
from isthmus.lab.controllers.workloads.revisions import Revision
from isthmus.lab.controllers.workloads.shell import C, Shell, T
from isthmus.lab.controllers.workloads.templates import REVISION_HASH, Suffix, suffix
from isthmus.lab.controllers.world import World

_STATEFUL_HASH = "controller.kubernetes.io/hash"


class Revisioned(Shell[T, C]):
    """A workload with a history of templates."""

    label = REVISION_HASH

    async def history(self, item: T) -> list[ControllerRevision]:
        """Returns the revisions that belong to an object, after adoptions. Raises KubeError."""
        spec: Any = item
        return await self.claimed_of(self.world.revisions, item, spec.spec.selector)

    async def revise(self, item: T, known: list[ControllerRevision]) -> Revision:
        """Returns the revision of the template as it is now, written if it is new. Raises KubeError."""
        spec: Any = item
        found = revisions.current(
            item,
            self.owners.resource,
            spec.spec.template,
            known,
            collisions=spec.status.collisionCount,
            label=self.label,
        )
        failure = await self.hands.perform(found.effects)
        if taken(failure):
            # Somebody else has that name: count on, so that the hash becomes another one.
            patch = {"collisionCount": spec.status.collisionCount + 1}
            await self.hands.perform([effects.status(item, self.owners.resource, patch)])
            raise Conflict(status=409, reason="Conflict", message=f"the name {found.name} is taken")
        if failure is not None:
            raise failure
        return found


class StatefulSets(Revisioned[StatefulSet, Pod]):
    """Keeps every StatefulSet's pods, in their order."""

    label = _STATEFUL_HASH

    def __init__(self, world: World) -> None:
        super().__init__(
            world,
            "statefulset-controller",
            owners=world.stateful_sets,
            children=world.pods,
            also=(world.revisions,),
        )

    async def round(self, item: StatefulSet) -> float | None:
        """Takes the next step and tells the status."""
        if item.leaving:
            return None
        known = await self.history(item)
        revision = await self.revise(item, known)
        known = self.world.revisions.by("owner", item.metadata.uid)
        templates = {one.metadata.name: revisions.template_of(one) for one in known}
        current = item.status.currentRevision
        pods = await self.claimed(item, item.spec.selector)
        numbered = {statefulset.ordinal(item, pod): pod for pod in pods}
        picture = statefulset.Picture(
            item,
            {number: pod for number, pod in numbered.items() if number is not None},
            templates,
            current if current in templates else revision.name,
            revision.name,
        )
        now = self.world.clock()
        found = statefulset.status(picture, now=now)
        _, failure = await self.attempt(statefulset.plan(picture, now=now))
        status = effects.status(item, STATEFUL_SETS, found) if found is not None else None
        await self.conclude(status, failure)
        live = {picture.current, picture.update, *(statefulset.revision_of(pod) for pod in pods)}
        await self.hands.perform(revisions.surplus(known, live=live, limit=item.spec.revisionHistoryLimit))
        return statefulset.recheck(item, pods, now=now)


class DaemonSets(Revisioned[DaemonSet, Pod]):
    """Keeps a pod on every node that wants one."""

    def __init__(self, world: World, *, fresh: Suffix = suffix) -> None:
        super().__init__(
            world,
            "daemonset-controller",
            owners=world.daemon_sets,
            children=world.pods,
            also=(world.nodes, world.revisions),
        )
        self._fresh = fresh
        world.nodes.listen(self._node_changed)

    def _node_changed(self, before: Node | None, after: Node | None) -> None:
        if before is not None and after is not None and _matters(before) == _matters(after):
            return
        for item in self.world.daemon_sets:
            self.queue.add(item.key)

    async def round(self, item: DaemonSet) -> float | None:
        """Makes, deletes or updates pods and tells the status."""
        if item.leaving:
            return None
        known = await self.history(item)
        revision = await self.revise(item, known)
        pods = await self.claimed(item, item.spec.selector)
        picture = daemonset.look(item, list(self.world.nodes), pods, hash_=revision.hash)
        now = self.world.clock()
        _, failure = await self.attempt(daemonset.plan(picture, fresh=self._fresh, now=now))
        pods = self.world.pods.by("owner", item.metadata.uid)
        picture = daemonset.look(item, list(self.world.nodes), pods, hash_=revision.hash)
        found = daemonset.status(picture, now=now)
        status = effects.status(item, DAEMON_SETS, found) if found is not None else None
        await self.conclude(status, failure)
        hashes = {pod.metadata.labels.get(REVISION_HASH) for pod in pods}
        known = self.world.revisions.by("owner", item.metadata.uid)
        live = {one.metadata.name for one in known if one.metadata.labels.get(REVISION_HASH) in hashes}
        await self.hands.perform(
            revisions.surplus(known, live=live | {revision.name}, limit=item.spec.revisionHistoryLimit)
        )
        return daemonset.recheck(picture, now=now)


def _matters(node: Node) -> tuple[object, ...]:
    return node.metadata.labels, node.spec, node.ready, node.leaving
