import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
from isthmus.aio.signals import run_until_signal

async def main():
    try:
        print("ready", flush=True)
        if sys.argv[1] == "return":
            return 7
        if sys.argv[1] == "fail":
            raise SystemError("broken")
        await asyncio.Event().wait()
    finally:
        print("cleaned", flush=True)
        if sys.argv[1] == "stuck":
            await asyncio.Event().wait()

sys.exit(run_until_signal(main))
"""


def run(mode: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cancels_cleans_up_and_exits_with_zero(number: signal.Signals) -> None:
    with run("wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=20)

    assert (out, err, process.returncode) == ("cleaned\n", "", 0)


def test_a_second_signal_ends_a_stuck_clean_up() -> None:
    with run("stuck") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaned\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)

    assert process.returncode == -signal.SIGTERM


def test_the_exit_code_of_main_is_kept_and_its_error_is_raised() -> None:
    with run("return") as process:
        process.communicate(timeout=20)
    assert process.returncode == 7

    with run("fail") as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "SystemError: broken" in err
