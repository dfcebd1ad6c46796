"""Waiting until a descriptor can be read or written, for what is neither a stream nor a transport: pidfds, pipes,
sockets that pass descriptors.

Invariant: the loop forgets the descriptor however the wait ends, so its number may be used again at once. Rejected:
loop.sock_recv and its kin, which cannot receive descriptors and know sockets only.
"""

import asyncio


async def readable(descriptor: int) -> None:
    """Returns when there is something to read, or the end. Callers bound the time."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Returns when there is room, or nobody to read any more. Callers bound the time."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(descriptor, resolve, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


def resolve(ready: asyncio.Future[None]) -> None:
    """Wakes up who waits for `ready`; safe to call more than once."""
    # The descriptor may be ready again before the waiting task has had its turn.
    if not ready.done():
        ready.set_result(None)
