"""What the servers share: log lines as Go writes them, datagrams, short conversations on streams."""

import errno
import os
import socket
import sys
import time
from collections.abc import Callable

from isthmus.lab.images.programs.loop import READ, Loop, datagram_socket, listen
from isthmus.lab.images.programs.messages import Peer, one_line, place

TYPE_CHECKING = False  # the name that type checkers know; `typing` is megabytes
if TYPE_CHECKING:
    from isthmus.lab.images.programs.agnhost.sctpsockets import Connection

SCTP = 132
IDLE = 60.0
"""Seconds that a silent client of a stream is kept."""
_BATCH = 64

DatagramAnswer = Callable[[bytes, Peer], bytes | None]


def log(text: str) -> None:
    """Writes a line to standard error."""
    stamp = time.strftime("%Y/%m/%d %H:%M:%S")
    sys.stderr.write(f"{stamp} {one_line(text)}\n")
    sys.stderr.flush()


def hostname() -> bytes:
    """Returns the pod's name."""
    return os.uname().nodename.encode()


def client(family: int, protocol: str) -> "socket.socket | Connection":
    """Returns what to connect with over tcp, udp or sctp; raises OSError."""
    if protocol == "sctp":
        from isthmus.lab.images.programs.agnhost import sctpsockets

        return sctpsockets.client(family)
    return socket.socket(family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)


def serve_datagrams(loop: Loop, port: int, answer: DatagramAnswer, *, host: str = "") -> None:
    """Answers datagrams; raises OSError if the port cannot be had."""
    server = datagram_socket(port, host=host)

    def ready(_events: int) -> None:
        for _ in range(_BATCH):
            try:
                data, address = server.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError:
                continue
            reply = answer(data, place(address))
            if reply is not None:
                try:
                    server.sendto(reply, address)
                except OSError:
                    continue

    loop.watch(server.fileno(), READ, ready)


def serve_once(
    loop: Loop, port: int, answer: Callable[[bytes, Peer], bytes], *, protocol: int = 0, reads: bool
) -> None:
    """Answers each connection once, after its first bytes if `reads`, and ends it; raises OSError."""
    try:
        listener = listen(port, protocol=protocol)
    except OSError as error:
        if protocol != SCTP or error.errno != errno.EPROTONOSUPPORT:
            raise
        from isthmus.lab.images.programs.agnhost import sctpsockets

        try:
            sctpsockets.serve(loop, port, answer, reads=reads)
        except PermissionError:
            raise error from None
        return
    open_until: dict[int, tuple[float, socket.socket]] = {}

    def finish(connection: socket.socket, reply: bytes) -> None:
        if open_until.pop(connection.fileno(), None) is not None:
            loop.forget(connection.fileno())
        with connection:
            try:
                connection.send(reply)
            except OSError:
                return

    def accept(_events: int) -> None:
        for _ in range(_BATCH):
            try:
                connection, address = listener.accept()
            except OSError:
                return
            connection.setblocking(False)
            peer = place(address)
            if not reads:
                finish(connection, answer(b"", peer))
                continue

            def ready(_events: int, connection: socket.socket = connection, peer: Peer = peer) -> None:
                try:
                    data = connection.recv(2048)
                except OSError:
                    data = b""
                finish(connection, answer(data, peer) if data else b"")

            open_until[connection.fileno()] = (time.monotonic() + IDLE, connection)
            loop.watch(connection.fileno(), READ, ready)

    def tick() -> None:
        now = time.monotonic()
        for until, connection in list(open_until.values()):
            if until < now:
                finish(connection, b"")

    loop.every_tick(tick)
    loop.watch(listener.fileno(), READ, accept)
