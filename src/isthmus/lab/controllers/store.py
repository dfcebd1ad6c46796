"""A live copy of one collection, shared by the controllers that read it, which never forgets what they wrote.

Invariant: after an acknowledged write the store shows it, however late the watch is (`wrote`, `deleted`), so that no
controller creates twice or deletes one too many. Events older than the write are ignored by resourceVersion; a
snapshot that lacks the object is checked with a GET, because it may be older than the write; an answer that comes after
the object's end was seen does not bring it back. Rejected: counting
expected events per owner, which needs a time-out for the events that never come.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import msgspec
from msgspec.structs import replace

from isthmus.kube.client import Client
from isthmus.kube.errors import DECODE_ERRORS, KubeError, NotFound
from isthmus.kube.reflector import Change, Gone, Put, Snapshot, follow
from isthmus.kube.resources import Resource
from isthmus.lab.controllers.objects.meta import Key, Object

DEAD = 1024
"""Uids remembered after their end: an answer is late by seconds, not by a thousand deletions."""

T = TypeVar("T", bound=Object)
Listener = Callable[[T | None, T | None], None]


class Store(Generic[T]):
    """Objects of `resource` by (namespace, name), with indexes; tells listeners (before, after) of each change."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        type: type[T],
        *,
        namespace: str | None = None,
        field_selector: str | None = None,
        metadata_only: bool = False,
    ) -> None:
        self.resource = resource
        self.type = type
        self.metadata_only = metadata_only
        self._client = client
        self._namespace = namespace
        self._field_selector = field_selector
        self._objects: dict[Key, T] = {}
        self._listeners: list[Listener[T]] = []
        self._indexes: dict[str, tuple[Callable[[T], Iterable[str]], dict[str, dict[Key, None]]]] = {}
        self._ahead: set[Key] = set()
        self._doomed: dict[str, str] = {}
        self._dead: dict[str, None] = {}
        self.synced = asyncio.Event()
        """Set once the whole collection has been read."""

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, namespace: str, name: str) -> T | None:
        """Returns an object."""
        return self._objects.get((namespace, name))

    def index(self, name: str, values: Callable[[T], Iterable[str]]) -> None:
        """Adds an index; `values` gives the words under which an object is found."""
        self._indexes[name] = (values, {})
        for key, item in self._objects.items():
            self._enter(key, item)

    def by(self, index: str, value: str) -> list[T]:
        """Returns the objects that an index has under a word."""
        return [self._objects[key] for key in self._indexes[index][1].get(value, ())]

    def listen(self, listener: Listener[T]) -> None:
        """Adds a listener; it must not block. It hears of what is already here at once."""
        self._listeners.append(listener)
        for item in self:
            listener(None, item)

    def wrote(self, item: T) -> None:
        """Takes what the server returned for a write of ours, unless the watch has shown something newer."""
        known = self._objects.get(item.key)
        if item.metadata.uid in self._dead or (known is not None and not _newer(item, known)):
            return
        self._ahead.add(item.key)
        self._put(item)

    def deleted(self, namespace: str, name: str, *, uid: str, at: str) -> None:
        """Takes note that the server accepted the deletion of an object at a time (RFC 3339): it is leaving."""
        known = self._objects.get((namespace, name))
        if known is None or known.metadata.uid != uid or known.leaving:
            return
        self._doomed[uid] = at
        self._put(known)

    async def serve(self) -> None:
        """Follows the collection until cancelled."""
        changes = follow(
            self._client,
            self.resource,
            self.type,
            namespace=self._namespace,
            field_selector=self._field_selector,
            metadata_only=self.metadata_only,
        )
        async with contextlib.aclosing(changes):
            async for change in changes:
                await self.take(change)

    async def take(self, change: Change[T]) -> None:
        """Takes one change from the watch."""
        match change:
            case Snapshot(objects):
                await self._replace(objects)
                self.synced.set()
            case Put(item):
                known = self._objects.get(item.key)
                if known is None or item.key not in self._ahead or not _newer(known, item):
                    self._ahead.discard(item.key)
                    self._put(item)
            case Gone(item):
                self._bury(item.metadata.uid)
                known = self._objects.get(item.key)
                if known is not None and known.metadata.uid == item.metadata.uid:
                    self._drop(item.key)

    async def _replace(self, objects: tuple[T, ...]) -> None:
        fresh = {item.key: item for item in objects}
        kept = {key for key in self._ahead if key not in fresh and await self._exists(key)}
        for key in [key for key in self._objects if key not in fresh and key not in kept]:
            self._drop(key)
        for key, item in fresh.items():
            known = self._objects.get(key)
            if known is None or key not in self._ahead or not _newer(known, item):
                self._ahead.discard(key)
                if known != item:
                    self._put(item)

    async def _exists(self, key: Key) -> bool:
        try:
            raw = await self._client.get(self.resource, key[1], type=msgspec.Raw, namespace=key[0] or None)
            uid = msgspec.json.decode(raw, type=Object).metadata.uid
        except NotFound:
            return False
        except (KubeError, *DECODE_ERRORS):
            return True  # not known: the next event or snapshot will tell
        known = self._objects.get(key)
        return known is not None and known.metadata.uid == uid

    def _put(self, item: T) -> None:
        at = self._doomed.get(item.metadata.uid) if self._doomed else None
        if at is not None:
            if item.leaving:
                del self._doomed[item.metadata.uid]
            else:
                item = replace(item, metadata=replace(item.metadata, deletionTimestamp=at))
        before = self._objects.get(item.key)
        if before is not None:
            self._leave(item.key, before)
        self._objects[item.key] = item
        self._enter(item.key, item)
        self._tell(before, item)

    def _drop(self, key: Key) -> None:
        before = self._objects.pop(key, None)
        self._ahead.discard(key)
        if before is not None:
            self._bury(before.metadata.uid)
            self._doomed.pop(before.metadata.uid, None)
            self._leave(key, before)
            self._tell(before, None)

    def _bury(self, uid: str) -> None:
        self._dead[uid] = None
        while len(self._dead) > DEAD:
            del self._dead[next(iter(self._dead))]

    def _tell(self, before: T | None, after: T | None) -> None:
        for listener in self._listeners:
            listener(before, after)

    def _enter(self, key: Key, item: T) -> None:
        for values, entries in self._indexes.values():
            for value in values(item):
                entries.setdefault(value, {})[key] = None

    def _leave(self, key: Key, item: T) -> None:
        for values, entries in self._indexes.values():
            for value in values(item):
                held = entries.get(value)
                if held is not None:
                    held.pop(key, None)
                    if not held:
                        del entries[value]


def _newer(one: Object, other: Object) -> bool:
    """Whether `one` is newer than `other`; versions that are no numbers have no order, so the later to come wins."""
    a, b = one.metadata.resourceVersion, other.metadata.resourceVersion
    return a.isdecimal() and b.isdecimal() and int(a) > int(b)
