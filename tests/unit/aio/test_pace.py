"""A limit on how often something is done."""

import asyncio

import pytest

from isthmus.aio.pace import Pace

pytestmark = pytest.mark.looptime


async def test_a_burst_passes_at_once_and_the_rest_at_the_rate() -> None:
    pace, loop = Pace(rate=2, burst=3), asyncio.get_running_loop()
    began, moments = loop.time(), []
    for _ in range(6):
        await pace.take()
        moments.append(loop.time() - began)
    assert moments == pytest.approx([0, 0, 0, 0.5, 1.0, 1.5])


async def test_what_is_not_used_is_saved_up_to_the_burst() -> None:
    pace, loop = Pace(rate=10, burst=2), asyncio.get_running_loop()
    for _ in range(2):
        await pace.take()
    await asyncio.sleep(60)
    began = loop.time()
    for _ in range(3):
        await pace.take()
    assert loop.time() - began == pytest.approx(0.1)


async def test_one_who_gives_up_waiting_takes_nothing() -> None:
    pace, loop = Pace(rate=1, burst=1), asyncio.get_running_loop()
    await pace.take()
    began = loop.time()
    waiting = asyncio.create_task(pace.take())
    await asyncio.sleep(0.4)
    waiting.cancel()
    await pace.take()
    assert loop.time() - began == pytest.approx(1.0)
