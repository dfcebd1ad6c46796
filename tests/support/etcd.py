"""A real etcd for tests: one shared by a session, or one of a test's own."""

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ETCD = shutil.which("etcd")

needs_etcd = pytest.mark.skipif(
    ETCD is None and not os.environ.get("CI"), reason="the program etcd is not installed (package etcd-server)"
)


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running_etcd(directory: Path) -> Iterator[str]:
    """Runs etcd on a fresh directory; gives its URL. For what ChildEtcd itself is not the subject of."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        ETCD or "etcd",
        f"--data-dir={directory / 'data'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        "--listen-peer-urls=unix://peer:0",
        f"--initial-cluster-token={secrets.token_hex(8)}",
        "--unsafe-no-fsync",
        "--logger=zap",
        "--log-level=error",
    ]
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield url
    finally:
        process.kill()
        process.wait()
