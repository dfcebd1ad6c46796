"""What every test needs."""

import asyncio
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _first_loop() -> Iterator[None]:
    """Owns the loop that looptime's hook asks the policy for before the first asynchronous test, and would leak."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()
    asyncio.set_event_loop(None)
