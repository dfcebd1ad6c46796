"""A container's file system.

Invariants: the program sees the machine's programs read-only and otherwise only files of its own; kernel switches
under /proc and /sys are read-only or masked, which matters when the lab runs as root; terminals are the container's
own (a devpts instance each). Rejected: `unshare --root` and shell scripts, which cannot say what went wrong.
"""

from __future__ import annotations

import os

from isthmus.lab.node.keeper.place import HELD, hold_place
from isthmus.lab.node.keeper.syscalls import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    KernelRefusal,
    bind,
    bind_held,
    make_read_only,
    mount,
    pivot_to,
    unmount,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Not at run time: see the package's docstring.
    from typing import Any

    Spec = dict[str, Any]

SYSTEM_DIRECTORIES = ("/lib", "/lib32", "/lib64", "/libx32", "/sbin")
SHARED_ETC = ("/etc/alternatives", "/etc/ca-certificates", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
              "/etc/ssl", "/etc/protocols", "/etc/services")  # fmt: skip
ROOT_DIRECTORIES = "bin dev etc home mnt opt proc root run srv sys tmp usr var var/log var/run var/tmp"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
READ_ONLY_PROC = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
MASKED_PROC = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
               "/proc/timer_list")  # fmt: skip
# Debian's numbers.
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"  # noqa: S105
GROUP = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"


def build_root(spec: Spec) -> None:
    """Mounts the container's file system and makes it the root; raises KernelRefusal, OSError.

    `spec` has `root` (an empty directory), `binds` ([source, target, read-only, exact] each), `privileged` and
    `read_only_root`.
    """
    root = spec["root"]
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=256m")
    for name in ROOT_DIRECTORIES.split():
        os.mkdir(f"{root}/{name}")
    os.chmod(f"{root}/tmp", 0o1777)  # noqa: S103, S108
    os.chmod(f"{root}/var/tmp", 0o1777)  # noqa: S103, S108
    targets = [target for _source, target, _read_only, _exact in spec["binds"]]
    mount_programs("/usr", f"{root}/usr", points=[path[len("/usr/") :] for path in targets if path[:5] == "/usr/"])
    for path in SYSTEM_DIRECTORIES:
        if os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        elif os.path.isdir(path):
            bind(path, root + path, read_only=True)
    for path in SHARED_ETC:
        if os.path.exists(path):
            bind(path, root + path, read_only=True)
    for path, text in (("passwd", PASSWD), ("group", GROUP), ("nsswitch.conf", "hosts: files dns\n")):
        with open(f"{root}/etc/{path}", "w") as file:
            file.write(text)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", f"{root}/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    build_devices(root)
    # In order of their targets, so that a mount inside another one is not hidden by it.
    for source, target, read_only, exact in sorted(spec["binds"], key=lambda item: str(item[1]).rstrip("/")):
        if not target.startswith("/") or "/../" in f"{target}/":
            raise KernelRefusal(f"mount path {target!r} must be absolute")
        bind_inside(source, root, target, read_only=read_only, exact=exact)
    if not spec["privileged"]:
        protect_proc(root)
    if spec["read_only_root"]:
        make_read_only(f"{root}/usr")
        make_read_only(root)
    pivot_to(root)


def mount_programs(source: str, target: str, *, points: list[str]) -> None:
    """Shows the machine's programs with a layer of the container's own over them, so that volumes can be mounted below
    them (`/usr/share/nginx/html`) and an image's files written; without overlayfs they are read-only.

    `points` are the paths below `source` that something will be mounted on.
    """
    mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64m")
    try:
        for name in ("upper", "work"):
            os.mkdir(f"{target}/{name}", 0o755)
        for path in points:
            own_parents(source, f"{target}/upper", path)
        # Mounted over the file system that holds its layer, which nobody sees any more then.
        layers = f"lowerdir={source},upperdir={target}/upper,workdir={target}/work"
        mount("overlay", target, "overlay", MS_NOSUID | MS_NODEV, layers)
    except (KernelRefusal, OSError):
        unmount(target)
        bind(source, target, read_only=True)


def own_parents(lower: str, upper: str, path: str) -> None:
    """Makes the directories above `path` in the upper layer too.

    Without root the machine's own belong to nobody that the namespace knows, and nothing can be made in them; a
    directory that is in both layers has the owner of the upper one.
    """
    for name in path.strip("/").split("/")[:-1]:
        lower, upper = f"{lower}/{name}", f"{upper}/{name}"
        if name in ("", ".", "..") or os.path.islink(lower) or (os.path.exists(lower) and not os.path.isdir(lower)):
            return
        if not os.path.isdir(upper):
            os.mkdir(upper, 0o755)


def bind_inside(source: str, root: str, target: str, *, read_only: bool, exact: bool = False) -> None:
    """Binds below `root`; raises KernelRefusal, OSError.

    Containers of the same pod may be writing to what is mounted already, so both ends are held open and looked at
    before they are used: no link leads the mount point out of the root, and with `exact` none stands for the source.
    """
    ends = [os.open(source, os.O_PATH | os.O_CLOEXEC)]
    try:
        held = f"/proc/self/fd/{ends[0]}"
        if exact and os.readlink(held) != source:
            raise KernelRefusal(f"what is to be mounted on {target!r} has been replaced")
        try:
            above, name = hold_place(root, target, directory=os.path.isdir(held))
        except KernelRefusal as refusal:
            raise KernelRefusal(f"mount path {target!r} {refusal}") from refusal
        except OSError as error:
            raise KernelRefusal(f"mount path {target!r} cannot be made: {error}") from error
        ends += [above, os.open(name, HELD, dir_fd=above)]
        place = f"/proc/self/fd/{ends[-1]}"
        if not _below(os.readlink(place), root):
            raise KernelRefusal(f"mount path {target!r} leads out of the container")
        bind_held(held, place)
        if read_only:
            # By name once more, which leads to the new mount; anything else in its place is none, and refused.
            ends.append(os.open(name, HELD, dir_fd=above))
            try:
                make_read_only(f"/proc/self/fd/{ends[-1]}")
            except KernelRefusal as refusal:
                raise KernelRefusal(f"mount path {target!r} cannot be made read-only: {refusal}") from refusal
    finally:
        for number in ends:
            os.close(number)


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


def build_devices(root: str) -> None:
    """Makes /dev: the few devices that every program may use, terminals of its own, shared memory."""
    for name in DEVICES:
        bind(f"/dev/{name}", f"{root}/dev/{name}")
    for name, kind, options in (
        ("pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"),
        ("shm", "tmpfs", "mode=1777,size=64m"),
    ):
        os.mkdir(f"{root}/dev/{name}")
        mount(kind, f"{root}/dev/{name}", kind, MS_NOSUID | MS_NOEXEC, options)
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
             "stderr": "/proc/self/fd/2"}  # fmt: skip
    for name, target in links.items():
        os.symlink(target, f"{root}/dev/{name}")


def protect_proc(root: str) -> None:
    """Takes away the switches under /proc that act on the machine."""
    for path in READ_ONLY_PROC:
        if os.path.exists(root + path):
            bind(root + path, root + path, read_only=True)
    for path in MASKED_PROC:
        if os.path.isdir(root + path):
            mount("tmpfs", root + path, "tmpfs", MS_RDONLY, "size=0")
        elif os.path.exists(root + path):
            bind("/dev/null", root + path)
