"""What the commands of the lab share when they talk to people: errors, progress, tables, names for completion."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from isthmus.lab.statedir import StateDir, StateError, default_root

if TYPE_CHECKING:
    from isthmus.lab.control import Connection


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Turns what the lab raises into one line for people."""
    from isthmus.lab.control import ControlError
    from isthmus.lab.faults import FaultError
    from isthmus.lab.images.rootfs import RootfsError
    from isthmus.lab.inspection import InspectionError
    from isthmus.lab.kindconfig.document import KindConfigError
    from isthmus.lab.kubeconfig import KubeconfigError
    from isthmus.lab.launch import LaunchError
    from isthmus.lab.life.listening import ListenError
    from isthmus.lab.life.raising import CreationError
    from isthmus.lab.plan import PlanError

    try:
        yield
    except (
        ControlError,
        CreationError,
        FaultError,
        InspectionError,
        KindConfigError,
        KubeconfigError,
        LaunchError,
        ListenError,
        PlanError,
        RootfsError,
        StateError,
    ) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from error


@contextlib.contextmanager
def changing(state: StateDir) -> Iterator[None]:
    """Holds the lab's lock, with a word to people if another command does."""
    with errors():
        state.prepare()
        with state.lock(on_wait=lambda: click.echo("Waiting for another command on this lab ...", err=True)):
            yield


@contextlib.contextmanager
def connected(state: StateDir) -> Iterator["Connection"]:
    """Yields a connection to the running lab, or says that there is none, or that it is stopped."""
    from isthmus.lab.launch import connect
    from isthmus.lab.life.notes import complete, noted

    with errors():
        connection = connect(state)
        if connection is None:
            if complete(noted(state)):
                raise click.ClickException("the lab is stopped; start it with: isthmus lab start")
            raise click.ClickException("no lab is running; create a cluster with: isthmus lab create NAME")
        with connection:
            yield connection


def tick(text: str, good: bool = True, /) -> None:
    """Tells people of a step that is done."""
    click.echo(f" {'✓' if good else '!'} {text}", err=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns, as wide as they need to be."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def cluster_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes names of clusters."""
    return [CompletionItem(name) for name in _names(context)[0] if name.startswith(incomplete)]


def node_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes names of nodes."""
    return [CompletionItem(name) for name in _names(context)[1] if name.startswith(incomplete)]


def all_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes names of clusters and nodes."""
    return [*cluster_names(context, parameter, incomplete), *node_names(context, parameter, incomplete)]


def _names(context: click.Context) -> tuple[list[str], list[str]]:
    from isthmus.lab.life.notes import noted

    # While the shell completes, no callback has run: the group's option is only among its parameters.
    outer = context.parent
    chosen = outer.params.get("state_dir") if outer is not None else None
    state = StateDir(chosen.absolute() if chosen else default_root())
    plans = [note.plan for note in noted(state)]
    return [plan.name for plan in plans], [node.name for plan in plans for node in plan.nodes]
