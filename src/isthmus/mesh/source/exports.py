"""ServiceExports of an API server that may not know the kind, or may learn of it later, or forget it.

Asked for by discovery, which costs a request and no complaint where there is nothing. Invariants: an absent kind is an
empty Snapshot, told once; a server that cannot be asked tells nothing, so that what was told stays; while the kind is
followed, a failing watch makes us ask again whether it is still there. Rejected: following a path that answers 404,
which logs, backs off and counts as trouble for ever.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from isthmus.aio.backoff import Backoff
from isthmus.kube.client import Client
from isthmus.kube.errors import Forbidden, KubeError, NotFound
from isthmus.kube.reflector import Change, Degraded, Healthy, Snapshot, State, follow
from isthmus.kube.resources import Resource
from isthmus.mesh.mcs.api import ServiceExport, discover

AGAIN = 30.0
"""Seconds until a server is asked again whether it has the kind, at most: a new cluster gets it within moments."""


async def follow_exports(
    client: Client, *, again: float = AGAIN, on_state: Callable[[State], None] | None = None
) -> AsyncGenerator[Change[ServiceExport], None]:
    """Yields as `kube.reflector.follow` does, and an empty Snapshot where there is no such kind. Does not end.

    `on_state` hears whether the server can be asked, and how the watch is; a kind that is not there is no trouble.
    """
    report = on_state or (lambda _state: None)
    delays = Backoff(base=min(0.2, again), cap=again)
    absences = Backoff(base=min(1.0, again), cap=again)
    absent = False
    while True:
        try:
            resource = await _find(client)
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
        async with contextlib.aclosing(_while_served(client, resource, again, report)) as changes:
            async for change in changes:
                yield change


async def _while_served(
    client: Client, resource: Resource, again: float, report: Callable[[State], None]
) -> AsyncGenerator[Change[ServiceExport], None]:
    """Follows `resource` until the server has another version of it, or none."""
    doubt = asyncio.Event()

    def on_state(state: State) -> None:
        (doubt.set if isinstance(state, Degraded) else doubt.clear)()
        report(state)

    changes = follow(client, resource, ServiceExport, on_state=on_state)
    checking = asyncio.create_task(_replaced(client, resource, doubt, again))
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


async def _replaced(client: Client, resource: Resource, doubt: asyncio.Event, again: float) -> None:
    """Returns when the server says that it has something else than `resource` now; asks only while in doubt."""
    while True:
        await doubt.wait()
        try:
            if await _find(client) != resource:
                return
        except KubeError:
            pass
        await asyncio.sleep(again)


async def _find(client: Client) -> Resource | None:
    """Returns the best version that is served to us; None also where we may not read it, or ask."""
    try:
        api = await discover(client)
        if api is not None:
            await client.raw("GET", api.exports.path(), params={"limit": "1"})
    except (Forbidden, NotFound):
        return None
    return api.exports if api is not None else None
