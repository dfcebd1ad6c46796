"""How often we insist on what we write, when somebody else keeps changing it: once per change, and ever more rarely.

A second tracker for a moment, a script, another controller: two who both are sure would write for ever. The first
change of somebody else is put right at once, each further one after twice as long, up to SLOWEST; who leaves it alone
for QUIET is forgiven. Invariant: writing what we never wrote before waits for nothing, because then it is the world
that changed. Rejected: giving up, which leaves what is wrong and says nothing.
"""

import hashlib
from collections.abc import Callable

import msgspec

from isthmus.mesh.control.effects import Change, Create, Delete, Write

FIRST = 2.0
SLOWEST = 300.0
QUIET = 900.0
"""Seconds."""

_EARLY = 0.01

MOST = 20_000
"""Objects that are remembered; the one that was written longest ago is forgotten first."""

Place = tuple[str, str, str, bool]
"""Plural, namespace, name, and whether it is the status."""


class _Record(msgspec.Struct):
    digest: bytes
    at: float
    overruled: int = 0


def place(write: Write) -> Place:
    """Returns what a write is about."""
    status = isinstance(write, Change) and write.status
    return write.resource.plural, write.namespace, write.name, status


class Insistence:
    """Remembers what was written last, of every object that is there; `rng` returns floats in [0, 1)."""

    def __init__(self, *, rng: Callable[[], float]) -> None:
        self._rng = rng
        self._records: dict[Place, _Record] = {}

    def delay(self, write: Write, *, now: float) -> tuple[float, int]:
        """Returns for how many seconds a write has to wait, and how often we were overruled there before."""
        record = self._records.get(place(write))
        if record is None or isinstance(write, Delete) or record.digest != _digest(write):
            return 0.0, 0
        if now - record.at > QUIET:
            record.overruled = 0
        if record.overruled == 0:
            return 0.0, 0
        pause = min(FIRST * 2.0 ** (min(record.overruled, 30) - 1), SLOWEST) * (1 - 0.3 * self._rng())
        left = record.at + pause - now
        # Timers are not that exact: who comes a moment early need not come again.
        return (left if left > _EARLY else 0.0), record.overruled

    def wrote(self, write: Write, *, now: float) -> int:
        """Notes a write that was done; returns how many times in a row that was to insist (0: the world changed)."""
        where = place(write)
        if isinstance(write, Delete):
            for status in (True, False):
                self._records.pop((*where[:3], status), None)
            return 0
        digest = _digest(write)
        record = self._records.get(where)
        if record is None or record.digest != digest:
            self._records.pop(where, None)
            self._records[where] = _Record(digest, now)
            while len(self._records) > MOST:
                del self._records[next(iter(self._records))]
            return 0
        record.overruled += 1
        record.at = now
        return record.overruled


def _digest(write: Create | Change) -> bytes:
    """Returns what stands for the content of a write: a creation and a change to the same content are alike."""
    content = write.body if isinstance(write, Create) else write.patch
    content = {key: value for key, value in content.items() if key not in ("apiVersion", "kind", "addressType")}
    if "metadata" in content:
        content["metadata"] = {k: v for k, v in content["metadata"].items() if k in ("labels", "ownerReferences")}
    encoded = msgspec.json.encode(content, order="deterministic")
    return hashlib.blake2b(encoded, digest_size=16).digest()
