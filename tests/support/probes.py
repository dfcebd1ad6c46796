"""Who reaches whom: servers that answer in many namespaces, and attempts that run all at once.

All sockets are made inside their namespaces and used from outside, so one thread answers for every server and one loop
watches every attempt. SCTP is spoken through raw sockets (an INIT and its INIT ACK), as many kernels come without it.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from isthmus.model.flow import Protocol
from tests.support import messages

if TYPE_CHECKING:
    from tests.support.netns import Host, World

SO_LINGER_RESET = struct.pack("ii", 1, 0)  # close by RST: no TIME_WAIT, and nothing more to track
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
ICMP = {4: Protocol.ICMP, 6: Protocol.ICMPV6}


@dataclass(frozen=True)
class Attempt:
    """One try from a host to a host (or to an address in text); `protocol` is tcp, udp, sctp or icmp."""

    source: str
    destination: str
    protocol: str = "tcp"
    port: int = 80
    version: int = 4

    def __str__(self) -> str:
        port = "" if self.protocol == "icmp" else f":{self.port}"
        return f"{self.source} -> {self.destination}{port}/{self.protocol} (IPv{self.version})"

    __repr__ = __str__


class Responder:
    """Answers on every socket it was given: TCP and UDP echo, SCTP INIT ACK; ICMP is answered by the kernel."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._listening: set[tuple[str, str, int]] = set()
        self._lock = threading.Lock()
        self._wake_end, self._wake = socket.socketpair()
        self._selector.register(self._wake_end, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._loop, name="responder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    def listen(self, host: Host, protocol: str, port: int) -> None:
        with self._lock:
            if protocol == "icmp" or (host.name, protocol, port) in self._listening:
                return
            self._listening.add((host.name, protocol, port))
            for ip in host.ips:
                sock = host.run(lambda ip=ip: _server(protocol, port, ip))
                version = 6 if ":" in ip else 4
                answer = {"tcp": self._accept, "udp": _echo_datagram, "sctp": _echo_sctp(port, version)}[protocol]
                self._selector.register(sock, selectors.EVENT_READ, answer)

    def _loop(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                with suppress(BlockingIOError, ConnectionError, OSError):
                    key.data(key.fileobj)

    def _accept(self, sock: socket.socket) -> None:
        connection, _ = sock.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SO_LINGER_RESET)
        self._selector.register(connection, selectors.EVENT_READ, self._echo)

    def _echo(self, connection: socket.socket) -> None:
        data = b""
        with suppress(ConnectionError):
            data = connection.recv(65536)
            if data:
                connection.send(data)
        if not data:
            self._selector.unregister(connection)
            connection.close()


class Stream:
    """An established TCP connection to a Responder."""

    def __init__(self, host: Host, address: str, port: int) -> None:
        family = FAMILIES[6 if ":" in address else 4]
        self._socket = host.run(lambda: socket.socket(family, socket.SOCK_STREAM))
        self._socket.settimeout(5)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SO_LINGER_RESET)
        try:
            self._socket.connect((address, port))
        except BaseException:
            self._socket.close()
            raise
        self.local = self._socket.getsockname()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def alive(self, *, timeout: float = 0.3) -> bool:
        """Tells whether a fresh token comes back in time; what an earlier call still had under way does not count."""
        token = os.urandom(8)
        self._socket.settimeout(timeout)
        seen = b""
        end = time.monotonic() + timeout
        try:
            self._socket.sendall(token)
            while token not in seen:
                self._socket.settimeout(max(end - time.monotonic(), 0.001))
                data = self._socket.recv(65536)
                if not data:
                    return False
                seen += data
        except (TimeoutError, ConnectionError):
            return False
        return True


def reach(world: World, attempts: Sequence[Attempt], *, timeout: float) -> list[bool]:
    """Starts every attempt, and tells which of them got an answer within `timeout` seconds of the last start."""
    results = [False] * len(attempts)
    by_source: dict[str, list[int]] = {}
    for index, attempt in enumerate(attempts):
        by_source.setdefault(attempt.source, []).append(index)
    with selectors.DefaultSelector() as selector:
        try:
            for source, indexes in by_source.items():
                made = world[source].run(lambda indexes=indexes: [_client(attempts[index]) for index in indexes])
                for index, sock in zip(indexes, made, strict=True):
                    arrived, events = _start(sock, attempts[index], world, index)
                    selector.register(sock, events, (index, arrived))
            end = time.monotonic() + timeout
            while selector.get_map() and (left := end - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    index, arrived = key.data
                    outcome = arrived()
                    if outcome is not None:
                        results[index] = outcome
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
        finally:
            for key in list(selector.get_map().values()):
                key.fileobj.close()
    return results


Arrived = Callable[[], "bool | None"]
"""Looks at a readable (or writable) socket: True or False once the outcome is known."""


def _start(sock: socket.socket, attempt: Attempt, world: World, index: int) -> tuple[Arrived, int]:
    address = world.address(attempt.destination, attempt.version)
    token = os.urandom(8)
    if attempt.protocol == "tcp":
        with suppress(BlockingIOError, OSError):
            sock.connect((address, attempt.port))
        return lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, selectors.EVENT_WRITE
    if attempt.protocol == "udp":
        with suppress(OSError):
            sock.connect((address, attempt.port))
            sock.send(token)
        return lambda: _received(sock, lambda data: data == token), selectors.EVENT_READ
    if attempt.protocol == "sctp":
        tag, port = int.from_bytes(token[:4], "big") | 1, 20000 + (int.from_bytes(token[4:6], "big") + index) % 30000
        with suppress(OSError):
            sock.connect((address, 0))
            sock.send(messages.sctp_init(port, attempt.port, tag))
        return lambda: _received(sock, lambda data: _is_init_ack(data, attempt.version, tag)), selectors.EVENT_READ
    protocol = ICMP[attempt.version]
    request, reply = messages.ECHO[protocol]
    number = int.from_bytes(token[:2], "big") << 16 | index & 0xFFFF
    with suppress(OSError):
        sock.connect((address, 0))
        sock.send(messages.icmp(protocol, request, number, token))

    def matches(data: bytes) -> bool:
        content = messages.payload(data, attempt.version)
        return content[:1] == bytes([reply]) and content[8:16] == token

    return lambda: _received(sock, matches), selectors.EVENT_READ


def _received(sock: socket.socket, matches: Callable[[bytes], bool]) -> bool | None:
    try:
        data = sock.recv(65536)
    except BlockingIOError:
        return None
    except OSError:
        return False  # a rejection: nothing listens, or no route
    return True if matches(data) else None


def _client(attempt: Attempt) -> socket.socket:
    family = FAMILIES[attempt.version]
    kind, protocol = {
        "tcp": (socket.SOCK_STREAM, 0),
        "udp": (socket.SOCK_DGRAM, 0),
        "sctp": (socket.SOCK_RAW, Protocol.SCTP),
        "icmp": (socket.SOCK_RAW, ICMP[attempt.version]),
    }[attempt.protocol]
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    if attempt.protocol == "tcp":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SO_LINGER_RESET)
    return sock


def _server(protocol: str, port: int, ip: str) -> socket.socket:
    family = FAMILIES[6 if ":" in ip else 4]
    kind, number = {
        "tcp": (socket.SOCK_STREAM, 0),
        "udp": (socket.SOCK_DGRAM, 0),
        "sctp": (socket.SOCK_RAW, Protocol.SCTP),
    }[protocol]
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, number)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((ip, 0 if protocol == "sctp" else port))  # its own address, so that a node answers as itself
    if protocol == "tcp":
        sock.listen(1024)
    return sock


def _echo_datagram(sock: socket.socket) -> None:
    data, sender = sock.recvfrom(65536)
    sock.sendto(data, sender)


def _echo_sctp(port: int, version: int) -> Callable[[socket.socket], None]:
    def answer(sock: socket.socket) -> None:
        data, sender = sock.recvfrom(65536)
        content = messages.payload(data, version)
        if messages.is_sctp_init(content) and int.from_bytes(content[2:4], "big") == port:
            sock.sendto(messages.sctp_init_ack(content), (sender[0], 0))

    return answer


def _is_init_ack(data: bytes, version: int, tag: int) -> bool:
    content = messages.payload(data, version)
    return messages.is_sctp_init_ack(content) and int.from_bytes(content[4:8], "big") == tag
