"""Following the Secret in which a cluster's peers are, while a tracker runs.

Invariants: as long as the Secret could not be read nothing is known of peers, which is not the same as having none; an
API server that fails changes nothing; an empty or deleted Secret means that there are no peers. What cannot be used is
said once. The credentials are never written anywhere. Rejected: mounting the Secret as files, which comes a minute late
and needs a pod.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import structlog

from isthmus.aio.backoff import Backoff
from isthmus.kube.access import Access
from isthmus.kube.client import Client
from isthmus.kube.errors import Forbidden, KubeError, NotFound
from isthmus.kube.kubeconfig import load
from isthmus.kube.reflector import Put, Snapshot, follow
from isthmus.kube.resources import SECRETS
from isthmus.kube.schema import Bare, Secret
from isthmus.mesh.clusters import ClusterSpec
from isthmus.mesh.membership import NAMESPACE, PEERS, Membership, read_peers

UNREADABLE = "Peers of the cluster mesh cannot be read; those that are known stay"
FORBIDDEN = "May not read the peers of the cluster mesh; only --cluster and --clusters-file count"

_log = structlog.get_logger("isthmus.mesh.peers")


class PeersFollower:
    """Follows the peers that the API server of `own` knows; `on_change` hears of each new state, None is "may not"."""

    def __init__(self, own: ClusterSpec, *, on_change: Callable[[Membership | None], None]) -> None:
        self._own = own
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None

    def reach(self, own: ClusterSpec) -> None:
        """The way to the own API server is another one now; begins again with it."""
        if own != self._own:
            self._own = own
            if self._task is not None:
                self._task.cancel()

    async def serve(self) -> None:
        """Follows until cancelled."""
        while True:
            self._task = asyncio.create_task(self._follow(self._own), name="peers")
            try:
                # Ends by `reach` alone.
                await asyncio.wait([self._task])
            finally:
                self._task.cancel()
            if not self._task.cancelled():
                self._task.result()

    async def _follow(self, own: ClusterSpec) -> None:
        delays = Backoff(base=0.5, cap=10.0)
        said = ""
        while True:
            try:
                access = own.access
                if access is None:
                    access = await asyncio.to_thread(load, own.kubeconfig, context=own.context)
                await self._watch(access, own.cluster.name)
            except KubeError as error:
                if str(error) != said:
                    said = str(error)
                    _log.warning(FORBIDDEN if isinstance(error, Forbidden) else UNREADABLE, error=said)
                if isinstance(error, Forbidden):
                    self._on_change(None)
                await asyncio.sleep(delays.next())

    async def _watch(self, access: Access, own: str) -> None:
        """Tells what the Secret holds, for ever; raises KubeError if the Secret cannot be read at first."""
        async with Client(access) as client:
            try:
                await client.get(SECRETS, PEERS, type=Bare, namespace=NAMESPACE)
            except NotFound:
                pass  # it need not be there yet
            changes = follow(client, SECRETS, Secret, namespace=NAMESPACE, field_selector=f"metadata.name={PEERS}")
            async with aclosing(changes):
                async for change in changes:
                    match change:
                        case Snapshot(objects):
                            found = objects[0] if objects else None
                        case Put(found):
                            pass
                        case _:
                            found = None
                    self._on_change(Membership() if found is None else read_peers(found.data, own=own))
