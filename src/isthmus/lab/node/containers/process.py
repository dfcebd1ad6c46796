"""Processes seen through /proc and pidfds, whether they are our children or not.

A restarted node is not the parent of its containers any more, so nothing here relies on being one.
"""

import contextlib
import os
import signal
from pathlib import Path

from isthmus.aio.readiness import readable
from isthmus.lab.node.pods.record import Process


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


def reacts_to(pid: int, number: signal.Signals) -> bool:
    """Tells whether a signal does anything to a process.

    The first process of a PID namespace gets no default action (pid_namespaces(7)), so it needs a handler.
    """
    first = handled = False
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                first = line.split()[-1] == "1"
            elif line.startswith("SigCgt:"):
                handled = bool(int(line.split()[1], 16) & (1 << (number - 1)))
    except OSError:
        return False
    return handled or not first


def send(pid: int, number: signal.Signals) -> None:
    """Sends a signal; a process that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def wait_for_end(process: Process) -> None:
    """Returns when a process has ended. Waits as long as it runs."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if not is_alive(process):
            return
        await readable(descriptor)
    finally:
        os.close(descriptor)


def listening_ports(pid: int) -> set[int]:
    """Returns the TCP ports that anything in the network namespace of `pid` listens on."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found
