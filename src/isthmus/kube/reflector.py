"""`follow`: one collection of one API server, for ever. The shell around `isthmus.kube.watch`.

Performs what the machine asks for and nothing else. Lifetime: runs until the consumer stops iterating or is
cancelled; leave it with `contextlib.aclosing` where the end of the generator matters. No error ends it: states are
told to `on_state` and logged, one line per change. Holds no copy of the objects: who needs a cache keeps one.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Generic, TypeVar

import msgspec
import structlog

from isthmus.aio.backoff import Backoff
from isthmus.kube.client import JSON, PAGE_SIZE, PARTIAL, Client
from isthmus.kube.decode import Decoder, Item, Undecodable
from isthmus.kube.errors import BadAnswer, KubeError
from isthmus.kube.resources import Resource
from isthmus.kube.stream import Silence, read_lines
from isthmus.kube.watch import (
    Change,
    Degraded,
    Dropped,
    Gone,
    Healthy,
    List,
    Open,
    Output,
    Pause,
    Put,
    Snapshot,
    State,
    WatchMachine,
)

__all__ = ["Change", "Degraded", "Dropped", "Gone", "Healthy", "Put", "Snapshot", "State", "Timing", "follow"]

T = TypeVar("T")

MAX_OBJECTS = 4_000_000
"""Objects of one list: a server that never stops giving pages must not take all memory."""

DELAY_CAP = 10.0
"""Seconds between two attempts at most: a server that is back is noticed soon, one that is gone is hardly bothered."""

_log = structlog.get_logger()

WATCH_HEALTHY = "watch healthy"
WATCH_DEGRADED = "watch degraded"
OBJECT_DROPPED = "object dropped"


class Timing(msgspec.Struct, frozen=True):
    """Limits of a watch in seconds.

    Bookmarks come about once a minute, so `silence` is a little more; `bookmark` is the pause after which a watch-list
    without its end is taken as unsupported, `initial` the longest that its events may take; the server is asked to
    end a watch after `lifetime` to twice that, so that clients spread over its replicas.
    """

    silence: float = 90.0
    bookmark: float = 10.0
    initial: float = 120.0
    lifetime: float = 300.0


DEFAULT_TIMING = Timing()


async def follow(
    client: Client,
    resource: Resource,
    type: type[T],
    *,
    namespace: str | None = None,
    field_selector: str | None = None,
    label_selector: str | None = None,
    on_state: Callable[[State], None] | None = None,
    timing: Timing = DEFAULT_TIMING,
    backoff: Backoff | None = None,
    watch_list: bool = True,
    metadata_only: bool = False,
) -> AsyncGenerator[Change[T], None]:
    """Yields a Snapshot of the collection, then Puts and Gones, then again a Snapshot whenever it had to start anew.

    `type` is a struct of `isthmus.kube.schema`, `dict`, or `msgspec.Raw` (bytes, for those who decode hostile objects
    themselves); `metadata_only` asks the server for nothing else. A Snapshot says all: what it does not hold is gone.
    Errors are retried inside and told to `on_state`
    """
    where = _Collection(
        client,
        resource,
        Decoder(resource, type, metadata_only=metadata_only),
        namespace,
        field_selector,
        label_selector,
    )
    machine = WatchMachine(where.decoder, backoff=backoff or Backoff(cap=DELAY_CAP), watch_list=watch_list)

    def patience() -> float:
        return timing.bookmark if machine.loading else timing.silence

    loop = asyncio.get_running_loop()
    log = _log.bind(resource=str(resource), server=client.access.server, context=client.access.context)

    def sort(outputs: list[Output[T]]) -> list[Change[T]]:
        changes: list[Change[T]] = []
        for output in outputs:
            match output:
                case Snapshot() | Put() | Gone():
                    changes.append(output)
                case _:
                    _log_state(log, output)
                    if on_state is not None:
                        on_state(output)
        return changes

    while True:
        match machine.step:
            case Pause(seconds):
                await asyncio.sleep(seconds)
                machine.paused()
            case List(paged):
                try:
                    items, version, dropped = await where.fetch(paged=paged)
                except KubeError as error:
                    outputs = machine.failed(error)
                else:
                    outputs = machine.listed(items, resource_version=version, dropped=dropped)
                    del items
                for change in sort(outputs):
                    yield change
            case Open() as step:
                try:
                    async with where.open(step, timing, patience) as lines:
                        began = loop.time()
                        for change in sort(machine.opened(began)):
                            yield change
                        async for batch in lines:
                            now = loop.time()
                            for line in batch:
                                for change in sort(machine.line(line, now=now)):
                                    yield change
                                if not machine.reading:
                                    break
                            if machine.loading and now - began > timing.initial:
                                sort(machine.unmarked(now))
                            if not machine.reading:
                                break
                    if machine.reading:
                        sort(machine.ended(loop.time()))
                except Silence:
                    sort(machine.silent(loop.time()))
                except KubeError as error:
                    sort(machine.failed(error, now=loop.time()))


class _Collection(Generic[T]):
    """What is followed, and how to ask the server for it."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        decoder: Decoder[T],
        namespace: str | None,
        field_selector: str | None,
        label_selector: str | None,
    ) -> None:
        self.decoder = decoder
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._field_selector = field_selector
        self._label_selector = label_selector

    async def fetch(self, *, paged: bool) -> tuple[tuple[Item[T], ...], str, tuple[Undecodable, ...]]:
        """Returns all items, the resourceVersion of the list, and what was dropped. Raises KubeError."""
        items: list[Item[T]] = []
        dropped: list[Undecodable] = []
        version = ""
        pages = self._client.list_pages(
            self._resource,
            type=self.decoder.type,
            namespace=self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            limit=PAGE_SIZE if paged else 0,
            metadata_only=self.decoder.metadata_only,
        )
        async with contextlib.aclosing(pages):
            async for page in pages:
                items += page.items
                dropped += page.dropped
                version = version or page.resource_version
                if len(items) + len(dropped) > MAX_OBJECTS:
                    raise BadAnswer(f"list of {self._resource}: more than {MAX_OBJECTS} objects")
        return tuple(items), version, tuple(dropped)

    @contextlib.asynccontextmanager
    async def open(
        self, step: Open, timing: Timing, patience: Callable[[], float]
    ) -> AsyncIterator[AsyncGenerator[list[bytes], None]]:
        """Opens the watch that `step` asks for and gives its lines. Raises KubeError."""
        # Not for cryptography: it only keeps clients from asking again all at once.
        seconds = int(timing.lifetime * (1 + random.random()))  # noqa: S311
        params = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        if step.initial_events:
            params["sendInitialEvents"] = "true"
            params["resourceVersionMatch"] = "NotOlderThan"
        else:
            params["resourceVersion"] = step.resource_version
        if self._field_selector:
            params["fieldSelector"] = self._field_selector
        if self._label_selector:
            params["labelSelector"] = self._label_selector
        path = self._resource.path(namespace=self._namespace)
        async with (
            self._client.stream(path, params=params, accept=PARTIAL if self.decoder.metadata_only else JSON) as content,
            contextlib.aclosing(read_lines(content, silence=patience)) as lines,
        ):
            yield lines


def _log_state(log: structlog.typing.FilteringBoundLogger, state: Healthy | Degraded | Dropped) -> None:
    match state:
        case Healthy():
            log.info(WATCH_HEALTHY)
        case Degraded(reason):
            log.warning(WATCH_DEGRADED, reason=reason)
        case Dropped(name, reason):
            log.warning(OBJECT_DROPPED, object=name, reason=reason)
