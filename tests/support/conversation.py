"""Connections that last, TCP, UDP or SCTP: does what one side says now reach the other?

The answer needs no waiting, see `tests.support.volley`: what has not arrived when the fence has passed was dropped.
With TCP it may arrive later, when the kernel has sent it again.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from select import select
from time import monotonic
from types import TracebackType
from typing import Self

from isthmus.model.flow import Flow, Protocol
from tests.support import messages
from tests.support.fabric import Fabric
from tests.support.probes import SO_LINGER_RESET
from tests.support.volley import one_cpu

IP_MTU, IPV6_MTU = 14, 24  # linux/in.h, linux/in6.h
TOKEN = 16  # bytes
KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM, Protocol.SCTP: socket.SOCK_RAW}


class Conversation:
    """An open connection; a context manager. Raises AssertionError if it cannot be opened."""

    def __init__(self, fabric: Fabric, flow: Flow, *, through: str = "") -> None:
        """`through` is the address that the client speaks to, if that is not the destination."""
        self._fabric, self._flow = fabric, flow
        self._through = through or flow.destination
        self._sockets: list[socket.socket] = []
        self._tag = int.from_bytes(os.urandom(4), "big") | 1
        self._ports = (10000 + self._tag % 50000, flow.port)  # of SCTP: client, server
        self._caller = ("", 0)  # whom the server sees
        try:
            with one_cpu():
                self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes all sockets; may be called again."""
        for sock in self._sockets:
            sock.close()

    def hears(self, speaker: str, *, size: int = TOKEN, patience: float = 0) -> bool:
        """Tells whether `size` bytes that the "client" or the "server" says now reach the other side.

        That is at once, or within `patience` seconds: what was lost before, TCP sends again first.
        """
        said = os.urandom(TOKEN) + bytes(size - TOKEN)
        from_server = speaker == "server"
        with one_cpu():
            # PermissionError is what a node gets for a packet of its own that is dropped.
            with suppress(BlockingIOError, PermissionError):
                if self._flow.protocol == Protocol.SCTP:
                    self._say_sctp(messages.sctp_data(said), from_server=from_server)
                else:
                    (self._server if from_server else self._client).send(said)
            self._fabric.volley.pass_fence()
            listener = self._client if from_server else self._server
            heard = self._read(listener)
            end = monotonic() + patience
            while said not in heard and select([listener], [], [], max(0, end - monotonic()))[0]:
                heard += self._read(listener)
            return said in heard

    def path_mtu(self, speaker: str) -> int:
        """Returns how large packets of one side may be, in bytes, as far as the kernel knows."""
        sock = self._server if speaker == "server" else self._client
        level, option = (
            (socket.IPPROTO_IP, IP_MTU) if sock.family == socket.AF_INET else (socket.IPPROTO_IPV6, IPV6_MTU)
        )
        return sock.getsockopt(level, option)

    def _read(self, sock: socket.socket) -> bytes:
        heard = b""
        with suppress(BlockingIOError):
            while data := sock.recv(1 << 16):
                heard += data
        return heard

    def _open(self) -> None:
        flow = self._flow
        self._client, listening = self._make(flow.source, 0), self._make(flow.destination, flow.port)
        self._server = listening
        match flow.protocol:
            case Protocol.TCP:
                listening.listen()
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SO_LINGER_RESET)
                with suppress(BlockingIOError):
                    self._client.connect((self._through, flow.port))
                self._fabric.volley.pass_fence()
                with self._opened():
                    self._server, _ = listening.accept()
                self._sockets.append(self._server)
                self._server.setblocking(False)
                listening.close()
                for sock in (self._client, self._server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            case Protocol.UDP:
                self._client.connect((self._through, flow.port))
                self._client.send(b"hello")
                self._fabric.volley.pass_fence()
                with self._opened():
                    _, caller = self._server.recvfrom(100)
                self._server.connect(caller)
            case _:
                self._shake_hands()
        for speaker in ("client", "server"):
            assert self.hears(speaker), f"{flow}: the {speaker} is not heard"

    @staticmethod
    @contextmanager
    def _opened() -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            raise AssertionError("the connection cannot be opened") from None

    def _make(self, ip: str, port: int) -> socket.socket:
        protocol = self._flow.protocol
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        raw = protocol == Protocol.SCTP

        def work() -> socket.socket:
            sock = socket.socket(family, KINDS[Protocol(protocol)] | socket.SOCK_NONBLOCK, protocol if raw else 0)
            self._sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((ip, 0 if raw else port))
            return sock

        return self._fabric.holders[ip].run(work)

    # -- SCTP, by hand -------------------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        version = 6 if ":" in self._flow.source else 4
        self._say_sctp(messages.sctp_opening(messages.INIT, self._tag), tag=0)
        self._fabric.volley.pass_fence()
        with self._opened():
            while True:
                packet, caller = self._server.recvfrom(2048)
                content = messages.payload(packet, version)
                if messages.is_sctp_init(content) and content[16:20] == self._tag.to_bytes(4, "big"):
                    break
        self._caller = (caller[0], 0)
        self._say_sctp(messages.sctp_opening(messages.INIT_ACK, self._tag), from_server=True)
        self._say_sctp(messages.sctp_chunk(messages.COOKIE_ECHO, b"biscuit!"))
        self._say_sctp(messages.sctp_chunk(messages.COOKIE_ACK), from_server=True)

    def _say_sctp(self, chunk: bytes, *, from_server: bool = False, tag: int | None = None) -> None:
        ports = self._ports[::-1] if from_server else self._ports
        packet = messages.sctp(*ports, self._tag if tag is None else tag, chunk)
        sock, to = (self._server, self._caller) if from_server else (self._client, (self._through, 0))
        sock.sendto(packet, to)
