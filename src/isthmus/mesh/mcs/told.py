"""What other clusters export, and which of them are members of the mesh.

Invariant: a cluster that is a member and has not told everything since the start may still export what it exported
before; its silence proves nothing. Rejected: taking the first minute's silence for an answer: a cluster may be away for
longer, and its Services would be withdrawn from everyone who uses them.
"""

import re
from collections.abc import Iterable, Sequence

from isthmus.model.mesh import ClusterJoined, ClusterLeft, ClusterSynced, ExportGone, ExportTold, MeshEvent
from isthmus.model.service import ServiceKey
from isthmus.model.sharing import SharedExport

MAX_EXPORTS = 20_000
"""Exports of one cluster that are remembered; more are passed over, and that is told."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Told:
    """What other clusters export, and which of them are members; kept for as long as the tracker lives."""

    def __init__(self, *, own: str) -> None:
        self.own = own
        self.started = False
        """Whether anything was told: then all members have been named."""
        self.overflowing: set[str] = set()
        """Clusters with more than MAX_EXPORTS."""
        self._members: set[str] = set()
        self._complete = True
        self._kept: frozenset[str] = frozenset()
        self._synced: set[str] = set()
        self._exports: dict[ServiceKey, dict[str, SharedExport]] = {}
        self._counts: dict[str, int] = {}

    def take(self, events: Sequence[MeshEvent]) -> tuple[set[ServiceKey], set[str]]:
        """Takes a batch; returns Services of which an export changed, and clusters that told everything or left."""
        keys: set[ServiceKey] = set()
        clusters: set[str] = set()
        self.started = True
        for event in events:
            match event:
                case ExportTold(export) if export.cluster != self.own:
                    if self._put(export):
                        keys.add(export.key)
                case ExportGone(cluster, key) if cluster != self.own:
                    if self._drop(cluster, key):
                        keys.add(key)
                case ClusterJoined(cluster):
                    self._members.add(cluster.name)
                case ClusterSynced(name):
                    if name not in self._synced:
                        self._synced.add(name)
                        clusters.add(name)
                case ClusterLeft(name):
                    self._members.discard(name)
                    self._synced.discard(name)
                    clusters.add(name)
                    keys |= {key for key in list(self._exports) if self._drop(name, key)}
        return keys, clusters

    def of(self, key: ServiceKey) -> list[SharedExport]:
        """Returns the exports of a Service by other clusters."""
        return list(self._exports.get(key, {}).values())

    def keys(self) -> set[ServiceKey]:
        """Returns all Services that other clusters export."""
        return set(self._exports)

    def pending(self, cluster: str) -> bool:
        """Whether a cluster may still tell what it exports."""
        if cluster == self.own or cluster in self._synced:
            return False
        return cluster in self._members or cluster in self._kept or not self._complete

    def know(self, *, complete: bool, kept: Iterable[str]) -> bool:
        """Takes whether all members are known, and who may be one although its entry cannot be used; tells of news."""
        before = (self._complete, self._kept)
        self._complete, self._kept = complete, frozenset(kept)
        return (self._complete, self._kept) != before

    def _put(self, export: SharedExport) -> bool:
        if not all(_NAME.fullmatch(part) for part in export.key):
            return False  # no API server has such a Service, and ours would refuse the import for ever
        held = self._exports.setdefault(export.key, {})
        before = held.get(export.cluster)
        if before is None:
            if self._counts.get(export.cluster, 0) >= MAX_EXPORTS:
                self.overflowing.add(export.cluster)
                if not held:
                    del self._exports[export.key]
                return False
            self._counts[export.cluster] = self._counts.get(export.cluster, 0) + 1
        held[export.cluster] = export
        return before != export

    def _drop(self, cluster: str, key: ServiceKey) -> bool:
        held = self._exports.get(key, {})
        if held.pop(cluster, None) is None:
            return False
        self._counts[cluster] -= 1
        if not held:
            del self._exports[key]
        return True
