"""The way to the own cluster's API server for all who write objects there, for as long as the tracker runs.

One client and one recorder of Events for all writers. Invariants: whatever goes wrong here is said and tried again, and
never ends the tracker, which has agents to serve; what is told goes to every writer, also while there is no way to the
server. New credentials in the kubeconfig are taken within REREAD. Rejected: a client for each writer, which is as many
connections and as many rates for Events.
"""

import asyncio
from collections.abc import Callable, Sequence
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
        backoff: Backoff | None = None,
    ) -> None:
        self._access = access
        self._writers = tuple(writers)
        self._host = host
        self._reread = reread
        self._backoff = backoff or Backoff(base=1.0, cap=60.0)

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
                await self._session(access)
                said = ""
                self._backoff.reset()
                continue
            except KubeError as error:
                if said != str(error):
                    said = str(error)
                    _log.warning(NO_WAY, reason=said)
            except Exception as error:
                # A fault of ours here must not take the store away from the agents.
                if said != repr(error):
                    said = repr(error)
                    _log.error(FAILED, exc_info=error)
            await asyncio.sleep(self._backoff.next())

    async def _session(self, access: Access) -> None:
        """Serves the writers with one way of access; returns when there is another. Raises what a writer raises."""
        async with Client(access) as client:
            recorder = EventRecorder(client, COMPONENT, self._host)
            try:
                async with asyncio.TaskGroup() as tasks:
                    serving = [tasks.create_task(recorder.serve())]
                    serving += [tasks.create_task(writer.serve(client, recorder)) for writer in self._writers]
                    await self._changed(access)
                    _log.info(NEW_ACCESS)
                    for task in serving:
                        task.cancel()
            except BaseExceptionGroup as group:
                # One fault is enough to start again; the others would be said next time.
                _, faults = group.split(asyncio.CancelledError)
                raise (faults or group).exceptions[0] from None

    async def _changed(self, access: Access) -> None:
        while True:
            await asyncio.sleep(self._reread)
            try:
                found = await asyncio.to_thread(self._access)
            except KubeError:
                continue  # half written, or gone: what works goes on
            if found != access:
                return
