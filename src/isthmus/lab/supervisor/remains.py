"""Ending what still lives in network namespaces that are about to go: pods outlive the process of their node."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import structlog

from isthmus.lab.supervisor.segment import namespace_inodes

_ROUNDS = 50
_PAUSE = 0.02
"""Seconds between looks for processes that are left."""

_log = structlog.get_logger()


async def kill_all_in(directory: Path) -> None:
    """Kills every process in the network namespaces whose files are below `directory`.

    The lab's /proc shows all processes of the lab and no others.
    """
    inodes = namespace_inodes(directory)
    for _round in range(_ROUNDS):
        left = [pid for pid in _process_numbers() if _net_inode(pid) in inodes]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_PAUSE)
    _log.error("processes survive their cluster", directory=directory.name, count=len(left))


def _process_numbers() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]


def _net_inode(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None
