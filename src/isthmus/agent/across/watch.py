"""The part of the agent that deals with other clusters' backends at work: time, probes, log lines and metrics.

What follows from what is `global_services`' to know; here is what changes by itself: a drain goes on, a cluster is not
heard of for too long, a node stops answering. Invariants: one timer for all of it, set to when something changes next;
one log line for each change of a node or a cluster. Nothing is said to users by Events from here: all agents of a
cluster see the same annotations and addresses, and one voice (the tracker's) is enough.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

import structlog
from prometheus_client import CollectorRegistry

from isthmus.agent.across.liveness import Health, Place
from isthmus.agent.across.prober import Prober
from isthmus.agent.across.services import GlobalServices
from isthmus.agent.metrics import GlobalMetrics, ProbeMetrics
from isthmus.kube.meshobjects import Drain, MeshCluster, MeshNodeStatus
from isthmus.kube.reflector import Change, Gone, Put, Snapshot
from isthmus.kube.schema import Bare, Service
from isthmus.model.mesh import ClusterLeft, ClusterSeen, MeshEvent
from isthmus.services.draining import FULL, moment, next_step, percent_left

MOST_NAMED = 20  # addresses or problems of one object in a log line
RECHECK = 1.0  # seconds between looks whether the mesh store is back, once it was away for too long
MEMORY = 3600.0  # seconds for which the word of an earlier run holds
LEAST_WAIT = 0.05  # seconds: rounding must not make the timer hot
MOST_WAIT = 60.0  # seconds: timers do not see that a clock was set, or that the machine slept
PATIENCE = 5.0  # seconds from what an API server tells first until it is not waited for drains any more

NODE_DOWN = "node does not answer: its backends are used only if nothing else is left"
NODE_UP = "node answers again"
CLUSTER_DOWN = "cluster unreachable: its backends are used only if nothing else is left"
CLUSTER_UP = "cluster reachable again"
CLUSTER_STALE = "cluster not heard of for too long: its backends are used only if nothing else is left"
CLUSTER_FRESH = "cluster heard of again"
DRAINING = "cluster is being drained"
DRAINED = "cluster is drained: its backends get new connections only if nothing else is left"
UNDRAINED = "cluster is not drained any more"
BAD_DRAIN = "drain of a cluster cannot be read and counts as done"
BAD_ANNOTATION = "annotation cannot be read"
MENDED = "annotations are well again"
LEFT_OUT = "backends of another cluster are left out"
TAKEN_IN = "no backend of the slice is left out any more"

_log = structlog.get_logger()


class GlobalWatch:
    """Takes in what is told, and what time and probes tell. Run `serve` in a task."""

    def __init__(
        self,
        globals_: GlobalServices,
        *,
        registry: CollectorRegistry,
        members: Callable[[], Iterable[str]],
        on_change: Callable[[], None],
        probe_port: int | None,
        staleness: float,
        silence: Callable[[], float] = lambda: 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`members` are the other clusters; `on_change` is told when the dataplane may differ.

        `probe_port` None is no probes; `staleness` (seconds) 0 is never; `silence` tells for how many seconds nothing
        has been heard of the mesh, 0 while it is; `now` is in Unix seconds.
        """
        self.globals = globals_
        self._metrics = GlobalMetrics(registry)
        self._members = members
        self._on_change = on_change
        self._staleness = staleness
        self._silence = silence
        self._now = now
        self._probe_metrics = ProbeMetrics(registry) if probe_port is not None else None
        self._prober = (
            Prober(port=probe_port, own=globals_.own, on_changes=self._turned, metrics=self._probe_metrics)
            if probe_port is not None
            else None
        )
        self._drains: dict[str, Drain] = {}
        self._drains_known = False
        self._bad_drains: dict[str, str] = {}
        self._seen: dict[str, ClusterSeen] = {}
        self._down: set[str] = set()
        self._measured: set[str] = set()
        self._wake = asyncio.Event()

    # -- what is told ------------------------------------------------------------------------------------------

    def on_services(self, change: Change[Service]) -> None:
        """Takes in a change of Services, before the services themselves are put."""
        self.globals.services(change)

    def on_namespaces(self, change: Change[Bare]) -> None:
        """Takes in a change of Namespaces."""
        self.globals.namespaces(change)
        self.catch_up()
        if not self._drains_known:
            asyncio.get_running_loop().call_later(PATIENCE, self.on_no_clusters)

    def on_no_clusters(self) -> None:
        """Hears that MeshClusters are not told, now at least: then nothing is drained."""
        if not self._drains_known:
            self._drains_known = True
            self._on_change()

    def on_clusters(self, change: Change[MeshCluster]) -> None:
        """Takes in a change of MeshClusters: which of them are drained."""
        match change:
            case Put(cluster):
                self._drain(cluster)
            case Gone(cluster):
                self._drains.pop(cluster.metadata.name, None)
            case Snapshot(clusters):
                self._drains.clear()
                for cluster in clusters:
                    self._drain(cluster)
        self._drains_known |= isinstance(change, Snapshot)
        self.tick()
        self._wake.set()

    def mesh(self, events: Sequence[MeshEvent]) -> None:
        """Takes in a batch of mesh events."""
        self.globals.mesh(events)
        if self.globals.unfinished:
            self._wake.set()
        for event in events:
            match event:
                case ClusterSeen(name):
                    self._seen[name] = event
                    self._wake.set()
                case ClusterLeft(name):
                    self._seen.pop(name, None)
        self.catch_up()

    def recall(self, status: MeshNodeStatus) -> None:
        """Takes in what an earlier run of this agent said last: nodes that it found silent had answered it before.

        Without that, a new agent would take them for nodes behind a firewall as long as the outage lasts.
        """
        written = moment(status.heartbeat)
        if self._prober is not None and written is not None and self._now() - written < MEMORY:
            self._prober.recall((seen.name, node) for seen in status.clusters for node in seen.unreachable)

    # -- what is asked -----------------------------------------------------------------------------------------

    @property
    def missing(self) -> list[str]:
        """Returns what has not been told yet, for people.

        Also who is drained: a new agent is not to lead anyone to a cluster that was emptied for a reason.
        """
        return self.globals.missing + ["mesh clusters"] * (not self._drains_known)

    def health(self, cluster: str) -> str:
        """Returns how another cluster is, in the words of MeshNode."""
        if cluster in self.globals.stale:
            return "Stale"
        neighbours = self.globals.neighbours
        watched = set(neighbours.watched(cluster))
        if self._prober is None or not watched:
            return "Unwatched"
        if neighbours.cluster_down(cluster):
            return "Unreachable"
        known = (self._prober.liveness.health(place) is Health.REACHABLE for place in watched)
        return "Reachable" if any(known) else "Unknown"

    def reason(self, cluster: str) -> str:
        """Returns why nothing new is heard of another cluster, "" if that is not so."""
        seen = self._seen.get(cluster)
        return seen.reason if seen is not None and seen.stale_since is not None else ""

    def unreachable(self, cluster: str) -> tuple[str, ...]:
        """Returns the names of a cluster's nodes that do not answer any more."""
        return tuple(sorted({place.node for place in self.globals.neighbours.down(cluster)}))

    @property
    def count(self) -> int:
        """Returns how many services are global here."""
        return self.globals.declarations.count

    def measure(self) -> None:
        """Updates the gauges."""
        globals_, metrics = self.globals, self._metrics
        metrics.services.set(globals_.declarations.count)
        metrics.faulty.set(globals_.declarations.faulty)
        left_out = globals_.left_out()
        members = set(self._members())
        per_cluster = [metrics.backends, metrics.unreachable, metrics.left_out, metrics.reachable, metrics.drained]
        if self._probe_metrics is not None:
            per_cluster.append(self._probe_metrics.unreachable)
        for name in self._measured - members:
            for gauge in per_cluster:
                gauge.remove(name)
        self._measured = members
        for name in members:
            metrics.backends.labels(name).set(globals_.backends[name])
            metrics.unreachable.labels(name).set(globals_.unreachable[name])
            metrics.left_out.labels(name).set(left_out[name])
            away = name in globals_.stale or globals_.neighbours.cluster_down(name)
            metrics.reachable.labels(name).set(not away)
            metrics.drained.labels(name).set(1 - globals_.drained.get(name, FULL) / FULL)
            if self._probe_metrics is not None:
                self._probe_metrics.unreachable.labels(name).set(len(globals_.neighbours.down(name)))

    # -- what happens by itself --------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Probes, and does what is due by time, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._prober is not None:
                tasks.create_task(self._prober.serve())
            while True:
                self.tick()
                if self.globals.unfinished:
                    self.globals.go_on()
                    self.catch_up()
                    self._on_change()
                    await asyncio.sleep(0)  # whatever else is due comes between two parts
                    continue
                try:
                    async with asyncio.timeout(self._wait()):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()

    def tick(self) -> None:
        """Does what is due by now."""
        now = self._now()
        self._step_drains(now)
        self._age(now)

    def _wait(self) -> float | None:
        """Returns the seconds until something changes by itself; None if nothing will."""
        now = self._now()
        moments = [next_step(drain.since, drain.over, now=now) for drain in self._drains.values()]
        due = [moment - now for moment in moments if moment is not None]
        if self._staleness:
            silent = self._silence()
            due.append(self._staleness - silent if silent < self._staleness else RECHECK)
            ages = [now - seen.stale_since for seen in self._seen.values() if seen.stale_since is not None]
            due += [self._staleness - age for age in ages if age < self._staleness]
        return min(max(LEAST_WAIT, min(due)), MOST_WAIT) if due else None

    def _drain(self, cluster: MeshCluster) -> None:
        name, drain = cluster.metadata.name, cluster.spec.drain
        if drain is None:
            self._drains.pop(name, None)
        else:
            self._drains[name] = drain

    def _step_drains(self, now: float) -> None:
        left: dict[str, int] = {}
        bad: dict[str, str] = {}
        for name, drain in self._drains.items():
            percent, problems = percent_left(drain.since, drain.over, now=now)
            if percent < FULL:
                left[name] = percent
            if problems:
                bad[name] = "; ".join(map(str, problems))
        for name, problem in bad.items():
            if self._bad_drains.get(name) != problem:
                _log.warning(BAD_DRAIN, cluster=name, problem=problem)
        self._bad_drains = bad
        before = self.globals.drained
        if left == before:
            return
        for name in {*left, *before}:
            if name not in left:
                _log.info(UNDRAINED, cluster=name)
            elif left[name] == 0 != before.get(name, FULL):
                _log.info(DRAINED, cluster=name)
            elif name not in before:
                _log.info(DRAINING, cluster=name, percent_left=left[name])
        self.globals.drain(left)
        self.catch_up()
        self._on_change()

    def _age(self, now: float) -> None:
        """Finds the clusters that have not been heard of for too long."""
        stale: set[str] = set()
        if self._staleness:
            if self._silence() >= self._staleness:
                stale.update(self._members())
            members = set(self._members())
            stale.update(
                name
                for name, seen in self._seen.items()
                if name in members and seen.stale_since is not None and now - seen.stale_since >= self._staleness
            )
        before = self.globals.stale
        if stale == before:
            return
        for name in sorted(stale - before):
            _log.warning(CLUSTER_STALE, cluster=name, reason=self.reason(name) or "the mesh store is away")
        for name in sorted(before - stale):
            _log.info(CLUSTER_FRESH, cluster=name)
        self.globals.set_stale(frozenset(stale))
        self._on_change()

    def _turned(self, changes: Sequence[tuple[Place, Health]]) -> None:
        neighbours = self.globals.neighbours
        were_down = {place for place, _ in changes if neighbours.is_down(place)}
        self.globals.turned(*changes)
        if self.globals.unfinished:
            self._wake.set()
        for place, health in changes:
            where = {"cluster": place.cluster, "node": place.node, "family": f"IPv{place.version}"}
            if place not in were_down and neighbours.is_down(place):
                _log.warning(NODE_DOWN, **where)
            elif place in were_down and health is Health.REACHABLE:
                _log.info(NODE_UP, **where)
        self._say_clusters()
        self._on_change()

    def _say_clusters(self) -> None:
        down = {name for name in self._members() if self.globals.neighbours.cluster_down(name)}
        for name in sorted(down - self._down):
            _log.warning(CLUSTER_DOWN, cluster=name)
        for name in sorted(self._down - down):
            _log.info(CLUSTER_UP, cluster=name)
        self._down = down

    def catch_up(self) -> None:
        """Probes whom it takes now, and says what is new; to be called after each change of the dataplane's inputs."""
        targets = self.globals.neighbours.take_targets()
        if targets is not None and self._prober is not None:
            self._prober.watch(targets, crowd=self.globals.neighbours.nodes)
            self._say_clusters()
            if self._probe_metrics is not None:
                self._probe_metrics.targets.set(len(targets))
                self._probe_metrics.interval.set(self._prober.liveness.interval)
        for report in self.globals.declarations.take_reports():
            name = f"{report.ref.namespace}/{report.ref.name}" if report.ref.namespace else report.ref.name
            if report.problems:
                shown = [str(problem) for problem in report.problems[:MOST_NAMED]]
                _log.warning(BAD_ANNOTATION, kind=report.ref.kind, name=name, problems=shown)
            else:
                _log.info(MENDED, kind=report.ref.kind, name=name)
        for news in self.globals.take_left_out():
            cluster, namespace, name = news.slice
            where = {"cluster": cluster, "slice": f"{namespace}/{name}"}
            if news.reasons:
                shown = [f"{address}: {why}" for address, why in news.reasons[:MOST_NAMED]]
                _log.warning(LEFT_OUT, **where, count=len(news.reasons), addresses=shown)
            else:
                _log.info(TAKEN_IN, **where)
