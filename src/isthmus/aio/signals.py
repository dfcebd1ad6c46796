"""How a daemon ends: the first SIGTERM or SIGINT cancels its main coroutine, and the exit code says how that went.

Invariants: the main coroutine sees one ordinary cancellation, so `finally` and `async with` do the cleaning; a second
signal gets the system's default action, so a stuck clean-up can still be ended from a terminal. Rejected:
`asyncio.run`'s own handling, which knows only SIGINT and ends in a KeyboardInterrupt with a traceback.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_until_signal(main: Callable[[], Coroutine[Any, Any, int | None]]) -> int:
    """Runs `main()` in a new event loop and returns the exit code for the process.

    The code is what `main` returned (None is 0), or 0 if a signal stopped it. Its exceptions are raised.
    """
    return asyncio.run(_supervise(main))


async def _supervise(main: Callable[[], Coroutine[Any, Any, int | None]]) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main())
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        _forget_signals(loop)
        task.cancel()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        code = await task
    except asyncio.CancelledError:
        # Ours if a signal came; otherwise somebody cancelled this very task and must see it.
        if not stopped:
            raise
        return 0
    finally:
        _forget_signals(loop)
    return code or 0


def _forget_signals(loop: asyncio.AbstractEventLoop) -> None:
    for number in STOP_SIGNALS:
        loop.remove_signal_handler(number)
