"""A live copy of one collection, shared by the controllers that read it."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from isthmus.kube.client import Client
from isthmus.kube.reflector import Gone, Put, Snapshot, follow
from isthmus.kube.resources import Resource
from isthmus.kube.schema import KubeObject

T = TypeVar("T", bound=KubeObject)


class Store(Generic[T]):
    """Objects of `resource` by (namespace, name); tells its listeners after each change."""

    def __init__(self, client: Client, resource: Resource, type: type[T], *, namespace: str | None = None) -> None:
        self._client = client
        self._resource = resource
        self._type = type
        self._namespace = namespace
        self._objects: dict[tuple[str, str], T] = {}
        self._listeners: list[Callable[[], None]] = []
        self.synced = asyncio.Event()
        """Set once the whole collection has been read."""

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._objects.values()))

    def get(self, namespace: str, name: str) -> T | None:
        """Returns an object."""
        return self._objects.get((namespace, name))

    def listen(self, listener: Callable[[], None]) -> None:
        """Adds a listener; it must not block."""
        self._listeners.append(listener)

    async def serve(self) -> None:
        """Follows the collection until cancelled."""
        changes = follow(self._client, self._resource, self._type, namespace=self._namespace)
        async with contextlib.aclosing(changes):
            async for change in changes:
                match change:
                    case Snapshot(objects):
                        self._objects = {_key(item): item for item in objects}
                        self.synced.set()
                    case Put(item):
                        self._objects[_key(item)] = item
                    case Gone(item):
                        self._objects.pop(_key(item), None)
                for listener in self._listeners:
                    listener()


def _key(item: KubeObject) -> tuple[str, str]:
    return item.metadata.namespace, item.metadata.name
