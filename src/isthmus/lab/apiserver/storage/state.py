"""All that the server holds, and the one writer that changes it.

A write is a function from a transaction to a result. The writer runs what has gathered, one after the other, over the
state and over what earlier functions of the same batch wrote, commits all of it with one fsync, and only then lets
memory advance, tells watchers and answers. So there are no locks, a read-modify-write cannot race, a concurrent load
shares its fsyncs, and a failed commit leaves memory as it was. Optimistic retries, which the real server does against
etcd, were rejected: there is one process here.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import ApiError, Json
from isthmus.lab.apiserver.schema.kinds import Registry, Resource
from isthmus.lab.apiserver.storage.disk import Row, Storage, StorageError
from isthmus.lab.apiserver.storage.watchcache import Cache, Change, Key, Stored, encode

MAX_WAITING = 2048  # writes that wait for the disk; more are refused with 429

Result = TypeVar("Result")


def resource_key(resource: Resource) -> str:
    """Returns the name under which objects are stored: `plural.group`, whatever the version."""
    return resource.qualified


def decode(resource: Resource, stored: Stored) -> Json:
    """Returns a fresh copy of the object, to change at will."""
    value: Json = msgspec.json.decode(resource.prefix + resource.tail(stored))
    return value


class Transaction:
    """One write's view: what is committed, what the batch wrote before, and what this write wrote."""

    def __init__(self, state: "State", batch: "_Batch", *, dry_run: bool = False) -> None:
        self._state = state
        self._dry_run = dry_run
        self._batch = batch
        self.registry = state.registry
        self.changes: list[tuple[Resource, Change]] = []
        self._written: dict[tuple[str, Key], Stored | None] = {}

    def get(self, resource: Resource, *, namespace: str, name: str) -> Stored | None:
        """Returns an object, or None."""
        place = (resource_key(resource), (namespace, name))
        for layer in (self._written, self._batch.written):
            if place in layer:
                return layer[place]
        return self._state.cache(resource).objects.get((namespace, name))

    def all(self, resource: Resource) -> Iterable[Stored]:
        """Returns every object of a resource, in no order."""
        objects = dict(self._state.cache(resource).objects)
        for layer in (self._batch.written, self._written):
            for (name, key), stored in layer.items():
                if name == resource_key(resource):
                    if stored is None:
                        objects.pop(key, None)
                    else:
                        objects[key] = stored
        return objects.values()

    def put(self, resource: Resource, value: Json) -> Stored:
        """Writes an object under the names in its metadata, and stamps a new resourceVersion into `value`."""
        metadata = value["metadata"]
        before = self.get(resource, namespace=metadata.get("namespace", ""), name=metadata["name"])
        self._stamp(metadata, before)
        stored = encode(resource, value)
        self._note(resource, Change(before, stored))
        return stored

    def remove(self, resource: Resource, value: Json) -> Stored:
        """Removes an object; `value` is its last state and gets the version of the removal."""
        metadata = value["metadata"]
        before = self.get(resource, namespace=metadata.get("namespace", ""), name=metadata["name"])
        self._stamp(metadata, before)
        stored = encode(resource, value)
        self._note(resource, Change(before, stored, deleted=True))
        return stored

    def _stamp(self, metadata: Json, before: Stored | None) -> None:
        """Gives a new version; a dry run gets none, so that `kubectl diff` shows only what a user changed."""
        if not self._dry_run:
            metadata["resourceVersion"] = str(self._state.next_version())
        elif before is not None:
            metadata["resourceVersion"] = str(before.version)

    def _note(self, resource: Resource, change: Change) -> None:
        key = (change.after.namespace, change.after.name)
        self._written[resource_key(resource), key] = None if change.deleted else change.after
        self.changes.append((resource, change))

    def merge(self) -> None:
        """Makes what was written part of the batch."""
        self._batch.written.update(self._written)
        self._batch.changes.extend(self.changes)


class _Batch:
    def __init__(self) -> None:
        self.written: dict[tuple[str, Key], Stored | None] = {}
        self.changes: list[tuple[Resource, Change]] = []


class _Write(Generic[Result]):
    def __init__(self, action: Callable[[Transaction], Result], *, dry_run: bool) -> None:
        self.action = action
        self.dry_run = dry_run
        self.future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.results: list[Result] = []  # none or one

    def fail(self, failure: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(failure)

    def finish(self) -> None:
        if not self.future.done():
            self.future.set_result(self.results[0])


class State:
    """The caches of all resources over one storage file. `run()` must be running for writes to get anywhere."""

    def __init__(self, storage: Storage, registry: Registry) -> None:
        self._storage = storage
        self.registry = registry
        changes = storage.changes()
        self.version = max(changes.values(), default=0)  # of the last change that readers may see
        self._allocated = self.version
        self._caches = {
            resource_key(resource): Cache(resource, horizon=changes.get(resource_key(resource), 0))
            for resource in registry
            if resource.stored
        }
        self._horizons = changes
        self._unclaimed: dict[str, dict[Key, bytes]] = {}  # objects whose resource is not known yet
        self._observers: dict[str, list[Callable[[Change], None]]] = {}
        for name, namespace, object_name, tail in storage.rows():
            cache = self._caches.get(name)
            if cache is not None:
                cache.objects[namespace, object_name] = self._load(cache.resource, tail)
            else:
                self._unclaimed.setdefault(name, {})[namespace, object_name] = tail
        self._waiting: list[_Write[Any]] = []
        self._wake = asyncio.Event()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storage")

    @staticmethod
    def _load(resource: Resource, tail: bytes) -> Stored:
        try:
            return encode(resource, msgspec.json.decode(resource.prefix + tail))
        except (msgspec.DecodeError, KeyError, ValueError) as failure:
            raise StorageError(f"a stored object of {resource.qualified} cannot be read: {failure}") from failure

    def cache(self, resource: Resource) -> Cache:
        """Returns the cache of a stored resource; raises 404 if it is served no more."""
        found = self._caches.get(resource_key(resource))
        if found is None:
            raise errors.unknown_path()
        return found

    def uid_of(self, plural: str, namespace: str, name: str) -> str | None:
        """Returns the UID of an object, None if there is none; KeyError for a resource that does not exist."""
        resource = self.registry.get(plural)
        stored = self.cache(resource).objects.get((namespace, name))
        return None if stored is None else str(decode(resource, stored)["metadata"]["uid"])

    def adopt(self, resource: Resource) -> None:
        """Begins to keep a resource, with the objects that the store holds of it, or takes over a new form of one.

        What a watch has seen is of the old form, so watches end and the past is forgotten. Raises StorageError.
        """
        key = resource_key(resource)
        old = self._caches.get(key)
        cache = Cache(resource, horizon=self._horizons.get(key, 0) if old is None else self.version)
        if old is None:
            for place, tail in self._unclaimed.pop(key, {}).items():
                cache.objects[place] = self._load(resource, tail)
        else:
            cache.objects = {place: self._load(resource, stored.tail) for place, stored in old.objects.items()}
            old.end()
        self._caches[key] = cache

    def release(self, resource: Resource) -> None:
        """Ends the service of a resource; what is left of it would be found by the next `adopt`."""
        key = resource_key(resource)
        cache = self._caches.pop(key, None)
        if cache is not None:
            cache.end()
            self._horizons[key] = self.version
            self._unclaimed[key] = {place: stored.tail for place, stored in cache.objects.items()}

    def observe(self, resource: Resource, callback: Callable[[Change], None]) -> None:
        """Calls `callback` with every change of a resource, after it is visible and before its writer is answered."""
        self._observers.setdefault(resource_key(resource), []).append(callback)

    def end_watches(self) -> None:
        """Asks all watches to end."""
        for cache in self._caches.values():
            cache.end()

    def next_version(self) -> int:
        """Returns a version that was never given before; those of failed writes are not given again."""
        self._allocated += 1
        return self._allocated

    async def write(self, action: Callable[[Transaction], Result], *, dry_run: bool = False) -> Result:
        """Runs `action` and returns its result when what it wrote is on disk (or, as a dry run, is forgotten).

        Raises what `action` raises, 429 if too many writes wait, and 500 or 507 if the store fails.
        """
        if len(self._waiting) >= MAX_WAITING:
            details = {"retryAfterSeconds": 1}
            raise ApiError(429, "TooManyRequests", "too many writes are waiting, try again later", details=details)
        write = _Write(action, dry_run=dry_run)
        self._waiting.append(write)
        self._wake.set()
        return await write.future

    async def run(self) -> None:
        """Performs writes until it is cancelled; a batch under way is finished first."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                writes, self._waiting = self._waiting, []
                batch = _Batch()
                accepted = [write for write in writes if self._perform(write, batch)]
                if batch.changes:
                    rows = [_row(resource, change) for resource, change in batch.changes]
                    commit = loop.run_in_executor(self._executor, self._storage.commit, rows)
                    try:
                        await asyncio.shield(commit)
                    except StorageError as failure:
                        for write in accepted:
                            write.fail(errors.storage_failed(str(failure), full=failure.full))
                        continue
                    except asyncio.CancelledError:
                        await commit
                        self._advance(batch, accepted)
                        raise
                self._advance(batch, accepted)
        finally:
            for write in self._waiting:
                write.fail(ApiError(503, "ServiceUnavailable", "the server is shutting down"))

    def _perform(self, write: _Write[Any], batch: _Batch) -> bool:
        transaction = Transaction(self, batch, dry_run=write.dry_run)
        try:
            write.results.append(write.action(transaction))
        except Exception as failure:
            write.fail(failure)
            return False
        if write.dry_run:
            write.finish()
            return False
        transaction.merge()
        return True

    def _advance(self, batch: _Batch, accepted: list[_Write[Any]]) -> None:
        for resource, change in batch.changes:
            self.version = change.after.version
            cache = self._caches.get(resource_key(resource))
            if cache is None:
                continue  # its definition went with an earlier change of the batch
            cache.apply(change)
            for callback in self._observers.get(resource_key(resource), ()):
                callback(change)
        for write in accepted:
            write.finish()

    def close(self) -> None:
        """Closes the file; `run` must have ended."""
        self._executor.shutdown()
        self._storage.close()


def _row(resource: Resource, change: Change) -> Row:
    after = change.after
    value = None if change.deleted else after.tail
    return Row(resource_key(resource), after.namespace, after.name, after.version, value)
