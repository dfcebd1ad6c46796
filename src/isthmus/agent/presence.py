"""Tells the own cluster how this agent is: the status of the MeshNode that is named as the node.

Invariants: written when what matters has changed, at most every PAUSE seconds, and every HEARTBEAT seconds in any case;
that policies were taken in which change nothing else (watermarks) is written within PROGRESS seconds; what merely
counts (endpoints, nodes) goes along with the next write and causes none, because pods come and go all the time and
there may be thousands of agents. What an earlier run said stays while this one starts, for START seconds at most: its
table is in force as well. The object is made if it is not there, and stays when the agent ends: its heartbeat then says
so. Where it cannot be written (no such kind, no permission) that is said once, tried again slowly, and hinders nothing.
Rejected: Leases, which every node has one of already, and which say nothing but that.
"""

import asyncio
import contextlib
import datetime
import time
from collections.abc import Callable, Mapping

import msgspec
import structlog

from isthmus import __version__
from isthmus.aio.backoff import Backoff
from isthmus.kube.client import Client
from isthmus.kube.errors import AlreadyExists, BadAnswer, Forbidden, KubeError, NotFound
from isthmus.kube.meshobjects import ClusterSeenByNode, MeshNode, MeshNodeStatus, PoliciesOnNode
from isthmus.kube.resources import MESH_NODES, POLICY_KINDS
from isthmus.kube.schema import Bare

PAUSE = 2.0
PROGRESS = 10.0
START = 5.0
HEARTBEAT = 60.0
SLOW = 60.0
"""Seconds between two tries at most, where one fails after the other."""

NOT_WRITTEN = "status of the MeshNode is not written"
WRITTEN = "status of the MeshNode is written again"

_log = structlog.get_logger()


class OtherCluster(msgspec.Struct, frozen=True):
    """Another cluster: `health` in the words of MeshNode."""

    name: str
    ready: bool
    reason: str = ""
    health: str = "Unwatched"
    unreachable: tuple[str, ...] = ()


class Counts(msgspec.Struct, frozen=True):
    """How much is known of a cluster."""

    nodes: int = 0
    endpoints: int = 0
    services: int = 0


class State(msgspec.Struct, frozen=True):
    """What matters of how an agent is; `reason` says why it is not ready."""

    ready: bool
    reason: str = ""
    services: int = 0
    clusters: tuple[OtherCluster, ...] = ()
    policies: PoliciesOnNode | None = None

    @property
    def standing(self) -> "State":
        """Returns the same without how far policies were taken in."""
        if self.policies is None:
            return self
        return msgspec.structs.replace(self, policies=msgspec.structs.replace(self.policies, watermarks={}))


class Presence:
    """Writes the status. `state` is cheap and asked often; `counts` may look at everything and is asked on writes.

    `recall` hears what an earlier run wrote last, before it is overwritten.
    """

    def __init__(
        self,
        client: Client,
        node: str,
        *,
        state: Callable[[], State],
        counts: Callable[[], Mapping[str, Counts]],
        recall: Callable[[MeshNodeStatus], None] = lambda _: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.node_uid = ""
        """UID of the Node, once it is known: the object goes with it."""
        self._client = client
        self._node = node
        self._state = state
        self._counts = counts
        self._recall = recall
        self._read = False
        self._now = now
        self._wake = asyncio.Event()
        self._told: State | None = None
        self._since: dict[str, tuple[str, str]] = {}  # health of a cluster, and since when
        self._trouble = ""
        self._kinds: set[str] = {resource.kind for resource in POLICY_KINDS}  # an earlier run may have told of them

    def changed(self) -> None:
        """Says that the state may be another one; cheap."""
        self._wake.set()

    async def serve(self) -> None:
        """Writes until cancelled."""
        loop = asyncio.get_running_loop()
        retry = Backoff(base=1.0, cap=SLOW)
        written = float("-inf")
        started = loop.time() + START
        while True:
            state = self._state()
            age = loop.time() - written
            if self._due(state, age):
                try:
                    await self._read_earlier()
                    if self._told is None and not state.ready and loop.time() < started:
                        await self._woken(by=started)
                        continue
                    await self._write(self.status(state))
                except (KubeError, ValueError) as error:
                    self._say(str(error))
                    await asyncio.sleep(retry.next())
                    continue
                self._say("")
                retry.reset()
                self._told, written = state, loop.time()
            # Cleared before the pause: what changes in it is looked at after it.
            self._wake.clear()
            await asyncio.sleep(PAUSE)
            # What is not due yet is looked at again when it is.
            await self._woken(by=written + (HEARTBEAT if state == self._told else PROGRESS))

    async def _woken(self, *, by: float) -> None:
        """Waits until something may have changed; no longer than until `by`, in the loop's time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(by):
                await self._wake.wait()
        self._wake.clear()

    def _due(self, state: State, age: float) -> bool:
        """Tells whether `state` must be written, `age` seconds after the last time."""
        told = self._told
        if told is None or age >= HEARTBEAT or state.standing != told.standing:
            return True
        return state != told and age >= PROGRESS

    def status(self, state: State) -> MeshNodeStatus:
        """Returns the status to be written now."""
        now = datetime.datetime.fromtimestamp(self._now(), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        clusters: list[ClusterSeenByNode] = []
        before, self._since = self._since, {}
        counted = self._counts() if state.clusters else {}
        for seen in state.clusters:
            health, since = before.get(seen.name, ("", ""))
            self._since[seen.name] = (seen.health, since if seen.health == health else now)
            counts = counted.get(seen.name, Counts())
            clusters.append(
                ClusterSeenByNode(
                    name=seen.name,
                    ready=seen.ready,
                    reason=seen.reason,
                    nodes=counts.nodes,
                    endpoints=counts.endpoints,
                    services=counts.services,
                    health=seen.health,
                    unreachable=seen.unreachable,
                    since=self._since[seen.name][1],
                )
            )
        return MeshNodeStatus(
            version=__version__,
            ready=state.ready,
            reason=state.reason,
            heartbeat=now,
            connected=f"{sum(seen.ready for seen in state.clusters)}/{len(state.clusters)}",
            globalServices=state.services,
            clusters=tuple(clusters),
            policies=state.policies,
        )

    async def _read_earlier(self) -> None:
        if not self._read:
            with contextlib.suppress(NotFound, Forbidden, BadAnswer):
                self._recall((await self._client.get(MESH_NODES, self._node, type=MeshNode)).status)
            self._read = True

    async def _write(self, status: MeshNodeStatus) -> None:
        patch = self._patch(status)
        try:
            await self._client.patch(MESH_NODES, self._node, patch, type=Bare, subresource="status")
        except NotFound:
            try:
                await self._client.create(MESH_NODES, self._body(), type=Bare)
            except AlreadyExists:
                pass  # made by an agent that this one replaces, just now
            await self._client.patch(MESH_NODES, self._node, patch, type=Bare, subresource="status")

    def _patch(self, status: MeshNodeStatus) -> dict[str, object]:
        """Returns the merge patch that makes the status what it is to be, also where something goes."""
        patch: dict[str, object] = msgspec.to_builtins(status)
        if status.policies is not None:
            now = status.policies.watermarks
            patch["policies"] = {
                **msgspec.to_builtins(status.policies),
                "watermarks": {**dict.fromkeys(self._kinds), **now},
            }
            self._kinds |= now.keys()
        return {"status": patch}

    def _body(self) -> dict[str, object]:
        metadata: dict[str, object] = {"name": self._node}
        if self.node_uid:
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": self.node_uid}
            metadata["ownerReferences"] = [owner]
        return {"apiVersion": MESH_NODES.api_version, "kind": MESH_NODES.kind, "metadata": metadata}

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            if trouble:
                _log.warning(NOT_WRITTEN, node=self._node, reason=trouble)
            else:
                _log.info(WRITTEN, node=self._node)
            self._trouble = trouble
