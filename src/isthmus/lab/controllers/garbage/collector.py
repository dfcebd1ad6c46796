"""The garbage collector: looks at objects whose owners may be gone, and deletes, orphans or waits.

Invariant: nothing is deleted because of what a watch says. Before an object goes, it is read from the server and so is
every owner that the graph does not hold; an owner counts only with the uid of the reference.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from isthmus.kube.client import Patch
from isthmus.kube.errors import Conflict, KubeError, NotFound
from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.resources import Resource
from isthmus.kube.schema import ObjectReference
from isthmus.lab.controllers.garbage.graph import FOREGROUND, ORPHAN, Fate, Graph, Node, Trace, TraceMeta, fate
from isthmus.lab.controllers.garbage.monitors import Monitors
from isthmus.lab.controllers.objects.meta import Key, OwnerReference
from isthmus.lab.controllers.world import World

COMPONENT = "garbage-collector-controller"
ABSENT = 500
"""Owners remembered as absent (upstream's cache has the same size): a lost owner has many dependents."""

_log = structlog.get_logger()


class Collector:
    """One round per uid."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._client = world.client
        self._events = world.recorder(COMPONENT)
        self._absent: dict[tuple[str, str], None] = {}
        self._told: set[tuple[str, str]] = set()
        self.graph = Graph()
        self.queue = KeyQueue(COMPONENT, self._round, workers=8, rest=0.0)
        self.monitors = Monitors(world, self.graph, self._look)

    async def serve(self) -> None:
        """Works until cancelled; draws no conclusions before the graph is loaded."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.monitors.serve())
            await self.monitors.ready.wait()
            await self.queue.serve()

    def _look(self, uids: set[str]) -> None:
        for uid in uids:
            self.queue.add(("", uid))

    async def _round(self, key: Key) -> float | None:
        node = self.graph.get(key[1])
        if node is None or node.resource is None:
            return None
        if node.deleting and not node.foreground and not node.orphaning:
            return None
        live = await self._read(node.resource, node.namespace, node.name)
        if live is None or live.uid != node.uid:
            self._look(self.graph.remove(node.uid))
            return None
        self._look(self.graph.put(node.resource, Trace(live)))
        if node.orphaning:
            await self._orphan(node)
        elif node.foreground:
            await self._finish(node)
        elif node.owners and not node.deleting:
            await self._judge(node)
        return None

    async def _judge(self, node: Node) -> None:
        """Deletes an object of which no owner is left, or takes out the references to those that are gone."""
        missing: list[str] = []
        waiting: list[str] = []
        for owner in node.owners:
            known = self.graph.get(owner.uid)
            if known is not None and not known.virtual and self.graph.coordinates_match(node.uid, known):
                if known.foreground:
                    waiting.append(owner.uid)
                continue
            state = await self._owner(node, owner)
            if state is None:
                missing.append(owner.uid)
            elif state.deletionTimestamp and FOREGROUND in (state.finalizers or ()):
                waiting.append(owner.uid)
        if not missing and not waiting:
            return
        stuck = any(one.foreground for one in self.graph.dependents(node.uid))
        await self._carry_out(node, fate(node, missing=missing, waiting=waiting, stuck=stuck))

    async def _carry_out(self, node: Node, decided: Fate) -> None:
        resource = node.resource
        if resource is None:
            return
        if decided.drop:
            kept = [owner for owner in node.owners if owner.uid not in decided.drop]
            await self._set_owners(node, kept)
            return
        if decided.unblock:
            await self._set_owners(
                node, [msgspec.structs.replace(owner, blockOwnerDeletion=False) for owner in node.owners]
            )
        try:
            await self._client.delete(
                resource,
                node.name,
                namespace=node.namespace or None,
                uid=node.uid,
                propagation=decided.delete,
            )
        except (NotFound, Conflict):
            return
        _log.debug("garbage collected", kind=resource.kind, namespace=node.namespace, name=node.name)

    async def _finish(self, node: Node) -> None:
        """Lets an owner go that is deleted in the foreground, once nothing blocks it; until then sends those away."""
        blocking = self.graph.blocking(node.uid)
        if not blocking:
            await self._drop_finalizer(node, FOREGROUND)
            return
        for dependent in blocking:
            if not dependent.deleting:
                self.queue.add(("", dependent.uid))

    async def _orphan(self, node: Node) -> None:
        """Makes the dependents of an object orphans, and then lets it go."""
        for dependent in self.graph.dependents(node.uid):
            kept = [owner for owner in dependent.owners if owner.uid != node.uid]
            try:
                await self._set_owners(dependent, kept)
            except NotFound:
                continue
        await self._drop_finalizer(node, ORPHAN)

    async def _drop_finalizer(self, node: Node, word: str) -> None:
        if node.resource is None:
            return
        live = await self._read(node.resource, node.namespace, node.name)
        if live is None or live.uid != node.uid or word not in (live.finalizers or ()):
            return
        kept = [one for one in live.finalizers or () if one != word]
        await self._patch(node, {"finalizers": kept or None, "resourceVersion": live.resourceVersion})

    async def _set_owners(self, node: Node, owners: Sequence[OwnerReference]) -> None:
        """Writes the references of an object, on top of exactly what was read last. Raises Conflict."""
        if node.resource is None:
            return
        live = await self._read(node.resource, node.namespace, node.name)
        if live is None or live.uid != node.uid:
            return
        wanted = {owner.uid: owner for owner in owners}
        known = {owner.uid for owner in node.owners}
        # References that came meanwhile stay.
        merged = [
            wanted.get(one.uid, one) for one in live.ownerReferences or () if one.uid in wanted or one.uid not in known
        ]
        await self._patch(node, {"ownerReferences": merged or None, "resourceVersion": live.resourceVersion})

    async def _patch(self, node: Node, metadata: dict[str, Any]) -> None:
        if node.resource is None:
            return
        await self._client.patch(
            node.resource,
            node.name,
            {"metadata": {**metadata, "uid": node.uid}},
            type=msgspec.Raw,
            kind=Patch.MERGE,
            namespace=node.namespace or None,
        )

    async def _owner(self, node: Node, owner: OwnerReference) -> TraceMeta | None:
        """Returns an owner as the server has it; None if it does not exist."""
        group = owner.apiVersion.partition("/")[0] if "/" in owner.apiVersion else ""
        resource = self.monitors.resources.get((group, owner.kind))
        if resource is None:
            self.monitors.rescan_soon()
            raise KubeError(
                f"{node.namespace}/{node.name}: its owner's kind {owner.apiVersion} {owner.kind} is not served"
            )
        namespace = node.namespace if resource.namespaced else ""
        if resource.namespaced and not namespace:
            self._tell(node, owner)
            return TraceMeta()  # cannot be resolved: it neither lives nor is it gone
        if (owner.uid, namespace) in self._absent:
            self._warn_if_elsewhere(node, owner)
            return None
        live = await self._read(resource, namespace, owner.name)
        if live is not None and live.uid == owner.uid:
            return live
        self._absent[(owner.uid, namespace)] = None
        while len(self._absent) > ABSENT:
            del self._absent[next(iter(self._absent))]
        self._warn_if_elsewhere(node, owner)
        return None

    def _warn_if_elsewhere(self, node: Node, owner: OwnerReference) -> None:
        known = self.graph.get(owner.uid)
        if known is not None and not known.virtual and known.namespace not in ("", node.namespace):
            self._tell(node, owner)

    def _tell(self, node: Node, owner: OwnerReference) -> None:
        if node.resource is None or (node.uid, owner.uid) in self._told:
            return
        if len(self._told) >= ABSENT:
            self._told.clear()
        self._told.add((node.uid, owner.uid))
        about = ObjectReference(
            kind=node.resource.kind,
            namespace=node.namespace,
            name=node.name,
            uid=node.uid,
            apiVersion=node.resource.api_version,
        )
        described = (
            f"[{owner.apiVersion}/{owner.kind}, namespace: {node.namespace}, name: {owner.name}, uid: {owner.uid}]"
        )
        message = f'ownerRef {described} does not exist in namespace "{node.namespace}"'
        self._events.emit(about, reason="OwnerRefInvalidNamespace", message=message)

    async def _read(self, resource: Resource, namespace: str, name: str) -> TraceMeta | None:
        try:
            trace = await self._client.get(resource, name, type=Trace, namespace=namespace or None)
        except NotFound:
            return None
        return trace.metadata
