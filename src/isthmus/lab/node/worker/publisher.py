"""A pod's status on its way to the API server: the latest one wins, failures are retried, nobody waits but who asks.

Invariants: at most one request per pod at a time; a status equal to the last one written is not written again; a pod
that is gone, or replaced by one of the same name (its UID differs), ends it.
"""

import asyncio
from typing import Any

import structlog

from isthmus.aio.backoff import Backoff
from isthmus.kube.client import Client
from isthmus.kube.errors import Conflict, KubeError, NotFound
from isthmus.kube.resources import PODS

Json = dict[str, Any]

_log = structlog.get_logger()


class StatusPublisher:
    """Writes the status of the pod `namespace/name` with `uid`; run `serve` in a task."""

    def __init__(self, client: Client, *, namespace: str, name: str, uid: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._uid = uid
        self._wanted: Json | None = None
        self._written: Json | None = None
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._gone = False

    def set(self, status: Json) -> None:
        """Asks for `status` to be written."""
        if status != self._wanted:
            self._wanted = status
            self._settled.clear()
            self._changed.set()

    def refresh(self) -> None:
        """Asks for the latest status to be written again, because somebody overwrote it."""
        self._written = None
        self._changed.set()

    async def flush(self, *, limit: float) -> bool:
        """Waits until the latest status is written, at most `limit` seconds; tells whether it is."""
        try:
            async with asyncio.timeout(limit):
                await self._settled.wait()
        except TimeoutError:
            return False
        return not self._gone

    async def serve(self) -> None:
        """Writes until the pod is gone or the task is cancelled."""
        backoff = Backoff(base=0.2, cap=5.0)
        while not self._gone:
            await self._changed.wait()
            self._changed.clear()
            wanted = self._wanted
            if wanted is None or wanted == self._written:
                self._settled.set()
                continue
            body = {"metadata": {"uid": self._uid}, "status": wanted}
            try:
                await self._client.patch(
                    PODS, self._name, body, type=dict, namespace=self._namespace, subresource="status"
                )
            except NotFound:
                self._gone = True
            except Conflict:
                # Ours has no resourceVersion, so a conflict can only be about the UID.
                self._gone = True
            except KubeError as error:
                _log.warning("pod status not written", pod=f"{self._namespace}/{self._name}", reason=str(error))
                await asyncio.sleep(backoff.next())
                self._changed.set()
                continue
            backoff.reset()
            self._written = wanted
            if self._wanted == wanted or self._gone:
                self._settled.set()
            else:
                self._changed.set()
        self._settled.set()
