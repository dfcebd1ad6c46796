"""Since when what is told of each cluster may be old: decisions only, and what an earlier life knew of it.

A source that fails keeps all that was told, which is right for an hour and wrong for ever, so readers are told since
when. Invariants: said when it changes and not each time it is found again; a failure shorter than `SETTLE` is not said
at all; a cluster that has not been complete since our start is as old as the store says, not as young as we are.
"""

import msgspec

from isthmus.model.mesh import ClusterSeen
from isthmus.store.contract import Store
from isthmus.wire import kvstore
from isthmus.wire.kvstore import CodecError

SETTLE = 5.0
"""Seconds that a source must fail: an API server that restarts is away for less."""


class _Trouble(msgspec.Struct):
    since: float
    reason: str
    told: bool = False


class Freshness:
    """Times are Unix seconds. `adopt` is what an earlier life told."""

    def __init__(self, adopt: tuple[ClusterSeen, ...] = ()) -> None:
        self._troubles = {
            seen.name: _Trouble(seen.stale_since, seen.reason) for seen in adopt if seen.stale_since is not None
        }

    def look(self, name: str, trouble: str | None, *, now: float) -> ClusterSeen | None:
        """Takes why a cluster's source fails now (None: it works); returns what must be told of that."""
        known = self._troubles.get(name)
        if trouble is None:
            self._troubles.pop(name, None)
            # What an earlier life told and we did not, goes from the store when the cluster is complete.
            return ClusterSeen(name) if known is not None and known.told else None
        if known is None:
            known = self._troubles[name] = _Trouble(now, trouble)
        # A clock that was set back must not make a failure last for ever.
        known.since = min(known.since, now)
        if known.told or now - known.since < SETTLE:
            return None
        known.told, known.reason = True, trouble
        return ClusterSeen(name, known.since, trouble)

    def forget(self, name: str) -> None:
        """The cluster is no longer one of ours."""
        self._troubles.pop(name, None)


async def load_seen(store: Store) -> tuple[ClusterSeen, ...]:
    """Reads what an earlier life told of how fresh the clusters are; what cannot be read is left out."""
    found: list[ClusterSeen] = []
    async for page in store.pages(kvstore.SEEN):
        for pair in page.pairs:
            try:
                key = kvstore.parse_key(pair.key)
                if isinstance(key, kvstore.SeenKey):
                    found.append(kvstore.decode_seen(pair.key, pair.value, cluster=key.cluster))
            except CodecError:
                continue
    return tuple(found)
