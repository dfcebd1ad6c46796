"""Requests at a steady rate from a pod, and what became of each of them."""

import contextlib
import os
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

PROGRAM = Path(__file__).with_name("steady_client.py")
END = 10.0  # seconds for the last requests to end


class Request(NamedTuple):
    """A request: when it began (Unix seconds), how long it took (seconds), and who answered or what went wrong."""

    began: float
    took: float
    result: str

    @property
    def failed(self) -> bool:
        """Tells whether nobody answered: the names of clusters are written with a capital."""
        return self.result.islower()


def inside_network(namespace: str) -> list[str]:
    """Returns the words that run a program in a network namespace, by what /proc/self/ns/net shows there.

    Not by way of kubectl, whose connection ends with the API server and the node that carry it.
    """
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((place / "ns/net").readlink()) == namespace:
                user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
                return ["nsenter", "--target", place.name, *user, "--net"]
    raise AssertionError(f"no process in {namespace}")


class Steady:
    """`rate` requests a second to ADDRESS:PORT from where the words `inside` lead, from entering until leaving."""

    def __init__(self, inside: list[str], address: str, *, port: int = 80, rate: float = 500, limit: int = 0) -> None:
        self._words = [
            *inside, "python3", "-u", "-c", PROGRAM.read_text(), address, str(port), str(rate), str(limit)
        ]  # fmt: skip
        self._requests: list[Request] = []
        self._faults: list[str] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    @property
    def requests(self) -> list[Request]:
        """Returns the requests that have ended so far."""
        return list(self._requests)

    def finish(self, *, timeout: float = END) -> list[Request]:
        """Lets the last requests end and returns all of them; AssertionError if the client did not do its work."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError("the client did not end") from None
        finally:
            self._reader.join(END)
        said = self._process.stderr.read() if self._process.stderr and not self._process.stderr.closed else ""
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        assert self._process.returncode == 0, said
        assert not self._faults, self._faults
        return self.requests

    def wait(self, *, timeout: float) -> list[Request]:
        """Waits until a client with a limit has made all its requests, and returns them."""
        self._process.wait(timeout)
        return self.finish()

    def _read(self) -> None:
        if self._process.stdout is None:
            return
        for line in self._process.stdout:
            try:
                began, took, result = line.split()
                self._requests.append(Request(float(began), float(took), result))
            except ValueError:
                self._faults.append(line)
