"""The NETLINK_NETFILTER socket: sends one request or one batch, and collects all the kernel says about it.

What must stay true: a request is over when `transact` or `dump` returns. The kernel works on a request inside our own
`send()` and has queued every answer before that returns, so nothing is ever in flight between two calls; the receive
time-out is there for a kernel that breaks this, not as part of the protocol. For the same reason `send()` blocks until
the commit, even on a non-blocking socket, so an instance belongs in a writer thread and never on an event loop.

A batch has to go out in one `send()`, so the send buffer grows to fit it. That takes CAP_NET_ADMIN in the initial user
namespace; elsewhere `net.core.wmem_max` bounds a transaction, and the error says so.

Rejected: asking for an acknowledgement of every message. A failed message is always reported; one acknowledgement on
the last message tells the end.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from isthmus.kernel.errors import KernelError, describe
from isthmus.wire import netlink
from isthmus.wire.netlink import Answer, Message, NetlinkDecodeError

NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33

MAX_BATCH = 256 << 20  # bytes in one transaction; a million map elements are about 45 MB
RECEIVE_BUFFER = 4 << 20  # bytes; some 4,000 refused messages
DATAGRAM = 64 << 10  # bytes; the kernel never sends a larger netlink datagram to a dump
TIMEOUT = 5  # seconds
LARGEST = 64 << 20  # bytes; asks for more than any limit, the kernel cuts it down
OVERHEAD = 64 << 10  # bytes the kernel counts against the send buffer beyond the data


class NetfilterSocket:
    """A connection to nfnetlink in the network namespace of the thread that made it; use as a context manager."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        except OSError as error:
            raise KernelError(f"no netlink socket for netfilter: {error}", errno=error.errno or 0) from error
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT, 0))
            self._grow(SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER)
        except OSError as error:
            self._socket.close()
            raise KernelError(f"netlink socket for netfilter: {error}", errno=error.errno or 0) from error
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the socket; may be called again."""
        self._socket.close()

    def reserve(self, count: int) -> int:
        """Returns the first of `count` sequence numbers (32 bits, wrapping) that no earlier request has used."""
        first = self._sequence
        self._sequence = (first + count) % (1 << 32)
        return first

    def transact(self, batch: bytes, *, last: int) -> list[Answer]:
        """Sends `batch` and returns what the kernel refused; an empty list means committed.

        `last` is the sequence number of the message that asks for an acknowledgement. Raises KernelError if the batch
        could not be sent or the outcome is not known.
        """
        self._send(batch)
        refused: list[Answer] = []
        for message in self._receive():
            if message.type != netlink.NLMSG_ERROR:
                continue
            answer = self._decoded(message)
            if answer.errno:
                refused.append(answer)
            if answer.sequence == last:
                self._drain(refused)
                return refused
        return refused  # pragma: no cover - _receive only ends by an exception

    def dump(self, request: bytes, *, sequence: int) -> Iterator[Message]:
        """Sends one request and yields the messages of the answer. Raises KernelError; read it to the end.

        The request is a dump, or one that asks for an acknowledgement.
        """
        self._send(request)
        for message in self._receive():
            if message.sequence != sequence:
                continue
            if message.type == netlink.NLMSG_ERROR:
                answer = self._decoded(message)
                if answer.errno:
                    raise KernelError(describe(answer.errno), errno=answer.errno)
                return
            elif message.type == netlink.NLMSG_DONE:
                return
            else:
                yield message

    def _send(self, data: bytes) -> None:
        if len(data) > MAX_BATCH:
            raise KernelError(
                f"a transaction of {len(data)} bytes is over the limit of {MAX_BATCH}", errno=errno.EMSGSIZE
            )
        self._drain([])
        self._grow(SO_SNDBUFFORCE, socket.SO_SNDBUF, len(data) + OVERHEAD)
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise KernelError(too_large(f"a transaction of {len(data)} bytes"), errno=errno.EMSGSIZE) from error
            raise KernelError(f"netlink send: {error}", errno=error.errno or 0) from error

    def _grow(self, force: int, plain: int, size: int) -> None:
        # The kernel doubles what it is given and reports the doubled value.
        if self._socket.getsockopt(socket.SOL_SOCKET, plain) >= size * 2:
            return
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, plain, size)

    def _receive(self) -> Iterator[Message]:
        while True:
            try:
                data = self._socket.recv(DATAGRAM)
            except OSError as error:
                raise KernelError(f"netlink answer: {_reason(error)}", errno=error.errno or 0) from error
            yield from _messages(data)

    def _drain(self, refused: list[Answer]) -> None:
        """Reads what is still queued: refusals that come after the acknowledgement, or leftovers of a failed call."""
        while True:
            try:
                data = self._socket.recv(DATAGRAM, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                raise KernelError(f"netlink answer: {_reason(error)}", errno=error.errno or 0) from error
            for message in _messages(data):
                if message.type == netlink.NLMSG_ERROR:
                    answer = self._decoded(message)
                    if answer.errno:
                        refused.append(answer)

    @staticmethod
    def _decoded(message: Message) -> Answer:
        try:
            return netlink.decode_answer(message)
        except NetlinkDecodeError as error:
            raise KernelError(f"netlink answer: {error}") from error


def _messages(data: bytes) -> Iterator[Message]:
    try:
        yield from netlink.decode_messages(data)
    except NetlinkDecodeError as error:
        raise KernelError(f"netlink answer: {error}") from error


def _reason(error: OSError) -> str:
    if error.errno == errno.EAGAIN:
        return f"none within {TIMEOUT} s"
    if error.errno == errno.ENOBUFS:
        return "more refusals than the receive buffer holds"
    return describe(error.errno or 0)


def widen(descriptor: int) -> None:
    """Gives a netlink socket of another library the largest send buffer an unprivileged user may have.

    libnftables 1.0 grows its own only by SO_SNDBUFFORCE, so where that is not allowed it stays at `wmem_default`.
    A descriptor of anything else is left alone.
    """
    try:
        with socket.socket(fileno=os.dup(descriptor)) as other:
            if other.family == socket.AF_NETLINK:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _wmem_max() or LARGEST)
    except OSError:
        return


def too_large(what: str) -> str:
    """Returns what to tell about a transaction that does not fit the send buffer."""
    return (
        f"{what} is over what net.core.wmem_max ({_wmem_max() or 'unknown'} bytes) lets this "
        "user send at once; split it, raise that sysctl on the host, or run as root"
    )


def _wmem_max() -> int:
    """Returns the sysctl, 0 if it cannot be read: it is the host's, and not shown in every network namespace."""
    try:
        return int(Path("/proc/sys/net/core/wmem_max").read_text())
    except (OSError, ValueError):
        return 0
