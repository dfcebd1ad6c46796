"""Running a program in a container for the node itself: exec probes and hooks."""

import asyncio
import contextlib
import os
import signal

from isthmus.lab.node.containers.process import is_alive, send
from isthmus.lab.node.containers.run import UNKNOWN_EXIT, StartError, begin
from isthmus.lab.node.keeper.client import Keeper, KeeperError
from isthmus.lab.node.pods.record import Process

OUTPUT_LIMIT = 10 * 1024
"""Bytes of output that are kept, as kubelets do."""


class CommandError(Exception):
    """The program could not be run, or took too long; the message says which."""


async def run_command(
    keeper: Keeper, target: Process, spec: dict[str, object], *, limit: float | None
) -> tuple[int, str]:
    """Returns (exit code, output of both streams); raises CommandError. Kills the program after `limit` seconds."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    process: Process | None = None
    output = bytearray()
    loop = asyncio.get_running_loop()
    os.set_blocking(reader, False)
    loop.add_reader(reader, _collect, reader, output)
    try:
        try:
            words = {"pid": target.pid, "start": target.start_time}
            asked = keeper.ask("exec", spec, descriptors=[nothing, writer, writer], **words)
            async with asyncio.timeout(limit), asked as answers:
                process = (await begin(answers)).process
                code = await keeper.exit_code(process.pid)
        finally:
            os.close(writer)
            os.close(nothing)
        _collect(reader, output)
        return UNKNOWN_EXIT if code is None else code, output.decode("utf-8", "replace")
    except TimeoutError as error:
        words_said = " ".join(str(word) for word in _argv(spec))
        raise CommandError(f'command "{words_said}" timed out after {limit:g}s') from error
    except (StartError, KeeperError, OSError) as error:
        raise CommandError(f"rpc error: code = Unknown desc = failed to exec in container: {error}") from error
    finally:
        with contextlib.suppress(ValueError):
            loop.remove_reader(reader)
        os.close(reader)
        if process is not None and is_alive(process):
            send(process.pid, signal.SIGKILL)


def _argv(spec: dict[str, object]) -> list[object]:
    argv = spec.get("argv")
    return list(argv) if isinstance(argv, list | tuple) else []


def _collect(reader: int, output: bytearray) -> None:
    while True:
        try:
            data = os.read(reader, 64 * 1024)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(reader)
            return
        output += data[: max(OUTPUT_LIMIT - len(output), 0)]
