"""`python -m isthmus.lab.door --listen-fd N --to HOST:PORT`: forwards what comes to a listening socket of the machine.

For servers that cannot be given a socket. Invariants: a caller is let in only when the other side answers, and refused
at once otherwise; a side that ends its half leaves the other half open; at most MAX_CALLERS at a time, the rest wait in
the socket's queue; what one side does not take is not read from the other.
"""

import argparse
import asyncio
import contextlib
import socket

import structlog

from isthmus.aio.signals import run_until_signal
from isthmus.lab.daemon import set_up_logging, settle_memory

MAX_CALLERS = 512
_CONNECT_LIMIT = 5.0
"""Seconds until the other side must have answered."""
_PIECE = 64 * 1024

_log = structlog.get_logger()


def main() -> int:
    """Forwards until a signal."""
    set_up_logging()
    parser = argparse.ArgumentParser(prog="isthmus.lab.door", description=__doc__)
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    options = parser.parse_args()
    host, _colon, port = options.to.rpartition(":")
    return run_until_signal(lambda: forward(socket.socket(fileno=options.listen_fd), host=host, port=int(port)))


async def forward(listener: socket.socket, *, host: str, port: int) -> None:
    """Serves `listener` until cancelled."""
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(MAX_CALLERS)
    settle_memory()
    async with asyncio.TaskGroup() as group:
        while True:
            # Waits for a place, and then for a caller; either may take for ever.
            await room.acquire()
            caller, _address = await loop.sock_accept(listener)
            task = group.create_task(_converse(caller, host=host, port=port))
            task.add_done_callback(lambda _task: room.release())


async def _converse(caller: socket.socket, *, host: str, port: int) -> None:
    with caller:
        caller.setblocking(False)
        try:
            async with asyncio.timeout(_CONNECT_LIMIT):
                other_reader, other_writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            return
        reader, writer = await asyncio.open_connection(sock=caller)
        try:
            # Lasts as long as both sides want: a watch is a connection of hours.
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, other_writer))
                group.create_task(_copy(other_reader, writer))
        finally:
            writer.close()
            other_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
        return
    # One side broke: what the other still says has no taker.
    writer.close()


if __name__ == "__main__":
    raise SystemExit(main())
