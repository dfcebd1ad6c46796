"""The shell of Jobs: rounds, the end of Jobs that outlived their use, and pods whose Job is gone."""

import asyncio

from isthmus.kube.errors import Conflict, NotFound
from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.resources import JOBS
from isthmus.lab.controllers.effects import Delete
from isthmus.lab.controllers.objects.meta import Key, Object
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.workloads import Job
from isthmus.lab.controllers.workloads import job
from isthmus.lab.controllers.workloads.shell import Shell
from isthmus.lab.controllers.workloads.templates import Suffix, suffix
from isthmus.lab.controllers.world import World


class Jobs(Shell[Job, Pod]):
    """Runs every Job to its end."""

    def __init__(self, world: World, *, fresh: Suffix = suffix) -> None:
        super().__init__(world, "job-controller", owners=world.jobs, children=world.pods)
        self._fresh = fresh
        self._strays = KeyQueue("job-controller", self._free)
        world.pods.listen(self._orphaned)

    async def serve(self) -> None:
        """Works until cancelled."""
        await self.owners.synced.wait()
        await self.children.synced.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(super().serve())
            group.create_task(self._strays.serve())

    async def round(self, item: Job) -> float | None:
        """Takes the next step and tells the status."""
        now = self.world.clock()
        left = job.expires_in(item, now=now)
        if left == 0.0 and not item.leaving:
            meta = item.metadata
            failure = await self.hands.perform(
                [Delete(JOBS, meta.namespace, meta.name, meta.uid, propagation="Foreground")]
            )
            if failure is not None:
                raise failure
            return None
        pods = await self.claimed(item, item.spec.selector)
        plan = job.plan(item, pods, fresh=self._fresh, now=now)
        _, failure = await self.attempt(plan.effects)
        await self.conclude(plan.status, failure)
        await self.hands.perform(plan.finalizers)
        waits = [wait for wait in (left, plan.again) if wait is not None]
        return min(waits) if waits else None

    def _owner_changed(self, before: Job | None, after: Job | None) -> None:
        super()._owner_changed(before, after)
        if after is None and before is not None:
            for pod in self.world.pods.by("owner", before.metadata.uid):
                self._strays.add(pod.key)

    def _orphaned(self, before: Pod | None, after: Pod | None) -> None:
        if after is not None and job.TRACKING in after.metadata.finalizers:
            owner = after.controller
            known = self.world.jobs.get(after.metadata.namespace, owner.name) if owner is not None else None
            if owner is None or known is None or known.metadata.uid != owner.uid:
                self._strays.add(after.key)

    async def _free(self, key: Key) -> float | None:
        """Takes the finalizer off a pod whose Job is gone, as the server confirms."""
        pod = self.world.pods.get(*key)
        if pod is None or job.TRACKING not in pod.metadata.finalizers:
            return None
        owner = pod.controller
        if owner is not None and owner.kind == JOBS.kind:
            try:
                live = await self.world.client.get(JOBS, owner.name, type=Object, namespace=key[0])
            except NotFound:
                pass
            else:
                if live.metadata.uid == owner.uid:
                    return None
        try:
            await self.hands.perform([job.untracked(pod)])
        except (Conflict, NotFound):
            return 0.1
        return None
