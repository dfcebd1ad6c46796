"""A listening socket of the machine, held for a process of the lab that may come and go.

It was made outside, on the machine's loopback, and cannot be made again from in here, so it is never closed while its
cluster lives. While its process waits for a restart, callers wait in the queue; while it is stopped on purpose they
must be refused, as on any port that nobody serves: shutdown(2) ends listening on Linux and keeps the port bound.
"""

import contextlib
import os
import socket

BACKLOG = 128


class Doorway:
    """Owns `descriptor`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def number(self) -> int:
        """The descriptor that a process inherits."""
        return self._descriptor

    def shut(self) -> None:
        """Lets callers be refused."""
        with self._borrowed() as held, contextlib.suppress(OSError):
            held.shutdown(socket.SHUT_RD)

    def open(self) -> None:
        """Lets callers in; raises OSError."""
        with self._borrowed() as held:
            held.listen(BACKLOG)

    def close(self) -> None:
        """Gives the port up."""
        os.close(self._descriptor)

    def _borrowed(self) -> socket.socket:
        return socket.socket(fileno=os.dup(self._descriptor))
