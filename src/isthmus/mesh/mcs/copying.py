"""Copies EndpointSlices to derived Services, where no selector finds the backends (`slices`): watches and requests.

Nothing is kept of slices: a change of one that matters means two lists of one Service's slices, and most clusters have
few such Services. They are watched by their metadata alone, and only once there is a Service that it matters for.
Rejected: a cache of all slices, the largest part of many clusters' state.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from isthmus.kube.client import Client
from isthmus.kube.errors import KubeError, NotFound, too_late
from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.reflector import Snapshot, follow
from isthmus.kube.resources import ENDPOINT_SLICES
from isthmus.kube.schema import Bare
from isthmus.mesh.mcs.slices import COPIES, MANAGED_BY, OF_SERVICE, copies, is_same
from isthmus.mesh.mcs.state import Objects
from isthmus.model.service import ServiceKey


class SliceCopier:
    """Keeps the copies of cluster `own`, as `objects` knows it."""

    def __init__(self, client: Client, objects: Objects, *, own: str) -> None:
        self._client = client
        self._objects = objects
        self._own = own
        self._queue = KeyQueue("mcs-endpointslices", self._copy)
        self._copied: set[ServiceKey] = set()
        """Services that have copies, or should have."""
        self._needed = asyncio.Event()

    def look(self, key: ServiceKey) -> None:
        """Looks at a Service again after something about it changed."""
        if key in self._copied or self._objects.copied(key) is not None:
            self._copied.add(key)
            self._needed.set()
            self._queue.add(key)

    async def serve(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._queue.serve())
            tasks.create_task(self._watch())

    async def _watch(self) -> None:
        await self._needed.wait()
        changes = follow(self._client, ENDPOINT_SLICES, Bare, metadata_only=True)
        async with contextlib.aclosing(changes):
            async for change in changes:
                items: Sequence[Bare] = change.objects if isinstance(change, Snapshot) else (change.object,)
                for item in items:
                    key = (item.metadata.namespace, item.metadata.labels.get(OF_SERVICE, ""))
                    if key in self._copied:
                        self._queue.add(key)

    async def _copy(self, key: ServiceKey) -> None:
        found = self._objects.copied(key)
        derived = self._objects.derived(key) if found is None else found[1]
        if found is None:
            self._copied.discard(key)
        if derived is None:
            return  # its slices go with it
        namespace = key[0]
        there = await self._slices(namespace, f"{OF_SERVICE}={derived.metadata.name},{MANAGED_BY}={COPIES}")
        wanted: dict[str, Any] = {}
        if found is not None:
            local, derived, merged = found
            slices = await self._slices(namespace, f"{OF_SERVICE}={key[1]}")
            wanted = copies(slices, service=local, derived=derived, merged=merged, own=self._own)
        try:
            await self._write(namespace, {item["metadata"]["name"]: item for item in there}, wanted)
        except KubeError as error:
            if not too_late(error):
                raise

    async def _slices(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        return await self._client.list_all(ENDPOINT_SLICES, type=dict, namespace=namespace, label_selector=selector)

    async def _write(self, namespace: str, held: dict[str, Any], wanted: dict[str, Any]) -> None:
        for name in held.keys() - wanted.keys():
            with contextlib.suppress(NotFound):
                await self._client.delete(ENDPOINT_SLICES, name, namespace=namespace)
        for name, body in wanted.items():
            before = held.get(name)
            if before is None:
                await self._client.create(ENDPOINT_SLICES, body, namespace=namespace, type=Bare)
            elif not is_same(before, body):
                body["metadata"]["resourceVersion"] = before["metadata"].get("resourceVersion", "")
                await self._client.replace(ENDPOINT_SLICES, name, body, namespace=namespace, type=Bare)
