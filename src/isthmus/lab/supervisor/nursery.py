"""A process from which the lab's daemons are forked: they share what they imported, and begin at once.

A Python daemon of the lab imports some 30 MB, and a lab has a dozen of them. Forked from a process that has imported it
all already, each has about a third of that to itself, and none spends half a second of CPU on importing. Invariants:
the nursery has one thread and no event loop, so that forking it is safe; a forked daemon is no child of the nursery but
of PID 1, which reaps it like any other; whatever goes wrong here, a unit can still be started the ordinary way.
Rejected: forking from the supervisor itself, whose descriptors and event loop every daemon would inherit.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from asyncio.sslproto import SSLProtocol
from collections.abc import Mapping, Sequence
from typing import NoReturn

import msgspec

PRELOADED = {
    "isthmus.lab.apiserver": ("isthmus.lab.apiserver.command", "isthmus.lab.daemon", "encodings.idna"),
    "isthmus.lab.controllers": ("isthmus.lab.controllers.__main__",),
    "isthmus.lab.node": ("isthmus.lab.node.__main__",),
    "isthmus": ("isthmus.cli.tracker", "isthmus.mesh.tracker", "isthmus.cli.agent", "isthmus.agent.process"),
}
"""What each daemon is made of, in the order in which a cluster wants them: the first can begin while the nursery still
imports for the others. A module that cannot be imported is left to the daemon that wants it."""

_MAX_MESSAGE = 64 * 1024
_ANSWER_LIMIT = 30.0
"""Seconds; the first answer comes when everything is imported."""
_TITLE_ROOM = 2048
"""Bytes kept on the nursery's command line, where forked daemons write theirs for `ps`."""
_CONTROL, _OUTPUT, _EXTRA = 3, 4, 5


class NurseryError(Exception):
    """A daemon could not be forked; start it the ordinary way."""


class Seed(msgspec.Struct, frozen=True):
    """A daemon: `python -m MODULE ARGUMENTS` in the namespaces of these files; `extra` is where an inherited
    descriptor must end up (-1: none comes along).
    """

    module: str
    arguments: tuple[str, ...]
    net: str
    uts: str
    extra: int = -1


class Sprout(msgspec.Struct, frozen=True):
    """The answer: a process number, or 0 and what went wrong."""

    pid: int
    error: str = ""


class Nursery:
    """The supervisor's end."""

    def __init__(self, *, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Starts the nursery; it imports while the supervisor goes on."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_LIMIT)
        words = [sys.executable, "-c", f"from {__name__} import main; main({theirs.fileno()})", "-" * _TITLE_ROOM]
        with theirs:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )
        process.returncode = 0  # reaped by PID 1, as everything is
        self._socket = ours

    def stop(self) -> None:
        """Lets the nursery end; what it has forked goes on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def fork(self, seed: Seed, *, output: int, extra: int | None) -> int:
        """Returns the process number of a new daemon that writes to `output`; raises NurseryError."""
        if self._socket is None:
            self.start()
        assert self._socket is not None  # noqa: S101
        descriptors = [output] if extra is None else [output, extra]
        try:
            socket.send_fds(self._socket, [msgspec.json.encode(seed)], descriptors)
            answer = self._socket.recv(_MAX_MESSAGE)
            sprout = msgspec.json.decode(answer, type=Sprout)
        except (OSError, msgspec.DecodeError) as error:
            # Started anew for the next unit; this one need not wait for that.
            self.stop()
            raise NurseryError(f"the nursery does not answer: {error}") from error
        if sprout.error:
            raise NurseryError(sprout.error)
        return sprout.pid


def main(number: int) -> None:
    """The nursery: imports, then forks on request until the supervisor goes away."""
    control = socket.socket(fileno=number)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Every TLS connection of asyncio holds a buffer of this size, 256 KiB by default, and a lab has hundreds of them,
    # most of them watches on which nothing comes. This is as much as a TLS record has (RFC 8446).
    SSLProtocol.max_size = 16 * 1024
    left = dict(PRELOADED)
    for module, names in PRELOADED.items():
        _preload(names)
        del left[module]
        while select.select([control], [], [], 0)[0] and _may_answer(control, left):
            if not _answer(control):
                return
    # As long as the supervisor lives.
    while _answer(control):
        pass


def _preload(names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
        if name.endswith(".__main__"):
            # What it imports is what counts: runpy runs the module itself anew, and warns if it is there already.
            sys.modules.pop(name, None)
    # Pages that the collector does not write to stay shared.
    gc.collect()
    gc.freeze()


def _may_answer(control: socket.socket, left: Mapping[str, Sequence[str]]) -> bool:
    """Tells whether what is asked for next is not of those that are still to be imported."""
    try:
        data = control.recv(_MAX_MESSAGE, socket.MSG_PEEK)
        return not data or msgspec.json.decode(data, type=Seed).module not in left
    except (OSError, msgspec.DecodeError):
        return True


def _answer(control: socket.socket) -> bool:
    """Forks what is asked for next; tells whether to go on."""
    data, descriptors, _flags, _address = socket.recv_fds(control, _MAX_MESSAGE, 4)
    if not data:
        return False
    try:
        sprout = Sprout(pid=_plant(msgspec.json.decode(data, type=Seed), list(descriptors)))
    except (OSError, msgspec.DecodeError) as error:
        sprout = Sprout(pid=0, error=str(error))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    try:
        control.sendall(msgspec.json.encode(sprout))
    except OSError:
        # The supervisor has given up on us and starts this daemon itself: there must not be two.
        if sprout.pid:
            os.kill(sprout.pid, signal.SIGKILL)
        return False
    return True


def _plant(seed: Seed, descriptors: list[int]) -> int:
    """Forks twice, so that the daemon belongs to PID 1; returns its process number."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild == 0:
            _grow(seed, descriptors)
        os.write(writer, str(grandchild).encode())
        os._exit(0)
    os.close(writer)
    try:
        os.waitpid(child, 0)
        return int(os.read(reader, 32) or b"0")
    finally:
        os.close(reader)


def _grow(seed: Seed, descriptors: list[int]) -> NoReturn:
    """Becomes the daemon; never returns."""
    code = 1
    try:
        os.setsid()
        _move_descriptors(descriptors, extra=seed.extra)
        _enter(seed.net, seed.uts)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = [seed.module, *seed.arguments]
        _set_title([sys.executable, "-m", seed.module, *seed.arguments])
        runpy.run_module(seed.module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _move_descriptors(descriptors: list[int], *, extra: int) -> None:
    """Leaves open only standard streams and, at its place, what is inherited."""
    output = descriptors[0]
    for number in (1, 2):
        os.dup2(output, number, inheritable=True)
    kept = 2
    if extra >= 0 and len(descriptors) > 1:
        kept = max(extra, 3)
        os.dup2(descriptors[1], kept, inheritable=True)
        os.closerange(3, kept)
    os.closerange(kept + 1, 1024)


def _enter(net: str, uts: str) -> None:
    """Enters the namespaces; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    for path in (net, uts):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(descriptor, 0):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), path)
        finally:
            os.close(descriptor)


def _set_title(words: Sequence[str]) -> None:
    """Writes the daemon's command line over the nursery's, so that `ps` and `pgrep -f` tell the truth."""
    with open("/proc/self/stat") as file:
        # Counted behind the name in parentheses: arg_start and arg_end are fields 48 and 49 of proc_pid_stat(5).
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    room = end - start
    if start <= 0 or room <= 0:
        return
    title = b"\0".join(word.encode() for word in words)[: room - 1]
    ctypes.memmove(start, title.ljust(room, b"\0"), room)
