"""Tries of TCP connections, many at a time, to learn whether a host is there. Never blocks; needs no privilege.

Invariants: a try costs one descriptor, which is closed with its outcome or when it is given up; nothing is ever sent
over a connection that comes about, and it ends with a reset, so neither side keeps it in TIME-WAIT; what failed here
(no descriptor, no port, no permission) is never taken for the other side's silence. One epoll for all, so that whoever
waits watches one descriptor, and can collect what came before judging what did not. Rejected: ICMP echo, which needs a
capability or a sysctl; asyncio's own connections, a task and a transport each, of which there are 200 a second.
"""

import errno
import select
import socket
from enum import Enum

MOST = 1024
"""Tries under way at most; more are UNABLE."""


class Outcome(Enum):
    """What became of a try."""

    ANSWERED = "answered"  # accepted or refused: a host is there
    MISSED = "missed"  # the network says that there is none
    UNABLE = "unable"  # it could not be tried


_ALIVE = {0, errno.ECONNREFUSED, errno.ECONNRESET}
_DEAD = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ENONET, errno.ETIMEDOUT}
_RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # struct linger {1, 0}: closing discards the connection


class Connects:
    """Tries under way, each known by a number of the caller's."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, tuple[int, socket.socket]] = {}  # by descriptor
        self._descriptors: dict[int, int] = {}  # by number
        self.error = ""
        """Why the last try that was UNABLE was that."""

    def __len__(self) -> int:
        return len(self._sockets)

    def fileno(self) -> int:
        """Returns a descriptor that is readable when `harvest` has something to tell."""
        return self._epoll.fileno()

    def start(self, number: int, address: str, port: int) -> Outcome | None:
        """Begins a try; returns its outcome if there is one already, else None."""
        if len(self._sockets) >= MOST:
            self.error = f"{MOST} connections are being tried already"
            return Outcome.UNABLE
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            socket.inet_pton(family, address)  # a name would be looked up, which blocks
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            return self._outcome(error.errno or -1, error)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            code = sock.connect_ex((address, port))
            if code == errno.EINPROGRESS:
                self._epoll.register(sock, select.EPOLLOUT)
                self._sockets[sock.fileno()] = number, sock
                self._descriptors[number] = sock.fileno()
                return None
        except OSError as error:
            sock.close()
            return self._outcome(error.errno or -1, error)
        sock.close()
        return self._outcome(code, OSError(code, errno.errorcode.get(code, "")))

    def harvest(self) -> list[tuple[int, Outcome]]:
        """Returns the outcomes that are there now, by number; these tries are over."""
        found: list[tuple[int, Outcome]] = []
        for descriptor, _ in self._epoll.poll(0):
            number, sock = self._sockets[descriptor]
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            found.append((number, self._outcome(code, OSError(code, errno.errorcode.get(code, "")))))
            self.drop(number)
        return found

    def drop(self, number: int) -> None:
        """Gives a try up, if it is still under way."""
        descriptor = self._descriptors.pop(number, None)
        if descriptor is not None:
            _, sock = self._sockets.pop(descriptor)
            sock.close()  # which takes it out of the epoll

    def close(self) -> None:
        """Gives everything up."""
        for number in list(self._descriptors):
            self.drop(number)
        self._epoll.close()

    def _outcome(self, code: int, error: OSError) -> Outcome:
        if code in _ALIVE:
            return Outcome.ANSWERED
        if code in _DEAD:
            return Outcome.MISSED
        self.error = str(error)
        return Outcome.UNABLE
