"""Telling users about their objects: Kubernetes Events, without becoming a burden to the API server.

Invariants: `emit` never blocks and never fails; the queue is bounded and drops its oldest entry (what happens now
matters more than what happened before); the same thing said again within the window becomes a count on the first Event
instead of a new one; writes are limited to a rate with a burst. An Event that cannot be written is logged once per
change of reason and forgotten. Rejected: events.k8s.io/v1, whose series need a second request for the same result, and
which `kubectl describe` shows no better.
"""

import asyncio
import datetime
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from isthmus.kube.client import Client
from isthmus.kube.errors import KubeError, NotFound, too_late
from isthmus.kube.resources import EVENTS
from isthmus.kube.schema import Bare, ObjectReference

QUEUE_SIZE = 256
MEMORY = 1024
"""Events remembered for counting."""

WINDOW = 600.0
"""Seconds for which a repetition adds to the first Event; kube-apiserver forgets an Event after an hour."""

RATE = 5.0
"""Writes a second, after a burst of BURST."""

BURST = 25
MAX_MESSAGE = 1024
"""Characters; the API server refuses longer ones."""

EVENT_NOT_WRITTEN = "event not written"
EVENTS_LOST = "events lost"

_log = structlog.get_logger()
_Key = tuple[ObjectReference, str, str, str]


class _Entry(msgspec.Struct):
    key: _Key
    moment: datetime.datetime


class _Written(msgspec.Struct):
    name: str
    count: int
    at: float


class EventRecorder:
    """Writes Events as `component` on `host`; run `serve` in a task for as long as it is used.

    `now` gives the wall-clock time, for the Events' timestamps.
    """

    def __init__(
        self,
        client: Client,
        component: str,
        host: str = "",
        *,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        rate: float = RATE,
        burst: int = BURST,
        queue: int = QUEUE_SIZE,
    ) -> None:
        self._client = client
        self._component = component
        self._host = host
        self._now = now
        self._queue: deque[_Entry] = deque()
        self._wake = asyncio.Event()
        self._written: OrderedDict[_Key, _Written] = OrderedDict()
        self._trouble = ""
        self._rate = rate
        self._burst = burst
        self._queue_size = queue
        self._tokens = float(burst)
        self._refilled: float | None = None
        self._latest = 0
        self.lost = 0
        """Events that were dropped because the queue was full."""

    def emit(self, about: ObjectReference, *, reason: str, message: str, type: str = "Warning") -> None:
        """Queues an Event about an object; `type` is Normal or Warning, `reason` one CamelCase word."""
        text = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."
        if len(self._queue) >= self._queue_size:
            self._queue.popleft()
            self.lost += 1
            if self.lost == 1:
                _log.warning(EVENTS_LOST, component=self._component, queue=self._queue_size)
        self._queue.append(_Entry((about, type, reason, text), self._now()))
        self._wake.set()

    async def serve(self) -> None:
        """Writes what is queued, until cancelled."""
        while True:
            await self._wake.wait()
            if not self._queue:
                self._wake.clear()
                continue
            await self._take_token()
            entry = self._queue.popleft()
            try:
                await self._write(entry)
            except (KubeError, ValueError) as error:
                if too_late(error):
                    continue
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    about = entry.key[0]
                    _log.warning(EVENT_NOT_WRITTEN, kind=about.kind, name=about.name, reason=str(error))
            else:
                self._trouble = ""

    async def _take_token(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._refilled is not None:
            self._tokens = min(self._tokens + (now - self._refilled) * self._rate, self._burst)
        self._refilled = now
        if self._tokens < 1:
            await asyncio.sleep((1 - self._tokens) / self._rate)
            self._tokens, self._refilled = 1.0, loop.time()
        self._tokens -= 1

    async def _write(self, entry: _Entry) -> None:
        key = entry.key
        now = asyncio.get_running_loop().time()
        known = self._written.get(key)
        namespace = key[0].namespace or "default"  # Events about cluster-wide objects live there
        if known is not None and now - known.at < WINDOW:
            patch = {"count": known.count + 1, "lastTimestamp": _stamp(entry.moment)}
            try:
                await self._client.patch(EVENTS, known.name, patch, type=Bare, namespace=namespace)
            except NotFound:
                del self._written[key]  # somebody deleted it: write it anew
            else:
                known.count += 1
                return
        body = self._body(entry, namespace)
        stored = await self._client.create(EVENTS, body, type=Bare, namespace=namespace)
        self._written[key] = _Written(name=stored.metadata.name, count=1, at=now)
        self._written.move_to_end(key)
        while len(self._written) > MEMORY:
            self._written.popitem(last=False)

    def _number(self, moment: datetime.datetime) -> int:
        """Returns nanoseconds that sort as the Events came: the order in which kubectl shows those of one second.

        Made unequal to those of recorders elsewhere by chance, because several nodes may speak of one object at once.
        """
        chosen = int(moment.timestamp() * 1_000_000) * 1000 + secrets.randbelow(1000)
        self._latest = max(chosen, self._latest + 1)
        return self._latest

    def _body(self, entry: _Entry, namespace: str) -> dict[str, Any]:
        about, type, reason, message = entry.key
        moment = _stamp(entry.moment)
        return {
            "apiVersion": "v1",
            "kind": "Event",
            # As client-go: the object's name, cut so that the whole stays a legal name, and the time in hexadecimal.
            "metadata": {"name": f"{about.name[:230]}.{self._number(entry.moment):x}", "namespace": namespace},
            "involvedObject": about,
            "type": type,
            "reason": reason,
            "message": message,
            "source": {"component": self._component, "host": self._host},
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }


def _stamp(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
