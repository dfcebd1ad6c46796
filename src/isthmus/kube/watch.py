"""The watch as a state machine: what the server said goes in, what to do next comes out. No I/O, no clock, no loop.

The life of a watch: get the state of the collection (a *watch-list*: the server streams it and marks its end with a
bookmark; or, where that is not supported, a list in pages), then watch from the resourceVersion of that state, for
ever. Streams end all the time and are resumed from the last resourceVersion heard; only when the server no longer has
it (410) or what came cannot be trusted is the state fetched anew.

Invariants: nothing that a server sends raises; a `Snapshot` is complete, and between two of them each change comes
once, in the server's order; resumption starts from a list or a bookmark or the last event, never from an object older
than that; every failure costs a growing pause, so no server can make this loop hot. A state (Healthy, Degraded) is
told when it changes, not each time it is found again.

Rejected: trusting the server's version to know whether watch-list works. The gate differs by release and distribution,
old servers ignore the parameters and new ones refuse them, so both answers are recognised instead.
"""

from typing import Generic, TypeVar

import msgspec

from isthmus.aio.backoff import Backoff
from isthmus.kube.decode import Decoder, Item, Key, Undecodable
from isthmus.kube.errors import (
    DECODE_ERRORS,
    ApiError,
    BadAnswer,
    ConnectionFailed,
    Expired,
    Forbidden,
    KubeError,
    TooManyRequests,
    Unauthorized,
    clip,
    error_from_status,
)

T = TypeVar("T")

STABLE = 30.0
"""Seconds that a stream must live to be taken as proof of health: then delays start small again."""

BRIEF = 1.0
"""Seconds: a stream that ends sooner is a failure even if it ended politely."""

MAX_RESUMES = 5
"""Failures in a row after which the resourceVersion itself is doubted (an etcd restored from a backup)."""

MAX_SILENCES = 3
"""Silent streams in a row, without one event or bookmark, after which the state is fetched anew: a proxy that holds
answers back looks like a quiet server."""

MAX_TOLD = 16
"""Dropped objects told one by one for one snapshot; the rest are told as a number."""

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
_NO_WATCH_LIST = (400, 405, 406, 415, 422)
"""How servers refuse sendInitialEvents, by HTTP status."""


class List(msgspec.Struct, frozen=True):
    """Do: list the collection, in pages or all at once, then call `listed` or `failed`."""

    paged: bool = True


class Open(msgspec.Struct, frozen=True):
    """Do: open a watch, then call `opened`, `line`s, and `ended`, `silent` or `failed`.

    With `initial_events` it is a watch-list, and `resource_version` is "".
    """

    resource_version: str = ""
    initial_events: bool = False


class Pause(msgspec.Struct, frozen=True):
    """Do: wait for `seconds`, then call `paused`."""

    seconds: float


Step = List | Open | Pause


class Snapshot(msgspec.Struct, Generic[T], frozen=True):
    """The whole collection; what is not in it does not exist."""

    objects: tuple[T, ...]


class Put(msgspec.Struct, Generic[T], frozen=True):
    """An object was created or changed."""

    object: T


class Gone(msgspec.Struct, Generic[T], frozen=True):
    """An object was deleted, or does not match the selectors any more; this is its last state."""

    object: T


class Healthy(msgspec.Struct, frozen=True):
    """The watch is established and the last snapshot holds."""


class Degraded(msgspec.Struct, frozen=True):
    """The watch does not work now; what was told stays true as far as anyone knows."""

    reason: str


class Dropped(msgspec.Struct, frozen=True):
    """An object was left out because it cannot be understood; `name` is "Kind namespace/name"."""

    name: str
    reason: str


Change = Snapshot[T] | Put[T] | Gone[T]
State = Healthy | Degraded | Dropped
Output = Snapshot[T] | Put[T] | Gone[T] | Healthy | Degraded | Dropped


class _Envelope(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


class _BookmarkMeta(msgspec.Struct):
    resourceVersion: str | None = ""
    annotations: dict[str, str] | None = None


class _Bookmark(msgspec.Struct):
    metadata: _BookmarkMeta
    kind: str | None = ""


_ENVELOPES = msgspec.json.Decoder(_Envelope)
_BOOKMARKS = msgspec.json.Decoder(_Bookmark)


class WatchMachine(Generic[T]):
    """Decides for one collection. Perform `step`, tell the outcome; each telling returns what to pass on.

    `now` arguments are seconds of any one monotonic clock. After each `line`, reading goes on only while `reading`.
    """

    def __init__(self, decoder: Decoder[T], *, backoff: Backoff | None = None, watch_list: bool = True) -> None:
        self._decoder = decoder
        self._backoff = backoff or Backoff()
        self._watch_list = watch_list
        self._version = ""
        self._paged = True
        self._initial: dict[Key, T] | None = None
        self._dropped: list[Undecodable] = []
        self._opened_at: float | None = None
        self._failures = 0
        self._silences = 0
        self._needs_proof = False
        self._degraded: str | None = None
        self._told_health = False
        self._after: Step = List()
        self.step: Step = self._fetch()

    @property
    def reading(self) -> bool:
        """Whether the open stream is still wanted."""
        return self._opened_at is not None

    @property
    def loading(self) -> bool:
        """Whether the open stream still owes the bookmark that ends the initial events."""
        return self._initial is not None

    def paused(self) -> None:
        """The pause is over."""
        self.step = self._after

    def listed(
        self, items: tuple[Item[T], ...], *, resource_version: str, dropped: tuple[Undecodable, ...] = ()
    ) -> list[Output[T]]:
        """All pages of a list were read; `resource_version` is the list's."""
        if not resource_version:
            return self.failed(BadAnswer(f"list of {self._decoder.resource}: metadata.resourceVersion is missing"))
        self._version = resource_version
        self._paged = True
        self.step = Open(resource_version)
        unique = {item.key: item.object for item in items}
        return [Snapshot(tuple(unique.values())), *self._tell_dropped(dropped), *self._healthy()]

    def opened(self, now: float) -> list[Output[T]]:
        """The server accepted the watch."""
        self._opened_at = now
        if isinstance(self.step, Open) and self.step.initial_events:
            self._initial = {}
            self._dropped = []
            return []
        # A stream that was accepted and then broke has to show an event before it is believed again.
        return [] if self._needs_proof else self._healthy()

    def line(self, data: bytes, *, now: float) -> list[Output[T]]:
        """One line of the open stream."""
        self._silences = 0
        try:
            envelope = _ENVELOPES.decode(data)
        except DECODE_ERRORS as error:
            return self._distrust(f"an event that cannot be read: {clip(str(error))}", now)
        match envelope.type:
            case "ADDED" | "MODIFIED":
                return self._changed(envelope.object, now, gone=False)
            case "DELETED":
                return self._changed(envelope.object, now, gone=True)
            case "BOOKMARK":
                return self._bookmark(envelope.object, now)
            case "ERROR":
                return self.failed(error_from_status(bytes(envelope.object)), now=now)
            case unknown:
                return self._distrust(f"an event of unknown type {clip(unknown)!r}", now)

    def ended(self, now: float) -> list[Output[T]]:
        """The server closed the stream in an orderly way, or it was cut between two reads."""
        lived = self._lived(now)
        if self._initial is not None or lived < BRIEF:
            return self.failed(ConnectionFailed("the server closed the watch at once"), now=now)
        self._close(lived)
        self.step = Open(self._version)
        return []

    def silent(self, now: float) -> list[Output[T]]:
        """Nothing came for too long: behind a NAT a dead connection looks just so."""
        lived = self._lived(now)
        if self._initial is not None:
            # The server ignores sendInitialEvents: it sent the objects, but will never mark their end.
            return self.unmarked(now)
        self._close(lived)
        self._silences += 1
        self.step = Open(self._version) if self._silences < MAX_SILENCES else self._fetch()
        return []

    def unmarked(self, now: float) -> list[Output[T]]:
        """The initial events took longer than anyone waits for their end: list instead, from now on."""
        self._close(self._lived(now))
        self._watch_list = False
        self.step = self._fetch()
        return []

    def failed(self, error: KubeError, *, now: float | None = None) -> list[Output[T]]:
        """What `step` asked for failed, or the stream broke. `now` is needed only while a stream is open."""
        was_open = self._opened_at is not None
        was_loading = self._initial is not None or (isinstance(self.step, Open) and self.step.initial_events)
        was_list = isinstance(self.step, List)
        self._close(self._lived(now) if now is not None else 0.0)
        self._needs_proof = was_open
        self._failures += 1
        if was_loading and isinstance(error, ApiError) and error.status in _NO_WATCH_LIST:
            self._watch_list = False
            self.step = self._fetch()
            return []
        if was_loading and was_open and self._failures >= 3:
            self._watch_list = False
        first = self._backoff.attempts == 0
        delay = self._backoff.next()
        if isinstance(error, ApiError) and error.retry_after is not None:
            delay = max(delay, error.retry_after)
        if isinstance(error, Expired):
            # Part of the protocol, not a fault, unless it keeps coming back.
            if was_list:
                self._paged = not self._paged
            self._after = self._fetch()
            if first:
                self.step = self._after
                return []
        elif was_loading or was_list or self._must_fetch(error):
            self._after = self._fetch()
        else:
            self._after = Open(self._version)
        self.step = Pause(delay)
        return self._degrade(str(error))

    def _must_fetch(self, error: KubeError) -> bool:
        """Whether resuming from the last resourceVersion after `error` would be wrong or useless."""
        if isinstance(error, BadAnswer) or not self._version or self._failures >= MAX_RESUMES:
            return True
        refused = isinstance(error, ApiError) and 400 <= error.status < 500
        return refused and not isinstance(error, Unauthorized | Forbidden | TooManyRequests)

    def _fetch(self) -> Step:
        return Open(initial_events=True) if self._watch_list else List(self._paged)

    def _lived(self, now: float) -> float:
        return now - self._opened_at if self._opened_at is not None else 0.0

    def _close(self, lived: float) -> None:
        self._opened_at = None
        self._initial = None
        if lived >= STABLE:
            self._backoff.reset()
            self._failures = 0

    def _changed(self, raw: msgspec.Raw, now: float, *, gone: bool) -> list[Output[T]]:
        try:
            item = self._decoder.object(raw)
        except Undecodable as error:
            if self._initial is None:
                return self._distrust(str(error), now)
            self._dropped.append(error)
            return []
        if self._initial is not None:
            if gone:
                self._initial.pop(item.key, None)
            else:
                self._initial[item.key] = item.object
            return []
        self._version = item.resource_version or self._version
        change: Output[T] = Gone(item.object) if gone else Put(item.object)
        return [change, *self._proven()]

    def _bookmark(self, raw: msgspec.Raw, now: float) -> list[Output[T]]:
        try:
            meta = _BOOKMARKS.decode(raw).metadata
        except DECODE_ERRORS as error:
            return self._distrust(f"a bookmark that cannot be read: {clip(str(error))}", now)
        ends = (meta.annotations or {}).get(INITIAL_EVENTS_END) == "true"
        if self._initial is None:
            self._version = meta.resourceVersion or self._version
            return self._proven()
        if not ends:
            return []
        if not meta.resourceVersion:
            return self._distrust("the bookmark after the initial events has no resourceVersion", now)
        objects = tuple(self._initial.values())
        dropped = tuple(self._dropped)
        self._initial, self._dropped = None, []
        self._version = meta.resourceVersion
        self.step = Open(self._version)
        self._needs_proof, self._failures = False, 0
        return [Snapshot(objects), *self._tell_dropped(dropped), *self._healthy()]

    def _proven(self) -> list[Output[T]]:
        """A good event came."""
        self._failures = 0
        if self._needs_proof or self._degraded is not None or not self._told_health:
            self._needs_proof = False
            return self._healthy()
        return []

    def _distrust(self, problem: str, now: float) -> list[Output[T]]:
        return self.failed(BadAnswer(f"watch of {self._decoder.resource}: {problem}"), now=now)

    def _healthy(self) -> list[Output[T]]:
        if self._told_health and self._degraded is None:
            return []
        self._degraded = None
        self._told_health = True
        return [Healthy()]

    def _degrade(self, reason: str) -> list[Output[T]]:
        if self._degraded == reason:
            return []
        self._degraded = reason
        return [Degraded(reason)]

    def _tell_dropped(self, dropped: tuple[Undecodable, ...]) -> list[Output[T]]:
        told: list[Output[T]] = [Dropped(error.name, error.reason) for error in dropped[:MAX_TOLD]]
        if len(dropped) > MAX_TOLD:
            told.append(Dropped(str(self._decoder.resource), f"{len(dropped) - MAX_TOLD} more objects like these"))
        return told
