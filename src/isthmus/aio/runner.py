"""One reconciler, many triggers: bursts become one run, failures are retried, and silence is not trusted for ever.

Invariants: at most one run at a time; a trigger that comes during a run causes another run after it (level-triggered:
the run reads current state, so triggers carry nothing and any number of them count as one); two runs start at least
`min_interval` apart; a failed run is tried again after a growing delay; without triggers a run happens every
`max_interval`. Rejected: a queue of triggers, which must be bounded and then loses what it was for.
"""

import asyncio
from collections.abc import Awaitable, Callable

from isthmus.aio.backoff import Backoff


class BoundedRunner:
    """Runs `run` when triggered, within the intervals (seconds); `None` for `max_interval` means only on triggers.

    `on_error` is told of each failed run with the exception and the delay before the next try.
    """

    def __init__(
        self,
        run: Callable[[], Awaitable[None]],
        *,
        min_interval: float = 0.0,
        max_interval: float | None = None,
        retry: Backoff | None = None,
        on_error: Callable[[Exception, float], None] | None = None,
    ) -> None:
        self._run = run
        self._min_interval = min_interval
        self._max_interval = max_interval
        self._retry = retry or Backoff()
        self._on_error = on_error
        self._triggered = asyncio.Event()
        self.runs = 0
        self.failures = 0

    def trigger(self) -> None:
        """Asks for a run; cheap, never blocks, from the loop's own thread only."""
        self._triggered.set()

    async def serve(self) -> None:
        """Runs until cancelled. The first run waits for a trigger (or for `max_interval`)."""
        loop = asyncio.get_running_loop()
        wait = self._max_interval
        while True:
            await self._wait_for_trigger(wait)
            self._triggered.clear()
            started = loop.time()
            self.runs += 1
            try:
                await self._run()
            except Exception as error:
                self.failures += 1
                delay = self._retry.next()
                if self._on_error is not None:
                    self._on_error(error, delay)
                # A trigger must not turn a failing run into a hot loop, so the delay is slept in full.
                await asyncio.sleep(max(delay, started + self._min_interval - loop.time()))
                self._triggered.set()
                continue
            self._retry.reset()
            wait = self._max_interval
            pause = started + self._min_interval - loop.time()
            if pause > 0:
                await asyncio.sleep(pause)
                if wait is not None:
                    wait = max(0.0, wait - pause)

    async def _wait_for_trigger(self, limit: float | None) -> None:
        """Returns at the next trigger, or after `limit` seconds; without a limit only a trigger ends the wait."""
        try:
            async with asyncio.timeout(limit):
                await self._triggered.wait()
        except TimeoutError:
            return
