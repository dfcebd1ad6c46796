"""What the tracker counts, as Prometheus shows it. One instance a process; names are part of the interface."""

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from isthmus.mesh.fleet import ClusterStatus
from isthmus.store.keeper import KeeperState

STATES = ("syncing", "synced", "degraded")


class TrackerMetrics:
    """The tracker's metrics on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def by_cluster(name: str, text: str) -> Gauge:
            return Gauge(f"isthmus_tracker_{name}", text, ["cluster"], registry=registry)

        self._clusters = Gauge("isthmus_tracker_clusters", "Clusters by state.", ["state"], registry=registry)
        self._nodes = by_cluster("nodes", "Nodes told of a cluster.")
        self._identities = by_cluster("identities", "Identities told of a cluster.")
        self._endpoints = by_cluster("endpoints", "Pod IPs told of a cluster.")
        self._services = by_cluster("services", "Global services told of a cluster.")
        self._synced = by_cluster("last_sync_timestamp_seconds", "When all of a cluster had been told last.")
        self._withheld = Gauge(
            "isthmus_tracker_withheld_endpoints", "Pod IPs that another cluster has too.", registry=registry
        )
        self._valid = Gauge("isthmus_tracker_clusters_valid", "1 if the list of clusters is usable.", registry=registry)
        self.peers_refused = Gauge(
            "isthmus_tracker_peers_refused", "Entries of the Secret of peers that cannot be used.", registry=registry
        )
        self._pending = Gauge("isthmus_tracker_publish_queue", "Keys that wait to be written.", registry=registry)
        self._connected = Gauge("isthmus_tracker_etcd_connected", "1 if etcd answers.", registry=registry)
        self._errors = Counter("isthmus_tracker_etcd_errors", "Failed attempts to write to etcd.", registry=registry)
        self._refused = Counter("isthmus_tracker_etcd_refused_keys", "Keys that etcd refused.", registry=registry)
        self._commits = Counter("isthmus_tracker_etcd_commits", "Transactions made.", registry=registry)
        self.etcd_restarts = Counter("isthmus_tracker_etcd_restarts", "Restarts of the child etcd.", registry=registry)
        self._known: set[str] = set()
        self._before = KeeperState()

    def show(
        self,
        clusters: Sequence[ClusterStatus],
        *,
        store: KeeperState,
        pending: int,
        withheld: int,
        valid: bool,
        now: float,
    ) -> None:
        """Sets everything; `now` is in seconds of the clock that `ClusterStatus` uses."""
        for state in STATES:
            self._clusters.labels(state).set(sum(cluster.state == state for cluster in clusters))
        for status in clusters:
            name = status.cluster.name
            self._nodes.labels(name).set(status.nodes)
            self._identities.labels(name).set(status.identities)
            self._endpoints.labels(name).set(status.endpoints)
            self._services.labels(name).set(status.services)
            if status.last_synced is not None:
                self._synced.labels(name).set(time.time() - (now - status.last_synced))
        for name in self._known - {status.cluster.name for status in clusters}:
            for gauge in (self._nodes, self._identities, self._endpoints, self._services, self._synced):
                gauge.remove(name)
        self._known = {status.cluster.name for status in clusters}
        self._withheld.set(withheld)
        self._valid.set(valid)
        self._pending.set(pending)
        self._connected.set(store.connected)
        self._errors.inc(store.failures - self._before.failures)
        self._refused.inc(store.refused - self._before.refused)
        self._commits.inc(store.commits - self._before.commits)
        self._before = store
