"""The few system calls that Python has no names for, with the kernel's reasons as errors.

Standard library only, and little of that: the keeper forks for every container, and a fork costs what is mapped.
"""

import ctypes
import os

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000,
)  # fmt: skip
PR_SET_DUMPABLE, PR_CAPBSET_DROP = 4, 24
PR_SET_NO_NEW_PRIVS = 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "s390x": 217, "ppc64le": 203}

_libc = ctypes.CDLL(None, use_errno=True)


class KernelRefusal(Exception):
    """A system call failed; the message names it and the kernel's reason."""


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2); raises KernelRefusal."""
    done = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(done, f"mount of {kind} on {target}")


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Makes `source` (file or directory) appear at `target`, which is made if it is missing."""
    make_mount_point(target, directory=os.path.isdir(source))
    done = _libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(MS_BIND), None)
    _check(done, f"mount of {source}")
    if read_only:
        make_read_only(target)


def bind_held(source: str, target: str) -> None:
    """Binds one path of an open descriptor to another."""
    done = _libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(MS_BIND), None)
    _check(done, f"mount of {os.readlink(source)}")


def make_mount_point(target: str, *, directory: bool) -> None:
    """Makes an empty directory or file to mount on, if nothing is there."""
    if directory:
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w"):
            pass


def make_read_only(target: str) -> None:
    """Makes a mount read-only; raises KernelRefusal.

    In a user namespace the flags that the mount has are locked, so they must be repeated. statvfs(3) gives the first
    four in the numbers of mount(2); atime flags differ and are spelt out.
    """
    had = os.statvfs(target).f_flag
    flags = MS_BIND | MS_REMOUNT | MS_RDONLY | (had & (MS_NOSUID | MS_NODEV | MS_NOEXEC))
    flags |= (1024 if had & os.ST_NOATIME else 0) | (2048 if had & os.ST_NODIRATIME else 0)
    flags |= (1 << 21) if had & os.ST_RELATIME else 0
    done = _libc.mount(None, target.encode(), None, ctypes.c_ulong(flags), None)
    _check(done, f"read-only mount on {target}")


def make_private() -> None:
    """Keeps what is mounted from now on in this mount namespace."""
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "private mounts")


def unmount(target: str) -> None:
    """umount2(2) with MNT_DETACH; raises KernelRefusal."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount of {target}")


def unshare(flags: int) -> None:
    """unshare(2); raises KernelRefusal."""
    _check(_libc.unshare(flags), "new namespaces")


def setns(descriptor: int, flags: int) -> None:
    """setns(2) for a namespace file or a pidfd; raises KernelRefusal."""
    _check(_libc.setns(descriptor, flags), "entering namespaces")


def prctl(option: int, value: int) -> int:
    """prctl(2) with one argument; returns -1 where the kernel refuses."""
    return int(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def pivot_to(root: str) -> None:
    """Makes `root` the root directory and lets go of the old one; raises KernelRefusal."""
    os.chdir(root)
    number = PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise KernelRefusal(f"machine type {os.uname().machine} is not supported")
    # pivot_root(".", "."): the old root ends up on top of the new one, and is detached from there (pivot_root(2)).
    _check(_libc.syscall(number, b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def _check(result: int, what: str) -> None:
    if result < 0:
        raise KernelRefusal(f"{what}: {os.strerror(ctypes.get_errno())}")
