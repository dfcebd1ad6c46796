"""One resource in memory: its objects as encoded bytes, its recent changes, and those who watch it.

Invariants: an object is immutable and holds its JSON once, whoever reads it; a change reaches every watcher before
the next one is applied; a watcher that does not read loses its place (`Watcher.lost`) and delays nobody. The past
reaches back `MAX_HISTORY` changes or `MAX_HISTORY_BYTES`; whoever asks for more is told that it expired. The state at
an earlier version, which paging needs, is made by undoing changes; keeping a snapshot per open page was rejected: it
would have to be bounded and expired too, and the history is there anyway.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.inputs.selectors import Selection
from isthmus.lab.apiserver.schema.kinds import Resource

MAX_HISTORY = 1024  # changes of one resource
MAX_HISTORY_BYTES = 4 * 1024 * 1024
MAX_PENDING = 1024  # changes that a watcher may be behind

Key = tuple[str, str]
"""(namespace, name); the namespace is "" where there is none."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """An object: `tail` is its JSON without the resource's prefix (see `Resource.prefix`)."""

    namespace: str
    name: str
    version: int
    tail: bytes
    labels: dict[str, str]
    fields: tuple[str, ...]  # values of Resource.fields, in that order


class Change(msgspec.Struct, frozen=True, gc=False):
    """What happened: `before` is None for a creation; `after` of a deletion is the last state, with the new version."""

    before: Stored | None
    after: Stored
    deleted: bool = False

    @property
    def kind(self) -> str:
        """Returns the word that watch events use."""
        return "DELETED" if self.deleted else "ADDED" if self.before is None else "MODIFIED"


def text_at(value: Json, path: str) -> str:
    """Returns the scalar at a dotted path as text, "" if there is none."""
    found: Any = value
    for part in path.split("."):
        if not isinstance(found, dict):
            return ""
        found = found.get(part)
    if isinstance(found, bool):
        return "true" if found else "false"
    return "" if found is None or isinstance(found, (dict, list)) else str(found)


def _field(resource: Resource, value: Json, path: str) -> str:
    if path == "source" and resource.kind == "Event":
        return text_at(value, "source.component") or text_at(value, "reportingComponent")
    text = text_at(value, path)
    if path in ("spec.hostNetwork", "spec.unschedulable") and not text:
        return "false"
    return text


def encode(resource: Resource, value: Json) -> Stored:
    """Returns `value` as it is kept; its metadata must hold at least the name."""
    metadata = value["metadata"]
    body = {"metadata": metadata}
    body.update((key, item) for key, item in value.items() if key not in ("kind", "apiVersion", "metadata"))
    return Stored(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        version=int(metadata.get("resourceVersion", 0)),
        tail=msgspec.json.encode(body)[1:],
        labels=metadata.get("labels", {}),
        fields=tuple(_field(resource, value, path) for path in resource.fields),
    )


class Watcher:
    """One reader of one resource; `pending` holds what it has not taken yet, as (event kind, object)."""

    def __init__(self, cache: "Cache", *, namespace: str, selection: Selection) -> None:
        self._cache = cache
        self.namespace = namespace
        self.selection = selection
        self.pending: deque[tuple[str, Stored]] = deque()
        self.lost = False
        self.ended = False  # the server is going down
        self.on_lost: Callable[[], None] | None = None
        self._wake = asyncio.Event()

    def offer(self, change: Change) -> None:
        """Queues what the change means to this reader: leaving its selection is a deletion, entering it a creation."""
        if self.lost:
            return
        after = change.after
        if self.namespace and after.namespace != self.namespace:
            return
        kind = change.kind
        if not self.selection.everything:
            was = change.before is not None and self._cache.selects(self.selection, change.before)
            now = not change.deleted and self._cache.selects(self.selection, after)
            if not was and not now:
                return
            kind = "MODIFIED" if was and now else "ADDED" if now else "DELETED"
        if len(self.pending) >= MAX_PENDING:
            self.lost = True
            self.pending.clear()
            if self.on_lost is not None:
                self.on_lost()
        else:
            self.pending.append((kind, after))
        self._wake.set()

    async def wait(self) -> None:
        """Returns when something is pending, the place is lost or the stream is to end; callers bound it."""
        while not self.pending and not self.lost and not self.ended:
            self._wake.clear()
            await self._wake.wait()

    def end(self) -> None:
        """Asks the reader to end its stream."""
        self.ended = True
        self._wake.set()

    def close(self) -> None:
        """Stops the deliveries."""
        self._cache.watchers.discard(self)


class Cache:
    """All objects of one resource."""

    def __init__(self, resource: Resource, *, horizon: int) -> None:
        self.resource = resource
        self.objects: dict[Key, Stored] = {}
        self.watchers: set[Watcher] = set()
        self.horizon = horizon  # the oldest version from which all changes are known
        self._history: deque[Change] = deque()
        self._history_bytes = 0

    def apply(self, change: Change) -> None:
        """Takes over a committed change and tells the watchers."""
        key = (change.after.namespace, change.after.name)
        if change.deleted:
            self.objects.pop(key, None)
        else:
            self.objects[key] = change.after
        self._history.append(change)
        self._history_bytes += len(change.after.tail)
        while len(self._history) > MAX_HISTORY or self._history_bytes > MAX_HISTORY_BYTES:
            oldest = self._history.popleft()
            self._history_bytes -= len(oldest.after.tail)
            self.horizon = oldest.after.version
        for watcher in tuple(self.watchers):
            watcher.offer(change)

    def selects(self, selection: Selection, stored: Stored) -> bool:
        """Tells whether an object is selected."""

        def field(path: str) -> str:
            if path == "metadata.name":
                return stored.name
            if path == "metadata.namespace":
                return stored.namespace
            return stored.fields[self.resource.fields.index(path)]

        return selection.matches(stored.labels, field)

    def at(self, version: int) -> dict[Key, Stored]:
        """Returns the objects as they were at `version`; raises 410 if that is too long ago."""
        self._check(version)
        if not self._history or self._history[-1].after.version <= version:
            return self.objects
        past = dict(self.objects)
        for change in reversed(self._history):
            if change.after.version <= version:
                break
            key = (change.after.namespace, change.after.name)
            if change.before is None:
                past.pop(key, None)
            else:
                past[key] = change.before
        return past

    def select(self, objects: dict[Key, Stored], *, namespace: str, selection: Selection) -> list[Stored]:
        """Returns the selected ones of `objects` by namespace and name; `namespace` "" is all of them."""
        name = selection.name()
        if name is not None and (namespace or not self.resource.namespaced):
            only = objects.get((namespace, name))
            found: Iterable[Stored] = () if only is None else (only,)
        elif namespace:
            found = [stored for stored in objects.values() if stored.namespace == namespace]
        else:
            found = objects.values()
        if not selection.everything:
            found = [stored for stored in found if self.selects(selection, stored)]
        return sorted(found, key=lambda stored: (stored.namespace, stored.name))

    def watch(self, *, namespace: str, selection: Selection, since: int | None) -> Watcher:
        """Returns a watcher that is told every change after version `since`, or from now on if that is None.

        Raises 410 if `since` is too long ago.
        """
        watcher = Watcher(self, namespace=namespace, selection=selection)
        if since is not None:
            self._check(since)
            missed = [change for change in self._history if change.after.version > since]
            if len(missed) > MAX_PENDING:
                raise errors.expired(f"too old resource version: {since} ({missed[-MAX_PENDING].after.version})")
            for change in missed:
                watcher.offer(change)
        self.watchers.add(watcher)
        return watcher

    def end(self) -> None:
        """Asks all watches to end."""
        for watcher in tuple(self.watchers):
            watcher.end()

    def _check(self, version: int) -> None:
        if version < self.horizon:
            raise errors.expired(f"too old resource version: {version} ({self.horizon})")
