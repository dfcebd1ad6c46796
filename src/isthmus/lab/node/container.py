"""One run of a container: its processes, its streams, its end.

A shim (a busybox shell, a megabyte) stands between node and container: shim -> unshare -> program. It writes the
program's exit code to a file, so a node that was killed and started again still learns it, and the streams are FIFOs
that both sides hold open for reading and writing, so nobody gets SIGPIPE in the meantime. Only a container with a
terminal or with stdin ends with its node, because those are tied to descriptors. Rejected: the node as the direct
parent, which turns every restart of the node into a restart of all its pods.
"""

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from isthmus.lab.node.output import STDERR, STDOUT, Output
from isthmus.lab.node.paths import RunFiles
from isthmus.lab.node.process import grandchild, identify, is_alive, reacts_to, resolve, send, wait_for_end
from isthmus.lab.node.record import Process

START_LIMIT = 20.0
"""Seconds for the mounts of a container; they take about ten milliseconds."""

_SHIM = '"$@"; code=$?; echo $code >"$0.new"; mv "$0.new" "$0"; exit $code'
_INIT = Path(__file__).with_name("init.py")
_UNKNOWN_EXIT = 137
"""Exit code of a run whose shim was killed: what SIGKILL gives."""


class StartError(Exception):
    """The program could not be started; the message is what its status shows."""


class Run:
    """One run of a container; made by `start` or `adopt`."""

    def __init__(self, files: RunFiles, process: Process, output: Output) -> None:
        self.process = process
        self.output = output
        self.terminal = -1
        """The node's end of the container's terminal; -1 without one."""
        self.stdin = -1
        """The write end of the container's standard input; -1 without one."""
        self._files = files

    @property
    def pid(self) -> int | None:
        """The program's process number, while it runs."""
        return grandchild(self.process.pid) if is_alive(self.process) else None

    async def wait(self) -> int:
        """Returns the exit code when the run is over, with all its output read."""
        # A container may run for ever.
        await wait_for_end(self.process.pid)
        self.output.finish()
        self.close_stdin()
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1
        code = self._files.exit_code()
        self._files.tidy()
        return _UNKNOWN_EXIT if code is None else code

    async def stop(self, *, grace: float) -> None:
        """Ends the program: SIGTERM, after `grace` seconds SIGKILL. Returns when its shim has ended.

        A program without a handler for SIGTERM is killed at once: as PID 1 it would only sit out its grace period.
        """
        pid = self.pid
        if pid is not None and grace > 0 and reacts_to(pid, signal.SIGTERM):
            send(pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await wait_for_end(self.process.pid)
                return
        self.kill()
        await wait_for_end(self.process.pid)

    def kill(self) -> None:
        """Kills the program, or, where it has not come into being yet, what would make it."""
        if not is_alive(self.process):
            return
        pid = self.pid
        if pid is not None:
            send(pid, signal.SIGKILL)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def close_stdin(self) -> None:
        """Closes the container's standard input."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def resize(self, *, columns: int, rows: int) -> None:
        """Tells the container's terminal its size."""
        if self.terminal >= 0:
            set_size(self.terminal, columns=columns, rows=rows)


def set_size(terminal: int, *, columns: int, rows: int) -> None:
    """Sets the size of a terminal; nonsense is ignored."""
    if 0 < columns < 65536 and 0 < rows < 65536:
        with contextlib.suppress(OSError):
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


async def start(files: RunFiles, *, spec: dict[str, Any], enter: Sequence[str], stdin: bool, tty: bool) -> Run:
    """Starts a container and returns its run once the program executes; raises StartError.

    `spec` is what `init` reads; `enter` are the words that lead into the pod's namespaces.
    """
    files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.exit.unlink(missing_ok=True)
    files.tidy()
    os.mkfifo(files.status, 0o600)
    files.spec.write_bytes(msgspec.json.encode({**spec, "status": str(files.status)}))
    files.spec.chmod(0o600)
    status = os.open(files.status, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        run = _spawn(files, enter=enter, stdin=stdin, tty=tty)
        try:
            problem = await _starting(run, status)
        except BaseException:
            run.kill()
            raise
        if problem:
            run.kill()
            await run.wait()
            raise StartError(problem)
        return run
    finally:
        os.close(status)
        files.status.unlink(missing_ok=True)
        files.spec.unlink(missing_ok=True)


def adopt(files: RunFiles, process: Process) -> Run:
    """Returns a run that an earlier process of this node started."""
    output = Output(files.log)
    for path, stream in ((files.stdout, STDOUT), (files.stderr, STDERR)):
        with contextlib.suppress(OSError):
            output.read_from(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), stream)
    output.attach()  # what was written until now has been told, or lost with the node that held it
    return Run(files, process, output)


def _spawn(files: RunFiles, *, enter: Sequence[str], stdin: bool, tty: bool) -> Run:
    output = Output(files.log)
    terminal = writer = -1
    theirs: list[int] = []
    try:
        if tty:
            terminal, slave = pty.openpty()
            os.set_blocking(terminal, False)
            theirs = [slave] * 3
            output.read_from(os.dup(terminal), STDOUT)
        else:
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
        # Popen is used to start only; the end is seen through a pidfd.
        shim = subprocess.Popen(
            [
                *("busybox", "sh", "-c", _SHIM, str(files.exit)),
                *enter,
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--"),
                *(os.path.realpath(sys.executable), "-IS", str(_INIT), "start", str(files.spec)),
            ],
            stdin=theirs[0],
            stdout=theirs[1],
            stderr=theirs[2],
            start_new_session=True,
        )
    except OSError as error:
        output.finish()
        for descriptor in (terminal, writer):
            if descriptor >= 0:
                os.close(descriptor)
        raise StartError(f"cannot start a process: {error}") from error
    finally:
        for descriptor in set(theirs):
            os.close(descriptor)
    shim.returncode = 0
    run = Run(files, identify(shim.pid) or Process(pid=shim.pid, start_time=0), output)
    run.terminal, run.stdin = terminal, writer
    return run


async def _starting(run: Run, status: int) -> str:
    """Waits until the program executes; returns what went wrong instead, or nothing."""
    loop = asyncio.get_running_loop()
    said = loop.create_future()
    loop.add_reader(status, resolve, said)
    ended = asyncio.ensure_future(wait_for_end(run.process.pid))
    try:
        done, _pending = await asyncio.wait({said, ended}, timeout=START_LIMIT, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return f"the container was not ready to run after {START_LIMIT:g} s"
        try:
            message = os.read(status, 4096).decode(errors="replace")
        except BlockingIOError:
            message = ""
        if message:
            return f"failed to create containerd task: failed to create shim task: {message}"
        if said not in done:
            # Over without a word, and the status was never opened: the interpreter itself did not start.
            return "" if run.process.start_time else "the container ended while it was being made"
        return ""
    finally:
        loop.remove_reader(status)
        ended.cancel()
