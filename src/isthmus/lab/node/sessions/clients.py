"""Who an exec or attach session talks to: a WebSocket (v4, v5.channel.k8s.io) or the streams of a SPDY session.

kubectl has spoken WebSocket to API servers since 1.31; a real API server still speaks SPDY to its nodes. Both look the
same to the session: `send` waits until there is room, `messages` ends when the client goes away.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from aiohttp import WSCloseCode, WSMsgType, web

from isthmus.lab.node.sessions.channels import (
    ERROR,
    PROTOCOLS,
    STDERR,
    STDOUT,
    EndOfInput,
    Input,
    Message,
    decode,
    decode_size,
    encode,
)
from isthmus.lab.spdy import PROTOCOL, Session, Stream
from isthmus.lab.upgrade import Accepted, accept

STREAM_VERSION = "X-Stream-Protocol-Version"
SPDY_VERSIONS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
"""Over SPDY both are the same: streams have ends of their own there."""

_MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes of a WebSocket message; clients send 32 KiB."""
_STREAMS_LIMIT = 30.0
"""Seconds until a client has opened all of its streams, as kubelets give it."""
_NAMES = {STDOUT: "stdout", STDERR: "stderr", ERROR: "error"}
_STREAM_TYPES = {*_NAMES.values(), "stdin", "resize"}


class ProtocolError(Exception):
    """The client speaks no protocol that is known here; the message says which are."""


class Client(Protocol):
    """The other end of a session."""

    async def send(self, stream: int, data: bytes) -> None:
        """Sends bytes of standard output or error, or the Status at the end (ERROR); raises ConnectionError."""
        ...

    def messages(self) -> AsyncIterator[Message]:
        """Yields what the client says until it goes away."""
        ...


class WebSocketClient:
    """A client behind a WebSocket."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def send(self, stream: int, data: bytes) -> None:
        """Sends one message."""
        if self._socket.closed:
            raise ConnectionResetError("the WebSocket is closed")
        await self._socket.send_bytes(encode(stream, data))

    async def messages(self) -> AsyncIterator[Message]:
        """Yields what the client says."""
        async for message in self._socket:
            if message.type is WSMsgType.BINARY and (meaning := decode(message.data)) is not None:
                yield meaning


class SpdyClient:
    """A client behind streams."""

    def __init__(self, streams: dict[str, Stream], gone: asyncio.Event) -> None:
        self._streams = streams
        self._gone = gone

    async def send(self, stream: int, data: bytes) -> None:
        """Sends bytes on the stream, if the client asked for it."""
        known = self._streams.get(_NAMES[stream])
        if known is not None:
            await known.write(data)

    async def messages(self) -> AsyncIterator[Message]:
        """Yields what the client says on standard input and about its terminal, in the order in which it is read."""
        said: asyncio.Queue[Message | None] = asyncio.Queue(maxsize=4)  # full: the stream waits

        async def listen_input(stream: Stream) -> None:
            while data := await stream.read():
                await said.put(Input(data))
            await said.put(EndOfInput())

        async def listen_resize(stream: Stream) -> None:
            while data := await stream.read():
                # One message per size, each a line of JSON.
                for line in data.splitlines():
                    if (size := decode_size(line)) is not None:
                        await said.put(size)

        async def listen_end() -> None:
            await self._gone.wait()
            await said.put(None)

        tasks = [asyncio.create_task(listen_end())]
        if (stdin := self._streams.get("stdin")) is not None:
            tasks.append(asyncio.create_task(listen_input(stdin)))
        if (resize := self._streams.get("resize")) is not None:
            tasks.append(asyncio.create_task(listen_resize(resize)))
        try:
            while (message := await said.get()) is not None:
                yield message
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Opened:
    """An opened session: `client` to talk to; `close` ends it and returns what the handler returns."""

    def __init__(self, client: Client, socket: web.WebSocketResponse | None = None) -> None:
        self.client = client
        self._socket = socket

    async def close(self) -> web.StreamResponse:
        """Ends the session in order."""
        assert self._socket is not None  # noqa: S101
        await self._socket.close(code=WSCloseCode.OK)
        return self._socket


class OpenedSpdy(Opened):
    """The same over SPDY."""

    def __init__(self, client: SpdyClient, streams: dict[str, Stream], accepted: Accepted, serving: "Serving") -> None:
        super().__init__(client)
        self._streams = streams
        self._accepted = accepted
        self._serving = serving

    async def close(self) -> web.StreamResponse:
        """Ends every stream, then the connection."""
        with contextlib.suppress(ConnectionError):
            for stream in self._streams.values():
                await stream.end()
        await self._accepted.close()
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        return self._accepted.response


Serving = asyncio.Task[None]


async def open_session(request: web.Request, wanted: set[str]) -> Opened:
    """Answers the upgrade and returns the session, with the streams `wanted` (of stdin, stdout, stderr, resize).

    Raises ProtocolError, and ConnectionError for a client that does not open its streams.
    """
    if request.headers.get("Upgrade", "").lower() == PROTOCOL.lower():
        return await _open_spdy(request, wanted | {"error"})
    offered = [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if not set(offered) & set(PROTOCOLS):
        raise ProtocolError(f"unsupported subprotocol: one of {', '.join(PROTOCOLS)} is needed")
    socket = web.WebSocketResponse(protocols=PROTOCOLS, max_msg_size=_MAX_MESSAGE)
    await socket.prepare(request)
    if socket.ws_protocol != PROTOCOLS[0]:
        # Tells the client that the streams are there, before there is anything to say (as kubelets do). Not in v5:
        # kubectl may not have opened its streams yet, and then complains of an unknown one on the user's screen.
        await socket.send_bytes(encode(STDOUT if "stdout" in wanted else STDERR, b""))
    return Opened(WebSocketClient(socket), socket)


async def _open_spdy(request: web.Request, wanted: set[str]) -> Opened:
    offered = [word.strip() for line in request.headers.getall(STREAM_VERSION, []) for word in line.split(",")]
    version = next((word for word in SPDY_VERSIONS if word in offered), None)
    if version is None:
        raise ProtocolError(f"unsupported protocol: one of {', '.join(SPDY_VERSIONS)} is needed")
    accepted = await accept(request, PROTOCOL, {STREAM_VERSION: version})
    streams: dict[str, Stream] = {}
    complete, gone = asyncio.Event(), asyncio.Event()

    def opened(stream: Stream) -> None:
        kind = stream.headers.get("streamtype", "")
        if kind in _STREAM_TYPES:
            streams[kind] = stream
        # Counted, as kubelets count them: there are clients that ask for a terminal and open standard error in the
        # place of the stream for its size.
        if len(streams) >= len(wanted):
            complete.set()

    async def serve() -> None:
        try:
            await Session(accepted, opened).run()
        finally:
            gone.set()
            complete.set()

    serving = asyncio.create_task(serve())
    try:
        async with asyncio.timeout(_STREAMS_LIMIT):
            await complete.wait()
        if len(streams) < len(wanted):
            raise ConnectionError("the client went away before it had opened its streams")
    except BaseException as error:
        serving.cancel()
        await accepted.close()
        if isinstance(error, TimeoutError):
            raise ConnectionError("the client did not open its streams") from error
        raise
    return OpenedSpdy(SpdyClient(streams, gone), streams, accepted, serving)
