"""Sockets served by one thread: readiness callbacks on epoll, work handed over from other threads, a clock tick.

Why: a pod's server must hold thousands of idle connections in a few megabytes. Invariants: a callback that raises
ends its own socket and nothing else; SIGTERM ends the process at once, whatever goes on. Rejected: a thread for each
connection, which a slow client holds for as long as it likes; asyncio, which costs four megabytes in each process.
"""

import _thread
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
TICK = 5.0
"""Seconds between calls of the clock's callbacks."""
BACKLOG = 1024
_WAKE = b"w"

OnEvents = Callable[[int], None]


class Loop:
    """Calls back when sockets are ready; everything but `call` belongs to the thread that runs it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, OnEvents] = {}
        self._ticks: list[Callable[[], None]] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._wake_reader, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopped = False
        self._thread = _thread.get_ident()
        self.watch(self._wake_reader, READ, self._woken)

    def watch(self, descriptor: int, events: int, callback: OnEvents) -> None:
        """Calls `callback(events)` when the descriptor is ready; again for other events."""
        if descriptor in self._callbacks:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = callback

    def forget(self, descriptor: int) -> None:
        """Stops watching; call it before the descriptor is closed."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def every_tick(self, callback: Callable[[], None]) -> None:
        """Calls back every few seconds."""
        self._ticks.append(callback)

    def call(self, callback: Callable[[], None]) -> None:
        """Calls back soon, in the loop's thread; safe from any thread."""
        self._calls.append(callback)
        try:
            os.write(self._wake_writer, _WAKE)
        except BlockingIOError:
            pass  # it is awake already

    @property
    def is_current(self) -> bool:
        """Whether this is the loop's thread."""
        return _thread.get_ident() == self._thread

    def stop(self) -> None:
        """Ends `run` after the present round."""
        self._stopped = True

    def close(self) -> None:
        """Lets go of the loop's own descriptors."""
        self._epoll.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def run(self) -> None:
        """Serves until stopped."""
        self._thread = _thread.get_ident()
        next_tick = time.monotonic() + TICK
        while not self._stopped:
            for descriptor, events in self._epoll.poll(max(next_tick - time.monotonic(), 0.0)):
                callback = self._callbacks.get(descriptor)
                if callback is not None:
                    guarded(callback, events)
            while self._calls:
                guarded(self._calls.popleft())
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK
                for tick in self._ticks:
                    guarded(tick)

    def _woken(self, _events: int) -> None:
        try:
            os.read(self._wake_reader, 4096)
        except BlockingIOError:
            pass


def guarded(callback: Callable[..., None], *arguments: int) -> None:
    """Calls; an error is told and goes no further."""
    try:
        callback(*arguments)
    except Exception as error:  # the boundary between one client's bytes and everybody else's server
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()


def listen(port: int, *, host: str = "", protocol: int = 0, only6: bool = False) -> socket.socket:
    """Returns a listening socket; without a host for both families where there is IPv6. Raises OSError."""
    if ":" in host or (not host and socket.has_ipv6 and not protocol):
        try:
            listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, protocol)
        except OSError:
            if host:
                raise
        else:
            try:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(host) and only6))
                return _bound(listener, host or "::", port)
            except OSError as error:
                listener.close()
                # EADDRNOTAVAIL, EAFNOSUPPORT: IPv6 is switched off here.
                if host or error.errno not in (97, 99):
                    raise
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    try:
        return _bound(listener, host or "0.0.0.0", port)
    except OSError:
        listener.close()
        raise


def datagram_socket(port: int, *, host: str = "") -> socket.socket:
    """Returns a bound UDP socket; without a host for both families where there is IPv6. Raises OSError."""
    if ":" in host or (not host and socket.has_ipv6):
        try:
            server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            try:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                server.bind((host or "::", port))
            except OSError:
                server.close()
                raise
            server.setblocking(False)
            return server
        except OSError as error:
            if host or error.errno not in (97, 99):
                raise
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        server.bind((host or "0.0.0.0", port))
    except OSError:
        server.close()
        raise
    server.setblocking(False)
    return server


def end_on_signals(code: int = 0) -> None:
    """Ends the process with `code` at SIGTERM and SIGINT. PID 1 of a pod gets no default action (signal(7))."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(code))


def _bound(listener: socket.socket, host: str, port: int) -> socket.socket:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
