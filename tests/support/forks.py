"""Work that goes on beside a test: in a process, as a thread would wait for the one that writes to the kernel."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeatedly(work: Callable[[], object]) -> Iterator[None]:
    """Runs `work` again and again in a process of its own, which is killed at the end; an error ends it before."""
    pid = os.fork()
    if not pid:
        try:
            while True:
                work()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
