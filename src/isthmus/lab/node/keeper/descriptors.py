"""Receiving messages with descriptors, which must not reach programs that are executed later.

Rejected: socket.recv_fds, which drops its flags on the way to recvmsg(2), so that what it receives stays open across
execve.
"""

from __future__ import annotations

import array
import socket


def receive(connection: socket.socket, size: int, count: int) -> tuple[bytes, list[int]]:
    """Returns a message of at most `size` bytes and at most `count` descriptors, close-on-exec; raises OSError."""
    found = array.array("i")
    data, ancillary, _flags, _address = connection.recvmsg(
        size, socket.CMSG_SPACE(count * found.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(payload[: len(payload) - len(payload) % found.itemsize])
    return data, list(found)
