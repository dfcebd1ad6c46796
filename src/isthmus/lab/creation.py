"""Creating and deleting clusters: the steps, in order, as a command performs them under the lab's lock.

Invariants: a step that fails undoes what came before it (the supervisor does, because the connection ends before the
commit); a lab that was killed is swept before anything new is made; people are told of each step when it is done.
"""

import shutil
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from isthmus.lab import kubeconfig
from isthmus.lab.components import api_unit, other_units, write_credentials
from isthmus.lab.control import Commit, Connection, Create, Delete, Describe, Start
from isthmus.lab.images.rootfs import Rootfs
from isthmus.lab.launch import check_programs, connect, start_supervisor, wait_until_gone
from isthmus.lab.pki import write_private
from isthmus.lab.plan import ClusterPlan, Mode, PlanError
from isthmus.lab.policing import wait_enforcing
from isthmus.lab.probe import ApiProbe, NotReadyError
from isthmus.lab.statedir import StateDir

READY_LIMIT = 90.0
"""Seconds until API server, nodes and agents must be ready."""


class Tell(Protocol):
    """Tells people of a step that is done, or (False) of something they should know."""

    def __call__(self, text: str, good: bool = True, /) -> None:
        """Writes one line."""


Planner = Callable[[list[ClusterPlan]], ClusterPlan]


class CreationError(Exception):
    """The cluster could not be made; the message says why and where to look."""


class Note(msgspec.Struct, frozen=True):
    """What a cluster's directory says beside its plan."""

    plan: ClusterPlan
    api_port: int
    merged_into: str = ""


def create_cluster(
    state: StateDir, planner: Planner, *, api_port: int | None, merge_into: Path | None, tell: Tell
) -> ClusterPlan:
    """Makes a cluster and returns its plan.

    Raises CreationError, PlanError, ControlError, LaunchError, RootfsError, KubeconfigError.
    """
    connection = connect(state)
    if connection is None:
        stale = state.sweep()
        state.prepare()
        if stale:
            tell(f"Removed what an earlier lab left: {', '.join(stale)}")
        # Refused before anything is started; what the planner says now holds, because we have the lock.
        plan = planner([])
        listener = _listen(api_port)
        start_supervisor(state)
        connection = Connection(state.socket)
    else:
        plan = planner(running(connection))
        listener = _listen(api_port)
    with connection, listener:
        check_programs(_programs(plan.mode))
        port = listener.getsockname()[1]
        shutil.rmtree(state.cluster(plan.name).root, ignore_errors=True)
        Rootfs(state.images).prepare()
        write_credentials(state, plan, api_port=port)
        merged = "" if merge_into is None else str(merge_into)
        _write_note(state, Note(plan=plan, api_port=port, merged_into=merged))
        connection.ask(Create(plan))
        tell(f"Network: {len(plan.nodes)} node(s) on the segment, pods in {plan.pod_subnet}")
        connection.ask(Start(plan.name, (api_unit(state, plan),)), descriptors=[listener.fileno()])
        _await_cluster(state, plan, connection, tell=tell)
        if merge_into is not None:
            merge_user_config(state, plan.name, merge_into)
        connection.ask(Commit(plan.name))
        clusters = connection.ask(Describe()).clusters
        write_lab_config(state, [cluster.plan for cluster in clusters])
        for unit in (unit for cluster in clusters if cluster.plan == plan for unit in cluster.units):
            if unit.restarts:
                tell(f"{unit.name} had to be started again; see: isthmus lab logs {plan.name} {unit.name}", False)
    return plan


def _programs(mode: Mode) -> dict[str, str]:
    """Returns the programs that a mode needs, with their Debian packages."""
    needed = {} if mode is Mode.NONE else {"nft": "nftables"}
    return needed | ({"etcd": "etcd-server"} if mode is Mode.TRACKER else {})


def _await_cluster(state: StateDir, plan: ClusterPlan, connection: Connection, *, tell: Tell) -> None:
    deadline = time.monotonic() + READY_LIMIT
    probe = ApiProbe(kubeconfig.load(state.cluster(plan.name).kubeconfig("admin")))
    try:
        probe.wait_ready(deadline=deadline)
        tell("API server ready")
        connection.ask(Start(plan.name, other_units(state, plan)))
        probe.wait_nodes([node.name for node in plan.nodes], deadline=deadline)
        probe.wait_account(deadline=deadline)
        tell("Nodes ready")
        wait_enforcing(state, plan, connection, deadline=deadline)
        if plan.mode is not Mode.NONE:
            tell("Policies are enforced on every node")
    except NotReadyError as error:
        kept = _keep_logs(state, plan)
        raise CreationError(f'cluster "{plan.name}" does not become ready: {error}\nlogs: {kept}') from error


def _keep_logs(state: StateDir, plan: ClusterPlan) -> Path:
    """Copies the logs of a cluster that is about to be taken down, so that one can see why."""
    kept = state.failed / plan.name
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(state.cluster(plan.name).logs, kept, dirs_exist_ok=True)
    return kept


def delete_clusters(state: StateDir, names: Iterable[str] | None, *, tell: Tell) -> list[str]:
    """Takes clusters down (None: all of them) and returns their names; raises PlanError for an unknown one.

    With the last one the lab ends and its directory is emptied.
    """
    connection = connect(state)
    if connection is None:
        stale = _noted(state)
        _forget_merged(stale)
        state.sweep()
        found = [note.plan.name for note in stale]
        _check_known(names, found)
        return found if names is None else list(names)
    with connection:
        running_now = [plan.name for plan in running(connection)]
        chosen = running_now if names is None else list(names)
        _check_known(chosen, running_now)
        for name in chosen:
            _forget_merged([note for note in _noted(state) if note.plan.name == name])
            connection.ask(Delete(name))
            tell(f'Deleted cluster "{name}"')
        left = [cluster.plan for cluster in connection.ask(Describe()).clusters]
    if left:
        write_lab_config(state, left)
    else:
        wait_until_gone(state)
        state.sweep()
    return chosen


def running(connection: Connection) -> list[ClusterPlan]:
    """Returns the plans of the clusters that run."""
    return [cluster.plan for cluster in connection.ask(Describe()).clusters]


def read_note(state: StateDir, name: str) -> Note | None:
    """Returns what a cluster's directory says; None if it says nothing that can be understood."""
    try:
        return msgspec.json.decode(state.cluster(name).plan.read_bytes(), type=Note)
    except (OSError, msgspec.DecodeError):
        return None


def user_config(state: StateDir, plans: Iterable[ClusterPlan]) -> kubeconfig.Config:
    """Returns one kubeconfig with the contexts of these clusters; raises KubeconfigError."""
    config = kubeconfig.empty()
    for plan in plans:
        config = kubeconfig.merge(config, kubeconfig.load(state.cluster(plan.name).kubeconfig("admin")))
    return config


def merge_user_config(state: StateDir, name: str, path: Path) -> None:
    """Puts a cluster's context into somebody's kubeconfig and makes it the current one; raises KubeconfigError."""
    ours = kubeconfig.load(state.cluster(name).kubeconfig("admin"))
    kubeconfig.write(path, kubeconfig.merge(kubeconfig.load(path), ours, switch=True))
    note = read_note(state, name)
    if note is not None and note.merged_into != str(path):
        _write_note(state, msgspec.structs.replace(note, merged_into=str(path)))


def write_lab_config(state: StateDir, plans: Iterable[ClusterPlan]) -> None:
    """Writes the kubeconfig of the whole lab beside its state; raises KubeconfigError."""
    kubeconfig.write(state.kubeconfig, user_config(state, plans))


def _forget_merged(notes: Iterable[Note]) -> None:
    for note in notes:
        path = Path(note.merged_into)
        if note.merged_into and path.exists():
            try:
                kubeconfig.write(path, kubeconfig.without(kubeconfig.load(path), [note.plan.context]))
            except kubeconfig.KubeconfigError:
                continue  # somebody else's file, changed beyond our understanding: leave it


def _noted(state: StateDir) -> list[Note]:
    if not state.clusters.is_dir():
        return []
    notes = (read_note(state, path.name) for path in sorted(state.clusters.iterdir()))
    return [note for note in notes if note is not None]


def _check_known(names: Iterable[str] | None, known: list[str]) -> None:
    for name in names or ():
        if name not in known:
            listed = f"; there are: {', '.join(known)}" if known else ""
            raise PlanError(f'no cluster "{name}"{listed}')


def _write_note(state: StateDir, note: Note) -> None:
    write_private(state.cluster(note.plan.name).plan, msgspec.json.encode(note))


def _listen(port: int | None) -> socket.socket:
    """Returns a listening socket on this machine's loopback; it stays there wherever it is passed to."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port or 0))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise CreationError(f"--api-port {port}: cannot listen on 127.0.0.1:{port}: {error.strerror}") from error
    return listener
