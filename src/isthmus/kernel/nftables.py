"""nft scripts into the kernel: libnftables in this process, or the `nft` program where the library is missing.

A script is one transaction: all of it is in force when `run` returns, or none. What must stay true: an instance
works in the network namespace of the thread that made it, whatever thread uses it later, one call at a time. The GIL
is released while libnftables works, so a writer thread never stops the event loop.

A script goes in as a file in memory and not as a string: given a string, nft quotes the *first* line of it in every
error, whichever line was wrong; given a file it says line and column.

Rejected: JSON in and out. It is no faster, undocumented in places, and nobody can read it in a bug report.
"""

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import threading
from types import TracebackType
from typing import Protocol, Self

from isthmus.kernel.errors import KernelError, NftError
from isthmus.kernel.sockets import NetfilterSocket

LIBRARY = "libnftables.so.1"
PROGRAM_TIMEOUT = 60  # seconds for the nft program; the library has none, as it waits for the kernel alone
MAX_ERROR = 2000  # characters of nft's own words in an exception

_HANDLE = 1 << 3  # NFT_CTX_OUTPUT_*, nftables/libnftables.h
_TERSE = 1 << 11
_PLACE = re.compile(r"^\S*?:(?P<line>\d+):(?P<column>\d+)-\d+: Error: (?P<message>.*)$", re.MULTILINE)
_BARE = re.compile(r"Error: (?P<message>.*)$", re.MULTILINE)
_ERRNOS = {os.strerror(number): number for number in range(1, 134)}


class _Way(Protocol):
    def execute(self, script: bytes, *, dry: bool, flags: int) -> tuple[bool, str, str]:
        """Returns (well, output, errors)."""

    def close(self) -> None: ...


class Nft:
    """nftables in the network namespace of the thread that makes the instance; a context manager.

    Calls block until the kernel has committed and exclude each other. `library` is for tests: the name of a library
    that is not there makes the `nft` program do the work, which follows the *calling* thread's namespace.
    """

    def __init__(self, *, library: str = LIBRARY) -> None:
        # libnftables ends the whole process where it cannot open its socket: find out first.
        NetfilterSocket().close()
        self._lock = threading.Lock()
        self._way: _Way
        try:
            self._way = _Library(ctypes.CDLL(library))
        except (OSError, AttributeError) as error:
            program = shutil.which("nft", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
            if program is None:
                raise KernelError(f"neither {library} nor the nft program is installed (package nftables)") from error
            self._way = _Program(program)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the context and its socket; may be called again."""
        with self._lock:
            self._way.close()

    def run(self, script: str) -> str:
        """Runs `script` as one transaction and returns what it printed (the output of `list` commands).

        Raises NftError, with nothing changed, if nft or the kernel refused a line of it.
        """
        return self._run(script, dry=False, flags=0)

    def check(self, script: str) -> None:
        """Has the kernel validate `script` in full without a commit. Raises NftError as `run` would."""
        self._run(script, dry=True, flags=0)

    def show(self, table: str, *, elements: bool = True, handles: bool = False) -> str:
        """Returns the text of one table (`inet isthmus`), by default with its elements.

        Never lists the whole ruleset: objects of others, made by a newer nft, can crash an older one.
        """
        flags = (0 if elements else _TERSE) | (_HANDLE if handles else 0)
        return self._run(f"list table {table}\n", dry=False, flags=flags)

    def _run(self, script: str, *, dry: bool, flags: int) -> str:
        if "\0" in script:
            raise NftError("an nft script cannot hold a zero byte")
        with self._lock:
            well, output, errors = self._way.execute(script.encode(), dry=dry, flags=flags)
        if not well:
            raise _error(script, errors)
        return output


class _Library:
    """libnftables through ctypes."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        for name, result, arguments in (
            ("nft_ctx_new", pointer, [ctypes.c_uint32]),
            ("nft_ctx_free", None, [pointer]),
            ("nft_ctx_buffer_output", ctypes.c_int, [pointer]),
            ("nft_ctx_buffer_error", ctypes.c_int, [pointer]),
            ("nft_ctx_get_output_buffer", text, [pointer]),
            ("nft_ctx_get_error_buffer", text, [pointer]),
            ("nft_ctx_output_set_flags", None, [pointer, ctypes.c_uint]),
            ("nft_ctx_set_dry_run", None, [pointer, ctypes.c_bool]),
            ("nft_run_cmd_from_filename", ctypes.c_int, [pointer, text]),
        ):
            function = getattr(library, name)
            function.restype = result
            function.argtypes = arguments
        self._context = library.nft_ctx_new(0)
        if not self._context:
            raise KernelError("libnftables: no memory for a context")
        if library.nft_ctx_buffer_output(self._context) or library.nft_ctx_buffer_error(self._context):
            self.close()
            raise KernelError("libnftables: no memory for a buffer")

    def execute(self, script: bytes, *, dry: bool, flags: int) -> tuple[bool, str, str]:
        if not self._context:
            raise ValueError("nft: the instance is closed")
        self._library.nft_ctx_output_set_flags(self._context, flags)
        self._library.nft_ctx_set_dry_run(self._context, dry)
        descriptor = os.memfd_create("nft-script", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(script)
            name = f"/proc/self/fd/{descriptor}".encode()
            status = self._library.nft_run_cmd_from_filename(self._context, name)
        finally:
            os.close(descriptor)
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        errors = self._library.nft_ctx_get_error_buffer(self._context) or b""
        return status == 0, output.decode(errors="replace"), errors.decode(errors="replace")

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None


class _Program:
    """A process of the nft program for each script."""

    def __init__(self, program: str) -> None:
        self._program = program

    def execute(self, script: bytes, *, dry: bool, flags: int) -> tuple[bool, str, str]:
        arguments = [self._program]
        arguments += ["-c"] if dry else []
        arguments += ["-a"] if flags & _HANDLE else []
        arguments += ["-t"] if flags & _TERSE else []
        try:
            done = subprocess.run([*arguments, "-f", "-"], input=script, capture_output=True, timeout=PROGRAM_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise KernelError(f"nft did not end within {PROGRAM_TIMEOUT} s") from error
        except OSError as error:
            raise KernelError(f"nft could not be run: {error}", errno=error.errno or 0) from error
        return done.returncode == 0, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def close(self) -> None:
        """Has nothing to free."""


def _error(script: str, errors: str) -> NftError:
    """Returns the exception for what nft printed: the first place it names, and the script's own line there."""
    found = _PLACE.search(errors)
    if found is None:
        bare = _BARE.search(errors)
        message = bare["message"] if bare else errors.strip()[:MAX_ERROR] or "nft failed without a word"
        return NftError(f"nft: {message}", errno=_errno(message))
    line, column, message = int(found["line"]), int(found["column"]), found["message"]
    source = ""
    with contextlib.suppress(IndexError):
        source = script.split("\n")[line - 1].strip() if line else ""
    more = len(_PLACE.findall(errors)) - 1
    text = f"nft: line {line}:{column}: {message}" if line else f"nft: {message}"
    if source:
        text += f": {source[:MAX_ERROR]}"
    if more:
        text += f" (and {more} more)"
    return NftError(text, errno=_errno(message), line=line, column=column, source=source)


def _errno(message: str) -> int:
    """Returns the error number whose text ends `message`, 0 if none does."""
    return _ERRNOS.get(message.rpartition(": ")[2].strip(), 0)
