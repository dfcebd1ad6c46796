"""Standard output that cannot be written to is one line on standard error and exit code 1, in every command.

Without it a full disk is a traceback, or, where only the flush at the end of the process fails, a remark of the
interpreter. Invariants: only what fails at standard output is taken for that, not a file that a command writes; a
closed pipe (`isthmus ... | head -1`) stays quiet; nothing is left to be flushed once it was said. Rejected: catching
OSError around the command and flushing again to see whose it was: what a larger write lost is not there any more.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class OutputLost(Exception):
    """Standard output does not take what is written; the message says why."""


class _PipeClosed(BrokenPipeError):
    """Whoever reads standard output had enough. click takes it for what it is, and ends quietly."""


class _Descriptor(io.FileIO):
    """Standard output, whose failures can be told from those of other files."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError as error:
            raise _PipeClosed(*error.args) from None
        except OSError as error:
            raise OutputLost(error.strerror or str(error)) from None


@contextlib.contextmanager
def told_if_lost() -> Iterator[None]:
    """Ends the process with code 1, and with the reason, if standard output fails in the block or is flushed in vain.

    For the process's entry alone: it puts another stream in the place of `sys.stdout`.
    """
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):  # None after `>&-`: nothing is written, and nothing fails
        yield
        return
    raw = _Descriptor(stream.fileno(), "wb", closefd=False)
    sys.stdout = io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    lost: list[BaseException] = []
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except* (OutputLost, _PipeClosed) as group:  # what fails within a task group comes in a group
        lost = _leaves(group)
    if not lost:
        return
    # What is still buffered would fail once more when the interpreter ends.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, raw.fileno())
    os.close(nowhere)
    told = next((error for error in lost if isinstance(error, OutputLost)), None)
    if told is not None:
        sys.stderr.write(f"Error: cannot write to standard output: {told}\n")
    sys.exit(1)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
