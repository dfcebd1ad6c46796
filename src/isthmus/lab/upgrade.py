"""Connections that stop being HTTP: after status 101 their bytes belong to another protocol (RFC 9110, 7.8).

`accept` takes over a connection of an aiohttp server, `dial` asks a server for one; both give the same `Duplex`. At
most BUFFER bytes wait to be read: then the sender is made to wait. aiohttp's own upgrade, WebSocket, was not enough:
kubectl and kubelets also upgrade to SPDY.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from aiohttp import web

BUFFER = 256 * 1024
"""Bytes that may wait to be read."""
MAX_HEAD = 64 * 1024
"""Bytes of the head of an answer."""
MAX_SAID = 4096
"""Bytes of a refusal that are read."""
_PIECE = 64 * 1024


class Duplex(Protocol):
    """Bytes both ways."""

    async def read(self) -> bytes:
        """Returns the next bytes, b"" at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends bytes when there is room; raises ConnectionError when the other side is gone."""
        ...

    async def close(self) -> None:
        """Ends both directions."""
        ...


class RefusedError(Exception):
    """A server did not upgrade: its status and what it said."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status
        self.said = said


class Accepted:
    """The server's end. Returned by a handler as `response` when the session is over."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self.response = response
        self._transport = request.transport
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._wake = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Takes what the connection received; aiohttp calls it."""
        self._pieces.append(bytes(data))
        self._size += len(data)
        if self._size > BUFFER and self._transport is not None:
            self._transport.pause_reading()
        self._wake.set()
        return False, b""

    def feed_eof(self) -> None:
        """Takes the end; aiohttp calls it."""
        self._ended = True
        self._wake.set()

    async def read(self) -> bytes:
        """Returns the next bytes, b"" at the end."""
        while not self._pieces:
            if self._ended:
                return b""
            self._wake.clear()
            await self._wake.wait()  # no time-out: a session may be silent for as long as its user likes
        data = self._pieces.popleft()
        paused = self._size > BUFFER
        self._size -= len(data)
        if paused and self._size <= BUFFER and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Sends bytes when there is room; raises ConnectionError when the other side is gone."""
        await self.response.write(data)

    async def close(self) -> None:
        """Ends both directions."""
        if self._transport is not None:
            self._transport.close()


async def accept(request: web.Request, protocol: str, headers: Mapping[str, str] | None = None) -> Accepted:
    """Answers 101 and takes the connection over; its handler must return `Accepted.response`."""
    held = {"Connection": "Upgrade", "Upgrade": protocol, **(headers or {})}
    response = web.StreamResponse(status=101, headers=held)
    accepted = Accepted(request, response)
    # aiohttp's own type is its WebSocket reader; it uses these two methods of it.
    taker: Any = accepted
    request.protocol.set_parser(taker)
    request.protocol.keep_alive(False)
    await response.prepare(request)
    return accepted


class Dialled:
    """The client's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """Returns the next bytes, b"" at the end."""
        try:
            return await self._reader.read(_PIECE)
        except ConnectionError:
            return b""

    async def write(self, data: bytes) -> None:
        """Sends bytes when there is room; raises ConnectionError when the other side is gone."""
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        """Ends both directions."""
        self._writer.close()


class Ask(msgspec.Struct, frozen=True):
    """What to ask a server for: `path` with its query, headers as pairs (a name may come twice)."""

    path: str
    protocol: str
    method: str = "POST"
    headers: Sequence[tuple[str, str]] = ()


async def dial(host: str, port: int, ask: Ask, *, tls: ssl.SSLContext | None) -> Dialled:
    """Returns an upgraded connection; raises RefusedError, OSError. Callers bound the time."""
    reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=MAX_HEAD)
    try:
        shown = f"[{host}]" if ":" in host else host
        fields = (("Host", f"{shown}:{port}"), ("Connection", "Upgrade"), ("Upgrade", ask.protocol), *ask.headers)
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        writer.write(f"{ask.method} {ask.path} HTTP/1.1\r\n{lines}Content-Length: 0\r\n\r\n".encode("latin-1"))
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *rest = head.rstrip("\r\n").split("\r\n")
        pairs = (line.partition(":") for line in rest)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        words = first.split(" ", 2)
        status = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
        if status != 101:
            said = words[2] if len(words) > 2 else ""
            length = headers.get("content-length", "")
            if length.isdecimal() and int(length):
                said = (await reader.readexactly(min(int(length), MAX_SAID))).decode(errors="replace").strip()
            raise RefusedError(status, said)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as failure:
        writer.close()
        raise ConnectionError(f"no answer to an upgrade: {failure}") from failure
    except BaseException:
        writer.close()
        raise
    return Dialled(reader, writer, headers)


async def join(first: Duplex, second: Duplex) -> None:
    """Passes bytes both ways until one side ends, and closes both."""

    async def pump(source: Duplex, sink: Duplex) -> None:
        try:
            while data := await source.read():
                await sink.write(data)
        except ConnectionError:
            return  # one end is gone, and with it the session

    tasks = [asyncio.create_task(pump(first, second)), asyncio.create_task(pump(second, first))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await first.close()
        await second.close()
