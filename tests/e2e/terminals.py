"""Terminals to type the commands of the documentation at, with what is then on the screen."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from .conftest import Lab

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 90.0  # seconds until a command that hangs is ended


class Tab:
    """A terminal in `directory`, in which KUBECONFIG leads to one cluster (or, without a name, to all)."""

    def __init__(self, lab: Lab, directory: Path, cluster: str = "") -> None:
        self._directory = directory
        config = lab.directory.parent / f"{cluster or 'global'}.yaml"
        lab.isthmus("lab", "kubeconfig", *([cluster] if cluster else []), "-o", str(config))
        path = f"{Path(sys.executable).parent}:{lab.environ['PATH']}"  # where `isthmus` is
        self._environ = {**lab.environ, "KUBECONFIG": str(config), "TERM": "dumb", "PATH": path}

    def type(self, line: str, *, code: int = 0) -> str:
        """Types a line at a real terminal, and returns what is then on the screen; it must end with `code`."""
        ended, shown = self.run(line)
        assert ended == code, f"{line}\nexit code {ended}\n{shown}"
        return shown

    def run(self, line: str) -> tuple[int, str]:
        """Types a line at a real terminal, and returns its exit code and what is then on the screen."""
        ours, theirs = pty.openpty()
        with open(ours, "rb", buffering=0) as screen:
            words = ["/bin/sh", "-c", line]
            process = subprocess.Popen(
                words,
                cwd=self._directory,
                env=self._environ,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                process_group=0,
            )
            os.close(theirs)
            timer = threading.Timer(PATIENCE, process.kill)
            timer.start()
            try:
                shown = b"".join(_lines_of(screen)).decode().replace("\r\n", "\n")
                ended = process.wait()
            finally:
                timer.cancel()
        return ended, shown

    def table(self, line: str) -> list[dict[str, str]]:
        """Types a line and returns the table that it shows, by the names of its columns."""
        head, *rows = self.type(line).splitlines()
        names = re.split(r"\s{2,}", head.rstrip())
        starts = [head.index(name) for name in names]
        ends = [*starts[1:], None]
        return [
            {name: row[start:end].strip() for name, start, end in zip(names, starts, ends, strict=True)} for row in rows
        ]


def _lines_of(screen: io.RawIOBase) -> Iterator[bytes]:
    with contextlib.suppress(OSError):  # EIO: the last one who could write to this terminal is gone
        while piece := screen.read(65536):
            yield piece
