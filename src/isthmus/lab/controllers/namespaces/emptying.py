"""Empties namespaces that are being deleted, and lets them go.

Invariant: a namespace is released only when a look at every kind of the API, found by discovery in that very round,
shows that nothing is left in it; so objects of CRDs count too, also of those that came a moment ago.
"""

from collections import Counter
from typing import Any

import msgspec

from isthmus.kube.errors import Conflict, KubeError, NotFound
from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.resources import NAMESPACES, Resource
from isthmus.lab.controllers.discovery import Served, discover
from isthmus.lab.controllers.namespaces.conditions import Remains, conditions
from isthmus.lab.controllers.objects.meta import Key, Object
from isthmus.lab.controllers.objects.namespaces import Namespace
from isthmus.lab.controllers.world import World

FINALIZER = "kubernetes"
SOON, LATE = 0.2, 5.0
"""Seconds until the next look: at first, and when something holds out."""


class Emptying:
    """One round per namespace: delete everything, tell what is left, release when nothing is."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pauses: dict[Key, float] = {}
        self.queue = KeyQueue("namespace-controller", self._round, workers=2)
        world.namespaces.listen(self._changed)

    async def serve(self) -> None:
        """Works until cancelled."""
        await self._world.namespaces.synced.wait()
        await self.queue.serve()

    def _changed(self, before: Namespace | None, after: Namespace | None) -> None:
        if after is None and before is not None:
            self._pauses.pop(before.key, None)
        # Its own writes of the status change the namespace too; the pause has to hold against those.
        if after is not None and after.leaving and (before is None or not before.leaving):
            self.queue.add(after.key)

    async def _round(self, key: Key) -> float | None:
        namespace = self._world.namespaces.get(*key)
        if namespace is None or not namespace.leaving or FINALIZER not in namespace.spec.finalizers:
            return None
        name = key[1]
        try:
            await self._set_phase(namespace)
            remains = await self._empty(name)
            if remains.empty:
                await self._release(name)
                return None
            await self._tell(name, remains)
        except NotFound:
            return None
        except Conflict:
            return SOON
        pause = self._pauses.get(key, SOON)
        self._pauses[key] = min(pause * 1.5, LATE)
        return pause

    async def _set_phase(self, namespace: Namespace) -> None:
        """The API server of upstream leaves the phase to this controller."""
        if namespace.status.phase != "Terminating":
            await self._world.client.patch(
                NAMESPACES,
                namespace.metadata.name,
                {"status": {"phase": "Terminating"}},
                type=Object,
                subresource="status",
            )

    async def _empty(self, name: str) -> Remains:
        found = await discover(self._world.client)
        objects: Counter[Resource] = Counter()
        finalizers: Counter[str] = Counter()
        failures: list[str] = []
        for served in found.resources:
            if not served.resource.namespaced or not served.can("list", "delete"):
                continue
            try:
                left = await self._delete_all(served, name)
            except NotFound:
                continue  # its CRD went, and its objects with it
            except KubeError as error:
                failures.append(f"{served.resource}: {error}")
                continue
            if left:
                objects[served.resource] = len(left)
                finalizers.update(word for item in left for word in item.metadata.finalizers)
        return Remains(objects, finalizers, found.problems, failures)

    async def _delete_all(self, served: Served, name: str) -> list[Object]:
        """Deletes what there is of one resource; returns what is left."""
        client, resource = self._world.client, served.resource
        left = await self._list(resource, name)
        if not any(not item.leaving for item in left):
            return left
        if served.can("deletecollection"):
            options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
            await client.raw("DELETE", resource.path(namespace=name), body=msgspec.json.encode(options))
        else:
            for item in left:
                if item.leaving:
                    continue
                try:
                    await client.delete(
                        resource,
                        item.metadata.name,
                        namespace=name,
                        uid=item.metadata.uid,
                        propagation="Background",
                    )
                except (NotFound, Conflict):
                    continue
        return await self._list(resource, name)

    async def _list(self, resource: Resource, name: str) -> list[Object]:
        pages = self._world.client.list_pages(resource, type=Object, namespace=name, metadata_only=True)
        return [item.object async for page in pages for item in page.items]

    async def _tell(self, name: str, remains: Remains) -> None:
        known = self._world.namespaces.get("", name)
        if known is None:
            return
        told = conditions(remains, known.status.conditions, now=self._world.clock())
        if told != known.status.conditions:
            stored = await self._world.client.patch(
                NAMESPACES, name, {"status": {"conditions": list(told)}}, type=Namespace, subresource="status"
            )
            self._world.namespaces.wrote(stored)

    async def _release(self, name: str) -> None:
        client = self._world.client
        current = await client.get(NAMESPACES, name, type=dict)
        if not current["metadata"].get("deletionTimestamp"):
            return
        spec = current.get("spec") or {}
        finalizers = [word for word in spec.get("finalizers") or () if word != FINALIZER]
        body: dict[str, Any] = {**current, "spec": {**spec, "finalizers": finalizers}}
        await client.replace(NAMESPACES, name, body, type=dict, subresource="finalize")
