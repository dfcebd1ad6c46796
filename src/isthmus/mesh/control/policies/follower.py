"""The tracker's writer of conditions: watches and requests; what to write is `book`'s to say.

A `session.Writer`, and the `PolicyTaker` of the own cluster's source, which watches policies anyway; Nodes are told
with the mesh, and MeshNodes and CIDR groups are watched here, where the server has them. Invariants: nothing is written
of a kind before all of it and all CIDR groups were listed, and nothing of enforcement before Nodes and MeshNodes were;
what concerns one policy is written at once, what concerns all of them (a node that falls silent) one every IN_TIME, so
that it never stands in the way; one policy is written at most once in a REST. Rejected: a look at everything in a
period, which is late for one policy and busy for thousands.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec
import structlog

from isthmus.aio.pace import Pace
from isthmus.kube.client import Client
from isthmus.kube.events import EventRecorder
from isthmus.kube.keyqueue import KeyQueue
from isthmus.kube.meshobjects import MeshNode
from isthmus.kube.reflector import Change, Gone, Put, Snapshot
from isthmus.kube.resources import (
    CILIUM_CIDR_GROUPS,
    MESH_NODES,
    NETWORK_POLICIES,
    POLICY_KINDS,
    Resource,
)
from isthmus.mesh.control.performing import Hands
from isthmus.mesh.control.policies.book import Book
from isthmus.mesh.enforcement import Place
from isthmus.mesh.source.optional import SELDOM, Served, follow_optional
from isthmus.model.mesh import ClusterSynced, MeshEvent, NodeGone, NodeTold

KINDS = tuple(resource for resource in POLICY_KINDS if resource is not NETWORK_POLICIES)
"""Those that have a status."""

GROUPS = (CILIUM_CIDR_GROUPS, msgspec.structs.replace(CILIUM_CIDR_GROUPS, version="v2alpha1"))

REST = 1.0
"""Seconds between two writes of one policy."""

IN_TIME = 0.2
"""Seconds between two policies that are looked at because of something that concerns all."""

LOOK = 5.0
"""Seconds between looks for agents that have fallen silent."""

CONTESTED = "somebody else writes conditions of policies too; what they say is left to them where both agree"

_log = structlog.get_logger("isthmus.mesh.control")


class PolicyConditions:
    """Writes the conditions of the policies of cluster `own`; `clock` gives Unix seconds."""

    def __init__(self, own: str, *, rest: float = REST, clock: Callable[[], float] = time.time) -> None:
        self.book = Book(own)
        self.clock = clock
        self.rest = rest
        self._own = own
        self.listed: set[Resource] = set()
        """Kinds of which everything was told since the start."""
        self.nodes_known = False
        self._session: _Session | None = None

    def apply(self, events: Sequence[MeshEvent]) -> None:
        """Takes a batch of what is told of all clusters."""
        now = self.clock()
        for event in events:
            match event:
                case NodeTold(node) if node.cluster == self._own:
                    self.book.rollout.put_node(node.name, now=now)
                case NodeGone(self._own, name):
                    self.book.rollout.drop_node(name)
                case ClusterSynced(self._own) if not self.nodes_known:
                    self.nodes_known = True
                    self.book.touch_all()
        self.book.lacking(self.book.subjects.apply(events))
        self._kick()

    def retain_policies(self, resource: Resource, objects: Sequence[dict[str, Any]]) -> None:
        """Takes which objects of a kind there are."""
        self.book.retain(resource, objects)

    def put_policies(self, resource: Resource, objects: Sequence[dict[str, Any]], *, listed: bool) -> None:
        """Takes objects that are there."""
        now, loaded = self.clock(), resource in self.listed
        if listed:
            self.book.put_listed(resource, objects, now=now, loaded=loaded)
            return
        for obj in objects:
            self.book.put(resource, obj, now=now)
        self._kick()

    def drop_policy(self, resource: Resource, obj: dict[str, Any]) -> None:
        """Takes a deletion."""
        self.book.drop(resource, obj)
        self._kick()

    def listed_policies(self, resource: Resource) -> None:
        """Takes that all objects of a kind were told."""
        if resource not in self.listed:
            self.listed.add(resource)
            self.book.touch_all()
        self._kick()

    def _kick(self) -> None:
        if self._session is not None:
            self._session.kick()

    async def serve(self, client: Client, recorder: EventRecorder) -> None:
        """Writes until cancelled."""
        session = self._session = _Session(self, client, recorder)
        try:
            await session.serve()
        finally:
            self._session = None


class _Session:
    """The writer at work with one client."""

    def __init__(self, owner: PolicyConditions, client: Client, recorder: EventRecorder) -> None:
        self._owner = owner
        self._book = owner.book
        self._client = client
        self._loaded: set[Resource] = set()
        self._hands = Hands(
            client, recorder, show=self._show, types=dict.fromkeys(KINDS, dict), pace=Pace(rate=10, burst=50)
        )
        self._queues = {
            kind.kind: KeyQueue(kind.plural, partial(self._work, kind), workers=2, rest=owner.rest) for kind in KINDS
        }
        self._in_time: dict[Place, None] = {}
        self._wake = asyncio.Event()
        self._began = 0.0
        self._said = False

    async def serve(self) -> None:
        """Works until cancelled."""
        self._began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            for queue in self._queues.values():
                tasks.create_task(queue.serve())
            tasks.create_task(self._watch(dict, self._book.on_groups, *GROUPS, populated=True))
            tasks.create_task(self._watch(MeshNode, self._take_mesh_nodes, MESH_NODES))
            tasks.create_task(self._look())
            tasks.create_task(self._drip())

    async def _watch(
        self, type: type[Any], take: Callable[[Any], None], *versions: Resource, populated: bool = False
    ) -> None:
        served = Served(self._client, *versions, populated=populated)
        async with aclosing(follow_optional(self._client, served, type, again=SELDOM)) as changes:
            async for change in changes:
                take(change)
                self._took(versions[0], change)

    def _took(self, resource: Resource, change: Change[Any]) -> None:
        if isinstance(change, Snapshot) and resource not in self._loaded:
            self._loaded.add(resource)
            self._book.touch_all()
        self.kick()

    def _take_mesh_nodes(self, change: Change[MeshNode]) -> None:
        rollout, now = self._book.rollout, self._owner.clock()
        match change:
            case Put(node):
                rollout.put_mesh_node(node, now=now)
            case Gone(node):
                rollout.drop_mesh_node(node.metadata.name, now=now)
            case Snapshot(nodes):
                rollout.retain_mesh_nodes((node.metadata.name for node in nodes), now=now)
                for node in nodes:
                    rollout.put_mesh_node(node, now=now)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            self._book.rollout.tick(now=self._owner.clock())
            self.kick()

    async def _drip(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._in_time:
                place = next(iter(self._in_time))
                del self._in_time[place]
                self._add(place)
                await asyncio.sleep(IN_TIME)

    def kick(self) -> None:
        """Hands on what has to be looked at, once enough is known to look at anything."""
        waited = asyncio.get_running_loop().time() - self._began
        if GROUPS[0] not in self._loaded or not (self._nodes_known or waited >= LOOK):
            return
        now, later = self._book.take()
        for place in now:
            self._in_time.pop(place, None)
            self._add(place)
        if later:
            self._in_time.update(dict.fromkeys(later))
            self._wake.set()
        if self._book.contests and not self._said:
            self._said = True
            _log.warning(CONTESTED, contests=self._book.contests)

    @property
    def _nodes_known(self) -> bool:
        return self._owner.nodes_known and MESH_NODES in self._loaded

    def _add(self, place: Place) -> None:
        kind, namespace, name = place
        self._queues[kind].add((namespace, name))

    async def _work(self, kind: Resource, key: tuple[str, str]) -> float | None:
        if kind not in self._owner.listed:
            return None  # all are looked at when it is
        await asyncio.sleep(0)
        place = (kind.kind, *key)
        change, again = self._book.plan(place, now=self._owner.clock(), enforcement=self._nodes_known)
        if change is None:
            return again
        self._book.sending(place, change)
        held = await self._hands.do([change])
        return min((delay for delay in (held, again) if delay is not None), default=None)

    def _show(self, resource: Resource, stored: Any) -> None:
        """Takes what the server stored, before the watch brings it."""
        self._book.answered(resource, stored, now=self._owner.clock())
