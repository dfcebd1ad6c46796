"""ServiceExports of an API server that may not know the kind, in the best version that it has.

Found by discovery, because both kinds of the API go together. Rejected: taking a server that lets nobody read them for
one that cannot be asked, which would keep every cluster from being complete that exports nothing.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable

from isthmus.kube.client import Client
from isthmus.kube.errors import Forbidden, NotFound
from isthmus.kube.reflector import Change, State
from isthmus.kube.resources import Resource
from isthmus.mesh.mcs.api import ServiceExport, discover
from isthmus.mesh.source.optional import AGAIN, follow_optional


async def follow_exports(
    client: Client, *, again: float = AGAIN, on_state: Callable[[State], None] | None = None
) -> AsyncGenerator[Change[ServiceExport], None]:
    """Yields as `follow_optional` does."""

    async def find() -> Resource | None:
        return await _find(client)

    async with contextlib.aclosing(
        follow_optional(client, find, ServiceExport, again=again, on_state=on_state)
    ) as changes:
        async for change in changes:
            yield change


async def _find(client: Client) -> Resource | None:
    """Returns the best version that is served to us; None also where we may not read it, or ask."""
    try:
        api = await discover(client)
        if api is not None:
            await client.raw("GET", api.exports.path(), params={"limit": "1"})
    except (Forbidden, NotFound):
        return None
    return api.exports if api is not None else None
