"""The last steps of a process on its way to being a container's program: terminal, user, capabilities, execve.

Invariant: the program holds the capabilities that container runtimes give by default, no more, and none at all if it
runs as an ordinary user.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios

from isthmus.lab.node.keeper.syscalls import PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, KernelRefusal, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Not at run time: see the package's docstring.
    from typing import Any, NoReturn

    Spec = dict[str, Any]

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

_NO_OTHERS = "a lab that was not started as root has no other users and groups than its own"
_TIOCSPTLCK, _TIOCGPTN = 0x40045431, 0x80045430


class ProgramError(Exception):
    """The program cannot be executed; the message is worded as runc words it."""


def open_terminal() -> tuple[int, int]:
    """Opens a terminal of the container's own devpts; returns (master, slave)."""
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    (number,) = struct.unpack("I", fcntl.ioctl(master, _TIOCGPTN, b"\0\0\0\0"))
    return master, os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def execute(spec: Spec) -> NoReturn:
    """Executes the program. Raises ProgramError, KernelRefusal, OSError.

    `spec` has argv, env, cwd, terminal, privileged, capabilities (names), uid, gid, groups (numbers) and
    no_new_privileges.
    """
    if os.getsid(0) != os.getpid():
        # A session of its own, so that no signal of a terminal reaches others.
        os.setsid()
    if spec["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    _enter_directory(spec["cwd"] or "/")
    program = find_program(spec["argv"][0], spec["env"].get("PATH", "/bin:/usr/bin"))
    if not spec["privileged"]:
        drop_capabilities(set(spec["capabilities"]))
    _become_user(spec["uid"], spec["gid"], spec["groups"])
    if spec["no_new_privileges"]:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    # Python ignores these; a program expects their defaults.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    try:
        os.execve(program, spec["argv"], spec["env"])  # noqa: S606
    except OSError as error:
        raise ProgramError(f'exec: "{spec["argv"][0]}": {_spoken(error)}') from error


def find_program(name: str, path: str) -> str:
    """Returns the file to execute; raises ProgramError as runc words it."""
    if not name:
        raise ProgramError('exec: "": executable file not found in $PATH')
    if "/" in name:
        if not os.path.exists(name):
            raise ProgramError(f'exec: "{name}": stat {name}: no such file or directory')
        if os.path.isdir(name):
            raise ProgramError(f'exec: "{name}": is a directory')
        return name
    for directory in path.split(":"):
        candidate = os.path.join(directory or ".", name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise ProgramError(f'exec: "{name}": executable file not found in $PATH')


def drop_capabilities(kept: set[str]) -> None:
    """Leaves only `kept` in the bounding set, and with it, after execve, in all others."""
    for number, name in enumerate(CAPABILITIES):
        if name not in kept:
            # Fails with EINVAL for capabilities that this kernel does not know.
            prctl(PR_CAPBSET_DROP, number)


def _enter_directory(directory: str) -> None:
    try:
        os.chdir(directory)
    except FileNotFoundError:
        try:
            os.makedirs(directory, exist_ok=True)
            os.chdir(directory)
        except OSError as error:
            raise ProgramError(f'chdir to cwd ("{directory}") failed: {_spoken(error)}') from error
    except OSError as error:
        raise ProgramError(f'chdir to cwd ("{directory}") failed: {_spoken(error)}') from error
    try:
        os.getcwd()
    except OSError as error:
        # The kernel has no name for it below the root: some link of /proc led out of the container.
        raise ProgramError(f'chdir to cwd ("{directory}") failed: it is outside of the container') from error


def _become_user(uid: int, gid: int, groups: list[int]) -> None:
    wanted = sorted(set(groups) | {gid})
    if groups or gid:
        try:
            os.setgroups(wanted)
        except OSError:
            # Without root there are no other groups (user_namespaces(7)); who runs as root needs none.
            if uid != os.getuid():
                raise KernelRefusal(f"cannot join groups {wanted}: {_NO_OTHERS}") from None
    try:
        if gid != os.getgid():
            os.setresgid(gid, gid, gid)
        if uid != os.getuid():
            os.setresuid(uid, uid, uid)
    except OSError as error:
        raise KernelRefusal(f"cannot run as user {uid}, group {gid}: {_spoken(error)} ({_NO_OTHERS})") from error


def _spoken(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
