"""pause and the subcommands that only say something."""

import os
import secrets
import signal
import sys
import time

from isthmus.lab.images.programs.agnhost.command import Values
from isthmus.model.durations import seconds

_SHELL = "/bin/sh"
_WAIT = "trap 'exit 1' INT; trap 'exit 2' TERM; while :; do sleep 2147483 & wait $!; done"
_METHODS = ("GET", "POST", "PUT")
_PLACES = ("kube-system", "default", "ns")


def pause(_words: list[str], _values: Values) -> int:
    """Waits for a signal; returns the exit code, which tells which one it was."""
    sys.stdout.write("Paused\n")
    sys.stdout.flush()
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(2))
    try:
        # A shell waits as well as Python does, in a tenth of the memory; pods that only wait are many.
        os.execv(_SHELL, ["sh", "-c", _WAIT])  # noqa: S606
    except OSError:
        while True:
            signal.pause()


def entrypoint_tester(words: list[str], _values: Values) -> int:
    """Says its arguments; returns the exit code."""
    sys.stdout.write(f"[{' '.join(['/agnhost', 'entrypoint-tester', *words])}]\n")
    return 0


def etc_hosts(_words: list[str], _values: Values) -> int:
    """Shows /etc/hosts; returns the exit code."""
    sys.stdout.write(_read("/etc/hosts"))
    return 0


def dns_suffix(_words: list[str], _values: Values) -> int:
    """Says the search domains; returns the exit code."""
    found: list[str] = []
    for line in _read("/etc/resolv.conf").splitlines():
        words = line.split()
        if words[:1] == ["search"]:
            found = words[1:]
    sys.stdout.write(",".join(found) + "\n")
    return 0


def dns_server_list(_words: list[str], _values: Values) -> int:
    """Says the name servers; returns the exit code."""
    lines = [line.split() for line in _read("/etc/resolv.conf").splitlines()]
    sys.stdout.write(",".join(words[1] for words in lines if words[:1] == ["nameserver"] and len(words) > 1) + "\n")
    return 0


def logs_generator(_words: list[str], values: Values) -> int:
    """Writes lines at an even pace; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    total, duration = int(values["log-lines-total"]), seconds(values["run-duration"]) or 0.0
    if total <= 0 or duration <= 0:
        sys.stderr.write("Invalid total number of lines or duration: both must be positive\n")
        return 1
    began = time.monotonic()
    for number in range(total):
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        place, method = _PLACES[number % 3], _METHODS[number % 3]
        path = f"/api/v1/namespaces/{place}/endpoints/{secrets.token_hex(2)}"
        sys.stdout.write(f"{stamp} {number} {method} {path} {200 + secrets.randbelow(400)}\n")
        sys.stdout.flush()
        rest = began + duration * (number + 1) / total - time.monotonic()
        if rest > 0:
            time.sleep(rest)
    return 0


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return ""
