"""The sockets of DNS: datagrams in batches, streams with a bound on their number and their patience.

Invariants: one bad client costs nobody else an answer; a full socket loses datagrams, as UDP does, and nothing waits.
Rejected: asyncio's datagram transport, which reads one datagram for each turn of the loop.
"""

import asyncio
import socket

from isthmus.lab.dns.health import Counts
from isthmus.lab.dns.responder import Responder

BATCH = 64
"""Datagrams that are answered before the loop has its turn."""
MAX_STREAMS = 256
"""TCP connections at a time; more are closed at once."""
_IDLE = 10.0
"""Seconds that a TCP client may be silent (RFC 7766 section 6.2.3)."""
_BUFFER = 1024 * 1024
_MAX_DATAGRAM = 4096


class DnsServer:
    """Answers on a UDP socket and a TCP listener."""

    def __init__(self, responder: Responder, *, counts: Counts) -> None:
        self._responder = responder
        self._counts = counts
        self._streams = 0

    def open_datagrams(self, server: socket.socket) -> None:
        """Answers datagrams on a bound socket from now on."""
        server.setblocking(False)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        asyncio.get_running_loop().add_reader(server.fileno(), self._drain, server)

    async def open_streams(self, listener: socket.socket) -> asyncio.Server:
        """Answers on TCP connections from now on."""
        return await asyncio.start_server(self._stream, sock=listener)

    def _drain(self, server: socket.socket) -> None:
        respond, count = self._responder.respond, self._counts.add
        for _ in range(BATCH):
            try:
                data, peer = server.recvfrom(_MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error for an answer of ours
            answer = respond(data, stream=False)
            if answer is None:
                continue
            count("udp", *self._responder.last)
            try:
                server.sendto(answer, peer)
            except OSError:
                continue  # no room, or no way back (a policy may forbid it)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._streams >= MAX_STREAMS:
            writer.close()
            return
        self._streams += 1
        try:
            while True:
                async with asyncio.timeout(_IDLE):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    answer = self._responder.respond(await reader.readexactly(size), stream=True)
                    if answer is None:
                        return
                    self._counts.add("tcp", *self._responder.last)
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            return
        finally:
            self._streams -= 1
            writer.close()
