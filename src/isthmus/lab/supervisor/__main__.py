"""`python -m isthmus.lab.supervisor DIRECTORY`: run by `isthmus lab create` inside fresh namespaces, as PID 1."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import structlog

from isthmus.lab.daemon import set_up_logging
from isthmus.lab.statedir import StateDir
from isthmus.lab.supervisor.clusters import Clusters
from isthmus.lab.supervisor.commands import run
from isthmus.lab.supervisor.nursery import Nursery
from isthmus.lab.supervisor.segment import set_up_segment
from isthmus.lab.supervisor.service import Service
from isthmus.lab.supervisor.unit import Children

_REACHABLE_INTERVAL = 2.0
"""Seconds; files tell nobody that they are gone."""

_log = structlog.get_logger()


def main() -> None:
    """Serves the state directory that is the only argument."""
    set_up_logging()
    state = StateDir(Path(sys.argv[1]))
    if os.getpid() != 1:
        sys.exit("isthmus.lab.supervisor runs as PID 1 of its own namespaces; use `isthmus lab create`")
    # What is mounted here is seen by the lab only and goes away with it.
    run(["mount", "-t", "tmpfs", "-o", "mode=0700,size=4m", "isthmus-lab", state.run])
    set_up_segment()
    asyncio.run(_serve(state))
    _log.info("lab ended")


async def _serve(state: StateDir) -> None:
    loop = asyncio.get_running_loop()
    children = Children()
    children.install(loop)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    nursery = Nursery(environment=os.environ)
    nursery.start()
    clusters = Clusters(state, children=children, nursery=nursery, environment=os.environ)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.setblocking(False)
    # The command that starts a supervisor holds the lab's lock, so a socket that exists belongs to a dead one.
    state.socket.unlink(missing_ok=True)
    listener.bind(str(state.socket))
    state.socket.chmod(0o600)
    listener.listen(16)
    _log.info("lab started", directory=str(state.root))
    serving = asyncio.create_task(Service(listener, clusters=clusters).serve())
    stopping = asyncio.create_task(stop.wait())
    losing = asyncio.create_task(_until_unreachable(state.socket))
    await asyncio.wait({serving, stopping, losing}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    losing.cancel()
    # PID 1 takes every other process with it, so a signal needs no orderly shutdown of clusters.
    state.socket.unlink(missing_ok=True)
    listener.close()
    if serving.done():
        serving.result()
    else:
        serving.cancel()


async def _until_unreachable(path: Path) -> None:
    """Returns when the socket at `path` is no longer ours: the directory was removed under the running lab.

    Nobody could then ask this supervisor for anything, not even to end, so it does so by itself.
    """
    own = await asyncio.to_thread(_inode, path)
    while True:
        await asyncio.sleep(_REACHABLE_INTERVAL)
        if await asyncio.to_thread(_inode, path) != own:
            break
    _log.warning("state directory was removed, lab ends", socket=str(path))


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


if __name__ == "__main__":
    main()
