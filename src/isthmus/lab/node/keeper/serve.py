"""The keeper's loop: takes requests from its node, forks, collects exit codes.

Why a process of its own: a container must survive its node's process, and somebody must still learn its exit code; and
a fork of this small process costs a fifth of a program start. Invariants: it imports little and holds nothing of the
node; a request is carried out by a child, so that a slow mount delays nobody; the exit code of a container is on disk
before anybody is told; everything it owns is close-on-exec. It ends when no node has spoken to it for IDLE_LIMIT
seconds and it has no children. Rejected: a shim per container, which doubles the number of processes; the node as the
direct parent, which turns every restart of the node into a restart of all its pods.

A request is one SEQPACKET message: {"op": ..., ...} with descriptors [body, reply, ...], where body is a file with the
JSON of what to do and reply a socket on which answers are JSON messages, until it is closed.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys

from isthmus.lab import children
from isthmus.lab.node.keeper import sandbox
from isthmus.lab.node.keeper.descriptors import receive
from isthmus.lab.node.keeper.program import ProgramError, execute, open_terminal
from isthmus.lab.node.keeper.root import build_root
from isthmus.lab.node.keeper.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    PR_SET_DUMPABLE,
    KernelRefusal,
    make_private,
    prctl,
    setns,
    unshare,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Not at run time: see the package's docstring.
    from collections.abc import Callable
    from typing import Any, NoReturn

    Json = dict[str, Any]

IDLE_LIMIT = 60.0
MAX_MESSAGE = 64 * 1024
MAX_BODY = 32 * 1024 * 1024
_MAX_DESCRIPTORS = 8
_REMEMBERED = 4096
"""Exit codes kept for a node that asks late."""


class Child:
    """A process whose end somebody wants to know."""

    def __init__(self, exit_file: str) -> None:
        self.exit_file = exit_file
        self.waiting: list[socket.socket] = []
        self.held: list[int] = []


class Keeper:
    """Serves the nodes that connect to `listener`."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._children: dict[int, Child] = {}
        self._codes: dict[int, int] = {}
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._connections: dict[int, socket.socket] = {}
        self._poll = select.poll()

    def serve(self) -> None:
        """Works until nobody needs it any more."""
        wake_reader, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(wake_reader, select.POLLIN)
        while True:
            idle = not self._connections and not self._children
            events = self._poll.poll(IDLE_LIMIT * 1000 if idle else None)
            if not events and idle:
                return
            for descriptor, _event in events:
                if descriptor == wake_reader:
                    os.read(wake_reader, 4096)
                    self._reap()
                elif descriptor == self._listener.fileno():
                    connection, _address = self._listener.accept()
                    self._connections[connection.fileno()] = connection
                    self._poll.register(connection, select.POLLIN)
                elif descriptor in self._connections:
                    self._read(self._connections[descriptor])

    def _read(self, connection: socket.socket) -> None:
        try:
            data, descriptors = receive(connection, MAX_MESSAGE, _MAX_DESCRIPTORS)
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._poll.unregister(connection)
            del self._connections[connection.fileno()]
            connection.close()
            return
        if len(descriptors) < 2:
            _close_all(descriptors)
            return
        reply = socket.socket(fileno=descriptors[1])
        try:
            self._perform(json.loads(data), descriptors[0], reply, list(descriptors[2:]))
        except Exception as error:
            # Whatever it is, the containers need their parent; the request gets the reason.
            say(reply, {"error": str(error)})
            reply.close()
        finally:
            _close_all([descriptors[0], *descriptors[2:]])

    def _perform(self, request: Json, body: int, reply: socket.socket, descriptors: list[int]) -> None:
        match request["op"]:
            case "sandbox":
                spec = _body(body)
                self._fork(reply, lambda: _report(reply, lambda: sandbox.make(spec)))
            case "remove":
                spec = _body(body)
                self._fork(reply, lambda: _report(reply, lambda: sandbox.remove(spec)))
            case "start":
                spec = _body(body)
                where = CLONE_NEWPID if not request.get("join") else 0
                target = _pidfd(request["join"], request["join_start"]) if request.get("join") else -1
                pid = self._fork(reply, lambda: _start(spec, reply, descriptors), new=where, target=target, told=True)
                self._children[pid] = Child(spec["exit"])
            case "exec":
                spec = _body(body)
                target = _pidfd(request["pid"], request["start"])
                pid = self._fork(reply, lambda: _exec(spec, target, reply, descriptors), target=target, told=True)
                self._children[pid] = Child("")
            case "wait":
                self._wait(request["pid"], reply)
                return
            case "hold":
                child = self._children.get(request["pid"])
                if child is not None:
                    child.held += [os.dup(descriptor) for descriptor in descriptors]
                    for descriptor in child.held:
                        os.set_inheritable(descriptor, False)
            case "release":
                child = self._children.get(request["pid"])
                if child is not None:
                    _close_all(child.held)
                    child.held = []
            case "held":
                child = self._children.get(request["pid"])
                say(reply, {"held": len(child.held) if child else 0}, child.held if child else [])
            case unknown:
                raise ValueError(f"unknown request {unknown!r}")
        reply.close()

    def _fork(
        self, reply: socket.socket, work: Callable[[], None], *, new: int = 0, target: int = -1, told: bool = False
    ) -> int:
        """Forks a child that does `work`, in a new process namespace or in the one of the pidfd `target`."""
        try:
            if new:
                unshare(CLONE_NEWPID)
            elif target >= 0:
                setns(target, CLONE_NEWPID)
            pid = os.fork()
            if pid == 0:
                _live(work, reply)
        finally:
            setns(self._pid_namespace, CLONE_NEWPID)
            if target >= 0:
                os.close(target)
        if told:
            say(reply, {"pid": pid, "start": _start_time(pid)})
        return pid

    def _wait(self, pid: int, reply: socket.socket) -> None:
        child = self._children.get(pid)
        if child is not None:
            child.waiting.append(reply)
            return
        say(reply, {"code": self._codes.pop(pid, None)})
        reply.close()

    def _reap(self) -> None:
        for pid, status in children.ended():
            child = self._children.pop(pid, None)
            if child is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code
            if child.exit_file:
                _write_exit(child.exit_file, code)
            _close_all(child.held)
            if not child.waiting:
                self._codes[pid] = code
                while len(self._codes) > _REMEMBERED:
                    del self._codes[next(iter(self._codes))]
            for reply in child.waiting:
                say(reply, {"code": code})
                reply.close()


def main(path: str) -> None:
    """Listens on a unix socket and serves; does nothing if another keeper is there."""
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    # Through the descriptor, because a unix socket's path has at most 107 bytes.
    place = f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        os.unlink(place)
    except FileNotFoundError:
        pass
    os.umask(0o077)
    listener.bind(place)
    os.umask(0o022)
    listener.listen(16)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Keeper(listener).serve()


def say(reply: socket.socket, message: Json, descriptors: list[int] | None = None) -> None:
    """Answers; a node that has gone is no error."""
    try:
        if descriptors:
            socket.send_fds(reply, [json.dumps(message).encode()], descriptors)
        else:
            reply.send(json.dumps(message).encode())
    except OSError:
        pass  # nobody listens any more


def _start(spec: Json, reply: socket.socket, descriptors: list[int]) -> None:
    """Becomes a container."""
    os.setsid()
    for path, kind in spec["namespaces"]:
        _enter(path, {"net": CLONE_NEWNET, "uts": CLONE_NEWUTS, "ipc": CLONE_NEWIPC}[kind])
    unshare(CLONE_NEWNS)
    make_private()
    build_root(spec)
    _take_streams(spec, reply, descriptors)
    if spec.get("reaps"):
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    execute(spec)


def _exec(spec: Json, target: int, reply: socket.socket, descriptors: list[int]) -> None:
    """Becomes a further process of a container."""
    os.setsid()
    # The container must not get at this process, which has the machine's files open, before it is the container's own.
    prctl(PR_SET_DUMPABLE, 0)
    setns(target, CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNS)
    _take_streams(spec, reply, descriptors)
    execute(spec)


def _take_streams(spec: Json, reply: socket.socket, descriptors: list[int]) -> None:
    if spec["terminal"]:
        master, slave = open_terminal()
        say(reply, {"terminal": True}, [master])
        os.close(master)
        if spec["uid"]:
            os.fchown(slave, spec["uid"], 5)
        descriptors = [slave, slave, slave]
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number, inheritable=True)
    # The program's own paths are looked up from here on, and /proc/self/fd would lead them into the machine's files.
    os.closerange(3, reply.fileno())
    os.closerange(reply.fileno() + 1, os.sysconf("SC_OPEN_MAX"))


def _live(work: Callable[[], None], reply: socket.socket) -> NoReturn:
    """A child's life; never returns."""
    code = 128
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        work()
        code = 0
    except ProgramError as error:
        say(reply, {"error": str(error), "program": True})
        code = 127 if "not found" in str(error) or "no such file" in str(error) else 126
    except (KernelRefusal, OSError) as error:
        say(reply, {"error": str(error)})
    except BaseException as error:
        say(reply, {"error": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(code)


def _report(reply: socket.socket, work: Callable[[], None]) -> None:
    work()
    say(reply, {"done": True})


def _enter(path: str, kind: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(descriptor, kind)
    finally:
        os.close(descriptor)


def _pidfd(pid: int, start: int) -> int:
    descriptor = os.pidfd_open(pid)
    if _start_time(pid) != start:
        os.close(descriptor)
        raise ProcessLookupError(f"process {pid} has ended")
    return descriptor


def _start_time(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _body(descriptor: int) -> Json:
    size = min(os.fstat(descriptor).st_size, MAX_BODY)
    value: Json = json.loads(os.pread(descriptor, size, 0))
    return value


def _write_exit(path: str, code: int) -> None:
    try:
        with open(f"{path}.new", "w") as file:
            file.write(f"{code}\n")
        os.replace(f"{path}.new", path)
    except OSError as error:
        # A full disk: a node that listens is still told.
        sys.stderr.write(f"exit code {code} not written to {path}: {error}\n")


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
