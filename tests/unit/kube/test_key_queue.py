"""Keys that need work."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from isthmus.kube.decode import Key
from isthmus.kube.errors import Conflict
from isthmus.kube.keyqueue import KeyQueue

pytestmark = pytest.mark.looptime


@contextlib.asynccontextmanager
async def serving(queue: KeyQueue) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.serve())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_burst_becomes_one_round_and_a_change_during_work_another() -> None:
    rounds: list[Key] = []
    inside, go = asyncio.Event(), asyncio.Event()

    async def work(key: Key) -> None:
        rounds.append(key)
        inside.set()
        await go.wait()

    queue = KeyQueue("q", work, rest=0.5)
    for _ in range(5):
        queue.add(("n", "a"))
    async with serving(queue):
        await inside.wait()
        queue.add(("n", "a"))
        queue.add(("n", "a"))
        go.set()
        await asyncio.sleep(0.4)
        assert rounds == [("n", "a")]
        await asyncio.sleep(0.2)
        assert rounds == [("n", "a")] * 2
        await asyncio.sleep(5)
        assert len(rounds) == 2
        assert queue.idle


async def test_a_key_is_never_worked_on_by_two() -> None:
    active, most = 0, 0

    async def work(_: Key) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(1)
        active -= 1

    queue = KeyQueue("q", work, workers=4, rest=0)
    async with serving(queue):
        for _ in range(4):
            queue.add(("n", "a"))
            await asyncio.sleep(0.3)
        assert most == 1
        for name in "bcd":
            queue.add(("n", name))
        await asyncio.sleep(0.1)
        assert most > 1
        await asyncio.sleep(9)


async def test_a_failing_key_comes_again_and_holds_nobody_up() -> None:
    tries: list[float] = []
    others: list[Key] = []
    loop = asyncio.get_running_loop()

    async def work(key: Key) -> None:
        if key[1] == "bad":
            tries.append(loop.time())
            if len(tries) < 4:
                raise Conflict(status=409)
        else:
            others.append(key)

    queue = KeyQueue("q", work, workers=1)
    async with serving(queue):
        queue.add(("n", "bad"))
        queue.add(("n", "good"))
        await asyncio.sleep(10)
        assert len(tries) == 4
        assert others == [("n", "good")]


async def test_a_later_look_comes_once_at_the_earlier_time() -> None:
    looks: list[float] = []
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def work(_: Key) -> float | None:
        looks.append(round(loop.time() - began))
        return 3.0 if len(looks) == 1 else None

    queue = KeyQueue("q", work)
    async with serving(queue):
        queue.add(("n", "a"))
        await asyncio.sleep(0.1)
        queue.later(("n", "a"), 60.0)
        await asyncio.sleep(100)
    assert looks == [0, 3]
