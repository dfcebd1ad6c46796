"""Load between two namespaces: TCP connections opened and reset as fast as one CPU can, and bulk streams.

The client is pinned to CPU 0 and the server to CPU 1. Over veth the whole way of a packet, client to router to server
and back, runs in the softirq of the CPU that sent it, and is charged to the process that runs there. So the CPU time of
the two processes holds all the work of the path, both TCP stacks included. That is what is compared: CPU time per
connection or per byte is what a policy adds to, and unlike wall time it does not mind other work on the machine.

The generator is Python, but nearly all of its time is spent in the kernel; `user` says how much is not.
"""

import _socket  # socket.socket in Python costs as much as the connection that it makes
import ctypes
import fcntl
import multiprocessing
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from isthmus.kernel.namespaces import enter
from tests.support.netns import Host

CLIENT_CPU, SERVER_CPU = 0, 1
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by RST, so that no TIME_WAIT piles up
BACKLOG = 32768
BATCH = 96  # connections between two looks at the clock
CHUNK = 1 << 20
SIOCETHTOOL = 0x8946
OFFLOADS = (0x1F, 0x24, 0x2C)  # ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO


@dataclass
class Burst:
    """What a client did: `amount` connections or bytes; `cpu` and its part `user` in seconds, both processes."""

    amount: int
    wall: float
    cpu: float
    user: float

    @property
    def cost(self) -> float:
        """Seconds of CPU time for one connection or byte."""
        return self.cpu / self.amount

    @property
    def rate(self) -> float:
        """Connections or bytes per second of wall time."""
        return self.amount / self.wall


class Generator:
    """A client process in one namespace and a server process in another; use as a context manager."""

    def __init__(
        self, client: Host, server: Host, *, address: str, ports: Sequence[int], through: str | None = None
    ) -> None:
        """`address` is the server's; the client connects to `through`, if that is another."""
        self._addresses = {"client": through or address, "server": address}
        self._hosts = {"client": (client, _client, CLIENT_CPU), "server": (server, _server, SERVER_CPU)}
        self._ports = tuple(ports)
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._pipes: dict[str, Connection] = {}

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("fork")
        for side in ("server", "client"):
            host, work, cpu = self._hosts[side]
            here, there = context.Pipe()
            arguments = (host.descriptor, cpu, work, there, self._addresses[side], self._ports)
            process = context.Process(target=_run, args=arguments, daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._pipes[side] = here
            assert here.recv() == "ready"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes.values():
            pipe.close()
        for process in self._processes:
            process.terminate()
            process.join()

    def connections(self, seconds: float) -> Burst:
        """Opens connections and resets them; the server takes them from its queue now and then."""
        return self._burst("connections", seconds)

    def bulk(self, seconds: float) -> Burst:
        """Sends on one TCP connection; the server throws away what it gets without copying it."""
        return self._burst("bulk", seconds)

    def _burst(self, what: str, seconds: float) -> Burst:
        server = self._pipes["server"]
        server.send((what, "start"))
        assert server.recv() == "started"
        client = self._pipes["client"]
        client.send((what, seconds))
        if not client.poll(seconds * 10 + 10):
            raise AssertionError("the load generator is stuck: does the server's port answer?")
        burst: Burst = client.recv()
        server.send((what, "stop"))
        cpu, user = server.recv()
        return Burst(burst.amount, burst.wall, burst.cpu + cpu, burst.user + user)


def _run(
    descriptor: int,
    cpu: int,
    work: Callable[[Connection, str, Sequence[int]], None],
    pipe: Connection,
    address: str,
    ports: Sequence[int],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    enter(descriptor)
    with suppress(OSError):
        os.sched_setaffinity(0, {cpu})
    with suppress(EOFError, BrokenPipeError):
        work(pipe, address, ports)


class _Clock:
    def __init__(self) -> None:
        self._wall, self._cpu, self._user = time.monotonic(), time.process_time(), os.times().user

    def read(self) -> tuple[float, float, float]:
        """Returns wall, CPU and user seconds since it was made."""
        return time.monotonic() - self._wall, time.process_time() - self._cpu, os.times().user - self._user


def _client(pipe: Connection, address: str, ports: Sequence[int]) -> None:
    pipe.send("ready")
    while True:
        what, seconds = pipe.recv()
        clock = _Clock()
        amount = (_open_and_reset if what == "connections" else _send)(address, ports, seconds)
        pipe.send(Burst(amount, *clock.read()))


def _open_and_reset(address: str, ports: Sequence[int], seconds: float) -> int:
    make, family, kind = _socket.socket, _socket.AF_INET, _socket.SOCK_STREAM
    level, option = _socket.SOL_SOCKET, _socket.SO_LINGER
    targets = [(address, port) for port in ports]
    count = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for target in targets:
            for _ in range(BATCH // len(targets)):
                connection = make(family, kind)
                connection.setsockopt(level, option, RESET)
                connection.connect(target)
                connection.close()
        count += BATCH // len(targets) * len(targets)
    return count


def _send(address: str, ports: Sequence[int], seconds: float) -> int:
    connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    connection.connect((address, ports[0]))
    data = bytes(CHUNK)
    count = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        count += connection.send(data)
    connection.shutdown(_socket.SHUT_WR)
    assert connection.recv(1) == b""  # the server has read it all
    connection.close()
    return count


def _server(pipe: Connection, address: str, ports: Sequence[int]) -> None:
    listeners = []
    for port in ports:
        listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        listeners.append(listener)
    pipe.send("ready")
    while True:
        what, _ = pipe.recv()
        clock = _Clock()
        pipe.send("started")
        if what == "bulk":
            _discard(pipe, listeners[0])
        while not pipe.poll(0.005):
            _empty(listeners)
        _empty(listeners)
        pipe.recv()
        pipe.send(clock.read()[1:])


def _empty(listeners: Sequence[_socket.socket]) -> None:
    for listener in listeners:
        with suppress(BlockingIOError):
            while True:
                descriptor, _ = listener._accept()
                os.close(descriptor)


def _discard(pipe: Connection, listener: _socket.socket) -> None:
    while True:
        try:
            descriptor, _ = listener._accept()
            break
        except BlockingIOError:
            if pipe.poll(0.001):
                return
    connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, descriptor)
    connection.setblocking(True)
    buffer = bytearray(CHUNK)
    while connection.recv_into(buffer, CHUNK, _socket.MSG_TRUNC):
        pass
    connection.close()


def without_offload(link: str) -> None:
    """Turns off segmentation and aggregation of a link of the calling thread's namespace: every packet is a wire's."""
    with _socket_for_ioctl() as descriptor:
        for command in OFFLOADS:
            value = (ctypes.c_uint32 * 2)(command, 0)
            request = struct.pack("16sP", link.encode(), ctypes.addressof(value)) + bytes(16)
            fcntl.ioctl(descriptor, SIOCETHTOOL, request)


@contextmanager
def _socket_for_ioctl() -> Iterator[int]:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        yield sock.fileno()
    finally:
        sock.close()
