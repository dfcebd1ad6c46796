"""From definitions to served kinds, while the server runs: rows of the registry, caches, and the end of a kind.

A definition takes effect when its write is committed and before it is answered: the next request finds the kind in
discovery, OpenAPI and under its path. Watches of other kinds do not notice; watches of a kind whose definition changed
end, as in the real server, and are begun again by their clients. The objects of a deleted definition are deleted in
the background, and the definition goes when the last of them is gone.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import structlog

from isthmus.lab.apiserver.changes import deletion
from isthmus.lab.apiserver.changes.calls import Call
from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.errors import ApiError, Json
from isthmus.lab.apiserver.extensions import naming
from isthmus.lab.apiserver.extensions.definitions import FINALIZER, definitions_row, siblings
from isthmus.lab.apiserver.extensions.model import CustomResource, VersionModel, subresources
from isthmus.lab.apiserver.storage.state import State, Transaction, decode
from isthmus.lab.apiserver.storage.watchcache import Change, Stored, encode

if TYPE_CHECKING:
    from aiohttp import web

RETRY = 1.0  # seconds until a failed clean-up is tried again
MAX_DELETED = 500  # objects of a kind that is going, in one transaction: other writes have to wait for it
MANAGER = "kube-apiserver"

_log = structlog.get_logger(__name__)


class Served:
    """One definition that is served: its rows, of which the first is the stored version."""

    def __init__(self, rows: list[CustomResource], generation: int) -> None:
        self.rows = rows
        self.generation = generation


class Serving:
    """Keeps registry and state in step with the stored definitions."""

    def __init__(self, *, state: State, life: Lifecycle) -> None:
        self._state = state
        self._life = life
        self._row = definitions_row(life.source)
        self._served: dict[str, Served] = {}
        self._pending: set[str] = set()  # definitions whose objects must go, or whose names may be free now
        self._watched: set[str] = set()
        self._wake = asyncio.Event()
        life.registry.replace(self._row.plural, self._row.group, [self._row])
        state.adopt(self._row)
        state.observe(self._row, self._changed)
        for stored in list(state.cache(self._row).objects.values()):
            self._take(stored)

    def _changed(self, change: Change) -> None:
        if change.deleted:
            self._drop(change.after)
        else:
            self._take(change.after)

    def _take(self, stored: Stored) -> None:
        """Serves a definition as it is now; one that cannot be served must not stop the others, nor the writer."""
        try:
            self._serve(stored)
        except Exception:
            _log.exception("kind_not_served", definition=stored.name)

    def _drop(self, stored: Stored) -> None:
        served = self._served.pop(stored.name, None)
        if served is not None:
            first = served.rows[0]
            self._life.registry.replace(first.plural, first.group, ())
            self._state.release(first)
            _log.info("kind_removed", definition=stored.name)
        group = stored.name.partition(".")[2]
        self._later(*(name for name in self._names() if name.partition(".")[2] == group))

    def _names(self) -> list[str]:
        return [stored.name for stored in self._state.cache(self._row).objects.values()]

    def _later(self, *names: str) -> None:
        if names:
            self._pending.update(names)
            self._wake.set()

    def _serve(self, stored: Stored) -> None:
        value = decode(self._row, stored)
        metadata = value["metadata"]
        going = "deletionTimestamp" in metadata
        if going:
            self._later(stored.name)
        served = self._served.get(stored.name)
        generation = int(metadata.get("generation", 0))
        if served is not None and (served.generation == generation or going):
            for row in served.rows:
                row.model.stored = stored
                row.model.terminating = going
            return
        if not naming.is_true(value, "Established"):
            return
        rows = self._rows(stored, value)
        self._adopt(rows[0])
        for row in rows:
            row.model.terminating = going
        versions = {version["name"] for version in value["spec"]["versions"] if version.get("served")}
        self._life.registry.replace(rows[0].plural, rows[0].group, [row for row in rows if row.version in versions])
        self._served[stored.name] = Served(rows, generation)
        _log.info("kind_served", definition=stored.name, versions=sorted(versions))

    def _rows(self, stored: Stored, value: Json) -> list[CustomResource]:
        """Returns a row for every version, the stored one first."""
        spec, accepted = value["spec"], value["status"]["acceptedNames"]
        versions = spec["versions"]
        storage = next(at for at, version in enumerate(versions) if version.get("storage"))
        fields = dict.fromkeys(
            field["jsonPath"][1:] for version in versions for field in version.get("selectableFields") or ()
        )
        label = f"{value['metadata']['uid']}/{value['metadata'].get('generation', 0)}"
        rows: list[CustomResource] = []
        for at, version in enumerate(versions):
            subs, scale = subresources(version)
            row = CustomResource(
                group=spec["group"],
                version=version["name"],
                plural=accepted["plural"],
                kind=accepted["kind"],
                package="",
                namespaced=spec["scope"] == "Namespaced",
                short_names=tuple(accepted.get("shortNames", ())),
                categories=tuple(accepted.get("categories", ())),
                subresources=subs,
                generation=True,
                fields=tuple(fields),
                model=VersionModel(stored, at, storage=storage, label=f"{label}/{at}"),
                singular_name=accepted.get("singular", ""),
                lists=accepted.get("listKind", ""),
                scale=scale,
                definitions=self._row,
                deprecated=bool(version.get("deprecated")),
            )
            rows.insert(0 if at == storage else len(rows), row)
        return rows

    def _adopt(self, row: CustomResource) -> None:
        """Keeps the objects of a kind, in the form that its schema gives them now."""
        self._state.adopt(row)
        cache = self._state.cache(row)
        for place, held in list(cache.objects.items()):
            value = decode(row, held)
            shown = row.model.refreshed(value, kind=row.kind)
            if shown != value:
                cache.objects[place] = encode(row, shown)

    async def run(self) -> None:
        """Ends the kinds of deleted definitions, until it is cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            names, self._pending = self._pending, set()
            for name in sorted(names):
                try:
                    await self._state.write(functools.partial(self._settle, name))
                except ApiError as failure:
                    _log.warning("kind_not_settled", definition=name, error=failure.message)
                    asyncio.get_running_loop().call_later(RETRY, self._later, name)
                except Exception:
                    _log.exception("kind_not_settled", definition=name)
                    asyncio.get_running_loop().call_later(RETRY, self._later, name)

    def _settle(self, name: str, transaction: Transaction) -> None:
        """Does the next step for one definition: its objects go, then it, or its names are looked at again."""
        stored = transaction.get(self._row, namespace="", name=name)
        if stored is None:
            return
        value, old = decode(self._row, stored), decode(self._row, stored)
        call = Call(resource=self._row, name=name, manager=MANAGER, subresource="status")
        if "deletionTimestamp" not in value["metadata"]:
            now = self._life.source.timestamp()
            naming.settle(value, siblings(value, transaction, self._row), now=now)
        elif not self._empty(transaction, name):
            text = "CustomResource deletion is in progress"
            now = self._life.source.timestamp()
            reason = "InstanceDeletionInProgress"
            naming.set_condition(value, "Terminating", "True", reason=reason, message=text, now=now)
        else:
            held = value["metadata"].get("finalizers", [])
            value["metadata"]["finalizers"] = [finalizer for finalizer in held if finalizer != FINALIZER]
            if not value["metadata"]["finalizers"]:
                del value["metadata"]["finalizers"]
        if value != old:
            self._life.finish(transaction, call, value, old=old)

    def _empty(self, transaction: Transaction, name: str) -> bool:
        """Deletes the objects of a definition; tells whether none is left (finalizers may keep some)."""
        served = self._served.get(name)
        if served is None:
            return True
        row = served.rows[0]
        chosen = [held for held in transaction.all(row) if b'"deletionTimestamp"' not in held.tail]
        call = Call(resource=row, manager=MANAGER)
        deletion.delete_all(self._life, transaction, call, deletion.Options(), chosen=chosen[:MAX_DELETED])
        if len(chosen) > MAX_DELETED:
            self._later(name)
        left = any(True for _ in transaction.all(row))
        if left:
            self._watch(row, name)
        return not left

    def _watch(self, row: CustomResource, name: str) -> None:
        """Has the definition looked at again when an object of its kind goes."""
        if name not in self._watched:
            self._watched.add(name)
            self._state.observe(row, lambda change: self._later(name) if change.deleted else None)

    @contextlib.asynccontextmanager
    async def running(self, _app: "web.Application") -> AsyncIterator[None]:
        """Runs the clean-up as long as the server serves."""
        task = asyncio.create_task(self.run(), name="extensions")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
