"""A kind of object that an API server may not know, or may learn of later, or forget.

Asked for now and then, which costs a request and no complaint where there is nothing. Invariants: an absent kind is an
empty Snapshot, told once; a server that cannot be asked tells nothing, so that what was told stays; while the kind is
followed, a failing watch makes us ask again whether it is still there. Rejected: following a path that answers 404,
which logs, backs off and counts as trouble for ever.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

import msgspec
import structlog

from isthmus.aio.backoff import Backoff
from isthmus.kube.client import Client
from isthmus.kube.errors import Forbidden, KubeError, NotFound
from isthmus.kube.reflector import Change, Degraded, Healthy, Snapshot, State, follow
from isthmus.kube.resources import Resource

AGAIN = 30.0
"""Seconds until a server is asked again whether it has the kind, at most: a new cluster gets it within moments."""

SELDOM = 5.0
"""The same where it is asked whether there is any object: whoever makes the first one waits for it."""

CONFIRM = 2.0
"""Seconds after which a server is asked once more that does not have what it had."""

FORBIDDEN = "kind may not be read, and counts as absent"

_log = structlog.get_logger("isthmus.mesh.source")
T = TypeVar("T")

Find = Callable[[], Awaitable[Resource | None]]
"""Says which version of the kind is served to us now, None for none. Raises KubeError where nobody knows."""


class Served:
    """Finds the first of `candidates` (versions of a kind, the best first) that a server has and lets us read.

    A version that could be read once and is refused now is still found: to lose a permission takes nothing back. With
    `populated` a version that holds no object is as good as none: a watch less, for a kind that few clusters use.
    """

    def __init__(self, client: Client, *candidates: Resource, populated: bool = False) -> None:
        self._client = client
        self._populated = populated
        self._candidates = candidates
        self._last: Resource | None = None
        self._said = False

    async def __call__(self) -> Resource | None:
        """Asks for one object of each version in turn."""
        refused: Forbidden | None = None
        for resource in self._candidates:
            try:
                content = await self._client.raw("GET", resource.path(), params={"limit": "1"})
            except NotFound:
                continue
            except Forbidden as error:
                if resource == self._last:
                    return resource
                refused = error
                continue
            self._said = False
            if self._populated and resource != self._last and _is_empty(content):
                continue
            self._last = resource
            return resource
        if refused is not None and not self._said:
            self._said = True
            server = self._client.access.server
            _log.warning(FORBIDDEN, resource=str(self._candidates[0]), server=server, reason=str(refused))
        return None


def _is_empty(content: bytes) -> bool:
    try:
        return not msgspec.json.decode(content, type=_Items).items
    except msgspec.MsgspecError:
        return False  # whoever follows it says what is wrong


class _Items(msgspec.Struct):
    items: list[msgspec.Raw] = []


async def follow_optional(
    client: Client,
    find: Find,
    type: type[T],
    *,
    again: float = AGAIN,
    on_state: Callable[[State], None] | None = None,
) -> AsyncGenerator[Change[T], None]:
    """Yields as `kube.reflector.follow` does, and an empty Snapshot where there is no such kind. Does not end.

    `on_state` hears whether the server can be asked, and how the watch is; a kind that is not there is no trouble.
    """
    report = on_state or (lambda _state: None)
    delays = Backoff(base=min(0.2, again), cap=again)
    absences = Backoff(base=min(1.0, again), cap=again)
    absent = False
    while True:
        try:
            resource = await find()
        except KubeError as error:
            report(Degraded(str(error)))
            await asyncio.sleep(delays.next())
            continue
        delays.reset()
        if resource is None:
            report(Healthy())
            if not absent:
                absent = True
                yield Snapshot(())
            await asyncio.sleep(absences.next())
            continue
        absent = False
        absences.reset()
        served = _while_served(client, resource, type, find=find, again=again, report=report)
        async with contextlib.aclosing(served) as changes:
            async for change in changes:
                yield change


async def _while_served(
    client: Client, resource: Resource, type: type[T], *, find: Find, again: float, report: Callable[[State], None]
) -> AsyncGenerator[Change[T], None]:
    """Follows `resource` until the server has another version of it, or none."""
    doubt = asyncio.Event()

    def on_state(state: State) -> None:
        (doubt.set if isinstance(state, Degraded) else doubt.clear)()
        report(state)

    changes = follow(client, resource, type, on_state=on_state)
    checking = asyncio.create_task(_replaced(find, resource, doubt, again))
    try:
        while True:
            step = asyncio.ensure_future(anext(changes))
            try:
                await asyncio.wait({step, checking}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    return
                change = step.result()
            finally:
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)
            yield change
    finally:
        checking.cancel()
        await asyncio.gather(checking, return_exceptions=True)
        await changes.aclose()


async def _replaced(find: Find, resource: Resource, doubt: asyncio.Event, again: float) -> None:
    """Returns when the server says that it has something else than `resource` now; asks only while in doubt."""
    while True:
        await doubt.wait()
        with contextlib.suppress(KubeError):
            if await find() != resource:
                # A server that has just started may not know yet what it serves.
                await asyncio.sleep(min(again, CONFIRM))
                if await find() != resource:
                    return
        await asyncio.sleep(again)
