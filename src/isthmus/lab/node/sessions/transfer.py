"""`kubectl exec` and `kubectl attach`: moving bytes between a client and a process.

Invariants: reading stops while the other side does not take what was read, so memory stays bounded; a program that
`exec` started does not outlive its client; whoever is attached to a container that ends gets all of its output and
its exit code.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable

import msgspec

from isthmus.aio.readiness import resolve, writable
from isthmus.lab.node.containers.output import Output
from isthmus.lab.node.containers.process import is_alive, send
from isthmus.lab.node.containers.run import UNKNOWN_EXIT, Run, StartError, begin, set_size
from isthmus.lab.node.keeper.client import Keeper, KeeperError
from isthmus.lab.node.pods.record import Process
from isthmus.lab.node.sessions.channels import ERROR, STDERR, STDOUT, EndOfInput, Input, Resize, exited
from isthmus.lab.node.sessions.clients import Client

_READ_SIZE = 32 * 1024
_END_OF_TRANSMISSION = b"\x04"
"""What a terminal takes as the end of input (VEOF, control-D)."""


class Streams(msgspec.Struct, frozen=True):
    """What the client asked for."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


async def attach(client: Client, *, output: Output, run: Run | None, streams: Streams, once: bool) -> None:
    """Joins a client to a container's output and, if asked for, its standard input, until either ends.

    `once` closes the container's standard input when the client's ends (stdinOnce).
    """
    subscriber = output.attach()

    async def forward() -> None:
        while (chunk := await subscriber.next()) is not None:
            stream, data = chunk
            if (stream == STDOUT and streams.stdout) or (stream == STDERR and streams.stderr):
                await client.send(stream, data)

    async def feed(data: bytes) -> None:
        if run is not None and streams.stdin:
            await _write(run.terminal if run.terminal >= 0 else run.stdin, data)

    async def end_input() -> None:
        if run is None or not once:
            return
        if run.terminal >= 0:
            await _write(run.terminal, _END_OF_TRANSMISSION)
        else:
            await run.end_stdin()

    def resize(size: Resize) -> None:
        if run is not None:
            run.resize(columns=size.width, rows=size.height)

    listening = asyncio.create_task(_listen(client, feed=feed, end_input=end_input, resize=resize))
    forwarding = asyncio.create_task(forward())
    try:
        # Attached for as long as the container runs and the client stays.
        await asyncio.wait({listening, forwarding}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        output.detach(subscriber)
        for task in (listening, forwarding):
            task.cancel()
        await asyncio.gather(listening, forwarding, return_exceptions=True)


async def execute(
    client: Client, *, keeper: Keeper, target: Process, spec: dict[str, object], streams: Streams
) -> None:
    """Runs a program in the container of `target` for a client, and tells its exit code at the end.

    `spec` is what the keeper's `execute` reads. Raises ExecError.
    """
    session = _Session(streams)
    try:
        process = await session.start(keeper, target, spec)
    except (StartError, KeeperError, OSError) as error:
        session.close()
        raise ExecError(str(error)) from error

    async def end_input() -> None:
        session.close_input()

    def resize(size: Resize) -> None:
        set_size(session.input, columns=size.width, rows=size.height)

    ended = asyncio.create_task(_exit_code(keeper, process))
    listening = asyncio.create_task(_listen(client, feed=session.feed, end_input=end_input, resize=resize))
    copying = asyncio.create_task(session.copy(client))
    try:
        # A program may run as long as its client wants it to.
        await asyncio.wait({ended, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            _end(process)
        code = await ended
        session.finish()
        await copying
        with contextlib.suppress(ConnectionError):
            await client.send(ERROR, exited(code))
    finally:
        _end(process)
        for task in (ended, listening, copying):
            task.cancel()
        await asyncio.gather(ended, listening, copying, return_exceptions=True)
        session.close()


class ExecError(Exception):
    """A program could not be started in a container; the message is the keeper's."""

    @property
    def exit_code(self) -> int:
        """What a shell would say: 127 for a program that there is not, 126 for one that cannot be executed."""
        return 127 if "not found" in str(self) or "no such file" in str(self) else 126


class _Session:
    """The descriptors of one `exec`."""

    def __init__(self, streams: Streams) -> None:
        self.input = -1
        self._streams = streams
        self._outputs: dict[int, int] = {}
        self._finished = asyncio.Event()

    async def start(self, keeper: Keeper, target: Process, spec: dict[str, object]) -> Process:
        """Returns the new process; raises StartError, KeeperError, OSError."""
        theirs = [] if self._streams.tty else self._pipes()
        try:
            words = {"pid": target.pid, "start": target.start_time}
            async with keeper.ask("exec", spec, descriptors=theirs, **words) as answers:
                born = await begin(answers)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        if born.terminal >= 0:
            self.input = born.terminal
            os.set_blocking(self.input, False)
            self._outputs[os.dup(self.input)] = STDOUT
        return born.process

    def _pipes(self) -> list[int]:
        if self._streams.stdin:
            theirs_in, self.input = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self.input, False)
        else:
            theirs_in = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        theirs = [theirs_in]
        for stream in (STDOUT, STDERR):
            ours, their_end = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(ours, False)
            self._outputs[ours] = stream
            theirs.append(their_end)
        return theirs

    async def feed(self, data: bytes) -> None:
        await _write(self.input, data)

    def close_input(self) -> None:
        if self._streams.tty:
            # The terminal is also where output comes from, so it stays open.
            with contextlib.suppress(OSError):
                os.write(self.input, _END_OF_TRANSMISSION)
        elif self.input >= 0:
            os.close(self.input)
            self.input = -1

    async def copy(self, client: Client) -> None:
        """Sends what the program writes until `finish`, and then what is left."""
        async with asyncio.TaskGroup() as group:
            for descriptor, stream in self._outputs.items():
                group.create_task(self._copy_one(client, descriptor, stream))

    async def _copy_one(self, client: Client, descriptor: int, stream: int) -> None:
        wanted = self._streams.stdout if stream == STDOUT else self._streams.stderr
        while True:
            try:
                data = os.read(descriptor, _READ_SIZE)
            except BlockingIOError:
                # A program may have left others behind who hold the pipe; its own end is what counts.
                if self._finished.is_set():
                    return
                await _ready(descriptor, self._finished)
                continue
            except OSError:
                return  # a terminal whose last user has gone
            if not data:
                return
            if wanted:
                with contextlib.suppress(ConnectionError):
                    await client.send(stream, data)

    def finish(self) -> None:
        self._finished.set()

    def close(self) -> None:
        for descriptor in (self.input, *self._outputs):
            if descriptor >= 0:
                os.close(descriptor)
        self.input = -1
        self._outputs.clear()


async def _listen(
    client: Client,
    *,
    feed: Callable[[bytes], Awaitable[None]],
    end_input: Callable[[], Awaitable[None]],
    resize: Callable[[Resize], None],
) -> None:
    """Handles the client's messages until it goes away."""
    async for message in client.messages():
        match message:
            case Input(data=data):
                await feed(data)
            case EndOfInput():
                await end_input()
            case Resize() as size:
                resize(size)


async def _exit_code(keeper: Keeper, process: Process) -> int:
    code = None
    with contextlib.suppress(KeeperError):
        code = await keeper.exit_code(process.pid)
    return UNKNOWN_EXIT if code is None else code


def _end(process: Process) -> None:
    """Kills a program that `exec` started; nothing if it is gone."""
    if is_alive(process):
        send(process.pid, signal.SIGKILL)


async def _write(descriptor: int, data: bytes) -> None:
    """Writes all of `data`, waiting while the reader is slow; a reader that has gone is no error."""
    while data and descriptor >= 0:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            # Ends with the session, which cancels us.
            await writable(descriptor)
        except OSError:
            return


async def _ready(descriptor: int, finished: asyncio.Event) -> None:
    """Waits until there is something to read, or the program has ended."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(descriptor, resolve, readable)
    ending = asyncio.ensure_future(finished.wait())
    try:
        await asyncio.wait({readable, ending}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending.cancel()
        loop.remove_reader(descriptor)
