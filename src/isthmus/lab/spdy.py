"""SPDY sessions: the streams of one upgraded connection, for whoever serves exec, attach or port-forward.

Invariants: every stream is answered, or refused when there are more than MAX_STREAMS; a stream that nobody reads
holds up its session, and with it the sender, instead of filling memory (as in the implementations of the field); the
end of the connection ends every stream. The frames are `wire.spdy`'s.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from isthmus.lab.upgrade import Duplex
from isthmus.wire import spdy
from isthmus.wire.spdy import Closing, Codec, Data, Opened, Ping, Replied, Reset, SpdyError

PROTOCOL = "SPDY/3.1"
MAX_STREAMS = 256
"""Open streams of a session."""
MAX_WAITING = 256 * 1024
"""Bytes of one stream that wait to be read."""


class Stream:
    """One stream: bytes both ways, each direction with an end of its own."""

    def __init__(self, session: "Session", number: int, headers: dict[str, str]) -> None:
        self.headers = headers
        self.number = number
        self._session = session
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False  # nothing more comes
        self._closed = False  # nothing more is sent
        self._gone = False  # reset, or without a connection
        self._change = asyncio.Event()

    async def read(self) -> bytes:
        """Returns the next bytes, b"" at the end."""
        while not self._pieces:
            if self._ended or self._gone:
                return b""
            await self._changed()
        data = self._pieces.popleft()
        self._size -= len(data)
        self._change.set()
        return data

    async def write(self, data: bytes) -> None:
        """Sends bytes when there is room; raises ConnectionResetError when the stream is gone."""
        if self._gone or self._closed:
            raise ConnectionResetError("the stream is closed")
        if data:
            await self._session.send(*spdy.data(self.number, data))

    async def end(self) -> None:
        """Sends the end of this direction; once is enough."""
        if not self._closed and not self._gone:
            self._closed = True
            await self._session.send(*spdy.data(self.number, b"", fin=True))
            self._session.settle(self)

    async def reset(self, reason: int = spdy.CANCEL) -> None:
        """Gives the stream up."""
        if not self._gone:
            self.abandon()
            await self._session.send(spdy.reset(self.number, reason))
            self._session.settle(self)

    async def _changed(self) -> None:
        self._change.clear()
        await self._change.wait()  # no time-out: the end of the connection ends it

    @property
    def over(self) -> bool:
        """Tells whether nothing comes and nothing goes any more."""
        return self._gone or (self._ended and self._closed)

    async def take(self, data: bytes, *, fin: bool) -> None:
        """Takes what came, when there is room; the session calls it."""
        while self._size > MAX_WAITING and not self._gone:
            await self._changed()
        if data and not self._gone:
            self._pieces.append(data)
            self._size += len(data)
        self._ended |= fin
        self._change.set()

    def abandon(self) -> None:
        """Ends the stream without a word; the session calls it."""
        self._gone = True
        self._pieces.clear()
        self._change.set()


class Session:
    """The server's end of a session. `on_stream` is told every stream; it must not wait."""

    def __init__(self, connection: Duplex, on_stream: Callable[[Stream], None]) -> None:
        self._connection = connection
        self._on_stream = on_stream
        self._codec = Codec(server=True)
        self._streams: dict[int, Stream] = {}
        self._sending = asyncio.Lock()

    async def send(self, *frames: bytes) -> None:
        """Sends frames; raises ConnectionError."""
        async with self._sending:
            for frame in frames:
                await self._connection.write(frame)

    def settle(self, stream: Stream) -> None:
        """Forgets a stream that is over."""
        if stream.over:
            self._streams.pop(stream.number, None)

    async def run(self) -> None:
        """Serves until the connection ends, or breaks the protocol; closes it."""
        try:
            while data := await self._connection.read():
                for event in self._codec.receive(data):
                    await self._handle(event)
        except (SpdyError, ConnectionError):
            pass  # the other side broke off or broke the protocol: nothing is left to be said to it
        finally:
            for stream in self._streams.values():
                stream.abandon()
            self._streams.clear()
            await self._connection.close()

    async def _handle(self, event: spdy.Event) -> None:
        match event:
            case Opened():
                await self._open(event)
            case Data():
                stream = self._streams.get(event.stream)
                if stream is not None:
                    await stream.take(event.data, fin=event.fin)
                    self.settle(stream)
            case Reset():
                stream = self._streams.pop(event.stream, None)
                if stream is not None:
                    stream.abandon()
            case Ping():
                if event.number % 2:  # the client's own; ours would be even
                    await self.send(spdy.ping(event.number))
            case Replied() | Closing():
                return

    async def _open(self, event: Opened) -> None:
        if event.stream in self._streams:
            raise SpdyError(f"stream {event.stream} was opened twice")
        if len(self._streams) >= MAX_STREAMS:
            await self.send(spdy.reset(event.stream, spdy.REFUSED_STREAM))
            return
        stream = Stream(self, event.stream, event.headers)
        self._streams[event.stream] = stream
        async with self._sending:  # the codec's compression must see headers in the order in which they go out
            await self._connection.write(self._codec.reply(event.stream))
        if event.fin:
            await stream.take(b"", fin=True)
        self._on_stream(stream)
