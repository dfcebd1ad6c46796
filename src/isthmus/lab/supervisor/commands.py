"""Short-lived programs (ip, unshare, mount) that the lab runs and waits for.

They block the caller on purpose: each takes milliseconds, their order matters, and a failure must stop what follows.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

_TIMEOUT = 20.0
"""Seconds; `ip -batch` with hundreds of lines takes well under one."""


class CommandError(Exception):
    """A program failed; the message holds its name and what it said."""


def run(argv: Sequence[str | Path], *, text: str | None = None) -> str:
    """Runs a program with `text` on its standard input and returns its standard output; raises CommandError."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(words, input=text or "", capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except FileNotFoundError as error:
        raise CommandError(f"{words[0]} is not installed") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"{words[0]}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise CommandError(f"{' '.join(words[:6])}: {said}")
    return done.stdout


def enter(net: Path, uts: Path | None = None) -> list[str]:
    """Returns the words that put a program into the namespaces of a node or pod."""
    words = ["nsenter", f"--net={net}"]
    if uts is not None:
        words.append(f"--uts={uts}")
    return [*words, "--"]
