"""Delays between attempts: they grow, they are capped, and no two clients keep step.

Why: a server that comes back must not be met by all its clients in the same millisecond, and a loop that fails for
ever must cost next to nothing. Nothing here sleeps or reads a clock, so a state machine can own a `Backoff` and stay
testable; chance is an argument. Rejected: "full jitter" (a delay anywhere between zero and the cap), which may draw
many near-zero delays in a row and then looks like a hot loop in a log.
"""

import random
from collections.abc import Callable


class Backoff:
    """A series of delays in seconds: `base`, `base * factor`, ... up to `cap`, each shortened by up to `jitter`.

    `jitter` is a share (0 to 1): a delay of d becomes a number in (d * (1 - jitter), d]. `rng` returns floats in
    [0, 1). Raises ValueError for numbers that make no series.
    """

    def __init__(
        self,
        *,
        base: float = 0.5,
        factor: float = 2.0,
        cap: float = 30.0,
        jitter: float = 0.5,
        rng: Callable[[], float] = random.random,
    ) -> None:
        if not (base > 0 and factor >= 1 and cap >= base and 0 <= jitter <= 1):
            raise ValueError(f"no delays with base={base} factor={factor} cap={cap} jitter={jitter}")
        self._base = base
        self._factor = factor
        self._cap = cap
        self._jitter = jitter
        self._rng = rng
        self._next = base
        self._attempts = 0

    @property
    def attempts(self) -> int:
        """How many delays were drawn since the last reset."""
        return self._attempts

    def next(self) -> float:
        """Returns the next delay in seconds."""
        delay = self._next
        self._next = min(self._next * self._factor, self._cap)
        self._attempts += 1
        return delay * (1 - self._jitter * self._rng())

    def reset(self) -> None:
        """Starts again at `base`: call it after a success that lasted."""
        self._next = self._base
        self._attempts = 0
