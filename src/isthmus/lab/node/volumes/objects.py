"""ConfigMaps and Secrets that pods of this node refer to: followed while they are needed, and no others.

The kubelet's watch strategy: one watch per object, with a field selector for its name, which is also all that a node is
allowed to see. Invariants: an object that was deleted stays known as missing; whoever needs an object is told of each
change; nothing is followed for long that no pod needs. Bounded by what the pods of one node can refer to. Rejected:
reading anew every minute, which is cheaper with thousands of objects and slow to notice; watching whole namespaces,
which a node may not.
"""

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from isthmus.kube.client import Client
from isthmus.kube.reflector import Gone, Put, Snapshot, follow
from isthmus.kube.resources import CONFIG_MAPS, Resource
from isthmus.kube.schema import KubeObject
from isthmus.lab.node.environment.variables import CONFIG_MAP, SECRET, Data

SECRETS = Resource("", "v1", "secrets", "Secret")

LINGER = 30.0
"""Seconds that a watch goes on after the last pod that needed it: the next one of its namespace often needs it too."""

Key = tuple[str, str, str]
"""Kind, namespace, name."""


class DataObject(KubeObject, frozen=True, kw_only=True):
    """core/v1 ConfigMap or Secret; a Secret's data is base64 where a ConfigMap's is text."""

    data: dict[str, str] = msgspec.field(default_factory=dict)
    binaryData: dict[str, str] = msgspec.field(default_factory=dict)


class _Entry(msgspec.Struct):
    users: set[str]
    known: asyncio.Event
    task: "asyncio.Task[None] | None" = None
    data: Data | None = None


class Objects:
    """Follows objects for pods; call `close` at the end."""

    def __init__(self, client: Client, *, on_change: Callable[[str], None]) -> None:
        self._client = client
        self._on_change = on_change
        self._entries: dict[Key, _Entry] = {}

    def need(self, uid: str, keys: set[Key]) -> None:
        """Follows exactly `keys` for the pod with `uid`; an empty set ends it."""
        for key in [key for key, entry in self._entries.items() if uid in entry.users and key not in keys]:
            entry = self._entries[key]
            entry.users.discard(uid)
            if not entry.users:
                asyncio.get_running_loop().call_later(LINGER, self._drop, key)
        for key in keys:
            existing = self._entries.get(key)
            if existing is None:
                existing = self._entries[key] = _Entry(users=set(), known=asyncio.Event())
                existing.task = asyncio.create_task(self._follow(key, existing))
            existing.users.add(uid)

    def _drop(self, key: Key) -> None:
        """Ends a watch that nobody has come back to."""
        entry = self._entries.get(key)
        if entry is not None and not entry.users:
            del self._entries[key]
            if entry.task is not None:
                entry.task.cancel()

    def is_known(self, uid: str) -> bool:
        """Tells whether all that the pod needs is known to exist or not to; `on_change` tells when that changes."""
        return all(entry.known.is_set() for entry in self._entries.values() if uid in entry.users)

    def find(self, kind: str, namespace: str, name: str) -> Data | None:
        """Returns the data of an object; None if it does not exist."""
        entry = self._entries.get((kind, namespace, name))
        return None if entry is None else entry.data

    async def close(self) -> None:
        """Ends all watches."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        self._entries.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, key: Key, entry: _Entry) -> None:
        kind, namespace, name = key
        resource = {CONFIG_MAP: CONFIG_MAPS, SECRET: SECRETS}[kind]
        changes = follow(
            self._client, resource, DataObject, namespace=namespace, field_selector=f"metadata.name={name}"
        )
        async with contextlib.aclosing(changes):
            async for change in changes:
                match change:
                    case Snapshot(objects):
                        entry.data = _data(kind, objects[0]) if objects else None
                    case Put(found):
                        entry.data = _data(kind, found)
                    case Gone():
                        entry.data = None
                entry.known.set()
                for uid in list(entry.users):
                    self._on_change(uid)


def _data(kind: str, found: DataObject) -> Data:
    if kind == SECRET:
        return {key: _bytes(text) for key, text in found.data.items()}
    texts = {key: text.encode() for key, text in found.data.items()}
    return {**texts, **{key: _bytes(text) for key, text in found.binaryData.items()}}


def _bytes(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""  # the API server refuses such data
