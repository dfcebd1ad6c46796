"""How the command line begins and ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from isthmus.__main__ import run
run()
"""

ENTRY = """
import asyncio, os, sys
import isthmus.cli
from isthmus.__main__ import run

def main(prog_name):
    {body}

isthmus.cli.main = main
run()
"""
AT_THE_END = "sys.stdout.write('x'); sys.exit(0)"
MUCH = "sys.stdout.write('x' * 100_000); sys.exit(0)"
IN_A_GROUP = """
    async def tell():
        print("x", flush=True)
    async def all_of_it():
        async with asyncio.TaskGroup() as group:
            group.create_task(tell())
    asyncio.run(all_of_it())
"""
ANOTHER_FILE = "open('/dev/full', 'w', buffering=1).write('x\\n')"

LOST = "Error: cannot write to standard output: No space left on device\n"


def test_an_interrupt_while_the_command_line_is_loaded_is_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "\nAborted!\n")


def to_full(*words: str, **environment: str) -> tuple[int, str]:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
            timeout=30,
            check=False,
        )
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("--version",), ("completion", "bash")])
def test_a_full_standard_output_is_one_line_and_an_error(words: tuple[str, ...], unbuffered: str) -> None:
    assert to_full("-m", "isthmus", *words, PYTHONUNBUFFERED=unbuffered) == (1, LOST)


@pytest.mark.parametrize("body", [AT_THE_END, MUCH, IN_A_GROUP])
def test_so_it_is_at_the_last_flush_with_much_and_among_tasks(body: str) -> None:
    assert to_full("-c", ENTRY.format(body=body)) == (1, LOST)


def test_another_file_that_is_full_is_not_taken_for_standard_output() -> None:
    code, said = to_full("-c", ENTRY.format(body=ANOTHER_FILE))
    assert code == 1
    assert "standard output" not in said
    assert "No space left on device" in said


@pytest.mark.parametrize("body", [AT_THE_END, MUCH, IN_A_GROUP, "isthmus_main(prog_name=prog_name)"])
def test_a_closed_pipe_is_quiet(body: str) -> None:
    source = ENTRY.replace("def main", "isthmus_main = isthmus.cli.main\ndef main").format(body=body)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-c", source, "--help"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_without_a_standard_output_nothing_fails() -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m isthmus --version >&-"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
