"""Daemons forked from the lab's nursery."""

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from isthmus.lab.supervisor.nursery import Nursery, NurseryError, Seed

OWN = {"net": "/proc/self/ns/net", "uts": "/proc/self/ns/uts"}


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery(environment=os.environ)
    made.start()
    yield made
    made.stop()


def output_of(nursery: Nursery, seed: Seed) -> tuple[int, str]:
    """Returns the number and the whole output of a daemon that ends by itself."""
    reader, writer = os.pipe()
    pid = nursery.fork(seed, output=writer, extra=None)
    os.close(writer)
    with os.fdopen(reader) as file:
        return pid, file.read()


def test_a_daemon_is_the_module_with_its_arguments(nursery: Nursery) -> None:
    pid, said = output_of(nursery, Seed("calendar", ("2024", "2"), **OWN))
    assert pid > 1
    assert said.strip().startswith("February 2024")


def test_ps_shows_the_daemons_own_command_line(nursery: Nursery) -> None:
    reader, writer = os.pipe()
    serving = Seed("http.server", ("0", "--bind", "127.0.0.1"), **OWN)
    pid = nursery.fork(serving, output=writer, extra=None)
    os.close(writer)
    try:
        deadline = time.monotonic() + 10
        line = ""
        while "--bind" not in line and time.monotonic() < deadline:
            line = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True).stdout
        assert "-m http.server 0 --bind 127.0.0.1" in line
    finally:
        os.kill(pid, 9)
        os.close(reader)


def test_what_goes_wrong_is_in_the_daemons_log(nursery: Nursery) -> None:
    _pid, said = output_of(nursery, Seed("calendar", (), net="/nonexistent", uts=OWN["uts"]))
    assert "FileNotFoundError" in said
    _pid, said = output_of(nursery, Seed("isthmus.nonsense", (), **OWN))
    assert "No module named" in said


def test_without_a_nursery_the_caller_is_told_and_the_next_one_is_new() -> None:
    nursery = Nursery(environment={**os.environ, "PYTHONPATH": "/nonexistent", "PATH": "/nonexistent"})
    nursery.start()
    nursery.stop()
    reader, writer = os.pipe()
    try:
        nursery.start()
        assert nursery._socket is not None
        nursery._socket.shutdown(2)
        with pytest.raises(NurseryError, match="does not answer"):
            nursery.fork(Seed("calendar", (), **OWN), output=writer, extra=None)
    finally:
        nursery.stop()
        os.close(reader)
        os.close(writer)
