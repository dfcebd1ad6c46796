"""Becomes a container's process: builds its file system, gives up privileges, executes its program.

Runs as a plain script (`python -IS init.py start SPEC-FILE`, or `exec SPEC` inside a running container) as PID 1 of
the container's namespaces, so it imports little and nothing of ours. Invariants: the program sees the machine's
programs read-only and otherwise only files of its own; it holds the capabilities that container runtimes give by
default, no more; kernel switches under /proc and /sys are read-only or masked, which matters when the lab runs as
root. Why it fails is written to the status FIFO; if its end closes in silence the program runs. Rejected: `unshare
--root` and shell scripts, which cannot say what went wrong.
"""

import ctypes
import fcntl
import json
import os
import signal
import sys
import termios
from typing import Any, NoReturn

Spec = dict[str, Any]

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MNT_DETACH = 2
PR_CAPBSET_DROP = 24
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "s390x": 217, "ppc64le": 203}

CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""In the order of their numbers (linux/capability.h)."""

DEFAULT_CAPABILITIES = frozenset(
    {"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
     "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"}
)  # fmt: skip
"""What container runtimes leave a container (without MKNOD: devices are mounted, not made)."""

SYSTEM_DIRECTORIES = ("/lib", "/lib32", "/lib64", "/libx32", "/sbin")
SHARED_ETC = ("/etc/alternatives", "/etc/ca-certificates", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
              "/etc/ssl", "/etc/protocols", "/etc/services")  # fmt: skip
ROOT_DIRECTORIES = "bin dev etc home mnt opt proc root run srv sys tmp usr var var/log var/run var/tmp"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
READ_ONLY_PROC = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
MASKED_PROC = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
               "/proc/timer_list")  # fmt: skip
# Debian's numbers; everything in a pod runs as root or nobody.
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"  # noqa: S105
GROUP = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"

libc = ctypes.CDLL(None, use_errno=True)


class InitError(Exception):
    """The container cannot be started; the message is for its status."""


def main(argv: list[str]) -> NoReturn:
    """Runs `start FILE` or `exec JSON`; does not return."""
    if argv[0] == "start":
        with open(argv[1], "rb") as file:
            spec = json.load(file)
        status = open_status(spec["status"])
        try:
            build_root(spec)
            become(spec)
        except (InitError, OSError) as error:
            if status is not None:
                os.write(status, str(error).encode()[:4000])
            sys.exit(128)
    spec = json.loads(argv[1])
    try:
        become(spec)
    except (InitError, OSError) as error:
        sys.stderr.write(f"OCI runtime exec failed: exec failed: unable to start container process: {error}\n")
        sys.stderr.flush()
        os._exit(127 if "not found" in str(error) else 126)


def open_status(path: str) -> int | None:
    """Opens the FIFO to the node; None when the node has gone in the meantime."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None


def build_root(spec: Spec) -> None:
    """Mounts the container's file system and makes it the root."""
    root = spec["root"]
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=256m")
    for name in ROOT_DIRECTORIES.split():
        os.mkdir(f"{root}/{name}")
    os.chmod(f"{root}/tmp", 0o1777)  # noqa: S103, S108
    bind("/usr", f"{root}/usr", read_only=True)
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
    for source, target, read_only in spec["binds"]:
        if not target.startswith("/") or "/../" in f"{target}/":
            raise InitError(f"mount path {target!r} must be absolute")
        bind(source, root + target, read_only=read_only)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", f"{root}/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    build_devices(root)
    if not spec["privileged"]:
        protect_proc(root)
    enter_root(root)


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


def enter_root(root: str) -> None:
    """Makes `root` the root directory and lets go of the old one."""
    os.chdir(root)
    number = PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise InitError(f"machine type {os.uname().machine} is not supported")
    # pivot_root(".", "."): the old root ends up on top of the new one, and is detached from there (pivot_root(2)).
    check(libc.syscall(number, b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def become(spec: Spec) -> NoReturn:
    """Gives up what a container does not have, and executes its program. Raises InitError, OSError."""
    # A session of its own, so that no signal of a terminal reaches others. PID 1 of `unshare` leads none yet.
    if os.getsid(0) != os.getpid():
        os.setsid()
    if spec["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    directory = spec["cwd"] or "/"
    try:
        os.chdir(directory)
    except FileNotFoundError:
        os.makedirs(directory, exist_ok=True)
        os.chdir(directory)
    if not spec["privileged"]:
        drop_capabilities(set(spec["capabilities"]))
    # Python ignores these; a program expects their defaults.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    program = find_program(spec["argv"][0], spec["env"].get("PATH", "/bin:/usr/bin"))
    os.execve(program, spec["argv"], spec["env"])  # noqa: S606


def find_program(name: str, path: str) -> str:
    """Returns the file to execute; raises InitError as runc words it."""
    if "/" in name:
        if not os.path.exists(name):
            raise InitError(f'exec: "{name}": stat {name}: no such file or directory: not found')
        return name
    for directory in path.split(":"):
        candidate = os.path.join(directory or ".", name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise InitError(f'exec: "{name}": executable file not found in $PATH')


def drop_capabilities(kept: set[str]) -> None:
    """Leaves only `kept` in the bounding set, and with it, after execve, in all others."""
    for number, name in enumerate(CAPABILITIES):
        if name not in kept:
            # Fails with EINVAL for capabilities that this kernel does not know.
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2); raises InitError."""
    done = libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    check(done, f"mount of {kind} on {target}")


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Makes `source` (file or directory) appear at `target`, which is made if it is missing."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w"):
            pass
    check(libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(MS_BIND), None), f"mount of {source}")
    if read_only:
        # In a user namespace the flags that the mount has are locked, so they must be repeated. statvfs(3) gives the
        # first four in the numbers of mount(2); atime flags differ and are spelt out.
        had = os.statvfs(target).f_flag
        flags = MS_BIND | MS_REMOUNT | MS_RDONLY | (had & (MS_NOSUID | MS_NODEV | MS_NOEXEC))
        flags |= (1024 if had & os.ST_NOATIME else 0) | (2048 if had & os.ST_NODIRATIME else 0)
        flags |= (1 << 21) if had & os.ST_RELATIME else 0
        done = libc.mount(None, target.encode(), None, ctypes.c_ulong(flags), None)
        check(done, f"read-only mount of {source}")


def check(result: int, what: str) -> None:
    """Raises InitError if a system call failed."""
    if result < 0:
        raise InitError(f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(sys.argv[1:])
