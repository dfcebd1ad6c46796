"""Places in volumes, which pods may be changing while the node looks.

Invariants: nothing outside of a volume is made or changed, whatever its pods exchange for links meanwhile; what was
found may have been replaced when it is mounted, which the keeper looks at once more. Rejected: `Path.mkdir` on what
was resolved before, which follows the links of a later moment.
"""

import os
from pathlib import Path

from isthmus.lab.node.keeper.place import hold_place
from isthmus.lab.node.keeper.syscalls import KernelRefusal


class OutsideError(Exception):
    """A path leads out of its volume, or nowhere."""


def find(root: Path, path: str) -> Path:
    """Returns where `path` below `root` is, without links, whether or not it is there; raises OutsideError, OSError."""
    try:
        place = (root / path).resolve()
    except RuntimeError as error:  # a loop of links, before Python 3.13
        raise OutsideError(str(error)) from error
    if not place.is_relative_to(root.resolve()):
        raise OutsideError(f"{path} leads out of {root}")
    return place


def make(root: Path, place: Path, *, directory: bool, mode: int) -> None:
    """Makes what `find` did not find: a directory or an empty file; raises OutsideError, OSError."""
    root = root.resolve()
    try:
        above, name = hold_place(str(root), str(place.relative_to(root)), directory=directory)
    except KernelRefusal as refusal:
        raise OutsideError(f"{place} {refusal}") from refusal
    try:
        # Not blocking: a pod may have put a pipe there.
        made = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=above)
    finally:
        os.close(above)
    try:
        os.fchmod(made, mode)
    finally:
        os.close(made)
