"""A limit on how often something is done: a rate with a burst (token bucket).

Invariant: who waits is served in the order of asking, and no token is lost when a waiter is cancelled. Rejected: a
pause after each request, which makes the first of a few requests as slow as the hundredth.
"""

import asyncio


class Pace:
    """Lets `rate` a second pass, after `burst` at once."""

    def __init__(self, *, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._filled: float | None = None
        self._turn = asyncio.Lock()

    async def take(self) -> None:
        """Waits for a turn; at most as long as those before need theirs."""
        async with self._turn:
            loop = asyncio.get_running_loop()
            self._fill(loop.time())
            if self._tokens < 1:
                await asyncio.sleep((1 - self._tokens) / self._rate)
                self._fill(loop.time())
            # What is missing by rounding is owed, not waited for again.
            self._tokens -= 1

    def _fill(self, now: float) -> None:
        if self._filled is not None:
            self._tokens = min(self._tokens + (now - self._filled) * self._rate, self._burst)
        self._filled = now
