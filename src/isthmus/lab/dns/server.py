"""The sockets of DNS: datagrams in batches, streams with a bound on their number and their patience.

Invariants: one bad client costs nobody else an answer; a full socket loses datagrams, as UDP does, and nothing waits; a
stream is not read from while it has answers to take or queries to be answered. Rejected: asyncio, which costs as much
memory as all the rest.
"""

import socket
import time
from collections.abc import Callable

from isthmus.lab.images.programs.loop import READ, WRITE, Loop

BATCH = 64
"""Queries that are answered before the loop has its turn."""
MAX_STREAMS = 256
"""TCP connections at a time; more are closed at once."""
_IDLE = 10.0
"""Seconds that a TCP client may be silent (RFC 7766 section 6.2.3)."""
_BUFFER = 1024 * 1024
_MAX_DATAGRAM = 4096
_MAX_PENDING = 128 * 1024
"""Bytes of queries that are taken from a stream at a time."""
_MAX_UNSENT = 64 * 1024
"""Bytes of answers after which a stream's next query waits: a query of 30 bytes may have an answer of 64 KiB."""

Respond = Callable[[bytes, str], bytes | None]
"""Returns the response to a query that came over "udp" or "tcp"."""


class DnsServer:
    """Answers on a UDP socket and a TCP listener."""

    def __init__(self, loop: Loop, respond: Respond) -> None:
        self.loop = loop
        self.respond = respond
        self._streams: set[_Stream] = set()
        loop.every_tick(self._tick)

    def open_datagrams(self, server: socket.socket) -> None:
        """Answers datagrams on a bound socket from now on."""
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.loop.watch(server.fileno(), READ, lambda _events: self._drain(server))

    def open_streams(self, listener: socket.socket) -> None:
        """Answers on TCP connections from now on."""
        self.loop.watch(listener.fileno(), READ, lambda _events: self._accept(listener))

    def gone(self, stream: "_Stream") -> None:
        """Hears of the end of a stream."""
        self._streams.discard(stream)

    def _drain(self, server: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                data, peer = server.recvfrom(_MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error for an answer of ours
            answer = self.respond(data, "udp")
            if answer is not None:
                try:
                    server.sendto(answer, peer)
                except OSError:
                    continue  # no room, or no way back (a policy may forbid it)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                peer, _address = listener.accept()
            except OSError:
                return
            if len(self._streams) >= MAX_STREAMS:
                peer.close()
                continue
            peer.setblocking(False)
            self._streams.add(_Stream(self, peer))

    def _tick(self) -> None:
        now = time.monotonic()
        for stream in [found for found in self._streams if found.expires <= now]:
            stream.close()


class _Stream:
    """One TCP client."""

    def __init__(self, server: DnsServer, peer: socket.socket) -> None:
        self.expires = time.monotonic() + _IDLE
        self._server = server
        self._socket = peer
        self._input = bytearray()
        self._output = bytearray()
        server.loop.watch(peer.fileno(), READ, self._ready)

    def close(self) -> None:
        """Ends the connection."""
        if self._socket.fileno() >= 0:
            self._server.loop.forget(self._socket.fileno())
            self._socket.close()
        self._server.gone(self)

    def _ready(self, events: int) -> None:
        try:
            if events & ~WRITE:
                data = self._socket.recv(_MAX_PENDING)
                if not data:
                    self.close()
                    return
                self.expires = time.monotonic() + _IDLE
                self._input += data
            if not self._answer():
                self.close()
                return
            if self._output:
                del self._output[: self._socket.send(self._output)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        busy = self._output or self._query() is not None
        self._server.loop.watch(self._socket.fileno(), WRITE if busy else READ, self._ready)

    def _query(self) -> bytes | None:
        """Returns the next query, None if it is not whole yet."""
        end = 2 + int.from_bytes(self._input[:2], "big")
        return bytes(self._input[2:end]) if len(self._input) >= max(end, 2) else None

    def _answer(self) -> bool:
        """Answers as many queries as the loop has time for; returns whether all of them were queries."""
        for _ in range(BATCH):
            query = self._query() if len(self._output) < _MAX_UNSENT else None
            if query is None:
                break
            answer = self._server.respond(query, "tcp")
            del self._input[: 2 + len(query)]
            if answer is None:
                return False
            self._output += len(answer).to_bytes(2, "big") + answer
        return True
