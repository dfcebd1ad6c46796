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
import errno
import os
import re
import shutil
import subprocess
import threading
from types import TracebackType
from typing import Protocol, Self

from isthmus.kernel.errors import KernelError, NftError
from isthmus.kernel.namespaces import inside_descriptor, own_namespace
from isthmus.kernel.sockets import NetfilterSocket, too_large, widen

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
        ...

    def close(self) -> None:
        """Frees what it holds; may be called again."""
        ...


class Nft:
    """nftables in the network namespace of the thread that makes the instance; a context manager.

    Calls block until the kernel has committed and exclude each other. `library` is for tests: the name of a library
    that is not there makes the `nft` program do the work.
    """

    def __init__(self, *, library: str = LIBRARY) -> None:
        # libnftables ends the whole process where it cannot open its socket: find out first.
        NetfilterSocket().close()
        self._lock = threading.Lock()
        self._namespace = own_namespace()
        try:
            self._way = self._find(library)
        except BaseException:
            os.close(self._namespace)
            raise
        self._closed = False

    def _find(self, library: str) -> _Way:
        try:
            return _Library(ctypes.CDLL(library), self._namespace)
        except (OSError, AttributeError) as error:
            program = shutil.which("nft", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
            if program is None:
                raise KernelError(f"neither {library} nor the nft program is installed (package nftables)") from error
            return _Program(program, self._namespace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the context and its socket; may be called again."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._way.close()
                os.close(self._namespace)

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
            if self._closed:
                raise ValueError("nft: the instance is closed")
            well, output, errors = self._way.execute(script.encode(), dry=dry, flags=flags)
        if not well:
            raise _error(script, errors)
        return output


class _Library:
    """libnftables through ctypes."""

    def __init__(self, library: ctypes.CDLL, namespace: int) -> None:
        self._library = library
        self._namespace = namespace
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
        self._context = self._new_context()

    def execute(self, script: bytes, *, dry: bool, flags: int) -> tuple[bool, str, str]:
        if not dry:
            return self._execute(self._context, script, flags=flags)
        # After a dry run libnftables 1.0 takes what was not committed for part of the table, and the kernel's
        # generation has not moved to tell it otherwise: a context is used for one dry run and nothing else.
        context = inside_descriptor(self._namespace, self._new_context)
        try:
            self._library.nft_ctx_set_dry_run(context, True)
            return self._execute(context, script, flags=flags)
        finally:
            self._library.nft_ctx_free(context)

    def close(self) -> None:
        self._library.nft_ctx_free(self._context)

    def _new_context(self) -> int:
        before = _sockets()
        context = self._library.nft_ctx_new(0)
        if not context:
            raise KernelError("libnftables: no memory for a context")
        for link, descriptor in _sockets().items():
            if link not in before:
                widen(descriptor)
        if self._library.nft_ctx_buffer_output(context) or self._library.nft_ctx_buffer_error(context):
            self._library.nft_ctx_free(context)
            raise KernelError("libnftables: no memory for a buffer")
        return int(context)

    def _execute(self, context: int, script: bytes, *, flags: int) -> tuple[bool, str, str]:
        self._library.nft_ctx_output_set_flags(context, flags)
        descriptor = os.memfd_create("nft-script", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(script)
            status = self._library.nft_run_cmd_from_filename(context, f"/proc/self/fd/{descriptor}".encode())
        finally:
            os.close(descriptor)
        output = self._library.nft_ctx_get_output_buffer(context) or b""
        errors = self._library.nft_ctx_get_error_buffer(context) or b""
        return status == 0, output.decode(errors="replace"), errors.decode(errors="replace")


class _Program:
    """A process of the nft program for each script."""

    def __init__(self, program: str, namespace: int) -> None:
        self._program = program
        self._namespace = namespace

    def execute(self, script: bytes, *, dry: bool, flags: int) -> tuple[bool, str, str]:
        arguments = [self._program]
        arguments += ["-c"] if dry else []
        arguments += ["-a"] if flags & _HANDLE else []
        arguments += ["-t"] if flags & _TERSE else []

        def work() -> subprocess.CompletedProcess[bytes]:
            command = [*arguments, "-f", "-"]
            return subprocess.run(command, input=script, capture_output=True, timeout=PROGRAM_TIMEOUT, check=False)

        try:
            done = inside_descriptor(self._namespace, work)
        except subprocess.TimeoutExpired as error:
            raise KernelError(f"nft did not end within {PROGRAM_TIMEOUT} s") from error
        except OSError as error:
            raise KernelError(f"nft could not be run: {error}", errno=error.errno or 0) from error
        return done.returncode == 0, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def close(self) -> None:
        """Has nothing to free."""


def _sockets() -> dict[str, int]:
    """Returns the sockets of this process: what /proc calls them, which is unique, and a descriptor of each."""
    found: dict[str, int] = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/self/fd/{name}")
            if link.startswith("socket:"):
                found[link] = int(name)
    return found


def _error(script: str, errors: str) -> NftError:
    """Returns the exception for what nft printed: the first place it names, and the script's own line there."""
    found = _PLACE.search(errors)
    if found is None:
        bare = _BARE.search(errors)
        message = bare["message"] if bare else errors.strip()[:MAX_ERROR] or "nft failed without a word"
        number = _errno(message)
        hint = f": {too_large(f'a script of {len(script)} bytes')}" if number == errno.EMSGSIZE else ""
        return NftError(f"nft: {message}{hint}", errno=number)
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
