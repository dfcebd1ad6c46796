"""The way to the own cluster's API server for all who write objects there, for as long as the tracker runs.

One client and one recorder of Events for all writers. Invariants: whatever goes wrong here is said and tried again, and
never ends the tracker, which has agents to serve, nor another writer; what is told goes to every writer, also while
there is no way to the server. New credentials in the kubeconfig are taken within REREAD. Rejected: a client for each
writer, which is as many connections and as many rates for Events.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

import structlog

from isthmus.aio.backoff import Backoff
from isthmus.kube.access import Access
from isthmus.kube.client import Client
from isthmus.kube.errors import KubeError
from isthmus.kube.events import EventRecorder
from isthmus.model.mesh import MeshEvent

COMPONENT = "isthmus-tracker"
"""Who Events come from."""

REREAD = 10.0
"""Seconds between looks at the kubeconfig."""

STABLE = 60.0
"""Seconds after which a writer that fails is taken to have been well."""

NO_WAY = "objects of this cluster are not written"
FAILED = "writing objects of this cluster failed; starting again"
NEW_ACCESS = "access to this cluster changed; starting again to write its objects"

_log = structlog.get_logger("isthmus.mesh.control")


class Writer(Protocol):
    """Who writes objects of the own cluster."""

    def apply(self, events: Sequence[MeshEvent]) -> None:
        """Takes a batch of what is told of all clusters; returns at once."""

    async def serve(self, client: Client, recorder: EventRecorder) -> None:
        """Writes until cancelled; may be called again after it was."""


class OwnCluster:
    """A follower of the tracker that serves `writers`; `access` blocks, and says how to reach the API server now."""

    def __init__(
        self,
        access: Callable[[], Access],
        writers: Sequence[Writer],
        *,
        host: str = "",
        reread: float = REREAD,
        pause: Callable[[], Backoff] = lambda: Backoff(base=1.0, cap=60.0),
    ) -> None:
        self._access = access
        self._writers = tuple(writers)
        self._host = host
        self._reread = reread
        self._pause = pause
        self._backoff = pause()

    def apply(self, events: Sequence[MeshEvent]) -> None:
        """Passes a batch on."""
        for writer in self._writers:
            writer.apply(events)

    async def serve(self) -> None:
        """Serves the writers until cancelled."""
        said = ""
        while True:
            try:
                access = await asyncio.to_thread(self._access)
            except KubeError as error:
                if said != str(error):
                    said = str(error)
                    _log.warning(NO_WAY, reason=said)
                await asyncio.sleep(self._backoff.next())
                continue
            said = ""
            self._backoff.reset()
            await self._session(access)

    async def _session(self, access: Access) -> None:
        """Serves the writers with one way of access; returns when there is another."""
        async with Client(access) as client, asyncio.TaskGroup() as tasks:
            recorder = EventRecorder(client, COMPONENT, self._host)
            serving = [tasks.create_task(_kept("events", recorder.serve, self._pause))]
            for writer in self._writers:
                work = partial(writer.serve, client, recorder)
                serving.append(tasks.create_task(_kept(type(writer).__name__, work, self._pause)))
            await self._changed(access)
            _log.info(NEW_ACCESS)
            for task in serving:
                task.cancel()

    async def _changed(self, access: Access) -> None:
        while True:
            await asyncio.sleep(self._reread)
            try:
                found = await asyncio.to_thread(self._access)
            except KubeError:
                continue  # half written, or gone: what works goes on
            if found != access:
                return


async def _kept(name: str, work: Callable[[], Awaitable[None]], pause: Callable[[], Backoff]) -> None:
    """Does `work` for ever: whatever goes wrong in it is said once, and neither ends the tracker nor another writer."""
    said, delays, loop = "", pause(), asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            await work()
        except Exception as error:
            fault = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
            if said != repr(fault):
                said = repr(fault)
                _log.error(FAILED, writer=name, exc_info=fault)
        if loop.time() - began > STABLE:
            delays.reset()
        await asyncio.sleep(delays.next())
