"""Following kinds that come with CustomResourceDefinitions: not there yet, there, not ours to see, really gone.

What a 404 means depends. A server that starts answers so before it has read its definitions, a proxy may, and a
definition that serves another version by now does; in none of these cases have the policies ceased to be meant. So a
kind is absent only if its definition is: the agent watches the definitions (their metadata alone) and is told when one
comes, without asking again and again, and when one is gone, which the server says only after the last object of the
kind is. Invariants: absent and forbidden kinds are an empty Snapshot, told at once and once; what has been told stays
while the server fails, refuses or does not answer; where definitions may not be watched, kinds are looked for now and
then, and never taken to be gone. Rejected: discovery documents, which lag behind, and are nobody's word that an object
was deleted.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import structlog

from isthmus.agent.policies.book import Unseen
from isthmus.aio.backoff import Backoff
from isthmus.kube.client import Client
from isthmus.kube.errors import Forbidden, KubeError, NotFound
from isthmus.kube.reflector import DELAY_CAP, Change, Gone, Put, Snapshot, follow
from isthmus.kube.resources import CUSTOM_RESOURCE_DEFINITIONS, Resource
from isthmus.kube.schema import Bare

SELDOM = 60.0
"""Seconds between two looks at most, where nobody tells."""

PATIENCE = 10.0
"""Seconds for which a kind that is defined, and not served, is waited for at the start."""

PRESENT = "kind is there"
FORBIDDEN = "kind may not be watched, and counts as absent; it will be tried now and then"
GONE = "kind is gone, and all its objects with it"
BLIND = "definitions cannot be watched; kinds that are missing will be looked for now and then"

Object = dict[str, object]

_log = structlog.get_logger("isthmus.agent")


class Definitions:
    """Which CustomResourceDefinitions there are, as far as the server tells."""

    def __init__(self) -> None:
        self._names: set[str] | None = None
        self._answered = asyncio.Event()
        self._changed = asyncio.Event()

    def has(self, resource: Resource) -> bool | None:
        """Tells whether a kind is defined; None if nobody knows."""
        return str(resource) in self._names if self._names is not None else None

    async def answered(self) -> None:
        """Waits until the server has said something, if only that it will not."""
        await self._answered.wait()

    async def changed(self, limit: float) -> None:
        """Waits until something may be different, `limit` seconds at most."""
        try:
            async with asyncio.timeout(limit):
                await self._changed.wait()
        except TimeoutError:
            pass

    def take(self, change: Change[Bare]) -> None:
        """Takes in a change of definitions."""
        names = self._names or set()
        match change:
            case Put(definition):
                self._names = names | {definition.metadata.name}
            case Gone(definition):
                self._names = names - {definition.metadata.name}
            case Snapshot(definitions):
                self._names = {definition.metadata.name for definition in definitions}
        self._answered.set()
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()

    async def follow(self, client: Client) -> None:
        """Watches, until cancelled."""
        await self._until_allowed(client)
        changes = follow(client, CUSTOM_RESOURCE_DEFINITIONS, Bare, metadata_only=True)
        async with aclosing(changes):
            async for change in changes:
                self.take(change)

    async def _until_allowed(self, client: Client) -> None:
        """Waits for a server that answers and lets us read; only its refusal says that it will not tell."""
        delays = Backoff(base=0.5, cap=SELDOM)
        outages = Backoff(base=0.5, cap=DELAY_CAP)
        while True:
            try:
                await client.raw("GET", CUSTOM_RESOURCE_DEFINITIONS.path(), params={"limit": "1"})
                return
            except Forbidden as error:
                if not self._answered.is_set():
                    _log.warning(BLIND, reason=str(error))
                    self._answered.set()
                await asyncio.sleep(delays.next())
            except KubeError:  # the other watches say so
                await asyncio.sleep(outages.next())


class KindWatch:
    """One kind, in the first of its versions (`candidates`, the best first) that is served; tells `sink`."""

    def __init__(
        self,
        client: Client,
        definitions: Definitions,
        *candidates: Resource,
        sink: Callable[[Change[Object]], None],
    ) -> None:
        self._client = client
        self._definitions = definitions
        self._candidates = candidates
        self._sink = sink
        self._told = False
        self._refusal = ""

    async def run(self) -> None:
        """Follows the kind until cancelled."""
        await self._definitions.answered()
        while True:
            resource = await self._until_there()
            _log.info(PRESENT, resource=str(resource), version=resource.version)
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(self._follow(resource))
                while self._definitions.has(resource) is not False:
                    await self._definitions.changed(SELDOM)
                following.cancel()
            _log.warning(GONE, resource=str(resource))
            self._sink(Snapshot(()))

    async def _follow(self, resource: Resource) -> None:
        changes = follow(self._client, resource, dict)
        async with aclosing(changes):
            async for change in changes:
                self._told = True
                self._sink(change)

    async def _until_there(self) -> Resource:
        """Waits until the server shows us the kind; tells at once where it is clear that it does not."""
        loop = asyncio.get_running_loop()
        patience: float | None = None
        delays = Backoff(base=0.2, cap=SELDOM)
        outages = Backoff(base=0.5, cap=DELAY_CAP)
        while True:
            defined = self._definitions.has(self._candidates[0])
            if defined is False:
                self._absent(Snapshot(()))
                delays.reset()
                patience = None
                await self._definitions.changed(SELDOM)
                continue
            try:
                resource = await self._served()
            except Forbidden as error:
                if str(error) != self._refusal:
                    self._refusal = str(error)
                    _log.warning(FORBIDDEN, resource=str(self._candidates[0]), reason=str(error))
                self._absent(Unseen(()))
            except KubeError:  # the other watches say so
                await asyncio.sleep(outages.next())
                continue
            else:
                if resource is not None:
                    self._refusal = ""
                    return resource
                patience = loop.time() + PATIENCE if patience is None else patience
                if not defined or loop.time() >= patience:
                    self._absent(Unseen(()))
            await self._definitions.changed(delays.next())

    async def _served(self) -> Resource | None:
        """Returns the version that the server has, None if it has none of them. Raises KubeError."""
        for resource in self._candidates:
            try:
                await self._client.raw("GET", resource.path(), params={"limit": "1"})
            except NotFound:
                continue
            return resource
        return None

    def _absent(self, nothing: Snapshot[Object]) -> None:
        if not self._told:
            self._told = True
            self._sink(nothing)
