"""Connections into a pod for port-forward: to a port on the pod's own loopback, as kubelets make them.

Invariants: the connection is made inside the pod's network namespace, so it reaches what listens on 127.0.0.1 or ::1
there, and nothing of the machine; each side's end of input is passed on, and the other direction goes on until it ends
too; nothing is read that the other side has not taken.
"""

import asyncio
import socket
from pathlib import Path
from typing import Protocol

from isthmus.kernel.errors import KernelError
from isthmus.kernel.namespaces import inside
from isthmus.lab.spdy import Stream

CONNECT_LIMIT = 10.0
"""Seconds."""
MAX_WAITING = 64
_CHUNK = 32 * 1024


class ForwardError(Exception):
    """Nothing could be reached in the pod; the message says why."""


class ByteStream(Protocol):
    """One connection of the client: `read` returns b"" at the end, `write` waits until there is room."""

    async def read(self) -> bytes:
        """Returns the next bytes."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends bytes."""
        ...

    async def end(self) -> None:
        """Sends the end of input; nothing is written after it."""
        ...


class StreamPairs:
    """Finds the two streams of each connection: an `error` stream and a `data` stream with the same request id.

    At most MAX_WAITING halves wait for their other half; the oldest is forgotten.
    """

    def __init__(self) -> None:
        self._halves: dict[str, Stream] = {}

    def add(self, stream: Stream) -> tuple[Stream, Stream, int] | None:
        """Takes a stream; returns (error stream, data stream, port) when a pair is complete."""
        port = stream.headers.get("port", "")
        kind = stream.headers.get("streamtype", "")
        # Clients without request ids open the data stream right after the error stream.
        number = stream.headers.get("requestid") or str(stream.number - (2 if kind == "data" else 0))
        other = self._halves.pop(number, None)
        if other is None:
            self._halves[number] = stream
            while len(self._halves) > MAX_WAITING:
                del self._halves[next(iter(self._halves))]
            return None
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            return None
        return (other, stream, int(port)) if kind == "data" else (stream, other, int(port))


async def connect(namespace: Path | str | int, port: int) -> socket.socket:
    """Returns a connected, non-blocking socket to `port` of the pod's loopback; raises ForwardError.

    `namespace` is the pod's network namespace: a file, or a process number. 127.0.0.1 is tried before ::1.
    """
    loop = asyncio.get_running_loop()
    said = ""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            # A socket belongs to the namespace that it was made in, whoever uses it.
            made = await asyncio.to_thread(inside, namespace, lambda family=family: socket.socket(family))
        except (KernelError, OSError) as error:
            said = said or str(error)
            continue
        made.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await loop.sock_connect(made, (address, port))
        except (OSError, TimeoutError) as error:
            made.close()
            said = said or f"dial tcp4 {address}:{port}: connect: {_spoken(error)}"
        except BaseException:
            made.close()
            raise
        else:
            return made
    raise ForwardError(f"failed to connect to localhost:{port} inside the pod's network namespace: {said}")


async def forward(namespace: Path | str | int, port: int, stream: ByteStream) -> None:
    """Joins `stream` to a port of the pod until both directions have ended; raises ForwardError, OSError."""
    made = await connect(namespace, port)
    try:
        reader, writer = await asyncio.open_connection(sock=made)
    except BaseException:
        made.close()
        raise
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_upwards(stream, writer))
            group.create_task(_downwards(reader, stream))
    except* (ConnectionError, BrokenPipeError):
        pass  # either side may go away at any time
    finally:
        writer.close()


async def _upwards(stream: ByteStream, writer: asyncio.StreamWriter) -> None:
    while data := await stream.read():
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _downwards(reader: asyncio.StreamReader, stream: ByteStream) -> None:
    while data := await reader.read(_CHUNK):
        await stream.write(data)
    await stream.end()


def _spoken(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (getattr(error, "strerror", None) or str(error) or "timed out").lower()
