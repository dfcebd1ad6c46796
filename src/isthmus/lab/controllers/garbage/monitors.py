"""What feeds the graph: a watch of metadata per resource, or the store of a controller that watches it anyway.

Discovery is asked again when a CustomResourceDefinition or an APIService changes, and every RESCAN seconds; watches of
resources that are not served any more end. Events are left out: they own nothing, nobody owns them, and they are many.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import structlog

from isthmus.kube.client import Client
from isthmus.kube.errors import KubeError
from isthmus.kube.reflector import Gone, Put, Snapshot, follow
from isthmus.kube.resources import Resource
from isthmus.lab.controllers.discovery import discover
from isthmus.lab.controllers.garbage.graph import Graph, Trace, TraceMeta
from isthmus.lab.controllers.objects.meta import Object
from isthmus.lab.controllers.store import Store
from isthmus.lab.controllers.world import World

RESCAN = 300.0
"""Seconds between two discoveries without a reason."""

SETTLE = 0.5
"""Seconds after a change of the API: a CRD is served a moment after it is established."""

PATIENCE = 30.0
"""Seconds that the first conclusions wait for all watches: one that never works must not stop everything."""

_IGNORED = (("", "events"), ("events.k8s.io", "events"))
_API = ("customresourcedefinitions", "apiservices")

_log = structlog.get_logger()


class Monitors:
    """Keeps the graph; `look` is told the uids that need a look."""

    def __init__(self, world: World, graph: Graph, look: Callable[[set[str]], None]) -> None:
        self._world = world
        self._graph = graph
        self._look = look
        self._tasks: dict[Resource, asyncio.Task[None]] = {}
        self._loaded: dict[Resource, asyncio.Event] = {}
        self._changed = asyncio.Event()
        self.resources: dict[tuple[str, str], Resource] = {}
        """By group and kind, in the preferred version."""
        self.ready = asyncio.Event()
        """Set when the graph is complete, or as complete as it gets."""

    async def serve(self) -> None:
        """Follows the API until cancelled."""
        trouble = ""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    await self._rescan(group)
                except KubeError as error:
                    if str(error) != trouble:
                        trouble = str(error)
                        _log.warning("discovery failed", reason=trouble)
                    await asyncio.sleep(5.0)
                    continue
                trouble = ""
                if not self.ready.is_set():
                    await self._load()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RESCAN):
                        await self._changed.wait()
                        await asyncio.sleep(SETTLE)
                self._changed.clear()

    def rescan_soon(self) -> None:
        """Asks for a discovery: a reference names a kind that is not known."""
        self._changed.set()

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                for loaded in list(self._loaded.values()):
                    await loaded.wait()
        except TimeoutError:
            late = [str(resource) for resource, loaded in self._loaded.items() if not loaded.is_set()]
            _log.warning("garbage collection begins without some resources", resources=",".join(late))
        self.ready.set()

    async def _rescan(self, group: asyncio.TaskGroup) -> None:
        found = await discover(self._world.client)
        wanted: set[Resource] = set()
        self.resources = {}
        for served in found.resources:
            resource = served.resource
            self.resources.setdefault((resource.group, resource.kind), resource)
            if served.can("list", "watch", "delete") and (resource.group, resource.plural) not in _IGNORED:
                wanted.add(resource)
        for resource in wanted - self._tasks.keys():
            self._loaded[resource] = asyncio.Event()
            self._tasks[resource] = group.create_task(self._monitor(resource))
        if found.problems:
            return  # what cannot be asked is not gone
        for resource in self._tasks.keys() - wanted:
            task = self._tasks.pop(resource)
            self._loaded.pop(resource, None)
            task.cancel()
            await asyncio.wait((task,))
            self._look(self._graph.replace(resource, ()))

    async def _monitor(self, resource: Resource) -> None:
        store = self._world.store(resource)
        if store is not None:
            await self._attach(resource, store)
            return
        await follow_traces(self._world.client, resource, self._take)

    async def _attach(self, resource: Resource, store: Store[Any]) -> None:
        def heard(before: Object | None, after: Object | None) -> None:
            if after is not None:
                if before is not None and before.metadata.uid != after.metadata.uid:
                    self._look(self._graph.remove(before.metadata.uid))
                self._look(self._graph.put(resource, trace_of(after)))
            elif before is not None:
                self._look(self._graph.remove(before.metadata.uid))

        store.listen(heard)
        await store.synced.wait()
        self._loaded[resource].set()

    def _take(self, resource: Resource, change: Snapshot[Trace] | Put[Trace] | Gone[Trace]) -> None:
        match change:
            case Snapshot(traces):
                self._look(self._graph.replace(resource, traces))
                if (loaded := self._loaded.get(resource)) is not None:
                    loaded.set()
            case Put(trace):
                self._look(self._graph.put(resource, trace))
                if resource.plural in _API:
                    self._changed.set()
            case Gone(trace):
                self._look(self._graph.remove(trace.metadata.uid))
                if resource.plural in _API:
                    self._changed.set()


async def follow_traces(
    client: Client,
    resource: Resource,
    take: Callable[[Resource, Snapshot[Trace] | Put[Trace] | Gone[Trace]], None],
) -> None:
    """Follows the metadata of a resource until cancelled."""
    async with contextlib.aclosing(follow(client, resource, Trace, metadata_only=True)) as changes:
        async for change in changes:
            take(resource, change)


def trace_of(item: Object) -> Trace:
    """Returns what the graph keeps of an object."""
    meta = item.metadata
    return Trace(
        TraceMeta(
            meta.name,
            meta.namespace,
            meta.uid,
            meta.resourceVersion,
            meta.deletionTimestamp or None,
            meta.finalizers,
            meta.ownerReferences,
        )
    )
