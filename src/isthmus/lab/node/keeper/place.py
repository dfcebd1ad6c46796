"""Where in a container's root something is mounted, found and made without ever leaving that root.

Containers of the same pod may be writing to volumes that are mounted in the root already, and exchange a directory for
a link between two steps. Invariants: every name is looked up in a directory that is held open, and no link is followed
by the kernel; a link is read, and its text is walked in the same way from the root on. Rejected: comparing
os.path.realpath with the root first, which says nothing about the moment at which the directory is made; openat2(2),
which sandboxes of the machine may forbid.
"""

from __future__ import annotations

import os

from isthmus.lab.node.keeper.syscalls import KernelRefusal

HELD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""


def hold_place(root: str, target: str, *, directory: bool) -> tuple[int, str]:
    """Makes what is missing of `target` (as the container calls it), at its end an empty directory or file.

    Returns the directory that it is in, which the caller closes, and its name there. Raises KernelRefusal if links
    lead out of `root`, as an absolute one does, OSError if something cannot be made or is exchanged meanwhile.
    """
    names = _folded(target.split("/"))
    for _ in range(_MAX_LINKS):
        above, name = os.open(os.path.dirname(root), HELD | os.O_DIRECTORY), os.path.basename(root)
        try:
            for position, following in enumerate(names):
                below = os.open(name, HELD | os.O_DIRECTORY, dir_fd=above)
                os.close(above)
                above, name = below, following
                _make(above, name, directory=directory or position < len(names) - 1)
                link = _link(above, name)
                if link:
                    names = _folded([*names[:position], *link.split("/"), *names[position + 1 :]])
                    break
            else:
                return above, name
        except BaseException:
            os.close(above)
            raise
        os.close(above)
    raise KernelRefusal("too many levels of symbolic links")


def _make(above: int, name: str, *, directory: bool) -> None:
    try:
        os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        if directory:
            os.mkdir(name, 0o755, dir_fd=above)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=above))


def _link(above: int, name: str) -> str:
    """Returns the text of a link, "" for what is none; raises KernelRefusal for an absolute one."""
    try:
        text = os.readlink(name, dir_fd=above)
    except OSError:
        return ""
    if text.startswith("/"):
        raise KernelRefusal("leads out of the container")
    return text


def _folded(names: list[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        if name == ".." and not found:
            raise KernelRefusal("leads out of the container")
        if name == "..":
            found.pop()
        elif name not in ("", "."):
            found.append(name)
    return found
