"""The forwarder before a server that cannot be given a socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from isthmus.lab.door import forward


@contextlib.asynccontextmanager
async def door_to(port: int) -> AsyncIterator[int]:
    """A door in front of `port`; yields its own port."""
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(forward(listener, host="127.0.0.1", port=port))
    try:
        yield listener.getsockname()[1]
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        listener.close()


async def test_both_directions_are_forwarded_and_a_half_may_end_first() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Answers only when the caller has said all: the half-close must come through.
        writer.write(await reader.read())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, door_to(server.sockets[0].getsockname()[1]) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        said = b"x" * 1_000_000
        writer.write(said)
        writer.write_eof()
        assert await reader.read() == said
        writer.close()


async def test_without_a_server_behind_it_a_caller_is_let_go() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    async with door_to(nobody) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
