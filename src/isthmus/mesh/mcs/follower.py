"""Keeps the objects of the Multi-Cluster Services API in the own cluster: watches, requests, and nothing decided here.

Lifetime: `serve` runs until cancelled, and may be called again. Where the API's definitions are not installed it does
nothing but look again after a while, which is said once; where they go, it starts to look again. Nothing is written
before everything of the own cluster was listed and the members of the mesh are known. Keys wait in a KeyQueue, whose
size is the number of Services; a failing one backs off alone. What is remembered of other clusters outlives a session.
Rejected: reading each object before it is written; server-side apply leaves alone what others have set.
"""

import asyncio
import contextlib
import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from isthmus.aio.backoff import Backoff
from isthmus.kube.client import Client, Patch
from isthmus.kube.errors import Invalid, KubeError, NotFound, too_late
from isthmus.kube.events import EventRecorder
from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.reflector import Change, Degraded, Gone, Put, Snapshot, State, follow
from isthmus.kube.resources import NAMESPACES, SERVICES, Resource
from isthmus.kube.schema import Namespace, ObjectReference
from isthmus.mesh.mcs import conditions
from isthmus.mesh.mcs.api import Api, Condition, Service, ServiceExport, ServiceImport, discover
from isthmus.mesh.mcs.copying import SliceCopier
from isthmus.mesh.mcs.state import Apply, Objects, Read, Remove, Step
from isthmus.mesh.mcs.told import Told
from isthmus.model.mesh import MeshEvent
from isthmus.model.service import ServiceKey

MANAGER = "isthmus-mcs"
LOOK_AGAIN = 60.0
"""Seconds between looks for the API's definitions and for what an API server refused, at most."""
SOON = 1.0
"""Seconds until the second look: a new cluster has the definitions within moments."""
MAX_STEPS = 16
"""Steps for one Service at a time: somebody who changes what we write must not keep us busy."""
MEMBERS = 1.0
"""Seconds between looks at who is in the mesh."""
MOST_WRITES = 60
"""Writes for one Service in WINDOW seconds: whoever else writes the same objects and is as sure as we are does not get
us into a race."""
WINDOW = 60.0
OFF = "Multi-Cluster Services: serviceexports and serviceimports are not defined in this cluster; looking again"
ON = "Multi-Cluster Services are on"
OVERFLOW = "a cluster exports more Services than are imported"
QUARREL = "somebody else keeps changing what is written for an import; trying again later"
REFUSED = "the Service for an import is refused"
HAND_MADE = "ServiceImport was made by somebody else and is left alone"

_log = structlog.get_logger("isthmus.mesh.mcs")


class Members(Protocol):
    """What is known of who is in the mesh (`mesh.tracker.Clusters`)."""

    @property
    def known(self) -> bool:
        """Whether all members are known."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Clusters whose entry cannot be used, and why."""


class McsFollower:
    """A writer of the own cluster's objects (`mesh.control.session.Writer`) for cluster `own`.

    `members` says who is in the mesh; without it those are all who join it at the start.
    """

    def __init__(
        self,
        own: str,
        *,
        members: Callable[[], Members] | None = None,
        look_again: float = LOOK_AGAIN,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._told = Told(own=own)
        self._members = members
        self._look_again = look_again
        self._now = now
        self._started = asyncio.Event()
        self._session: _Session | None = None
        self._said: bool | None = None
        self._overflow: set[str] = set()

    def apply(self, events: Sequence[MeshEvent]) -> None:
        """Takes a batch of what is told of all clusters."""
        keys, clusters = self._told.take(events)
        self._started.set()
        if self._told.overflowing - self._overflow:
            _log.warning(OVERFLOW, clusters=sorted(self._told.overflowing))
            self._overflow |= self._told.overflowing
        if self._session is not None:
            self._session.told(keys, clusters)

    async def serve(self, client: Client, recorder: EventRecorder) -> None:
        """Writes until cancelled. Raises nothing but what is a fault of ours."""
        await self._started.wait()
        async with asyncio.TaskGroup() as tasks:
            if self._members is not None:
                self._look_at(self._members)
                tasks.create_task(self._watch_members(self._members))
            await self._write(client, recorder)

    def _look_at(self, members: Callable[[], Members]) -> None:
        now = members()
        if self._told.know(complete=now.known, kept=now.refused) and self._session is not None:
            self._session.look_at_all()

    async def _watch_members(self, members: Callable[[], Members]) -> None:
        while True:
            await asyncio.sleep(MEMBERS)
            self._look_at(members)

    async def _write(self, client: Client, recorder: EventRecorder) -> None:
        delays = Backoff(base=min(SOON, self._look_again), cap=self._look_again)
        while True:
            try:
                api = await discover(client)
            except KubeError as error:
                # An API server that is away is told by everyone else who watches it.
                _log.debug("cannot look for Multi-Cluster Services", error=str(error))
                await asyncio.sleep(min(self._look_again, 5.0))
                continue
            if self._said is not (api is not None):
                self._said = api is not None
                _log.info(ON if api is not None else OFF, version=api.version if api is not None else "")
            if api is None:
                await asyncio.sleep(delays.next())
                continue
            delays.reset()
            session = self._session = _Session(
                client, api, self._told, recorder=recorder, now=self._now, look_again=self._look_again
            )
            try:
                await session.run()
            finally:
                self._session = None


class _Session:
    """The time between finding the API and its end."""

    def __init__(
        self,
        client: Client,
        api: Api,
        told: Told,
        *,
        recorder: EventRecorder,
        now: Callable[[], datetime.datetime],
        look_again: float,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._api = api
        self._told = told
        self._now = now
        self._look_again = look_again
        self._objects = Objects(api, told)
        self._queue = KeyQueue("mcs", self._work)
        self._copier = SliceCopier(client, self._objects, own=told.own)
        self._foreign: set[ServiceKey] = set()
        self._written: dict[ServiceKey, tuple[float, int]] = {}
        """Since when, and how many writes; of Services that there is something to do for."""
        self._listed = {resource: asyncio.Event() for resource in (NAMESPACES, SERVICES, api.exports, api.imports)}
        self._over = asyncio.Event()

    def told(self, keys: Iterable[ServiceKey], clusters: Iterable[str]) -> None:
        """Hears that exports of these Services changed, and that these clusters told everything or left."""
        self._add({*keys, *self._objects.importing_from(clusters)})

    def look_at_all(self) -> None:
        """Looks at everything again."""
        self._add(self._objects.keys())

    async def run(self) -> None:
        """Works until the API is gone."""
        async with asyncio.TaskGroup() as tasks:
            working = [
                tasks.create_task(self._follow(NAMESPACES, Namespace, self._take_namespaces)),
                tasks.create_task(self._follow(self._api.exports, ServiceExport, self._take_exports)),
                tasks.create_task(self._follow(self._api.imports, ServiceImport, self._take_imports)),
                tasks.create_task(self._follow(SERVICES, Service, self._take_services)),
                tasks.create_task(self._serve()),
            ]
            await self._over.wait()
            for task in working:
                task.cancel()

    async def _serve(self) -> None:
        for listed in self._listed.values():
            await listed.wait()
        self._add(self._objects.keys())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._queue.serve())
            tasks.create_task(self._copier.serve())

    def _add(self, keys: Iterable[ServiceKey]) -> None:
        for key in keys:
            self._queue.add(key)

    # What the watches say

    async def _follow(self, resource: Resource, kind: type[Any], take: Callable[[Change[Any]], None]) -> None:
        if resource is SERVICES:
            # What is exported is known first: of other Services nothing is kept.
            await self._listed[self._api.exports].wait()
        look = asyncio.Event()

        def on_state(state: State) -> None:
            if isinstance(state, Degraded) and resource in (self._api.exports, self._api.imports):
                look.set()

        async def check() -> None:
            while True:
                await look.wait()
                look.clear()
                with contextlib.suppress(KubeError):
                    if await discover(self._client) != self._api:
                        self._over.set()
                await asyncio.sleep(min(self._look_again, 5.0))

        async with asyncio.TaskGroup() as tasks:
            checking = tasks.create_task(check())
            async with contextlib.aclosing(follow(self._client, resource, kind, on_state=on_state)) as changes:
                async for change in changes:
                    take(change)
                    if isinstance(change, Snapshot):
                        self._listed[resource].set()
            checking.cancel()

    def _take_namespaces(self, change: Change[Namespace]) -> None:
        match change:
            case Snapshot(items):
                there = [item for item in items if not item.metadata.deletionTimestamp]
                self._add(self._objects.keep_namespaces(item.metadata.name for item in there))
                for item in there:
                    self._add(self._objects.put_namespace(item.metadata.name, item.metadata.annotations))
            case Put(item) if not item.metadata.deletionTimestamp:
                self._add(self._objects.put_namespace(item.metadata.name, item.metadata.annotations))
            case Put(item) | Gone(item):
                self._add(self._objects.drop_namespace(item.metadata.name))

    def _take_exports(self, change: Change[ServiceExport]) -> None:
        match change:
            case Snapshot(items):
                self._add(self._objects.keep("exports", map(_key, items)))
                self._add([self._objects.put_export(item, listed=True) for item in items])
            case Put(item):
                self._add([self._objects.put_export(item)])
            case Gone(item):
                self._objects.drop_export(_key(item))
                self._add([_key(item)])

    def _take_imports(self, change: Change[ServiceImport]) -> None:
        match change:
            case Snapshot(items):
                self._add(self._objects.keep("imports", map(_key, items)))
                self._add([self._objects.put_import(item, listed=True) for item in items])
            case Put(item):
                self._add([self._objects.put_import(item)])
            case Gone(item):
                self._objects.drop_import(_key(item))
                self._add([_key(item)])

    def _take_services(self, change: Change[Service]) -> None:
        concerned: list[ServiceKey | None] = []
        match change:
            case Snapshot(items):
                self._add(self._objects.keep("services", map(_key, items)))
                concerned += [self._objects.put_service(item, listed=True) for item in items]
            case Put(item):
                concerned.append(self._objects.put_service(item))
            case Gone(item):
                concerned.append(self._objects.drop_service(_key(item)))
        self._add([key for key in concerned if key is not None])

    # What is written

    async def _work(self, key: ServiceKey) -> float | None:
        objects = self._objects
        objects.forgive(key)
        for _ in range(MAX_STEPS):
            step = objects.plan(key, now=self._now().strftime("%Y-%m-%dT%H:%M:%SZ"))
            if step is None:
                break
            if not self._may_write(key):
                return WINDOW
            try:
                await self._do(key, step)
            except KubeError as error:
                if too_late(error):
                    return None
                raise
        if not objects.foreign(key):
            self._foreign.discard(key)
        elif key not in self._foreign:
            self._foreign.add(key)
            _log.warning(HAND_MADE, namespace=key[0], name=key[1])
        self._copier.look(key)
        if not objects.concerns(key):
            self._written.pop(key, None)
        return self._look_again if objects.refused(key) else None

    def _may_write(self, key: ServiceKey) -> bool:
        """Takes a write from what a Service may have in a while; says so when that is used up."""
        now = asyncio.get_running_loop().time()
        since, count = self._written.get(key, (now, 0))
        if now - since > WINDOW:
            since, count = now, 0
        self._written[key] = (since, count + 1)
        if count == MOST_WRITES:
            _log.warning(QUARREL, namespace=key[0], name=key[1])
        return count < MOST_WRITES

    async def _do(self, key: ServiceKey, step: Step) -> None:
        match step:
            case Read(key):
                await self._read(key)
            case Remove(resource, (namespace, name), uid):
                with contextlib.suppress(NotFound):
                    await self._client.delete(resource, name, namespace=namespace, uid=uid)
                if resource is SERVICES:
                    self._objects.drop_service((namespace, name))
                else:
                    self._objects.drop_import((namespace, name))
            case Apply():
                await self._apply(key, step)

    async def _read(self, key: ServiceKey) -> None:
        namespace, name = key
        try:
            found = await self._client.get(SERVICES, name, namespace=namespace, type=Service)
        except NotFound:
            self._objects.drop_service(key)
        else:
            self._objects.put_service(found)

    async def _apply(self, key: ServiceKey, step: Apply) -> None:
        namespace, name = step.key
        # Before asking: the watch may tell of the change sooner than the answer does.
        before = self._objects.export(key)
        kinds: dict[Resource, type[Any]] = {SERVICES: Service, self._api.exports: ServiceExport}
        try:
            answer: Any = await self._client.patch(
                step.resource,
                name,
                step.body,
                type=kinds.get(step.resource, ServiceImport),
                kind=Patch.APPLY,
                namespace=namespace,
                subresource="status" if step.status else None,
                field_manager=MANAGER,
                force=True,
            )
        except Invalid as error:
            if step.resource is not SERVICES:
                raise
            family = "ipFamil" in str(error)
            _log.warning(REFUSED, namespace=key[0], name=key[1], reason=str(error))
            self._objects.refuse(key, "IPFamilyNotSupported" if family else "Pending", f"No Service: {error}")
            return
        self._objects.settle(step, answer)
        if isinstance(answer, ServiceExport):
            self._tell(answer, before.status.conditions if before is not None else ())

    def _tell(self, item: ServiceExport, before: Sequence[Condition]) -> None:
        """Writes an Event for what is wrong with an export since now; what is right again is seen in its status."""
        meta = item.metadata
        about = ObjectReference(
            "ServiceExport", meta.namespace, meta.name, meta.uid, self._api.exports.api_version, meta.resourceVersion
        )
        known = {(one.type, one.reason) for one in before}
        for one in conditions.troubles(item.status.conditions):
            if (one.type, one.reason) not in known:
                self._recorder.emit(about, reason=one.reason.partition(",")[0], message=one.message)


def _key(item: ServiceExport | ServiceImport | Service) -> ServiceKey:
    return item.metadata.namespace, item.metadata.name
