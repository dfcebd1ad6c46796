"""`isthmus lab stop`, `start`, `partition`, `heal`: the whole lab, or faults in it."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from isthmus.cli.lab.talking import all_names, changing, connected, tick
from isthmus.lab.statedir import StateDir

if TYPE_CHECKING:
    from isthmus.lab.control import Connection
    from isthmus.lab.faults import Target

_READY_LIMIT = 60.0
"""Seconds until what was started must be well."""
_KIND = click.Choice(["node", "tracker", "apiserver", "controllers", "agent"])


@click.command()
@click.argument("kind", type=_KIND, required=False)
@click.argument("names", nargs=-1, shell_complete=all_names)
@click.pass_obj
def stop(state: StateDir, kind: str | None, names: tuple[str, ...]) -> None:
    """Stop the whole lab, whose clusters `lab start` brings back; or a KIND of things in it.

    NAMES are clusters, or nodes for node and agent. What is stopped stays stopped until it is started.
    """
    from isthmus.lab.life.restarting import stop_lab

    if kind is not None:
        _change(state, kind, names, starting=False)
        return
    stopped = None
    if state.known:
        with changing(state):
            stopped = stop_lab(state)
    if stopped is None:
        click.echo("No lab is running.", err=True)
        return
    for name in stopped:
        tick(f'Stopped cluster "{name}"')


@click.command()
@click.argument("kind", type=_KIND, required=False)
@click.argument("names", nargs=-1, shell_complete=all_names)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until what is started is well.")
@click.pass_obj
def start(state: StateDir, kind: str | None, names: tuple[str, ...], *, wait: bool) -> None:
    """Start a lab that was stopped or killed, with all it held; or a KIND of things that was stopped."""
    from isthmus.lab.life.raising import Patience
    from isthmus.lab.life.restarting import start_lab

    if kind is not None:
        _change(state, kind, names, starting=True, wait=wait)
        return
    started: list[str] = []
    there: list[str] = []
    if state.known:
        with changing(state):
            started, there = start_lab(state, patience=Patience(all_of_it=wait), tell=tick)
    for name in started:
        tick(f'Cluster "{name}" is back')
    for name in there:
        tick(f'Cluster "{name}" runs')
    if not started and not there:
        click.echo("There is no cluster; create one with: isthmus lab create NAME", err=True)


@click.command()
@click.argument("one", shell_complete=all_names)
@click.argument("other", shell_complete=all_names)
@click.pass_obj
def partition(state: StateDir, one: str, other: str) -> None:
    """Drop every packet between two clusters or nodes, until `lab heal`."""
    from isthmus.lab.control import Partition

    with connected(state) as connection:
        connection.ask(Partition(one, other))
    tick(f"{one} and {other} do not hear each other; undo it with: isthmus lab heal {one} {other}")


@click.command()
@click.argument("names", nargs=-1, metavar="[ONE OTHER]", shell_complete=all_names)
@click.pass_obj
def heal(state: StateDir, names: tuple[str, ...]) -> None:
    """Undo a partition, or all of them."""
    from isthmus.lab.control import Describe, Heal

    if len(names) not in (0, 2):
        raise click.UsageError("name both ends of a partition, or none to heal all")
    with connected(state) as connection:
        before = connection.ask(Describe()).partitions
        after = connection.ask(Heal(*names)).partitions
    for one, other in sorted(set(before) - set(after)):
        tick(f"{one} and {other} hear each other again")
    if before == after:
        click.echo("There was no partition." if not names else "They were not cut off from each other.", err=True)


def _change(state: StateDir, kind: str, names: Sequence[str], *, starting: bool, wait: bool = False) -> None:
    from isthmus.lab.control import Describe
    from isthmus.lab.faults import targets

    with connected(state) as connection:
        begun = datetime.now(UTC)
        clusters = connection.ask(Describe()).clusters
        changed = []
        for target in targets(clusters, kind, names):
            if target.is_stopped(clusters) != starting:
                tick(f"{target.title} {'runs' if starting else 'is stopped'} already")
                continue
            if starting:
                target.start(connection)
            else:
                target.stop(connection)
            tick(f"{'Started' if starting else 'Stopped'} {target.title}")
            changed.append(target)
        if wait:
            _await(state, connection, changed, since=begun)


def _await(state: StateDir, connection: "Connection", chosen: "Sequence[Target]", *, since: datetime) -> None:
    from isthmus.lab.control import Describe
    from isthmus.lab.life.api import admin_api
    from isthmus.lab.life.readiness import NotReadyError, Waiting

    plans = {cluster.plan.name: cluster.plan for cluster in connection.ask(Describe()).clusters}
    for target in chosen:
        api = admin_api(state.cluster(target.cluster).kubeconfig("admin"))
        deadline = time.monotonic() + _READY_LIMIT
        waiting = Waiting(state, plans[target.cluster], connection=connection, api=api, deadline=deadline, since=since)
        try:
            target.wait(waiting)
        except NotReadyError as error:
            raise click.ClickException(f"{target.title} was started and is not well: {error}") from error
