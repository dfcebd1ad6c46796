"""The supervisor's socket: one task per connection, one change at a time.

Invariants: a request that makes no sense, or fails, costs its sender an error and nobody else anything; a connection
that ends before it committed its cluster takes that cluster with it; without clusters and without anybody who talks to
it the supervisor ends, so that a command killed at a bad moment leaves nothing behind.
"""

import asyncio
import os
import socket

import msgspec
import structlog

from isthmus.aio.readiness import readable
from isthmus.lab.control import (
    MAX_MESSAGE,
    Commit,
    Create,
    Delete,
    Halt,
    Heal,
    Health,
    Partition,
    Reply,
    Request,
    Start,
    StartNode,
    StartUnits,
    StopNode,
    StopUnits,
    decode_request,
    encode,
)
from isthmus.lab.node.keeper.descriptors import receive
from isthmus.lab.supervisor.clusters import Clusters, RefusedError

IDLE_LIMIT = 20.0
"""Seconds without clusters and connections after which the supervisor ends."""
_MAX_DESCRIPTORS = 4
_MAX_CONNECTIONS = 64

_log = structlog.get_logger()


class Service:
    """Serves `listener` until nothing is left to do."""

    def __init__(self, listener: socket.socket, *, clusters: Clusters) -> None:
        self._listener = listener
        self._clusters = clusters
        self._changes = asyncio.Lock()
        self._connections = 0
        self._had_clusters = False
        self._halting = self._halted = False
        self._moved = asyncio.Event()

    async def serve(self) -> None:
        """Returns when the last cluster was deleted, or nobody came for IDLE_LIMIT."""
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(self._accept(group))
            await self._wait_until_done()
            accepting.cancel()

    async def _wait_until_done(self) -> None:
        while True:
            self._moved.clear()
            if self._halted:
                return
            idle = not self._connections and not len(self._clusters)
            if idle and self._had_clusters:
                return
            try:
                async with asyncio.timeout(IDLE_LIMIT if idle else None):
                    await self._moved.wait()
            except TimeoutError:
                return

    async def _accept(self, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _address = await loop.sock_accept(self._listener)
            connection.setblocking(False)
            if self._connections >= _MAX_CONNECTIONS:
                connection.close()
                continue
            self._connections += 1
            self._moved.set()
            group.create_task(self._converse(connection))

    async def _converse(self, connection: socket.socket) -> None:
        created: set[str] = set()
        try:
            while True:
                data, descriptors = await _receive(connection)
                if not data:
                    return
                reply = await self._answer(data, descriptors, created)
                await asyncio.get_running_loop().sock_sendall(connection, encode(reply))
                if self._halting:
                    # Not before the answer is on its way, and whoever else is connected.
                    self._halted = True
                    return
        except OSError as error:
            _log.warning("connection lost", error=str(error))
        finally:
            connection.close()
            try:
                async with self._changes:
                    for name in created:
                        _log.warning("creator is gone, cluster is taken down", cluster=name)
                        await self._clusters.delete(name, keep_files=self._clusters.kept(name))
            finally:
                self._connections -= 1
                self._moved.set()

    async def _answer(self, data: bytes, descriptors: list[int], created: set[str]) -> Reply:
        try:
            request = decode_request(data)
        except msgspec.DecodeError as error:
            _close_all(descriptors)
            return Reply(error=f"request makes no sense: {error}")
        kept = descriptors[:1] if isinstance(request, Start) else []
        _close_all(descriptors[len(kept) :])
        try:
            if isinstance(request, Health):
                # It waits for others and changes nothing, so it holds nobody up.
                return Reply(health=await self._clusters.health(request.cluster))
            async with self._changes:
                await self._perform(request, kept, created)
        except RefusedError as error:
            return Reply(error=str(error))
        return self._clusters.describe()

    async def _perform(self, request: Request, descriptors: list[int], created: set[str]) -> None:
        match request:
            case Create(plan=plan, keep=keep):
                await self._clusters.create(plan, keep=keep)
                created.add(plan.name)
                self._had_clusters = True
            case Start(cluster=name, units=units):
                self._clusters.start(name, units, descriptor=descriptors[0] if descriptors else None)
            case Commit(cluster=name):
                self._clusters.commit(name)
                created.discard(name)
            case Delete(cluster=name):
                await self._clusters.delete(name)
                created.discard(name)
            case Halt():
                await self._clusters.halt()
                self._halting = True
            case _:
                await self._disturb(request)

    async def _disturb(self, request: Request) -> None:
        """Makes or ends a fault."""
        match request:
            case StopUnits(cluster=name, units=units):
                await self._clusters.stop_units(name, units)
            case StartUnits(cluster=name, units=units):
                self._clusters.start_units(name, units)
            case StopNode(cluster=name, node=node):
                await self._clusters.stop_node(name, node)
            case StartNode(cluster=name, node=node):
                self._clusters.start_node(name, node)
            case Partition(one=one, other=other):
                self._clusters.partition(one, other)
            case Heal(one=one, other=other):
                self._clusters.heal(one, other)


async def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Returns the next packet with its descriptors; empty at the end."""
    while True:
        try:
            return receive(connection, MAX_MESSAGE, _MAX_DESCRIPTORS)
        except BlockingIOError:
            # A command may hold its connection for as long as it works.
            await readable(connection.fileno())


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
