"""The node's side of the keeper: starts one where none is, asks, and hears of ends.

Invariants: a lost keeper is replaced at the next request, and whoever waited for one of its answers is told
KeeperError; a request is sent whole, in order, without blocking the loop.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from isthmus.aio.readiness import readable, writable
from isthmus.lab.node.keeper.descriptors import receive
from isthmus.lab.node.keeper.serve import MAX_MESSAGE

Json = dict[str, Any]

_START_LIMIT = 20.0
"""Seconds until a new keeper listens; it takes 60 ms on an idle machine."""
_PAUSE = 0.01
_MAX_DESCRIPTORS = 4
_SOURCE = Path(__file__).parents[4]
_ENTRY = (
    "import sys; sys.path.insert(0, sys.argv[1]); from isthmus.lab.node.keeper.serve import main; main(sys.argv[2])"
)


class KeeperError(Exception):
    """The keeper cannot be reached or has gone."""


class Answer(msgspec.Struct, frozen=True):
    """One message of an answer, with descriptors that the receiver owns."""

    body: Json
    descriptors: tuple[int, ...] = ()


class Keeper:
    """The keeper that listens below `run`; `close` leaves it and its children alone."""

    def __init__(self, run: Path, *, log: Path) -> None:
        self._path = run / "keeper"
        self._log = log
        self._connection: socket.socket | None = None
        self._turn = asyncio.Lock()

    def close(self) -> None:
        """Lets go of the keeper."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.asynccontextmanager
    async def ask(
        self, op: str, body: Json | None = None, *, descriptors: Sequence[int] = (), **words: int
    ) -> AsyncIterator[AsyncIterator[Answer]]:
        """Sends a request and gives its answers; raises KeeperError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            with theirs:
                await self._send(op, body or {}, words, theirs, descriptors)
            yield _answers(ours)
        finally:
            ours.close()

    async def do(self, op: str, body: Json | None = None, *, descriptors: Sequence[int] = (), **words: int) -> Json:
        """Sends a request and returns all of its answers as one; raises KeeperError for what went wrong."""
        result: Json = {}
        async with self.ask(op, body, descriptors=descriptors, **words) as answers:
            async for answer in answers:
                for descriptor in answer.descriptors:
                    os.close(descriptor)
                result |= answer.body
        if "error" in result:
            raise KeeperError(result["error"])
        return result

    async def exit_code(self, pid: int) -> int | None:
        """Returns the exit code of a child when it has ended; None if this keeper does not know it.

        A container may run for ever. Raises KeeperError if the keeper goes away.
        """
        async with self.ask("wait", pid=pid) as answers:
            async for answer in answers:
                code = answer.body.get("code")
                return code if isinstance(code, int) else None
        raise KeeperError("the keeper has gone")

    async def _send(self, op: str, body: Json, words: Json, reply: socket.socket, descriptors: Sequence[int]) -> None:
        memory = os.memfd_create("request", os.MFD_CLOEXEC)
        try:
            data = msgspec.json.encode(body)
            view = memoryview(data)
            while view:
                view = view[os.write(memory, view) :]
            message = msgspec.json.encode({"op": op, **words})
            passed = [memory, reply.fileno(), *descriptors]
            async with self._turn:
                for attempt in (1, 2):
                    connection = self._connection or await self._connect()
                    try:
                        await _send_when_possible(connection, message, passed)
                    except OSError as error:
                        self.close()
                        if attempt == 2:
                            raise KeeperError(f"the keeper does not listen: {error}") from error
                    else:
                        return
        finally:
            os.close(memory)

    async def _connect(self) -> socket.socket:
        connection = self._try()
        if connection is None:
            self._start()
            deadline = time.monotonic() + _START_LIMIT
            while (connection := self._try()) is None:
                if time.monotonic() > deadline:
                    raise KeeperError(f"the keeper does not start; see {self._log}")
                await asyncio.sleep(_PAUSE)
        self._connection = connection
        return connection

    def _try(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # Through the descriptor, because a unix socket's path has at most 107 bytes.
                connection.connect(f"/proc/self/fd/{directory}/{self._path.name}")
            finally:
                os.close(directory)
        except OSError:
            connection.close()
            return None
        connection.setblocking(False)
        return connection

    def _start(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with self._log.open("ab") as log:
                process = subprocess.Popen(
                    [os.path.realpath(sys.executable), "-IS", "-c", _ENTRY, str(_SOURCE), str(self._path)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd="/",
                )
        except OSError as error:
            raise KeeperError(f"the keeper does not start: {error}") from error
        process.returncode = 0  # it outlives us, and is then reaped by PID 1


async def _send_when_possible(connection: socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    while True:
        try:
            socket.send_fds(connection, [message], descriptors)
        except BlockingIOError:
            # The keeper reads all the time: it leaves work to its children.
            await writable(connection.fileno())
        else:
            return


async def _answers(ours: socket.socket) -> AsyncIterator[Answer]:
    while True:
        try:
            data, descriptors = receive(ours, MAX_MESSAGE, _MAX_DESCRIPTORS)
        except BlockingIOError:
            # As long as the request takes; callers bound it.
            await readable(ours.fileno())
            continue
        if not data:
            return
        yield Answer(msgspec.json.decode(data, type=Json), tuple(descriptors))
