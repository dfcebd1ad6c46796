"""The tracker in full mesh: every cluster's API server in, one store out.

Order of a start: the store, then the identities that it holds (so that numbers survive), then the sources. After that
nothing waits for anything: sources and store fail and come back each for itself. Which clusters there are is said by
flags, a file that is read again every few seconds, and a Secret of the own cluster that is watched; what cannot be read
changes nothing and is reported once.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import NamedTuple, Protocol

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from isthmus import __version__
from isthmus.aio.backoff import Backoff
from isthmus.aio.health import HealthServer
from isthmus.mesh.clusters import ClusterSpec
from isthmus.mesh.control.assembly import own_cluster_writers
from isthmus.mesh.control.mirrored import OFF
from isthmus.mesh.control.policies.follower import PolicyConditions
from isthmus.mesh.fleet import ClusterStatus, Connect, Fleet, kubernetes_sources
from isthmus.mesh.listing import REREAD, ListFollower
from isthmus.mesh.mcs.follower import McsFollower
from isthmus.mesh.membership import Membership, Refused, merge_peers
from isthmus.mesh.peers import PeersFollower
from isthmus.mesh.presence import Presence
from isthmus.mesh.source.freshness import load_seen
from isthmus.mesh.storing.publisher import Publisher, load_identities, load_properties
from isthmus.mesh.tracker_metrics import TrackerMetrics
from isthmus.mesh.tracker_options import TrackerOptions
from isthmus.model.identity import Identity
from isthmus.model.mesh import ClusterSeen, MeshEvent
from isthmus.store.access import ensure_access
from isthmus.store.child import ChildEtcd
from isthmus.store.client import Client
from isthmus.store.errors import Denied, StoreError, Unavailable

MEASURE = 1.0
"""Seconds between updates of the gauges."""

STARTED = "tracker started"
RECONCILING = "Starting cluster reconciliation loop..."
STOPPING = "Shutting down."
STORE_AWAY = "Waiting for the store"
PLAINTEXT = "etcd listens without TLS on an address that others can reach: everyone there can read and write it"
PEER_REFUSED = "Entry of a peer cannot be used"
UNREADABLE = "identity in the store cannot be read and will be numbered anew"

_log = structlog.get_logger("isthmus.mesh.tracker")


class Follower(Protocol):
    """Who wants to hear what is told of all clusters, besides the store: what writes objects of the own cluster."""

    def apply(self, events: Sequence[MeshEvent]) -> None:
        """Takes a batch; returns at once."""

    async def serve(self) -> None:
        """Does what follows from it until cancelled; deals with errors of the API server itself."""


class Clusters(NamedTuple):
    """How the clusters of the set are, whether those are all, and entries that cannot be used: names and reasons."""

    statuses: tuple[ClusterStatus, ...]
    known: bool
    refused: Mapping[str, str]


class _Earlier(NamedTuple):
    """What the store holds of an earlier life, by cluster; `seen` are clusters that failed."""

    identities: dict[str, dict[int, Identity]]
    seen: tuple[ClusterSeen, ...]
    properties: dict[str, dict[str, str]]


class Tracker:
    """Reads the clusters of `options` and publishes them to `store`; `specs` is the list at the start."""

    def __init__(
        self,
        options: TrackerOptions,
        specs: list[ClusterSpec],
        *,
        store: Client,
        child: ChildEtcd | None = None,
        registry: CollectorRegistry,
        connect: Connect | None = None,
        reread: float = REREAD,
        followers: Sequence[Follower] = (),
    ) -> None:
        self._own = options.own.cluster
        self._list = ListFollower(options.cluster_list(), known=specs, interval=reread)
        self._listed = specs
        self._peers = PeersFollower(specs[0], on_change=self._take_peers)
        self._membership = Membership()
        self._joined: dict[str, ClusterSpec] = {}
        """The clusters that the own cluster's Secret names, as they are used."""
        self._refused: frozenset[Refused] = frozenset()
        self._all_known = False
        """Whether the Secret was read: until then a cluster that is nowhere listed may be a member all the same."""
        self._names_others = options.names_others
        self._store = store
        self._child = child
        self._connect = connect
        self._publisher = Publisher(store, own=self._own.name)
        self._metrics = TrackerMetrics(registry)
        self._fleet: Fleet | None = None
        self._followers = tuple(followers)

    @property
    def own_spec(self) -> ClusterSpec:
        """How the own cluster is reached now."""
        return next(spec for spec in self._listed if spec.cluster == self._own)

    def clusters(self) -> Clusters:
        """Returns how the clusters of the set are now."""
        refused = {item.name: item.reason for item in self._refused}
        return Clusters(self._fleet.status() if self._fleet is not None else (), self._all_known, refused)

    @property
    def publisher(self) -> Publisher:
        """What writes to the store."""
        return self._publisher

    def store_restarted(self, _reason: str) -> None:
        """The child etcd was started again."""
        self._metrics.etcd_restarts.inc()
        self._publisher.doubt()

    def add_checks(self, health: HealthServer) -> None:
        """Registers why the tracker may not be ready."""
        health.add_live("loop", lambda: None)
        health.add_ready("etcd", self._store_trouble)
        health.add_ready("clusters", lambda: self._list.trouble or None)
        health.add_ready(f"cluster {self._own.name}", self._own_trouble)

    async def run(self) -> None:
        """Runs until cancelled."""
        earlier = await self._earlier()
        fleet = self._fleet = Fleet(
            connect=self._connect, adopt=earlier.identities, seen=earlier.seen, properties=earlier.properties
        )
        self._configure()
        _log.info(RECONCILING, clusters=",".join(spec.cluster.name for spec in self._listed))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._publisher.serve())
                tasks.create_task(self._pump(fleet))
                tasks.create_task(self._watch_list())
                tasks.create_task(self._peers.serve())
                tasks.create_task(self._measure(fleet))
                for follower in self._followers:
                    tasks.create_task(follower.serve())
                if self._child is not None:
                    tasks.create_task(self._child.serve())
        finally:
            _log.info(STOPPING)

    def _configure(self) -> None:
        """Brings the fleet to what flags, file and Secret say together."""
        joined, refused = merge_peers(self._listed, self._membership, before=self._joined)
        self._joined = {spec.cluster.name: spec for spec in joined}
        for item in sorted(set(refused) - self._refused, key=lambda item: item.name):
            _log.error(PEER_REFUSED, cluster=item.name, error=item.reason)
        self._refused = frozenset(refused)
        self._metrics.peers_refused.set(len(refused))
        specs = [*self._listed, *joined]
        if self._all_known:
            # What an entry was that cannot be read now is not known, so nothing of it is taken away.
            self._publisher.retain([*(spec.cluster.name for spec in specs), *(item.name for item in refused)])
        if self._fleet is not None:
            self._fleet.configure(specs)

    def _take_peers(self, membership: Membership | None) -> None:
        """Takes what the Secret says, None if it may not be read: then it counts where nothing else names clusters."""
        if membership is not None:
            self._membership = membership
        self._all_known = self._all_known or membership is not None or self._names_others
        self._configure()

    async def _earlier(self) -> _Earlier:
        """Reads the identities and properties of an earlier life and which clusters failed in it.

        Waits for the store, since without identities all numbers would change.
        """
        delays = Backoff(base=0.2, cap=5.0)
        while True:
            try:
                found = await load_identities(
                    self._store,
                    own=self._own,
                    on_report=lambda key, reason: _log.warning(UNREADABLE, key=key, reason=reason),
                )
                seen = await load_seen(self._store)
                properties = await load_properties(self._store)
            except StoreError as error:
                if delays.attempts == 0:
                    _log.warning(STORE_AWAY, error=str(error))
                await asyncio.sleep(delays.next())
            else:
                numbered = {name: {i.number: i for i in identities} for name, identities in found.items()}
                return _Earlier(numbered, seen, properties)

    async def _pump(self, fleet: Fleet) -> None:
        async with aclosing(fleet.events()) as batches:
            async for batch in batches:
                self._publisher.apply(batch)
                for follower in self._followers:
                    follower.apply(batch)

    async def _watch_list(self) -> None:
        async with aclosing(self._list.changes()) as lists:
            async for specs in lists:
                self._listed = specs
                self._peers.reach(next(spec for spec in specs if spec.cluster == self._own))
                self._configure()

    async def _measure(self, fleet: Fleet) -> None:
        while True:
            self._metrics.show(
                fleet.status(),
                store=self._publisher.state,
                pending=self._publisher.pending,
                withheld=fleet.withheld,
                valid=not self._list.trouble,
                now=asyncio.get_running_loop().time(),
            )
            await asyncio.sleep(MEASURE)

    def _store_trouble(self) -> str | None:
        state = self._publisher.state
        return None if state.connected else state.error or "connecting"

    def _own_trouble(self) -> str | None:
        for status in self._fleet.status() if self._fleet is not None else ():
            if status.cluster == self._own:
                # Synced once is enough: what degrades later keeps its last state and must not take us out of service.
                return None if status.last_synced is not None else status.reason or status.state
        return "not started yet"


async def serve(options: TrackerOptions, *, connect: Connect | None = None, reread: float = REREAD) -> None:
    """Runs a tracker until cancelled.

    Raises ClustersError, ChildError, StoreError or BindError for what cannot work, before anything is published.
    """
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    specs = await asyncio.to_thread(options.cluster_list().read)
    health = HealthServer(options.metrics_bind_address, flag="--metrics-bind-address", registry=registry)
    async with AsyncExitStack() as stack:
        store, child = await stack.enter_async_context(_open_store(options))
        followers: list[Follower] = []
        if connect is None:
            # Only what speaks to API servers has one of its own to write to.
            own = options.own.cluster.name
            policies = PolicyConditions(own)
            connect = kubernetes_sources(own, policies)
            followers.append(
                own_cluster_writers(
                    own,
                    spec=lambda: tracker.own_spec,
                    clusters=lambda: tracker.clusters(),
                    mode=options.global_services,
                    staleness=options.remote_staleness,
                    registry=registry,
                    more=[
                        Presence(socket.gethostname()),
                        policies,
                        *(
                            [McsFollower(own, members=lambda: tracker.clusters())]
                            if options.global_services != OFF
                            else []
                        ),
                    ],
                )
            )
        tracker = Tracker(
            options,
            specs,
            store=store,
            child=child,
            registry=registry,
            connect=connect,
            reread=reread,
            followers=followers,
        )
        if child is not None:
            child.on_restart = tracker.store_restarted
        tracker.add_checks(health)
        await stack.enter_async_context(health)
        _log.info(
            STARTED,
            version=__version__,
            cluster=options.own.cluster.name,
            id=options.own.cluster.id,
            etcd=",".join(options.endpoints) or options.listen,
        )
        await tracker.run()


@asynccontextmanager
async def _open_store(options: TrackerOptions) -> AsyncIterator[tuple[Client, ChildEtcd | None]]:
    """Connects to etcd, or starts it with its users."""
    if options.data_dir is None:
        store = Client(options.endpoints, tls=options.client_tls)
        try:
            store.link()
            yield store, None
        finally:
            await store.close()
        return
    if options.server_tls is None and not _is_loopback(options.listen):
        _log.warning(PLAINTEXT, address=options.listen)
    async with ChildEtcd(options.data_dir, listen=options.listen, tls=options.server_tls) as child:
        store = child.client()
        try:
            if options.server_tls is not None:
                await _ensure_access(store, options)
            yield store, child
        finally:
            await store.close()


async def _ensure_access(store: Client, options: TrackerOptions) -> None:
    for attempt in range(3):
        try:
            await ensure_access(store, cluster=options.own.cluster.name, users=options.users)
        except Denied as error:
            raise Denied(f"{error}; was the data directory used with other users?") from error
        except Unavailable:
            # A fresh etcd answers before it has a leader.
            if attempt == 2:
                raise
            await asyncio.sleep(0.5)
        else:
            return


def _is_loopback(url: str) -> bool:
    host = url.partition("://")[2].rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
