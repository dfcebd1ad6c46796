"""What can go wrong between this program and the kernel, as one family of exceptions.

A caller that can only start again from scratch catches `KernelError`; one that wants to know what to say to a person
reads its fields.
"""

import errno as errno_names
import os
from collections.abc import Iterator
from contextlib import contextmanager

from isthmus.wire.netlink import NetlinkDecodeError


class KernelError(Exception):
    """The kernel refused something, or could not be asked.

    `errno` is a positive error number (0 where there is none). `subject` is what the kernel pointed at in the words
    of nft, such as `inet isthmus peers4 { 10.0.0.1 }`; empty if unknown.
    """

    def __init__(self, message: str, *, errno: int = 0, subject: str = "") -> None:
        super().__init__(message)
        self.errno = errno
        self.subject = subject


class NftError(KernelError):
    """A script that nft refused: `line` and `column` count from 1 (0 if nft named no place), `source` is the line."""

    def __init__(self, message: str, *, errno: int = 0, line: int = 0, column: int = 0, source: str = "") -> None:
        super().__init__(message, errno=errno, subject=source)
        self.line = line
        self.column = column
        self.source = source


def describe(errno: int) -> str:
    """Returns an error number as people know it: `ENOENT: No such file or directory`."""
    return f"{errno_names.errorcode.get(errno, f'errno {errno}')}: {os.strerror(errno)}"


@contextmanager
def about(what: str, *, subject: str = "") -> Iterator[None]:
    """Says of an error in the block what it was about; bytes that cannot be read become a KernelError too."""
    try:
        yield
    except NetlinkDecodeError as error:
        raise KernelError(f"{what}: {error}", subject=subject) from error
    except KernelError as error:
        raise KernelError(f"{what}: {error}", errno=error.errno, subject=subject) from error
