"""Bringing clusters up, whether they are new or come back: the steps, in order, each told when it is done.

Invariants: a step that fails undoes what came before it (the supervisor does, because the connection ends before the
commit), and keeps the files of a cluster that was complete once; several clusters come up at the same time, each over a
connection of its own, and one that fails does not take the others along.
"""

import importlib
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from isthmus.lab.addons.applying import AddonError, apply_crds, apply_objects
from isthmus.lab.addons.manifests import Manifest, ManifestError, crds, dns
from isthmus.lab.control import Commit, Connection, Create, Describe, Start, UnitSpec
from isthmus.lab.images.rootfs import Rootfs
from isthmus.lab.life.api import TROUBLE, admin_api
from isthmus.lab.life.listening import Listener
from isthmus.lab.life.meeting import JoinError, Meeting
from isthmus.lab.life.notes import Note, write_note
from isthmus.lab.life.readiness import NotReadyError, Waiting
from isthmus.lab.plan import ClusterPlan, Mode, service_address
from isthmus.lab.statedir import StateDir
from isthmus.lab.units.apiserver import api_units, store_units
from isthmus.lab.units.credentials import CLUSTER_DOMAIN
from isthmus.lab.units.members import other_units

READY_LIMIT = 90.0
"""Seconds until API server, nodes, agents and addons must be ready."""
ACQUAINTANCE_LIMIT = 15.0
"""Seconds until clusters that were joined should know all of each other."""
_JOINING = "isthmus.lab.life.joining"
"""What takes long to import, and is needed when API servers are up."""
_UNITS_AT_ONCE = 40
"""Processes in one message to the supervisor, which is bounded."""


class CreationError(Exception):
    """A cluster did not come up; the message says why and where to look."""


class Tell(Protocol):
    """Tells people of a step that is done, or (False) of something they should know."""

    def __call__(self, text: str, good: bool = True, /) -> None:
        """Writes one line."""


class Patience(msgspec.Struct, frozen=True):
    """How long to wait, and for what: with `all_of_it` false only for the API server."""

    limit: float = READY_LIMIT
    all_of_it: bool = True


def bring_up(
    state: StateDir, notes: Sequence[Note], *, listeners: Sequence[Listener], patience: Patience, keep: bool, tell: Tell
) -> None:
    """Brings clusters up at the same time; their files are written, their sockets listen, the supervisor runs.

    With `keep` the files of one that fails stay. Raises CreationError, RootfsError, ControlError for the first that
    failed, when all have come to an end.
    """
    Rootfs(state.images).prepare()
    several = len(notes) > 1
    given_up = threading.Event()
    new = {note.plan.name for note in notes}
    with Connection(state.socket) as connection:
        running = [cluster.plan for cluster in connection.ask(Describe()).clusters if cluster.plan.name not in new]
    meeting = Meeting(running)
    with ThreadPoolExecutor(len(notes) + 2) as pool:
        definitions = pool.submit(crds)
        if any(note.plan.mode is Mode.TRACKER for note in notes):
            pool.submit(importlib.import_module, _JOINING)

        def work(note: Note, listener: Listener) -> None:
            said = _prefixed(tell, note.plan.name) if several else tell
            with listener, Connection(state.socket) as connection:
                raising = _Raising(
                    state,
                    note,
                    connection,
                    tell=said,
                    patience=patience,
                    keep=keep,
                    meeting=meeting,
                    given_up=given_up,
                )
                raising.perform(listener, definitions)

        tasks = [pool.submit(work, note, listener) for note, listener in zip(notes, listeners, strict=True)]
        try:
            errors = [task.exception() for task in tasks]
        except BaseException:
            # The threads look at this between two questions, so that an interrupt does not wait for them.
            given_up.set()
            raise
    for error in errors:
        if error is not None:
            _forget_failed(state, notes, errors, running=running)
            raise error


def _forget_failed(
    state: StateDir,
    notes: Sequence[Note],
    errors: Sequence[BaseException | None],
    *,
    running: Sequence[ClusterPlan],
) -> None:
    """Lets the others forget clusters that did not come up; what cannot be told now is seen at the next start."""
    from isthmus.lab.life.joining import forget_cluster

    failed = [note.plan for note, error in zip(notes, errors, strict=True) if error is not None]
    left = [*running, *(note.plan for note, error in zip(notes, errors, strict=True) if error is None)]
    for plan in failed:
        if not plan.connect or not left:
            continue
        forget_cluster(state, plan.name, left)


class _Raising:
    """One cluster on its way up."""

    def __init__(
        self,
        state: StateDir,
        note: Note,
        connection: Connection,
        *,
        tell: Tell,
        patience: Patience,
        keep: bool,
        meeting: Meeting,
        given_up: threading.Event,
    ) -> None:
        self._state = state
        self._keep = keep
        self._meeting = meeting
        self._given_up = given_up
        self._note = note
        self._plan = note.plan
        self._connection = connection
        self._tell = tell
        self._patience = patience
        self._api = admin_api(state.cluster(note.plan.name).kubeconfig("admin"))
        self._deadline = time.monotonic() + patience.limit
        self._waiting = Waiting(
            state,
            note.plan,
            connection=connection,
            api=self._api,
            deadline=self._deadline,
            since=datetime.now(UTC) if keep else None,
            given_up=given_up,
        )

    def perform(self, listener: Listener, definitions: "Future[list[Manifest]]") -> None:
        plan = self._plan
        self._connection.ask(Create(plan, keep=self._keep))
        networks = " and ".join(plan.pod_subnets)
        self._tell(f"Network: {len(plan.nodes)} node(s) on the segment, pods in {networks}")
        try:
            self._start([*store_units(self._state, plan), *api_units(self._state, plan)], listener)
            self._waiting.api_server()
            self._tell("API server ready")
            # Before those who would look for them in vain, and while the API server has nothing else to do.
            apply_crds(self._api, definitions.result(), deadline=self._deadline)
            self._start(other_units(self._state, plan), None)
            deployments = self._apply_dns()
            joined = self._join()
            if self._patience.all_of_it:
                self._await_all(deployments)
                self._await_acquaintance(joined)
        except (NotReadyError, AddonError, ManifestError, JoinError, *TROUBLE) as error:
            self._meeting.leave(plan)
            raise CreationError(self._failed(error)) from error
        write_note(self._state, msgspec.structs.replace(self._note, complete=True))
        self._connection.ask(Commit(plan.name))
        self._tell_restarts()

    def _start(self, units: Sequence[UnitSpec], listener: Listener | None) -> None:
        for begin in range(0, len(units), _UNITS_AT_ONCE):
            part = Start(self._plan.name, tuple(units[begin : begin + _UNITS_AT_ONCE]))
            self._connection.ask(part, descriptors=[] if listener is None else [listener.fileno()])

    def _apply_dns(self) -> list[tuple[str, str]]:
        """Returns the Deployments (namespace, name) among its objects."""
        plan = self._plan
        values = {
            "cluster_name": plan.name,
            "cluster_domain": CLUSTER_DOMAIN,
            "dns_ip": service_address(plan, 10),
        }
        objects = dns(values)
        apply_objects(self._api, objects)
        return [
            (str(found["metadata"].get("namespace", "default")), str(found["metadata"]["name"]))
            for found in objects
            if found["kind"] == "Deployment"
        ]

    def _join(self) -> list[ClusterPlan]:
        """Joins the cluster with the others that are there, and returns them."""
        others = self._meeting.come(self._plan)
        if not any(plan.mode is Mode.TRACKER for plan in (self._plan, *others)):
            return []
        from isthmus.lab.life.joining import join_cluster

        joined = join_cluster(
            self._state,
            self._plan,
            others,
            returning=self._keep,
            given_up=self._given_up,
            limit=max(1.0, self._deadline - time.monotonic()),
        )
        if joined:
            self._tell(f"Connected with {', '.join(plan.name for plan in joined)}")
        return joined

    def _await_acquaintance(self, others: Sequence[ClusterPlan]) -> None:
        """Waits until this cluster and the others know each other.

        A creation does not fail of that: somebody may have stopped a tracker there.
        """
        reason = self._waiting.acquaintance(others, limit=ACQUAINTANCE_LIMIT) if others else ""
        if reason:
            self._tell(f"{reason}; see: isthmus clustermesh status", False)

    def _await_all(self, deployments: Sequence[tuple[str, str]]) -> None:
        plan = self._plan
        self._waiting.nodes()
        for node in plan.nodes:
            if node.labels:
                self._api.send(
                    "PATCH",
                    f"/api/v1/nodes/{node.name}",
                    {"metadata": {"labels": node.labels}},
                    content_type="application/merge-patch+json",
                )
        self._tell("Nodes ready")
        self._waiting.agents()
        if plan.mode is Mode.NONE:
            return
        self._tell("Policies are enforced on every node")
        if not plan.serves:
            # Its pods ask the API server by its ClusterIP, as in any cluster.
            self._tell("No ClusterIP is served yet: run a kube-proxy on every node, and cluster DNS gets ready", False)
            return
        self._waiting.deployments(deployments)
        if deployments:
            self._tell("Cluster DNS ready")

    def _failed(self, error: Exception) -> str:
        kept = self._state.cluster(self._plan.name).logs if self._keep else _keep_logs(self._state, self._plan)
        what = "does not come back" if self._keep else "does not become ready"
        return f'cluster "{self._plan.name}" {what}: {error}\nlogs: {kept}'

    def _tell_restarts(self) -> None:
        name = self._plan.name
        for cluster in self._connection.ask(Describe()).clusters:
            for unit in cluster.units if cluster.plan.name == name else ():
                if unit.restarts:
                    self._tell(f"{unit.name} had to be started again; see: isthmus lab logs {name} {unit.name}", False)


def _keep_logs(state: StateDir, plan: ClusterPlan) -> Path:
    """Copies the logs of a cluster that is about to be taken down, so that one can see why."""
    kept = state.failed / plan.name
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(state.cluster(plan.name).logs, kept, dirs_exist_ok=True)
    return kept


def _prefixed(tell: Tell, name: str) -> Tell:
    def said(text: str, good: bool = True, /) -> None:
        tell(f"{name}: {text}", good)

    return said
