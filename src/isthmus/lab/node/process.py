"""Processes seen through /proc and pidfds, whether they are our children or not.

A restarted node is not the parent of its containers any more, so nothing here relies on being one.
"""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from isthmus.lab.node.record import Process


def identify(pid: int) -> Process | None:
    """Returns the identity of a running process; None if there is none."""
    try:
        # The name in parentheses may hold anything, so fields are counted from its end: state is the first.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else Process(pid=pid, start_time=int(fields[19]))


def is_alive(process: Process) -> bool:
    """Tells whether that very process still runs."""
    return identify(process.pid) == process


def only_child(pid: int) -> int | None:
    """Returns the first child of a process."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def grandchild(pid: int) -> int | None:
    """Returns the container's own process below its shim: shim -> unshare -> program."""
    middle = only_child(pid)
    return None if middle is None else only_child(middle)


def reacts_to(pid: int, number: signal.Signals) -> bool:
    """Tells whether a process has a handler for a signal. PID 1 of a namespace gets no default action (signal(7))."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) & (1 << (number - 1)))
    except OSError:
        pass
    return False


def send(pid: int, number: signal.Signals) -> None:
    """Sends a signal; a process that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def wait_for_end(pid: int) -> int | None:
    """Returns when a process has ended, and reaps it if it is our child: then with its exit code, as a shell gives it.

    Waits as long as it runs.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_reader(descriptor, resolve, ended)
    try:
        await ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    try:
        found, status = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222
    except ChildProcessError:
        return None
    if not found:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def listens_on(pid: int, port: int) -> bool:
    """Tells whether anything in the network namespace of `pid` listens on a TCP port."""
    wanted = f":{port:04X}"
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and fields[1].endswith(wanted):  # 0A is LISTEN
                return True
    return False


def resolve(future: asyncio.Future[None]) -> None:
    """Wakes up who waits for `future`; safe to call more than once."""
    if not future.done():
        future.set_result(None)
