"""Watches: a stream of JSON lines that lasts until its time is up, its client goes, or its client is too slow.

A client that does not read fills first its socket, then its bounded queue; then its place is lost: it is told so with
410 if it reads within `LOST_GRACE` seconds, and is cut off otherwise. Writers never wait for any of this.
"""

import asyncio
import random
from collections.abc import Mapping

import msgspec
import structlog
from aiohttp import web

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import ApiError
from isthmus.lab.apiserver.http.reading import check_fresh, selection_of
from isthmus.lab.apiserver.http.representation import Renderer
from isthmus.lab.apiserver.http.routing import Target
from isthmus.lab.apiserver.inputs.parameters import flag, number, version_of
from isthmus.lab.apiserver.storage.state import State
from isthmus.lab.apiserver.storage.watchcache import Watcher

_log = structlog.get_logger(__name__)

BOOKMARK_INTERVAL = 60.0  # seconds, as the real server
MIN_DURATION = 1800  # seconds that a watch lasts if its client does not say; up to twice that
LOST_GRACE = 5.0  # seconds for a slow client to read that it was dropped
CHUNK = 64 * 1024  # bytes of events in one write: TLS buffers grow to the largest, for good


def _check_options(query: Mapping[str, str]) -> bool | None:
    """Returns sendInitialEvents, None if it is not there; raises 422 for options that do not go together."""
    match = query.get("resourceVersionMatch", "")
    found = []
    send = flag(query, "sendInitialEvents") if "sendInitialEvents" in query else None
    if send is not None and match != "NotOlderThan":
        text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        found.append(errors.forbidden("resourceVersionMatch", text))
    elif send is None and match:
        text = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        found.append(errors.forbidden("resourceVersionMatch", text))
    if query.get("continue"):
        found.append(errors.forbidden("continue", "continue is forbidden for watch"))
    if found:
        raise errors.unprocessable("ListOptions.meta.k8s.io", "", found)
    return send


def error_line(failure: ApiError) -> bytes:
    """Returns the event that ends a watch."""
    return msgspec.json.encode({"type": "ERROR", "object": failure.body()}) + b"\n"


async def watch(request: web.Request, *, state: State, target: Target, renderer: Renderer) -> web.StreamResponse:
    """Answers a watch request; returns when it has ended."""
    query = request.query
    send = _check_options(query)
    version, seconds = version_of(query), number(query, "timeoutSeconds")
    bookmarks = flag(query, "allowWatchBookmarks")
    selection = selection_of(target, query)
    cache = state.cache(target.resource)
    fresh = send or (send is None and not version)  # None and "0" both mean: begin with what there is
    check_fresh(state, version)
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"})
    response.enable_chunked_encoding()
    try:
        watcher = cache.watch(
            namespace=target.namespace, selection=selection, since=None if fresh else (version or state.version)
        )
    except ApiError as failure:
        await response.prepare(request)
        await response.write(error_line(failure))
        await response.write_eof()
        return response
    initial = cache.select(cache.objects, namespace=target.namespace, selection=selection) if fresh else []
    at = state.version
    loop = asyncio.get_running_loop()
    transport = request.transport
    cut: asyncio.TimerHandle | None = None

    def on_lost() -> None:
        nonlocal cut
        _log.warning("watch_dropped", resource=target.resource.qualified, agent=request.headers.get("User-Agent", ""))
        if transport is not None:
            cut = loop.call_later(LOST_GRACE, transport.abort)

    watcher.on_lost = on_lost
    try:
        await response.prepare(request)
        lines: list[bytes] = []
        size = 0
        for stored in initial:
            lines.append(renderer.event("ADDED", stored))
            size += len(lines[-1])
            if size >= CHUNK:
                await response.write(b"".join(lines))
                lines, size = [], 0
        if send and bookmarks:
            lines.append(renderer.bookmark(at, initial_end=True))
        if lines:
            await response.write(b"".join(lines))
        del initial, lines
        duration = seconds or MIN_DURATION * (1 + random.random())  # noqa: S311 (spreads reconnections)
        await _stream(response, watcher, state=state, renderer=renderer, bookmarks=bookmarks, duration=duration)
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client went; it knows
    finally:
        watcher.close()
        if cut is not None:
            cut.cancel()
    return response


async def _stream(
    response: web.StreamResponse,
    watcher: Watcher,
    *,
    state: State,
    renderer: Renderer,
    bookmarks: bool,
    duration: float,
) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + duration
    told = loop.time()
    while True:
        due = min(end, told + BOOKMARK_INTERVAL) if bookmarks else end
        try:
            async with asyncio.timeout_at(due):
                await watcher.wait()
        except TimeoutError:
            if bookmarks:
                await response.write(renderer.bookmark(state.version))
                told = loop.time()
            if loop.time() >= end:
                return
            continue
        if watcher.lost:
            await response.write(error_line(errors.expired("the watch was too slow and has lost its place")))
            return
        if watcher.ended:
            return
        lines: list[bytes] = []
        size = 0
        while watcher.pending and size < CHUNK:
            lines.append(renderer.event(*watcher.pending.popleft()))
            size += len(lines[-1])
        await response.write(b"".join(lines))
        if loop.time() >= end:
            return
