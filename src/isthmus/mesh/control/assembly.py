"""All that writes objects of the tracker's own cluster, put together for `mesh.tracker.serve`."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry

from isthmus.kube.access import Access
from isthmus.kube.kubeconfig import load
from isthmus.mesh.clusters import ClusterSpec
from isthmus.mesh.control.control import Control, Set
from isthmus.mesh.control.members import Members
from isthmus.mesh.control.metrics import ControlMetrics
from isthmus.mesh.control.session import OwnCluster, Writer
from isthmus.mesh.fleet import ClusterStatus


class Clusters(Protocol):
    """How the clusters of the set are (`mesh.tracker.Clusters`)."""

    @property
    def statuses(self) -> tuple[ClusterStatus, ...]:
        """Those that are followed."""

    @property
    def known(self) -> bool:
        """Whether those are all."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Entries that cannot be used: names and reasons."""


def own_cluster_writers(
    own: str,
    *,
    spec: Callable[[], ClusterSpec],
    clusters: Callable[[], Clusters],
    mode: str,
    staleness: float,
    registry: CollectorRegistry,
    more: Sequence[Writer] = (),
) -> OwnCluster:
    """Returns the follower that writes objects of cluster `own`; `spec` says how it is reached now."""
    members = Members(loop_clock=lambda: asyncio.get_running_loop().time())

    def access() -> Access:
        found = spec()
        return found.access or load(found.kubeconfig, context=found.context)

    def present() -> Set:
        now = clusters()
        return members.set_of(now.statuses, known=now.known, kept=now.refused)

    control = Control(own, clusters=present, mode=mode, staleness=staleness, metrics=ControlMetrics(registry))
    return OwnCluster(access, [control, *more])
