import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from isthmus.aio.backoff import Backoff
from isthmus.aio.runner import BoundedRunner

pytestmark = pytest.mark.looptime


@contextlib.asynccontextmanager
async def serving(runner: BoundedRunner) -> AsyncIterator[None]:
    task = asyncio.create_task(runner.serve())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Recorder:
    def __init__(self, *, takes: float = 0.0, failures: int = 0) -> None:
        self.started: list[float] = []
        self.takes = takes
        self.failures = failures

    async def __call__(self) -> None:
        self.started.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.takes)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("not yet")


async def test_a_burst_of_triggers_is_one_run() -> None:
    run = Recorder()
    runner = BoundedRunner(run, min_interval=1)
    async with serving(runner):
        for _ in range(100):
            runner.trigger()
        await asyncio.sleep(10)

    assert run.started == [0]


async def test_two_runs_start_at_least_the_minimal_interval_apart() -> None:
    run = Recorder()
    runner = BoundedRunner(run, min_interval=3)
    async with serving(runner):
        for _ in range(10):
            runner.trigger()
            await asyncio.sleep(1)

    assert run.started == [0, 3, 6, 9]


async def test_a_trigger_during_a_run_causes_another_run() -> None:
    run = Recorder(takes=5)
    runner = BoundedRunner(run)
    async with serving(runner):
        runner.trigger()
        await asyncio.sleep(1)
        runner.trigger()
        runner.trigger()
        await asyncio.sleep(20)

    assert run.started == [0, 5]


async def test_without_triggers_it_runs_every_maximal_interval() -> None:
    run = Recorder()
    runner = BoundedRunner(run, min_interval=1, max_interval=10)
    async with serving(runner):
        await asyncio.sleep(35)

    assert run.started == [10, 20, 30]


async def test_a_failed_run_is_tried_again_with_growing_delays_and_told() -> None:
    run = Recorder(failures=3)
    told: list[tuple[str, float]] = []
    runner = BoundedRunner(
        run,
        retry=Backoff(base=1, factor=2, cap=60, jitter=0),
        on_error=lambda error, delay: told.append((str(error), delay)),
    )
    async with serving(runner):
        runner.trigger()
        await asyncio.sleep(100)

    assert run.started == [0, 1, 3, 7]
    assert told == [("not yet", 1), ("not yet", 2), ("not yet", 4)]
    assert (runner.runs, runner.failures) == (4, 3)


async def test_triggers_do_not_make_a_failing_run_hot() -> None:
    run = Recorder(failures=1000)
    runner = BoundedRunner(run, retry=Backoff(base=5, factor=1, cap=5, jitter=0))
    async with serving(runner):
        for _ in range(20):
            runner.trigger()
            await asyncio.sleep(1)

    assert run.started == [0, 5, 10, 15, 20]


async def test_cancellation_reaches_the_run() -> None:
    run = Recorder(takes=1000)
    runner = BoundedRunner(run)
    async with serving(runner):
        runner.trigger()
        await asyncio.sleep(1)

    assert run.started == [0]
