"""Writing a volume's files so that a reader sees the old ones or the new ones, never some of both.

As the kubelet's atomic writer: files live in a directory with a new name, `..data` is a symbolic link to it that is
replaced in one step, and what users see are links through `..data`. Raises OSError (a full disk leaves the old files).
"""

import contextlib
import datetime
import errno
import os
import secrets
import shutil
from pathlib import Path

from isthmus.lab.node.volumes.projection import Payload

_DATA = "..data"


def write_files(volume: Path, files: Payload, *, group: int | None = None, owner: int | None = None) -> bool:
    """Makes `volume` hold exactly `files`, owned by `group`; tells whether anything changed."""
    volume.mkdir(mode=0o755, parents=True, exist_ok=True)
    if _holds(volume, files):
        return False
    stamp = datetime.datetime.now(datetime.UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
    fresh = volume / f"{stamp}{secrets.randbelow(10**10)}"
    old = _target(volume)
    try:
        fresh.mkdir(mode=0o755)
        for path, file in files.items():
            place = fresh / path
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            place.write_bytes(file.data)
            mode = file.mode
            if group is not None:
                give(place, group=group)
                mode |= 0o440
            if owner is not None and file.mode == 0o600:
                give(place, owner=owner)
            place.chmod(mode)
        draft = volume / "..data_tmp"
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        draft.symlink_to(fresh.name)
        os.replace(draft, volume / _DATA)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    _link(volume, {path.split("/", 1)[0] for path in files})
    if old is not None and old != fresh:
        shutil.rmtree(old, ignore_errors=True)
    return True


def give(path: Path, *, owner: int = -1, group: int = -1) -> None:
    """Gives a file to an owner or group; where there are no others (a lab without root) it stays as it is."""
    try:
        os.chown(path, owner, group)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise


def _link(volume: Path, names: set[str]) -> None:
    for name in names:
        link = volume / name
        if not link.is_symlink():
            link.symlink_to(f"{_DATA}/{name}")
    for entry in os.listdir(volume):
        if not entry.startswith("..") and entry not in names:
            (volume / entry).unlink(missing_ok=True)


def _target(volume: Path) -> Path | None:
    try:
        return volume / os.readlink(volume / _DATA)
    except OSError:
        return None


def _holds(volume: Path, files: Payload) -> bool:
    current = _target(volume)
    if current is None:
        return False
    found: set[str] = set()
    for base, _directories, names in os.walk(current):
        found |= {os.path.relpath(os.path.join(base, name), current) for name in names}
    if found != set(files):
        return False
    try:
        return all((current / path).read_bytes() == file.data for path, file in files.items())
    except OSError:
        return False
