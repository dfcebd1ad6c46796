"""Starting and finding the supervisor.

Invariants: the supervisor is PID 1 of namespaces of its own (and of a user namespace unless root starts it), so that
its end is the end of every process, link, mount and namespace of the lab, however it comes; it keeps no terminal and
no descriptor of the command that started it. Rejected: a supervisor on the host that cleans up after itself, which
`kill -9` turns into a machine full of interfaces.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from isthmus.lab.control import Connection, NoSupervisor
from isthmus.lab.statedir import StateDir

_START_TIMEOUT = 20.0
_END_TIMEOUT = 15.0
_PAUSE = 0.02
"""Seconds; a new process gives nothing else to wait for than its socket."""

_NEEDED = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "busybox": "busybox",
}

_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "ISTHMUS_LOG_LEVEL")


class LaunchError(Exception):
    """The lab cannot be started here; the message says what is missing."""


def connect(state: StateDir) -> Connection | None:
    """Returns a connection to the supervisor, or None if no lab runs; raises ControlError."""
    try:
        return Connection(state.socket)
    except NoSupervisor:
        return None


def check_programs(needed: Mapping[str, str]) -> None:
    """Raises LaunchError unless these programs are installed; values are the names of their packages."""
    path = child_environment()["PATH"]
    missing = [f"{name} (package {package})" for name, package in needed.items() if not shutil.which(name, path=path)]
    if missing:
        raise LaunchError(f"not installed: {', '.join(missing)}")


def start_supervisor(state: StateDir) -> None:
    """Starts the supervisor and waits until it answers; raises LaunchError. The lab's lock must be held."""
    environment = child_environment()
    check_programs(_NEEDED)
    words = namespace_words(environment)
    with state.supervisor_log.open("ab") as log:
        state.supervisor_log.chmod(0o600)
        begin = log.tell()
        process = subprocess.Popen(
            [*words, "--kill-child", sys.executable, "-m", "isthmus.lab.supervisor", str(state.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        connection = connect(state)
        if connection is not None:
            with connection:
                # It goes on without us; Popen would otherwise warn about a child nobody waits for.
                process.returncode = 0
                return
        time.sleep(_PAUSE)
    process.kill()
    process.wait()
    raise LaunchError(f"the lab's supervisor did not start:\n{_tail(state.supervisor_log, begin)}")


def wait_until_gone(state: StateDir) -> None:
    """Waits until the supervisor has ended; raises LaunchError if it does not."""
    deadline = time.monotonic() + _END_TIMEOUT
    while state.socket.exists():
        if time.monotonic() > deadline:
            raise LaunchError("the lab's supervisor does not end")
        time.sleep(_PAUSE)


def namespace_words(environment: dict[str, str]) -> list[str]:
    """Returns the `unshare` command line that works for this user; raises LaunchError with the reason if none does."""
    base = ["--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--mount-proc"]
    attempts = [["unshare", "--user", "--map-root-user", *base]]
    if os.geteuid() == 0:
        attempts.insert(0, ["unshare", *base])
    said = ""
    for words in attempts:
        # A link of the kind the lab needs, so that "may make namespaces, but may not use them" shows up here.
        done = subprocess.run(
            [*words, "ip", "link", "add", "probe", "type", "bridge"],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=_START_TIMEOUT,
        )
        if done.returncode == 0:
            return words
        said = done.stderr.strip()
    raise LaunchError(f"this user cannot make network namespaces: {said}\n{_namespace_hint()}")


def child_environment() -> dict[str, str]:
    """Returns the environment of the lab's processes: little of the caller's, and system directories in PATH."""
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    path = environment.get("PATH", os.defpath)
    known = path.split(os.pathsep)
    extra = [place for place in ("/usr/local/sbin", "/usr/sbin", "/sbin") if place not in known]
    environment["PATH"] = os.pathsep.join([path, *extra])
    # glibc keeps an arena per core otherwise, megabytes that idle daemons never give back.
    environment["MALLOC_ARENA_MAX"] = "2"
    # Large blocks are mapped and given back when freed; glibc would otherwise raise the threshold after the first one,
    # and keep the holes that a list of many objects leaves.
    environment["MALLOC_MMAP_THRESHOLD_"] = environment["MALLOC_TRIM_THRESHOLD_"] = str(128 * 1024)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return environment


def _namespace_hint() -> str:
    for setting, bad, advice in (
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ):
        try:
            value = Path(setting).read_text().strip()
        except OSError:
            continue
        if value == bad:
            return f"User namespaces are switched off. Run as root, or: {advice}"
    return "Run as root, or in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN."


def _tail(path: Path, begin: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(begin)
            lines = file.read(64 * 1024).decode(errors="replace").splitlines()
    except OSError as error:
        return str(error)
    return "\n".join(lines[-15:]) or "(it said nothing)"
