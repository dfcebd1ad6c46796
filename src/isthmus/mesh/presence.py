"""The tracker's Lease: that there is a tracker, for those who look at the mesh from outside.

What a tracker last said of clusters stays when it is gone, and looks as good as ever. Invariants: renewed every PERIOD
while it lives; given back when it ends in order, so that one need not wait to see that; that it cannot be written is
said once and disturbs nothing. Nobody is elected by it. Rejected: a time in each MeshCluster, which makes everyone who
watches them read every renewal.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from isthmus.kube.client import Client
from isthmus.kube.errors import AlreadyExists, KubeError, NotFound
from isthmus.kube.events import EventRecorder
from isthmus.kube.resources import LEASES
from isthmus.mesh.membership import NAMESPACE
from isthmus.model.mesh import MeshEvent

NAME = "isthmus-tracker"
PERIOD = 20.0
"""Seconds between two renewals."""

DURATION = 60
"""Seconds after which a Lease that was not renewed says that its holder is gone."""

RELEASE_LIMIT = 1.0
"""Seconds to give it back in; whoever ends us may not wait for long."""

NOT_WRITTEN = "Lease of the tracker is not renewed"

_log = structlog.get_logger("isthmus.mesh.presence")


class Presence:
    """Holds the Lease as `holder` while it is served; `now` is the wall clock."""

    def __init__(self, holder: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._holder = holder
        self._now = now
        self._said = ""

    def apply(self, events: Sequence[MeshEvent]) -> None:
        """Takes what is told of clusters, which means nothing here."""

    async def serve(self, client: Client, _recorder: EventRecorder) -> None:
        """Renews until cancelled."""
        try:
            while True:
                await self._renew(client)
                await asyncio.sleep(PERIOD)
        finally:
            # Also if the server does not answer: then it is silent, and says the same a minute later.
            with contextlib.suppress(KubeError, TimeoutError):
                async with asyncio.timeout(RELEASE_LIMIT):
                    await self._write(client, {"holderIdentity": ""})

    async def _renew(self, client: Client) -> None:
        stamp = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self._holder, "leaseDurationSeconds": DURATION, "renewTime": stamp}
        try:
            try:
                await self._write(client, spec)
            except NotFound:
                with contextlib.suppress(AlreadyExists):  # by another replica, which renews it as well
                    place = {"name": NAME, "namespace": NAMESPACE}
                    lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": place, "spec": spec}
                    await client.create(LEASES, lease, type=dict, namespace=NAMESPACE)
        except KubeError as error:
            if self._said != str(error):
                self._said = str(error)
                _log.warning(NOT_WRITTEN, reason=self._said)
        else:
            self._said = ""

    async def _write(self, client: Client, spec: dict[str, Any]) -> None:
        await client.patch(LEASES, NAME, {"spec": spec}, type=dict, namespace=NAMESPACE)
