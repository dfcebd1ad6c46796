"""The node agent: inputs -> view -> compiler -> kernel, for ever.

Level-triggered: an input only changes the view and asks for a run; the run writes what differs by then. Fail static:
whatever stops (an API server, the tracker, this process), the kernel keeps the last ruleset; a new agent replaces it in
one transaction once it knows enough. It does not wait for other clusters longer than `sync_timeout` (ten times that on
a node with a ruleset of an earlier run): their pods then count as outside, which fails closed. To wait for ever would
leave the node's new pods and policies without enforcement for as long as any one cluster cannot be reached. A node
without an earlier ruleset waits no longer either for a kind of policy that its API server has and fails to give: all
other policies are better than none. Where there is one, it holds that kind's policies too, and stays.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec
import structlog
from prometheus_client import CollectorRegistry

from isthmus.agent.inputs import Inputs
from isthmus.agent.isolation import Isolation
from isthmus.agent.metrics import AgentMetrics
from isthmus.agent.policies.enforced import Enforced
from isthmus.agent.policies.storing import KeptStore
from isthmus.agent.policies.telling import Telling
from isthmus.agent.presence import Counts, OtherCluster, Presence, State
from isthmus.agent.services.serving import ServiceSettings, Serving
from isthmus.agent.view import View
from isthmus.aio.backoff import Backoff
from isthmus.aio.health import HealthServer
from isthmus.aio.runner import BoundedRunner
from isthmus.kernel.errors import KernelError
from isthmus.kube.client import Client
from isthmus.kube.events import EventRecorder
from isthmus.kube.reflector import Change, Snapshot
from isthmus.kube.schema import Node
from isthmus.model.mesh import MeshEvent
from isthmus.policy.rules import ObjectRef, Scope
from isthmus.ruleset.table import Delta

MOST_NAMED = 20  # of a long list in a log line
COALESCE = 0.004  # seconds: what changes together is written together, far below what a user could notice
CHECK_INTERVAL = 1.0  # seconds between looks whether somebody else removed our table, and left every pod open
REFUSALS = 2  # of the whole table in a row, after which the policies at fault are looked for
DESPAIR = 6  # refusals after which policies that were accepted before are suspected too
REOPEN = 300.0  # seconds after which a policy that the kernel refused is tried again

FORBEARANCE = 10  # times the sync timeout that the ruleset of an earlier run stays before it is replaced unsynced

WAITING = "not everything is known yet; the ruleset of an earlier run stays"
IMPATIENT = "not everything is known yet; what is missing counts as not there, and pods of missing clusters as outside"
SYNCED = "ruleset replaced"
APPLIED = "ruleset changed"
REFUSED = "ruleset refused by the kernel"
TAMPERED = "table inet isthmus was changed by someone else; restoring it"
SHUT = "policies refused by the kernel: their pods get no traffic that they could restrict"
OPENED = "policies accepted by the kernel at last"
TOO_LARGE = "policies too large for a node: their pods get no traffic that they could restrict"
FITTING = "policies no longer too large"

_log = structlog.get_logger()


class Writer(Protocol):
    """What the agent needs of the kernel (`isthmus.agent.writer.KernelWriter`)."""

    async def replace(self, whole: Delta) -> None:
        """Puts `whole` in the place of everything."""

    async def apply(self, delta: Delta) -> None:
        """Makes a change."""

    async def intact(self) -> bool:
        """Tells whether nobody else touched the table."""

    async def present(self) -> bool:
        """Tells whether an earlier run left a table."""


class Settings(msgspec.Struct, frozen=True):
    """Who and where the agent is; `sync_timeout` in seconds, `services` None serves none.

    `keep_live` lets established connections be, whatever policy says of them later.
    """

    node: str
    cluster: str
    scope: Scope = Scope.CLUSTERSET
    sync_timeout: float = 30.0
    services: ServiceSettings | None = None
    keep_live: bool = False


class _Shut(msgspec.Struct, frozen=True):
    """The policies of a gate that is shut, and why: `large` by the compiler for its size, else by the kernel."""

    policies: tuple[ObjectRef, ...]
    reason: str
    large: bool


class Agent:
    """One node's agent. `mesh` gives batches of mesh events for ever, and deals with its own errors."""

    def __init__(
        self,
        settings: Settings,
        *,
        client: Client,
        writer: Writer,
        mesh: Callable[[], AsyncGenerator[Sequence[MeshEvent], None]],
        registry: CollectorRegistry,
        silence: Callable[[], float] = lambda: 0.0,
        on_first: Callable[[], None] = lambda: None,
        store: KeptStore | None = None,
        earlier: Mapping[ObjectRef, bytes] | None = None,
    ) -> None:
        """`silence` tells for how many seconds nothing has been heard of the mesh, 0 while it is.

        `on_first` is called once, when the first ruleset is in the kernel. `store` takes the versions of policies that
        are kept; `earlier` is what it loaded, before anything is listed.
        """
        self.settings = settings
        self.view = View(
            cluster=settings.cluster,
            scope=settings.scope,
            keep_live=settings.keep_live,
            earlier=None if store is None else earlier or {},
        )
        self._store = store
        if store is not None:
            store.follow(self.view.book)
        self._writer = writer
        self._mesh = mesh
        self._on_first = on_first
        self._metrics = AgentMetrics(registry)
        self._events = EventRecorder(client, "isthmus-agent", settings.node)
        self.services = self._make_services(settings.services, registry, silence) if settings.services else None
        self._telling = Telling(self._events)
        self.inputs = Inputs(
            client,
            self.view,
            node=settings.node,
            services=self.services,
            telling=self._telling,
            on_change=self._changed,
            on_node=self._on_node,
        )
        self.enforced = Enforced(self.view.book)
        self._metrics.watch(self.view.book)
        across = self.services.across if self.services is not None else None
        self._presence = Presence(
            client,
            settings.node,
            state=self._state,
            counts=self._counts,
            recall=across.recall if across is not None else lambda _: None,
        )
        self._runner = BoundedRunner(
            self._sync,
            min_interval=COALESCE,
            max_interval=CHECK_INTERVAL,
            retry=Backoff(base=0.1, cap=5.0),
            on_error=self._on_error,
        )
        self._unknown = True  # what the kernel holds
        self._written = False
        self._patient = True
        self._able = asyncio.Event()
        self._local = asyncio.Event()
        self._since: float | None = None
        self._refusal = ""
        self._refusals = 0
        self._isolation = Isolation(self.view.compiler, writer)
        self._shut: dict[str, _Shut] = {}
        self._reopen = 0.0

    def _make_services(
        self, wanted: ServiceSettings, registry: CollectorRegistry, silence: Callable[[], float]
    ) -> Serving:
        return Serving(
            wanted,
            cluster=self.settings.cluster,
            node=self.settings.node,
            table=self.view.compiler.table,
            events=self._events,
            registry=registry,
            members=lambda: [name for name in self.view.clusters if name != self.settings.cluster],
            endpoint=lambda ip: self.view.compiler.world.endpoints.get(ip),
            silence=silence,
            on_change=self._changed,
            also_slices=self.view.api_servers,
        )

    def add_checks(self, health: HealthServer) -> None:
        """Registers why the agent may not be ready."""
        health.add_ready("synced", lambda: ", ".join(self._missing) or None if not self._written else None)
        health.add_ready("kernel", lambda: self._refusal or None)

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.inputs.run())
            tasks.create_task(self._presence.serve())
            tasks.create_task(self._follow_mesh())
            tasks.create_task(self._events.serve())
            tasks.create_task(self._runner.serve())
            tasks.create_task(self._lose_patience())
            if self._store is not None:
                tasks.create_task(self._store.serve())

    async def _follow_mesh(self) -> None:
        async with aclosing(self._mesh()) as batches:
            async for batch in batches:
                self.view.mesh(batch)
                if self.services is not None:
                    self.services.mesh(batch)
                self._changed()

    async def _lose_patience(self) -> None:
        await self._able.wait()  # without the local API server nothing can be written anyway
        await asyncio.sleep(self.settings.sync_timeout)
        if not self._written and await self._writer.present():
            _log.warning(WAITING, missing=self._missing)
            await asyncio.sleep(self.settings.sync_timeout * (FORBEARANCE - 1))
            await self._local.wait()
        if not self._written:
            _log.warning(IMPATIENT, missing=self._missing)
            self._patient = False
            self._changed()

    @property
    def _missing(self) -> list[str]:
        return self.view.missing + (self.services.missing if self.services is not None else [])

    @property
    def _services_missing(self) -> bool:
        return self.services is not None and bool(self.services.missing)

    def _on_node(self, change: Change[Node]) -> None:
        for node in change.objects if isinstance(change, Snapshot) else (change.object,):
            self._presence.node_uid = node.metadata.uid

    def _changed(self) -> None:
        self._presence.changed()
        if self._store is not None:
            self._store.look()
        if not self._services_missing:
            if self.view.able:
                self._able.set()
            if self.view.locally_ready:
                self._local.set()
        if self._since is None:
            self._since = asyncio.get_running_loop().time()
        self._runner.trigger()

    async def _sync(self) -> None:
        view = self.view
        if self._missing and not self._written and (self._patient or self._services_missing or not view.able):
            return
        loop = asyncio.get_running_loop()
        table = view.compiler.table
        if self._shut and loop.time() >= self._reopen:
            self._reopen = loop.time() + REOPEN
            self._isolation.reopen()
        gates = frozenset(view.compiler.gates - view.compiler.too_large.keys())  # as they would be if they were open
        delta = table.take_delta()
        self.enforced.taken()
        arrived = len(self.inputs.arrivals)
        if self.services is not None:
            self.services.taken()
        since, self._since = self._since or loop.time(), None
        if self._unknown or not (delta or await self._writer.intact()):
            if not self._unknown:
                _log.warning(TAMPERED)
            self._unknown = True
            delta = table.whole()
            table.forget_journal()
            await self._replace(delta)
            self._note(SYNCED, "replace", delta, loop.time() - since)
        elif delta:
            self._unknown = True  # until the kernel has said yes
            await self._writer.apply(delta)
            kind = "structure" if delta.structural else "elements"
            self._note(APPLIED, kind, delta, loop.time() - since)
        if not self._written:
            self._on_first()
        self._unknown, self._written, self._refusal = False, True, ""
        self.enforced.written(time.time())
        for arrival in self.inputs.arrivals[:arrived]:
            self._metrics.enforcement.observe(loop.time() - arrival)
        del self.inputs.arrivals[:arrived]
        self._isolation.accepted(gates)
        self._report_shut(loop.time())
        if self.services is not None:
            self.services.written()
        self._presence.changed()

    async def _replace(self, whole: Delta) -> None:
        try:
            await self._writer.replace(whole)
        except KernelError as error:
            self._refusals += 1
            if self._refusals < REFUSALS:
                raise
            await self._isolation.replace(error, everything=self._refusals >= DESPAIR)
        self._refusals = 0

    def _report_shut(self, now: float) -> None:
        compiler = self.view.compiler
        large = compiler.too_large
        before, self._shut = self._shut, {}
        for name in dict.fromkeys([*compiler.shut, *large]):
            known = before.get(name)
            if known is not None and known.large is (name in large):
                self._shut[name] = known
                continue
            one = self._shut[name] = self._oversize(name) if name in large else self._refused(name)
            if not one.large:
                self._reopen = now + REOPEN
            policies = [str(ref) for ref in one.policies[:MOST_NAMED]]
            _log.error(TOO_LARGE if one.large else SHUT, gate=name, policies=policies, error=one.reason)
            self._telling.refused(one.policies, one.reason)
        self._metrics.shut.set(len(self._shut))
        for name, one in before.items():
            if name not in self._shut and name in compiler.gates:
                policies = [str(ref) for ref in one.policies[:MOST_NAMED]]
                _log.info(FITTING if one.large else OPENED, gate=name, policies=policies)

    def _refused(self, name: str) -> _Shut:
        reason = f"the kernel refuses the rules: {self._isolation.reasons.get(name, '')}"
        return _Shut(self.view.compiler.shut[name].policies, reason, large=False)

    def _oversize(self, name: str) -> _Shut:
        oversize = self.view.compiler.oversize(name)
        return _Shut(tuple(ref for ref, _ in oversize.shares), str(oversize), large=True)

    def _note(self, event: str, kind: str, delta: Delta, seconds: float) -> None:
        world = self.view.compiler.world
        metrics = self._metrics
        metrics.transactions.labels(kind).inc()
        metrics.duration.observe(seconds)
        metrics.pods.set(len(world.pods))
        metrics.endpoints.set(len(world.endpoints))
        metrics.identities.set(len(world.identities))
        metrics.gates.set(len(self.view.compiler.gates))
        in_use = self.view.compiler.gates
        elements = sum(len(change.add) + len(change.remove) for change in delta.changes)
        gates = [chain.comment for chain in delta.new_chains if chain.name in in_use]
        if kind == "elements":
            _log.debug(event, kind=kind, elements=elements, ms=round(seconds * 1000, 1))
        else:
            _log.info(event, kind=kind, elements=elements, gates=gates[:MOST_NAMED], ms=round(seconds * 1000, 1))

    def _on_error(self, error: Exception, delay: float) -> None:
        if not isinstance(error, KernelError):
            raise error
        self._metrics.errors.inc()
        text = str(error)
        if text != self._refusal:
            self._refusal = text
            _log.error(REFUSED, error=text, subject=error.subject, retry_in=round(delay, 1))
            self._presence.changed()

    # -- what is told about this agent -------------------------------------------------------------------------

    def _state(self) -> State:
        across = self.services.across if self.services is not None else None
        clusters = []
        for name, synced in sorted(self.view.clusters.items()):
            if name == self.settings.cluster:
                continue
            reason = "" if synced else "not everything has been told yet"
            if across is None:
                clusters.append(OtherCluster(name, synced, reason))
            else:
                reason = reason or across.reason(name)
                clusters.append(OtherCluster(name, synced, reason, across.health(name), across.unreachable(name)))
        reason = self._refusal or ("" if self._written else ", ".join(self._missing))
        refused: dict[ObjectRef, str] = {}
        for one in self._shut.values():
            for ref in one.policies:
                refused.setdefault(ref, one.reason)
        policies = self.enforced.status(refused)
        services = across.count if across else 0
        return State(self._written and not self._refusal, reason, services, tuple(clusters), policies)

    def _counts(self) -> dict[str, Counts]:
        endpoints = Counter(endpoint.cluster for endpoint in self.view.compiler.world.endpoints.values())
        across = self.services.across if self.services is not None else None
        services = across.globals.shared_by() if across is not None else Counter[str]()
        nodes = self.view.nodes.count()
        return {name: Counts(nodes[name], endpoints[name], services[name]) for name in self.view.clusters}
