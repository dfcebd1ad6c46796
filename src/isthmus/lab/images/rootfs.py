"""What pods find under `/bin` and `/agnhost`: made once per lab, mounted read-only into every container.

Invariant: made in a draft and moved into place, so that a half-made tree is never mounted.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

_TIMEOUT = 20.0


class RootfsError(Exception):
    """The files for pods cannot be made; the message says why."""


class Rootfs:
    """The places of the shared files below the lab's `images` directory."""

    def __init__(self, directory: Path) -> None:
        self.applets = directory / "bin"
        self.agnhost = directory / "agnhost"
        self.mount_point = directory / "root"

    def prepare(self) -> None:
        """Makes what is missing; raises RootfsError."""
        try:
            self.mount_point.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not self.applets.is_dir():
                self._make_applets()
            self._make_agnhost()
        except (OSError, subprocess.SubprocessError) as error:
            raise RootfsError(f"cannot prepare the files for pods: {error}") from error

    def _make_applets(self) -> None:
        busybox = shutil.which("busybox")
        if busybox is None:
            raise RootfsError("busybox is not installed (package busybox)")
        draft = self.applets.with_name("bin.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        shutil.copy2(busybox, draft / "busybox")
        done = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=_TIMEOUT)
        for name in done.stdout.split():
            if name != "busybox":
                (draft / name).symlink_to("busybox")
        if not _knows_timeouts(busybox):
            (draft / "wget").unlink(missing_ok=True)
            _write_script(draft / "wget", "wget.py")
        draft.chmod(0o755)
        os.replace(draft, self.applets)

    def _make_agnhost(self) -> None:
        draft = self.agnhost.with_name("agnhost.new")
        _write_script(draft, "agnhost.py")
        os.replace(draft, self.agnhost)


def _write_script(target: Path, name: str) -> None:
    """Writes a script of this package as a program."""
    source = (Path(__file__).parent / name).read_text()
    # -I: nothing from the environment or the current directory. -S: no site, which halves the start-up.
    target.write_text(f"#!{os.path.realpath(sys.executable)} -IS\n{source}")
    target.chmod(0o755)


def _knows_timeouts(busybox: str) -> bool:
    """Tells whether busybox's wget has -T, which is a build option of busybox."""
    done = subprocess.run([busybox, "wget", "--help"], capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    return "-T SEC" in done.stdout + done.stderr
