"""The hands: does what a plan asks for over HTTP, and shows the result to the world at once.

Invariants: what is written never goes faster than the pace; a kind of object that may not be written, or that the
server does not have, is said once and tried again rarely, by one object for all of them; whoever changes what we wrote
is overruled ever more rarely (`insistence`). A plan that could not be done as a whole is planned anew later. Rejected:
giving up on a kind that is refused: rights are given while we run.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from isthmus.aio.backoff import Backoff
from isthmus.aio.pace import Pace
from isthmus.kube.client import Client
from isthmus.kube.errors import AlreadyExists, Conflict, Forbidden, KubeError, NotFound, too_late
from isthmus.kube.events import EventRecorder
from isthmus.kube.resources import Resource
from isthmus.mesh.control.effects import Change, Create, Delete, Effect, Tell, Write
from isthmus.mesh.control.insistence import Insistence

HELD = 15.0
LONGEST_HELD = 300.0
"""Seconds after which a kind that is refused is tried again; doubles up to the second."""

SOON = 1.0
"""Seconds after which a plan is looked at again that met an object in another state."""

TAKEN = 60.0
"""Seconds after which a name that somebody else has is tried again."""

REFUSED = "objects cannot be written"
ACCEPTED = "objects can be written again"
OVERRULED = "somebody else changes what the tracker writes; put right"
NAME_TAKEN = "an object of this name is somebody else's; left alone"

_log = structlog.get_logger("isthmus.mesh.control")

Show = Callable[[Resource, Any], None]
"""Takes an object as the server stored it."""


class _Hold:
    def __init__(self) -> None:
        self.until = 0.0
        self.reason = ""
        self.backoff = Backoff(base=HELD, cap=LONGEST_HELD, jitter=0.2)


class Hands:
    """Does plans; `types` say how an object of each kind is decoded before it is shown."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        *,
        show: Show,
        types: dict[Resource, type[Any]],
        pace: Pace,
        rng: Callable[[], float] = random.random,
        on_write: Callable[[Resource, str], None] = lambda _resource, _result: None,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._show = show
        self._types = types
        self._pace = pace
        self._rng = rng
        self._on_write = on_write
        self._insistence = Insistence(rng=rng)
        self._holds: dict[Resource, _Hold] = {}
        self._taken: set[tuple[str, str, str]] = set()

    async def do(self, effects: Sequence[Effect]) -> float | None:
        """Does a plan in its order; returns after how many seconds to plan again, None if all is done.

        Raises KubeError for what is worth a growing pause: lost connections, objects that the server finds invalid.
        """
        again: float | None = None
        absent: set[tuple[Resource, str, str]] = set()
        for effect in effects:
            if isinstance(effect, Tell):
                # Words belong to the writes before them: after one that was not done they would be said twice.
                if again is None:
                    self._recorder.emit(effect.about, reason=effect.reason, message=effect.message, type=effect.type)
                continue
            where = (effect.resource, effect.namespace, effect.name)
            if where in absent:
                continue
            delay = await self._write(effect)
            if delay is not None:
                again = delay if again is None else min(again, delay)
                if isinstance(effect, Create):
                    absent.add(where)
        return again

    async def _write(self, write: Write) -> float | None:
        now = asyncio.get_running_loop().time()
        held = self._holds.get(write.resource)
        if held is not None and now < held.until:
            # Spread: what waits for one kind must not come back all at once.
            return held.until - now + 5 * self._rng()
        delay, _ = self._insistence.delay(write, now=now)
        if delay > 0:
            return delay
        await self._pace.take()
        try:
            await self._send(write)
        except AlreadyExists:
            return await self._look(write)
        except NotFound as error:
            return self._missing(write, error)
        except Conflict:
            return SOON
        except Forbidden as error:
            if too_late(error):
                return None
            return self._hold(write.resource, error)
        except KubeError:
            self._on_write(write.resource, "failed")
            raise
        self._well(write)
        return None

    async def _send(self, write: Write) -> None:
        client, resource = self._client, write.resource
        type_ = self._types[resource]
        match write:
            case Create(_, namespace, _, body):
                stored = await client.create(resource, body, type=type_, namespace=namespace or None)
                self._show(resource, stored)
            case Change(_, namespace, name, patch, status, version):
                if version:
                    patch = {**patch, "metadata": {**patch.get("metadata", {}), "resourceVersion": version}}
                stored = await client.patch(
                    resource,
                    name,
                    patch,
                    type=type_,
                    namespace=namespace or None,
                    subresource="status" if status else None,
                )
                self._show(resource, stored)
            case Delete(_, namespace, name, uid):
                await client.delete(resource, name, namespace=namespace or None, uid=uid)

    def _well(self, write: Write) -> None:
        self._on_write(write.resource, "done")
        held = self._holds.pop(write.resource, None)
        if held is not None:
            _log.info(ACCEPTED, resource=str(write.resource))
        self._taken.discard((write.resource.plural, write.namespace, write.name))
        times = self._insistence.wrote(write, now=asyncio.get_running_loop().time())
        if times:
            _log.warning(OVERRULED, resource=str(write.resource), object=_name(write), times=times)

    async def _look(self, write: Write) -> float | None:
        """Finds out who has the name of an object that was to be created: perhaps our own watch is late."""
        namespace = write.namespace or None
        try:
            stored = await self._client.get(
                write.resource, write.name, type=self._types[write.resource], namespace=namespace
            )
        except NotFound:
            return SOON
        self._show(write.resource, stored)
        if getattr(stored, "ours", True):
            return SOON
        key = (write.resource.plural, write.namespace, write.name)
        if key not in self._taken:
            self._taken.add(key)
            _log.warning(NAME_TAKEN, resource=str(write.resource), object=_name(write))
        return TAKEN

    def _missing(self, write: Write, error: NotFound) -> float | None:
        if isinstance(write, Change) and write.status:
            return HELD  # perhaps it has no status that could be written alone, and never will
        if not isinstance(write, Create):
            return None if isinstance(write, Delete) else SOON  # the watch says what became of it
        if write.namespace and 'namespaces "' in str(error):
            return None  # it went with its namespace
        return self._hold(write.resource, error)

    def _hold(self, resource: Resource, error: KubeError) -> float:
        """Waits with a kind that cannot be written; says so once for each reason."""
        held = self._holds.setdefault(resource, _Hold())
        delay = held.backoff.next()
        held.until = asyncio.get_running_loop().time() + delay
        reason = type(error).__name__
        if held.reason != reason:
            held.reason = reason
            _log.warning(REFUSED, resource=str(resource), reason=str(error), retry_seconds=round(delay))
        self._on_write(resource, "refused")
        return delay


def _name(write: Write) -> str:
    return f"{write.namespace}/{write.name}" if write.namespace else write.name
