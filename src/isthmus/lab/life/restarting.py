"""Stopping and starting the whole lab: processes end, files stay, and everything comes back where it was.

Invariants: addresses, ports and credentials are those of before, because they are in the files; whether the lab was
stopped, killed or the machine was switched off makes no difference. Faults (stopped units, partitions) end with the
processes: a lab that starts is whole.
"""

import contextlib
import shutil

from isthmus.lab.control import Halt
from isthmus.lab.launch import check_programs, connect, start_supervisor, wait_until_gone
from isthmus.lab.life.creating import programs, running
from isthmus.lab.life.listening import Listener, ListenError, listen
from isthmus.lab.life.notes import Note, complete, noted
from isthmus.lab.life.raising import Patience, Tell, bring_up
from isthmus.lab.statedir import StateDir


def stop_lab(state: StateDir) -> list[str] | None:
    """Ends every process of the lab; returns the clusters that were stopped, None if nothing ran.

    Raises ControlError, LaunchError.
    """
    connection = connect(state)
    if connection is None:
        return None
    with connection:
        names = [plan.name for plan in running(connection)]
        connection.ask(Halt())
    wait_until_gone(state)
    return names


def start_lab(state: StateDir, *, patience: Patience, tell: Tell) -> tuple[list[str], list[str]]:
    """Brings back every cluster that does not run; returns the names of these, and of those that ran already.

    Raises CreationError, ControlError, LaunchError, ListenError, RootfsError.
    """
    with contextlib.ExitStack() as stack:
        connection = connect(state)
        alive = [] if connection is None else [plan.name for plan in running(stack.enter_context(connection))]
        notes = [note for note in complete(noted(state)) if note.plan.name not in alive]
        if not notes:
            return [], alive
        if connection is None:
            _sweep_incomplete(state, notes, tell)
        state.prepare()
        for note in notes:
            check_programs(programs(note.plan))
        listeners = [stack.enter_context(_listen_again(note)) for note in notes]
        if connection is None:
            start_supervisor(state)
        bring_up(state, notes, listeners=listeners, patience=patience, keep=True, tell=tell)
    return [note.plan.name for note in notes], alive


def _listen_again(note: Note) -> Listener:
    try:
        return listen(note.api_host, note.api_port, origin=f'cluster "{note.plan.name}" had API server port')
    except ListenError as error:
        raise ListenError(f"{error}; free that port, because the cluster's kubeconfigs name it") from error


def _sweep_incomplete(state: StateDir, notes: list[Note], tell: Tell) -> None:
    kept = {note.plan.name for note in notes}
    for path in sorted(state.clusters.iterdir()):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
            tell(f"Removed what an unfinished creation left: {path.name}")
