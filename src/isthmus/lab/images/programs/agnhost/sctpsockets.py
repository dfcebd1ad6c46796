"""Sockets for SCTP: the kernel's, or raw ones with the lab's own SCTP where it has none.

Invariants: where the kernel has SCTP it alone speaks it, as two would answer each other's callers; without the right
to raw sockets the error is the one that the kernel gave about SCTP; a server answers from the address that it was asked
at. Rejected: raw sockets everywhere, which would be one way instead of two, but not that of the original.
"""

import errno
import os
import socket
import struct
import time
from collections.abc import Callable

from isthmus.lab.images.programs.agnhost.sctp import Callee, Caller
from isthmus.lab.images.programs.loop import READ, Loop
from isthmus.lab.images.programs.messages import Peer

AGAIN = 1.0
"""Seconds after which a packet without an answer is sent again."""
_SCTP = 132
_IP_PKTINFO = 8
_FIRST_PORT, _PORTS = 32768, 28232
"""The ports that callers have, as the kernel's."""
_BATCH = 64
_REFUSALS = (errno.ECONNREFUSED, errno.ENOPROTOOPT, errno.EPROTO)
"""What ICMP makes of a host where nobody speaks SCTP."""


class Connection:
    """An association with a server, with the methods of a socket that agnhost uses."""

    def __init__(self, family: int) -> None:
        self._raw = socket.socket(family, socket.SOCK_RAW, _SCTP)
        self._limit: float | None = None
        self._caller = Caller(0, 0)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_details: object) -> None:
        with self._raw:
            try:
                if self._caller.farewell:
                    self._raw.send(self._caller.farewell)
            except OSError:
                return

    def settimeout(self, limit: float | None) -> None:
        """Sets the seconds that `connect` and `recv` take at most."""
        self._limit = limit

    def connect(self, address: tuple[str | int | bytes, ...]) -> None:
        """Opens the association to a socket address; raises TimeoutError, ConnectionRefusedError, OSError."""
        # A raw socket has no port of its own to connect to.
        self._raw.connect((address[0], 0, *address[2:]))
        self._caller = Caller(_FIRST_PORT + int.from_bytes(os.urandom(2), "big") % _PORTS, int(address[1]))
        self._wait(lambda: self._caller.is_open)

    def send(self, data: bytes) -> None:
        """Sends a message."""
        self._caller.ask(data)

    def recv(self, size: int) -> bytes:
        """Returns the answer; raises as `connect`."""
        self._wait(lambda: self._caller.answer is not None)
        return (self._caller.answer or b"")[:size]

    def _wait(self, done: Callable[[], bool]) -> None:
        end = None if self._limit is None else time.monotonic() + self._limit
        again = 0.0
        while not done():
            now = time.monotonic()
            if end is not None and now >= end:
                raise TimeoutError
            if now >= again:
                self._say()
                again = now + AGAIN
            self._raw.settimeout(max(min(again, again if end is None else end) - now, 0.001))
            try:
                data = self._raw.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                raise _refusal(error) from error
            if self._caller.received(_without_header(data, self._raw.family)):
                self._say()
            if self._caller.is_refused:
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))

    def _say(self) -> None:
        if self._caller.output:
            try:
                self._raw.send(self._caller.output)
            except OSError as error:
                raise _refusal(error) from error


def client(family: int) -> "socket.socket | Connection":
    """Returns what to connect with; raises OSError."""
    try:
        return socket.socket(family, socket.SOCK_STREAM, _SCTP)
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
        try:
            return Connection(family)
        except PermissionError:
            raise error from None


def serve(loop: Loop, port: int, answer: Callable[[bytes, Peer], bytes], *, reads: bool) -> None:
    """Answers on a kernel without SCTP, each caller once, what it says if `reads`; raises OSError."""
    callee = Callee(port, answer, reads=reads)
    _watch(loop, socket.socket(socket.AF_INET, socket.SOCK_RAW, _SCTP), callee)
    try:
        six = socket.socket(socket.AF_INET6, socket.SOCK_RAW, _SCTP)
    except OSError:
        return  # IPv6 is switched off here
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    _watch(loop, six, callee)


def _watch(loop: Loop, raw: socket.socket, callee: Callee) -> None:
    raw.setblocking(False)

    def ready(_events: int) -> None:
        for _ in range(_BATCH):
            try:
                data, about, _flags, peer = raw.recvmsg(65536, 256)
            except BlockingIOError:
                return
            except OSError:
                continue
            reply = callee.received(_without_header(data, raw.family), peer[0])
            if reply is not None:
                try:
                    raw.sendmsg([reply], [_asked_at(data, about, raw.family)], 0, (peer[0], 0, *peer[2:]))
                except OSError:
                    continue

    loop.watch(raw.fileno(), READ, ready)


def _asked_at(data: bytes, about: list[tuple[int, int, bytes]], family: int) -> tuple[int, int, bytes]:
    """Returns the control message that makes the address of a packet the sender of its answer."""
    if family == socket.AF_INET:
        return socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4s", 0, data[16:20], bytes(4))
    found = next(value for level, kind, value in about if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO))
    return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, found


def _without_header(data: bytes, family: int) -> bytes:
    """Returns what follows the IP header; raw sockets for IPv6 do not show one."""
    return data[(data[0] & 15) * 4 :] if family == socket.AF_INET and data else data


def _refusal(error: OSError) -> OSError:
    if error.errno in _REFUSALS:
        return ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    return error
