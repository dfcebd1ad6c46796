"""Waiting for descriptors."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from isthmus.aio.readiness import readable, writable


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield ends
    for end in ends:
        os.close(end)


def fill(descriptor: int) -> None:
    try:
        while True:
            os.write(descriptor, bytes(65536))
    except BlockingIOError:
        return


async def test_a_descriptor_is_waited_for_until_it_can_be_read_or_written(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    await writable(writer)
    waiting = asyncio.create_task(readable(reader))
    fill(writer)
    await waiting
    waiting = asyncio.create_task(writable(writer))
    assert await asyncio.wait({waiting}, timeout=0) == (set(), {waiting})
    assert os.read(reader, 1 << 20)
    await waiting


async def test_a_wait_that_is_given_up_leaves_nothing_with_the_loop(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    fill(writer)
    os.read(reader, 1)
    loop = asyncio.get_running_loop()
    empty, other = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for wait, descriptor, forget in (
            (readable, empty, loop.remove_reader),
            (writable, writer, loop.remove_writer),
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await wait(descriptor)
            assert not forget(descriptor)
    finally:
        os.close(empty)
        os.close(other)
