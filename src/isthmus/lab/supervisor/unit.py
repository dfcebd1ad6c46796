"""A process that is kept alive: started, watched, its output logged, started again after a growing delay.

Invariants: the supervisor is PID 1, so it reaps every child of the lab in one place (`Children`), known or not; a unit
is restarted unless it was stopped on purpose; a unit that ran for STEADY seconds starts over with the shortest delay.
Output goes through a pipe, because only the supervisor can rotate the file of a process that never reopens it.
Rejected: `asyncio.create_subprocess_exec`, whose child watcher and a PID 1's duty to reap orphans take each other's
exit codes.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from isthmus.aio.backoff import Backoff
from isthmus.lab import children
from isthmus.lab.supervisor.commands import enter
from isthmus.lab.supervisor.doorway import Doorway
from isthmus.lab.supervisor.logfile import LogFile
from isthmus.lab.supervisor.nursery import Nursery, NurseryError, Seed

STEADY = 10.0
"""Seconds."""
STOP_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
_READ_SIZE = 64 * 1024
_UNCLAIMED = 64
"""Ends of unknown processes that are remembered."""

_log = structlog.get_logger()


class Children:
    """Reaps all children of this process and tells those who wait for one."""

    def __init__(self) -> None:
        self._waiting: dict[int, Callable[[int], None]] = {}
        # A process may end before the one who had it started knows its number.
        self._unclaimed: OrderedDict[int, int] = OrderedDict()

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins reaping; call it before the first child is started."""
        loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def watch(self, pid: int, on_exit: Callable[[int], None]) -> None:
        """Calls `on_exit` with the wait status when `pid`, a child, ends, or if it has ended a moment ago."""
        status = self._unclaimed.pop(pid, None)
        if status is None:
            self._waiting[pid] = on_exit
        else:
            asyncio.get_running_loop().call_soon(on_exit, status)

    def reap(self) -> None:
        """Collects every child that has ended."""
        for pid, status in children.ended():
            on_exit = self._waiting.pop(pid, None)
            if on_exit is not None:
                on_exit(status)
                continue
            self._unclaimed[pid] = status
            while len(self._unclaimed) > _UNCLAIMED:
                self._unclaimed.popitem(last=False)


class Place(msgspec.Struct, frozen=True):
    """The namespace files of the node that a unit runs on."""

    net: Path
    uts: Path


class Unit:
    """One kept-alive process; it inherits what stands in `doorway`, and is told its number as --listen-fd."""

    def __init__(
        self,
        name: str,
        *,
        argv: Sequence[str],
        node: str,
        log: LogFile,
        children: Children,
        environment: Mapping[str, str],
        place: Place,
        nursery: Nursery,
        doorway: Doorway | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self.node = node
        self.restarts = 0
        self.pid = 0
        self.state = "waiting"
        self._argv = list(argv)
        self._log = log
        self._children = children
        self._environment = dict(environment)
        self._place = place
        self._nursery = nursery
        self._doorway = doorway
        self._descriptor = None if doorway is None else doorway.number
        if doorway is not None:
            self._argv += ["--listen-fd", str(doorway.number)]
        self._backoff = backoff or Backoff(base=0.2, cap=10.0, jitter=0.2)
        self._stopping = False
        self._ended = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._started_at = 0.0
        self._reader = -1

    def start(self) -> None:
        """Starts the process; a failure to start counts as an exit."""
        self._timer = None
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writer, True)
        try:
            pid = self._begin(writer)
        except OSError as failure:
            os.close(reader)
            self._restart_later(f"cannot start: {failure}")
            return
        finally:
            os.close(writer)
        self.pid = pid
        self.state = "running"
        self._started_at = loop.time()
        self._ended.clear()
        self._read_from(reader)
        self._children.watch(pid, self._exited)

    def resume(self) -> None:
        """Starts the process if it was stopped; raises OSError if nobody can be let in."""
        if self.state != "stopped":
            return
        if self._doorway is not None:
            self._doorway.open()
        self._stopping = False
        self._backoff.reset()
        self.start()

    def _begin(self, output: int) -> int:
        """Returns the number of a new process; raises OSError."""
        if self._argv[:2] == [sys.executable, "-m"]:
            try:
                return self._fork(output)
            except (NurseryError, OSError) as error:
                _log.warning("unit started the slow way", unit=self.name, reason=str(error))
        return self._spawn(output)

    def _fork(self, output: int) -> int:
        """Returns the number of a process forked from the nursery; raises NurseryError."""
        extra = -1 if self._descriptor is None else self._descriptor
        seed = Seed(
            module=self._argv[2],
            arguments=tuple(self._argv[3:]),
            net=str(self._place.net),
            uts=str(self._place.uts),
            extra=extra,
        )
        return self._nursery.fork(seed, output=output, extra=self._descriptor)

    def _spawn(self, output: int) -> int:
        """Returns the number of a process started the ordinary way; raises OSError."""
        process = subprocess.Popen(
            [*enter(self._place.net, self._place.uts), *self._argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=self._environment,
            pass_fds=[] if self._descriptor is None else [self._descriptor],
            start_new_session=True,
            cwd="/",
        )
        process.returncode = 0  # waiting is the business of Children
        return process.pid

    async def stop(self, *, grace: float = STOP_GRACE) -> None:
        """Ends the process: SIGTERM, after `grace` seconds (0: at once) SIGKILL. Returns when it is gone."""
        self._stopping = True
        if self._doorway is not None:
            self._doorway.shut()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.pid:
            os.kill(self.pid, signal.SIGTERM if grace else signal.SIGKILL)
            try:
                async with asyncio.timeout(grace or None):
                    await self._ended.wait()
            except TimeoutError:
                if self.pid:
                    os.kill(self.pid, signal.SIGKILL)
                # SIGKILL cannot be refused; only a process stuck in the kernel would make this wait.
                await self._ended.wait()
        self.state = "stopped"
        self._stop_reading()
        self._log.close()

    def _exited(self, status: int) -> None:
        self.pid = 0
        self._drain()
        self._ended.set()
        code = os.waitstatus_to_exitcode(status)
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if self._stopping:
            self._note(f"stopped ({reason})")
            return
        if asyncio.get_running_loop().time() - self._started_at >= STEADY:
            self._backoff.reset()
        self._restart_later(reason)

    def _restart_later(self, reason: str) -> None:
        self.state = "waiting"
        self.restarts += 1
        delay = self._backoff.next()
        _log.warning("unit ended", unit=self.name, reason=reason, restart_in=round(delay, 2))
        self._note(f"{reason}; starts again in {delay:.1f} s")
        self._timer = asyncio.get_running_loop().call_later(delay, self.start)

    def _note(self, text: str) -> None:
        self._log.write(f"-- {self.name}: {text}\n".encode())

    def _read_from(self, reader: int) -> None:
        self._stop_reading()
        self._reader = reader
        asyncio.get_running_loop().add_reader(reader, self._copy)

    def _copy(self) -> bool:
        """Moves what is there into the log; tells whether there may be more."""
        try:
            data = os.read(self._reader, _READ_SIZE)
        except BlockingIOError:
            return False
        if not data:
            self._stop_reading()
            return False
        self._log.write(data)
        return True

    def _drain(self) -> None:
        while self._reader >= 0 and self._copy():
            pass

    def _stop_reading(self) -> None:
        if self._reader >= 0:
            asyncio.get_running_loop().remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1
