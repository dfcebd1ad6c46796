"""Following a kind that the API server may not know: a custom resource that is not installed, or not ours to see.

Until it is there, it is asked for now and then and nothing else happens: no error, no unreadiness, one line in the log
each time the answer changes. Rejected: reading what kinds there are at the start: kinds are installed later.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import structlog

from isthmus.aio.backoff import Backoff
from isthmus.kube.client import Client
from isthmus.kube.errors import ConnectionFailed, Forbidden, KubeError, NotFound
from isthmus.kube.reflector import Change, follow
from isthmus.kube.resources import Resource

SELDOM = 30.0
"""Seconds between two looks at most."""

ABSENT = "kind is not there; it will be looked for now and then"
FORBIDDEN = "kind may not be watched; it will be tried now and then"
PRESENT = "kind is there"

_log = structlog.get_logger()
T = TypeVar("T")


async def follow_if_there(
    client: Client,
    resource: Resource,
    type: type[T],
    *,
    backoff: Backoff | None = None,
    on_absent: Callable[[], None] = lambda: None,
) -> AsyncGenerator[Change[T], None]:
    """Yields what `follow` does, as soon as the API server serves the kind and lets us see it.

    `on_absent` hears of each answer that says otherwise.
    """
    delays = backoff or Backoff(base=2.0, cap=SELDOM)
    said = ""
    while True:
        try:
            await client.raw("GET", resource.path(), params={"limit": "1"})
            break
        except KubeError as error:
            if isinstance(error, NotFound | Forbidden):
                trouble = ABSENT if isinstance(error, NotFound) else FORBIDDEN
                if trouble != said:
                    said = trouble
                    _log.info(trouble, resource=str(resource))
            if isinstance(error, ConnectionFailed):
                delays.reset()  # every other watch says so; once the server is back this one is not to be late
            else:
                on_absent()
            await asyncio.sleep(delays.next())
    if said:
        _log.info(PRESENT, resource=str(resource))
    async for change in follow(client, resource, type):
        yield change
