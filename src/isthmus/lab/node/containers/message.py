"""What a container says when it ends: its termination message.

core/v1 Container: the file at terminationMessagePath, at most 4096 bytes; with FallbackToLogsOnError, if that file is
empty and the container failed, the end of its log, at most 2048 bytes or 80 lines.
"""

import contextlib
from pathlib import Path

from isthmus.lab.node.containers.logs import LogOptions, format_line
from isthmus.lab.node.containers.paths import RunFiles
from isthmus.lab.node.pods.container import Container

LIMIT = 4096
LOG_LIMIT = 2048
LOG_LINES = 80
_TAIL = 64 * 1024


def termination_message(container: Container, files: RunFiles, *, exit_code: int) -> str:
    """Returns the message of a run that is over; empty if it left none."""
    said = b""
    with contextlib.suppress(OSError), files.message.open("rb") as file:
        said = file.read(LIMIT)
    if not said and exit_code and container.terminationMessagePolicy == "FallbackToLogsOnError":
        said = _end_of(files.log)
    return said.decode("utf-8", "replace")


def _end_of(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - _TAIL, 0))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return b""
    texts = [text for line in lines[-LOG_LINES:] if (text := format_line(line, LogOptions())) is not None]
    return b"".join(texts)[-LOG_LIMIT:]
