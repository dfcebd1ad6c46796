"""A random mark that tells one history of a store from another.

Written once by the store's owner, kept by the data directory, gone with it. Anyone who may read the store can compare
it; `watch` says why etcd's own ids are not enough.
"""

import secrets

from isthmus.store.contract import Put, Store
from isthmus.store.errors import Unavailable
from isthmus.wire.kvstore import EPOCH


async def read_epoch(store: Store) -> bytes | None:
    """Returns the store's epoch; None if it has none, which is an epoch of its own."""
    _, pair = await store.get(EPOCH)
    return pair.value if pair is not None else None


async def ensure_epoch(store: Store) -> bytes:
    """Returns the store's epoch, after giving it one if it had none."""
    await store.commit([Put(EPOCH, secrets.token_hex(16).encode())], absent=EPOCH)
    epoch = await read_epoch(store)
    if epoch is None:
        raise Unavailable("the store's epoch disappeared while it was written")
    return epoch
