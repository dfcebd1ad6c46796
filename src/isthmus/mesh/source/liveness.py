"""Whether an API server still answers, asked every few seconds: a partition makes no sound.

A watch over a connection that was cut without a word looks like one on which nothing happens, for a minute and a half.
Invariants: any answer is life, also a refusal (403) or an overload (429), since it is silence that is looked for; a
miss counts only if our own loop was on time and only the second in a row is said, so that one slow answer is none;
nothing that was told is taken back because of it. Rejected: shorter time-outs for the watches, which list a whole
cluster again after each pause of its server.
"""

import asyncio
import random
from collections.abc import Callable

from isthmus.kube.client import Client
from isthmus.kube.errors import ConnectionFailed, KubeError
from isthmus.kube.reflector import Degraded, Healthy, State

PATH = "/version"
"""Cheap for the server, and open to everybody who may know that it is there."""

PERIOD = 3.0
"""Seconds between two questions at most; a quarter of it is chance."""

SOON = 1.0
"""Seconds until a question that was not answered is asked again."""

LIMIT = 3.0
"""Seconds to answer in; with the others this makes ten until a silent server is known."""

LATE = 1.0
"""Seconds over the limit after which it was us who did not listen."""

MISSES = 2


async def follow_liveness(
    client: Client, on_state: Callable[[State], None], *, rng: Callable[[], float] = random.random
) -> None:
    """Tells `on_state` when the server falls silent, and when it answers again. Runs until cancelled."""
    loop = asyncio.get_running_loop()
    misses = 0
    while True:
        await asyncio.sleep(SOON if misses == 1 else PERIOD * (1 - 0.25 * rng()))
        asked = loop.time()
        try:
            await client.raw("GET", PATH, time_limit=LIMIT)
        except ConnectionFailed as error:
            if loop.time() - asked > LIMIT + LATE:
                continue
            misses += 1
            if misses >= MISSES:
                on_state(Degraded(f"the API server does not answer: {error}"))
            continue
        except KubeError:
            # It answered; or there is no credential to ask with, which says nothing of the server.
            pass
        if misses >= MISSES:
            on_state(Healthy())
        misses = 0
