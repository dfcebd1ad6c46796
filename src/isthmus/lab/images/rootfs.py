"""What pods find in their file system besides the machine's own: made once for each version, mounted read-only.

    bin/        busybox's applets and the lab's programs: /bin of every container
    lib/        the Python modules of those programs, compiled: LIBRARY in every container
    programs/   programs that an image has at a path of its own, such as /agnhost

Invariants: made in a draft and moved into place, so a half-made tree is never mounted; a tree is named after what it
was made from and never changed, so a lab that is upgraded does not pull files away from under running pods. Rejected:
mounting the installed package itself, which shows a pod more than it needs and compiles it anew in every process.
"""

import hashlib
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

from isthmus.lab.images.catalog import Image

LIBRARY = "/opt/lab/lib"
"""Where programs in pods find their modules."""

_TIMEOUT = 20.0
_PACKAGE = Path(__file__).parents[2]
"""The directory of the package `isthmus`."""
_MODULES = ("wire/dns", "aio/backoff", "model/durations", "lab/dns", "lab/images/programs")
"""Packages and modules that programs in pods consist of; each needs the standard library only."""
_EVERYWHERE = {
    "nginx": "isthmus.lab.images.programs.nginx.main:main",
    "json-mock": "isthmus.lab.images.programs.jsonmock:main",
    "nslookup": "isthmus.lab.images.programs.lookup:nslookup",
    "starwars": "isthmus.lab.images.programs.small:deathstar",
}
"""Programs in /bin, some of them in the place of busybox's."""
_UNLESS_INSTALLED = {"dig": "isthmus.lab.images.programs.lookup:dig"}
"""Programs in /bin where the machine has none of that name."""
_COPIED = ("bash",)
"""Programs of the machine that are in /bin, too: /bin/bash is how most images' commands and scripts name it."""
_ELSEWHERE = {
    "agnhost": "isthmus.lab.images.programs.agnhost:main",
    "coredns": "isthmus.lab.dns.__main__:main",
    "http-echo": "isthmus.lab.images.programs.small:http_echo",
    "whoami": "isthmus.lab.images.programs.small:whoami",
}
"""Programs that images name in `files`."""
_WGET = "isthmus.lab.images.programs.wget:main"
# -I: nothing from the environment or the current directory. -S: no site, which halves the start-up.
_LAUNCHER = """#!{python} -IS
import sys
sys.path.insert(0, "{library}")
from {module} import {function}
sys.exit({function}(sys.argv[1:]))
"""


class RootfsError(Exception):
    """The files for pods cannot be made; the message says why."""


class Rootfs:
    """The places of the shared files below the lab's `images` directory."""

    def __init__(self, directory: Path) -> None:
        tree = directory / f"files-{_version()}"
        self.mount_point = directory / "root"
        self.applets = tree / "bin"
        self._tree = tree

    def binds(self, image: Image) -> list[tuple[str, str]]:
        """Returns (source, target) of what is mounted read-only into a container of `image`."""
        mounts = [(str(self.applets), "/bin"), (str(self._tree / "lib"), LIBRARY)]
        for source, target in image.files:
            mounts.append((source if "/" in source else str(self._tree / "programs" / source), target))
        return mounts

    def prepare(self) -> None:
        """Makes what is missing; raises RootfsError. Safe to call from several processes at once."""
        draft = self._tree.with_name(f"{self._tree.name}.{os.getpid()}")
        try:
            self.mount_point.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self._tree.is_dir():
                return
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            _make_applets(draft / "bin")
            _make_library(draft / "lib")
            _make_programs(draft)
            try:
                draft.rename(self._tree)
            except OSError:
                if not self._tree.is_dir():
                    raise
        except (OSError, subprocess.SubprocessError, py_compile.PyCompileError) as error:
            raise RootfsError(f"cannot prepare the files for pods: {error}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _make_applets(folder: Path) -> None:
    busybox = _busybox()
    folder.mkdir()
    shutil.copy2(busybox, folder / "busybox")
    done = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=_TIMEOUT)
    for name in done.stdout.split():
        if name != "busybox":
            (folder / name).symlink_to("busybox")
    if not _knows_timeouts(busybox):
        (folder / "wget").unlink(missing_ok=True)
        _write_launcher(folder / "wget", _WGET)
    for name in _COPIED:
        # Copied, not linked: where /bin is not a part of /usr, the pod's /bin hides the original.
        if (program := shutil.which(name)) is not None:
            (folder / name).unlink(missing_ok=True)
            shutil.copy2(program, folder / name)


def _make_library(folder: Path) -> None:
    for path in _sources():
        target = folder / "isthmus" / path.relative_to(_PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        # Compiled here, once, because a read-only mount cannot keep what a pod would compile.
        py_compile.compile(str(target), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def _make_programs(tree: Path) -> None:
    missing = {name: entry for name, entry in _UNLESS_INSTALLED.items() if shutil.which(name) is None}
    for name, entry in (_EVERYWHERE | missing).items():
        (tree / "bin" / name).unlink(missing_ok=True)
        _write_launcher(tree / "bin" / name, entry)
    (tree / "programs").mkdir()
    for name, entry in _ELSEWHERE.items():
        _write_launcher(tree / "programs" / name, entry)


def _write_launcher(target: Path, entry: str) -> None:
    module, _, function = entry.partition(":")
    python = os.path.realpath(sys.executable)
    target.write_text(_LAUNCHER.format(python=python, library=LIBRARY, module=module, function=function))
    target.chmod(0o755)


def _sources() -> list[Path]:
    """Returns the files of the library, sorted, with the packages around them."""
    found = set()
    for name in _MODULES:
        place = _PACKAGE / name
        found |= {place.with_suffix(".py")} if not place.is_dir() else set(place.rglob("*.py"))
    for path in list(found):
        found |= {folder / "__init__.py" for folder in path.parents if folder.is_relative_to(_PACKAGE)}
    return sorted(found)


def _version() -> str:
    """Returns a name for what the tree is made from."""
    digest = hashlib.sha256(f"{os.path.realpath(sys.executable)} {sys.version}".encode())
    for path in (*_sources(), Path(__file__)):
        digest.update(path.read_bytes())
    for name in ("busybox", *_COPIED, *_UNLESS_INSTALLED):
        program = shutil.which(name)
        if program is not None:
            found = os.stat(program)
            digest.update(f"{program} {found.st_size} {found.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _busybox() -> str:
    found = shutil.which("busybox")
    if found is None:
        raise RootfsError("busybox is not installed (package busybox)")
    return found


def _knows_timeouts(busybox: str) -> bool:
    """Tells whether busybox's wget has -T, which is a build option of busybox."""
    done = subprocess.run([busybox, "wget", "--help"], capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    return "-T SEC" in done.stdout + done.stderr
