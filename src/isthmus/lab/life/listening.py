"""The socket on this machine through which people reach a cluster's API server.

Its port is chosen below those that Linux gives to outgoing connections (net.ipv4.ip_local_port_range), so that nobody
holds it by chance when the lab comes back after a reboot.
"""

import contextlib
import random
import socket
from types import TracebackType

BACKLOG = 128
_LOWEST, _HIGHEST = 20000, 32000
_TRIES = 50


class ListenError(Exception):
    """The port cannot be had; the message says which one and what to change."""


class Listener:
    """A listening socket; a context manager."""

    def __init__(self, held: socket.socket) -> None:
        self._socket = held
        self.port: int = held.getsockname()[1]

    def __enter__(self) -> "Listener":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, to be passed on; it stays a socket of this machine's network wherever it goes."""
        return self._socket.fileno()


def listen(host: str, port: int, *, origin: str) -> Listener:
    """Listens on `port`, or on a free one if it is 0; raises ListenError, which begins with `origin`."""
    if port:
        try:
            return _bound(host, port)
        except OSError as error:
            raise ListenError(f"{origin} {port}: cannot listen on {host}:{port}: {error.strerror or error}") from error
    for candidate in random.sample(range(_LOWEST, _HIGHEST), _TRIES):
        with contextlib.suppress(OSError):
            return _bound(host, candidate)
    try:
        return _bound(host, 0)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}: {error.strerror or error}") from error


def _bound(host: str, port: int) -> Listener:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, port))
        held.listen(BACKLOG)
    except OSError:
        held.close()
        raise
    return Listener(held)
