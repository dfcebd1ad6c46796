"""Creating and deleting clusters, as commands perform it under the lab's lock.

Invariants: whatever can be refused is refused before anything is started or written; clusters that were stopped, or
whose supervisor was killed, are never removed in passing: their names and subnets stay taken until they are deleted.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from isthmus.lab.control import Connection, ControlError, Delete, Describe, Halt
from isthmus.lab.launch import check_programs, connect, start_supervisor, wait_until_gone
from isthmus.lab.life.listening import listen
from isthmus.lab.life.notes import Note, complete, noted, read_note, write_note
from isthmus.lab.life.ownconfig import forget_merged, merge_user_config, write_lab_config
from isthmus.lab.life.raising import CreationError, Patience, Tell, bring_up
from isthmus.lab.plan import ClusterPlan, Mode, check_known
from isthmus.lab.statedir import StateDir
from isthmus.lab.units.credentials import write_credentials

Planner = Callable[[list[ClusterPlan]], list[ClusterPlan]]
"""Plans new clusters beside those that exist; raises PlanError."""


_KERNEL_IPV6 = Path("/proc/net/if_inet6")


class Wishes(msgspec.Struct, frozen=True):
    """How new clusters are reached from this machine, and what else they are given."""

    api_host: str = "127.0.0.1"
    api_port: int = 0
    port_origin: str = "--api-port"
    """Where the port came from, for errors."""
    merge_into: Path | None = None
    images_file: Path | None = None


def create_clusters(
    state: StateDir, planner: Planner, *, wishes: Wishes, patience: Patience, tell: Tell
) -> list[ClusterPlan]:
    """Makes clusters, several at the same time, and returns their plans; none if none were planned.

    Raises CreationError, PlanError, ControlError, LaunchError, ListenError, RootfsError, KubeconfigError.
    """
    with contextlib.ExitStack() as stack:
        connection = connect(state)
        if connection is None:
            _refuse_if_stopped(state)
            _sweep(state, tell)
        else:
            stack.enter_context(connection)
        plans = planner(_existing(state, connection))
        if not plans:
            return []
        for plan in plans:
            check_programs(programs(plan))
            if plan.pod_subnet6 and not _KERNEL_IPV6.exists():
                raise CreationError("--ip-family dual: this machine's kernel has no IPv6")
        if wishes.images_file is not None:
            _check_images(wishes.images_file)
        listeners = [
            stack.enter_context(listen(wishes.api_host, wishes.api_port, origin=wishes.port_origin)) for _plan in plans
        ]
        merged = "" if wishes.merge_into is None else str(wishes.merge_into)
        notes = [
            Note(plan=plan, api_port=listener.port, api_host=wishes.api_host, merged_into=merged)
            for plan, listener in zip(plans, listeners, strict=True)
        ]
        if connection is None:
            start_supervisor(state)
        try:
            notes = [_write_files(state, note, images_file=wishes.images_file) for note in notes]
            bring_up(state, notes, listeners=listeners, patience=patience, keep=False, tell=tell)
        except BaseException:
            # The supervisor removes what it was told of; an interrupt may come before that.
            _remove_incomplete(state, plans)
            _halt_if_empty(state)
            raise
    if wishes.merge_into is not None:
        for plan in plans:
            merge_user_config(state, plan.name, wishes.merge_into)
    write_lab_config(state, [note.plan for note in complete(noted(state))])
    return plans


def programs(plan: ClusterPlan) -> dict[str, str]:
    """Returns the programs that a cluster needs, with their Debian packages."""
    needed = {} if plan.mode is Mode.NONE else {"nft": "nftables"}
    return needed | ({"etcd": "etcd-server"} if plan.mode is Mode.TRACKER else {})


def delete_clusters(state: StateDir, names: Sequence[str] | None, *, tell: Tell) -> list[str]:
    """Takes clusters down (None: all of them) and returns their names; raises PlanError for an unknown one.

    Clusters that are stopped are removed as well. With the last one the lab ends and its directory is emptied.
    """
    connection = connect(state)
    notes = {note.plan.name: note for note in noted(state)}
    with contextlib.ExitStack() as stack:
        alive = []
        if connection is not None:
            alive = [plan.name for plan in running(stack.enter_context(connection))]
        known = list(dict.fromkeys([*alive, *notes]))
        chosen = known if names is None else list(names)
        check_known(chosen, known)
        staying = [] if connection is None else [plan for plan in running(connection) if plan.name not in chosen]
        for name in chosen:
            _say_goodbye(state, name, staying, tell)
            if name in notes:
                forget_merged([notes[name]])
                _doom(state, notes[name])
            if connection is not None and name in alive:
                connection.ask(Delete(name))
            else:
                shutil.rmtree(state.cluster(name).root, ignore_errors=True)
            tell(f'Deleted cluster "{name}"')
        if connection is not None and not alive:
            # A supervisor that never had a cluster would wait for one.
            connection.ask(Halt())
    left = [name for name in known if name not in chosen]
    if connection is not None and not set(alive) - set(chosen):
        wait_until_gone(state)
    if left:
        write_lab_config(state, [notes[name].plan for name in left if name in notes and notes[name].complete])
    else:
        state.sweep()
    return chosen


def _say_goodbye(state: StateDir, name: str, staying: Sequence[ClusterPlan], tell: Tell) -> None:
    if staying:
        from isthmus.lab.life.joining import forget_cluster

        for reason in forget_cluster(state, name, staying):
            tell(f'not told that "{name}" is gone: {reason}', False)


def running(connection: Connection) -> list[ClusterPlan]:
    """Returns the plans of the clusters that run."""
    return [cluster.plan for cluster in connection.ask(Describe()).clusters]


def _existing(state: StateDir, connection: Connection | None) -> list[ClusterPlan]:
    """Returns the plans of the clusters that run, and of those that could be brought back."""
    alive = [] if connection is None else running(connection)
    names = {plan.name for plan in alive}
    return [*alive, *(note.plan for note in complete(noted(state)) if note.plan.name not in names)]


def _refuse_if_stopped(state: StateDir) -> None:
    held = [note.plan.name for note in complete(noted(state))]
    if held:
        raise CreationError(
            f"the lab is not running, and it holds {', '.join(held)}: bring it back with `isthmus lab start`, "
            "or remove it with `isthmus lab delete --all`"
        )


def _sweep(state: StateDir, tell: Tell) -> None:
    stale = state.sweep()
    state.prepare()
    if stale:
        tell(f"Removed what an unfinished creation left: {', '.join(stale)}")


def _write_files(state: StateDir, note: Note, *, images_file: Path | None) -> Note:
    """Writes what a new cluster needs before it starts; returns its note."""
    place = state.cluster(note.plan.name)
    try:
        shutil.rmtree(place.root, ignore_errors=True)
        place.root.mkdir(mode=0o700, parents=True)
        if images_file is not None:
            # A copy, so that the cluster can come back when the original is gone.
            note = msgspec.structs.replace(
                note, plan=msgspec.structs.replace(note.plan, images_file=str(place.root / "images.yaml"))
            )
            shutil.copyfile(images_file, note.plan.images_file)
        write_credentials(state, note.plan, api_host=note.api_host, server=note.server)
        write_note(state, note)
    except OSError as error:
        shutil.rmtree(place.root, ignore_errors=True)
        where = error.filename or place.root
        raise CreationError(f"cannot write {where}: {error.strerror or error}") from error
    return note


def _doom(state: StateDir, note: Note) -> None:
    """Says in a cluster's directory that it is not to be brought back, should deleting it be cut short."""
    with contextlib.suppress(OSError):
        write_note(state, msgspec.structs.replace(note, complete=False))


def _remove_incomplete(state: StateDir, plans: Iterable[ClusterPlan]) -> None:
    for plan in plans:
        note = read_note(state, plan.name)
        if note is None or not note.complete:
            shutil.rmtree(state.cluster(plan.name).root, ignore_errors=True)


def _halt_if_empty(state: StateDir) -> None:
    """Ends a supervisor that has no cluster, and would wait for one."""
    with contextlib.suppress(ControlError, OSError):
        connection = connect(state)
        if connection is not None:
            with connection:
                if not running(connection):
                    connection.ask(Halt())


def _check_images(path: Path) -> None:
    """Refuses a file of images that nodes could not use, while there is somebody to tell."""
    from isthmus.lab.images.imagefile import ImageFileError, read

    try:
        read(path)
    except ImageFileError as error:
        raise CreationError(f"--images-file {error}") from error
