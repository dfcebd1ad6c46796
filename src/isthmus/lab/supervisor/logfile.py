"""A log that cannot fill a disk: one file and one predecessor, each of bounded size.

Invariant: a write never raises; on a full disk lines are lost and the processes that wrote them go on.
"""

import os
from pathlib import Path

LIMIT = 8 * 1024 * 1024
"""Bytes per file, two files per component."""


class LogFile:
    """Appends to `path`; at `limit` bytes the file becomes `path.1` and a new one begins."""

    def __init__(self, path: Path, *, limit: int = LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._descriptor = -1
        self._size = 0

    def write(self, data: bytes) -> None:
        """Writes `data`, as much of it as the disk takes."""
        try:
            if self._descriptor < 0:
                self._open()
            elif self._size + len(data) > self._limit:
                self.close()
                os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))
                self._open()
            self._size += os.write(self._descriptor, data)
        except OSError:
            self.close()

    def close(self) -> None:
        """Closes the file; a later write opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size
