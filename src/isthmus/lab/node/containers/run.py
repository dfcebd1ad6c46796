"""One run of a container: its processes, its streams, its end.

The node's keeper is the parent: it writes the program's exit code to a file, so a node that was killed and started
again still learns it, and the streams are FIFOs that both sides hold open for reading and writing, so nobody gets
SIGPIPE in the meantime. A terminal, or the write end of standard input, is held by the keeper as well.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from isthmus.lab.node.containers.output import STDERR, STDOUT, Output
from isthmus.lab.node.containers.paths import RunFiles
from isthmus.lab.node.containers.process import identify, is_alive, reacts_to, send, wait_for_end
from isthmus.lab.node.keeper.client import Answer, Keeper, KeeperError
from isthmus.lab.node.pods.record import Process

START_LIMIT = 20.0
"""Seconds for the mounts of a container; they take a few milliseconds."""

UNKNOWN_EXIT = 137
"""Exit code of a run of which nobody knows how it ended, as kubelets have it (reason ContainerStatusUnknown)."""


class StartError(Exception):
    """The program could not be started; the message is what its status shows."""


class Born(msgspec.Struct, frozen=True):
    """What the keeper tells of a process that it has started; `terminal` is -1 without one."""

    process: Process
    terminal: int = -1


class Run:
    """One run of a container; made by `start` or `adopt`."""

    def __init__(self, files: RunFiles, process: Process, output: Output, *, keeper: Keeper) -> None:
        self.process = process
        self.output = output
        self.terminal = -1
        """The node's end of the container's terminal; -1 without one."""
        self.stdin = -1
        """The write end of the container's standard input; -1 without one."""
        self.stopping = False
        """Whether somebody has begun to end it."""
        self._files = files
        self._keeper = keeper

    @property
    def pid(self) -> int | None:
        """The program's process number, while it runs."""
        return self.process.pid if is_alive(self.process) else None

    async def wait(self) -> int | None:
        """Returns the exit code when the run is over, with all its output read; None if nobody knows it."""
        code = None
        with contextlib.suppress(KeeperError):
            # A container may run for ever.
            code = await self._keeper.exit_code(self.process.pid)
        if code is None:
            await wait_for_end(self.process)
        self.output.finish()
        self.close_stdin()
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1
        return self._files.exit_code() if code is None else code

    async def stop(self, *, grace: float) -> None:
        """Ends the program: SIGTERM, after `grace` seconds SIGKILL. Returns when it has ended.

        A program without a handler for SIGTERM is killed at once: as PID 1 it would only sit out its grace period.
        """
        pid = self.pid
        if pid is not None and grace > 0 and reacts_to(pid, signal.SIGTERM):
            send(pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await wait_for_end(self.process)
                return
        self.kill()
        await wait_for_end(self.process)

    def kill(self) -> None:
        """Kills the program."""
        if is_alive(self.process):
            send(self.process.pid, signal.SIGKILL)

    def close_stdin(self) -> None:
        """Closes the node's end of the container's standard input."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    async def end_stdin(self) -> None:
        """Ends the container's standard input: closes every write end of it."""
        self.close_stdin()
        with contextlib.suppress(KeeperError):
            await self._keeper.do("release", pid=self.process.pid)

    def resize(self, *, columns: int, rows: int) -> None:
        """Tells the container's terminal its size."""
        if self.terminal >= 0:
            set_size(self.terminal, columns=columns, rows=rows)


def set_size(terminal: int, *, columns: int, rows: int) -> None:
    """Sets the size of a terminal; nonsense is ignored."""
    if 0 < columns < 65536 and 0 < rows < 65536:
        with contextlib.suppress(OSError):
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


async def start(
    files: RunFiles, *, keeper: Keeper, spec: dict[str, Any], stdin: bool, tty: bool, join: Process | None = None
) -> Run:
    """Starts a container and returns its run once the program executes; raises StartError, OSError.

    `spec` is what the keeper's `build_root` and `execute` read; `join` is the process whose PID namespace is shared.
    """
    files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.exit.unlink(missing_ok=True)
    files.tidy()
    files.message.touch(mode=0o666)
    files.message.chmod(0o666)
    output = Output(files.log)
    writer = -1
    theirs: list[int] = []
    words = {} if join is None else {"join": join.pid, "join_start": join.start_time}
    try:
        if not tty:
            if stdin:
                reader, writer = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(writer, False)
            else:
                reader = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            theirs.append(reader)
            for path, stream in ((files.stdout, STDOUT), (files.stderr, STDERR)):
                os.mkfifo(path, 0o600)
                output.read_from(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), stream)
                theirs.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        async with keeper.ask("start", {**spec, "exit": str(files.exit)}, descriptors=theirs, **words) as answers:
            born = await begin(answers)
    except BaseException as error:
        output.finish()
        files.tidy()
        if writer >= 0:
            os.close(writer)
        if isinstance(error, KeeperError | StartError):
            raise StartError(f"failed to create containerd task: failed to create shim task: {error}") from error
        raise
    finally:
        for descriptor in theirs:
            os.close(descriptor)
    run = Run(files, born.process, output, keeper=keeper)
    run.terminal, run.stdin = born.terminal, writer
    if run.terminal >= 0:
        os.set_blocking(run.terminal, False)
        output.read_from(os.dup(run.terminal), STDOUT)
    if run.terminal >= 0 or writer >= 0:
        with contextlib.suppress(KeeperError):
            await keeper.do("hold", pid=born.process.pid, descriptors=[max(run.terminal, writer)])
    return run


async def begin(answers: AsyncIterator[Answer]) -> Born:
    """Returns what was born once its program executes; raises StartError, also when that takes too long."""
    process: Process | None = None
    terminal = -1
    try:
        async with asyncio.timeout(START_LIMIT):
            async for answer in answers:
                if "pid" in answer.body:
                    process = Process(pid=answer.body["pid"], start_time=answer.body["start"])
                if answer.descriptors:
                    terminal = answer.descriptors[0]
                if "error" in answer.body:
                    raise StartError(answer.body["error"])
        if process is None:
            raise StartError("the keeper has gone")
        return Born(process, terminal)
    except BaseException as error:
        if terminal >= 0:
            os.close(terminal)
        if process is not None and is_alive(process):
            send(process.pid, signal.SIGKILL)
        if isinstance(error, TimeoutError):
            raise StartError(f"the container was not ready to run after {START_LIMIT:g} s") from error
        raise


async def adopt(files: RunFiles, process: Process, *, keeper: Keeper, tty: bool = False) -> Run:
    """Returns a run that an earlier process of this node started."""
    output = Output(files.log)
    run = Run(files, process, output, keeper=keeper)
    held: list[int] = []
    with contextlib.suppress(KeeperError):
        async with keeper.ask("held", pid=process.pid) as answers:
            async for answer in answers:
                held += answer.descriptors
    for descriptor in held:
        os.set_blocking(descriptor, False)
    if tty and held:
        run.terminal = held[0]
        output.read_from(os.dup(held[0]), STDOUT)
    elif held:
        run.stdin = held[0]
    for path, stream in ((files.stdout, STDOUT), (files.stderr, STDERR)):
        with contextlib.suppress(OSError):
            output.read_from(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), stream)
    output.attach()  # what was written until now has been told, or lost with the node that held it
    return run


def still_there(process: Process | None) -> bool:
    """Tells whether a recorded process still runs."""
    return process is not None and identify(process.pid) == process
