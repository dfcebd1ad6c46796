"""`isthmus service drain` and `undrain`."""

import datetime
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isthmus.cli.clustermesh.talking import perform

if TYPE_CHECKING:
    from isthmus.cli.service.draining import Line
    from isthmus.kube.meshobjects import Drain

_kubeconfig = click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Kubeconfig of the clusters; found as kubectl finds it by default.",
)
_contexts = click.option(
    "--context",
    "contexts",
    multiple=True,
    help="Context of a cluster whose clients shall be told; repeatable. By default every context of the kubeconfig "
    "whose cluster is in the mesh.",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


@click.command()
@click.argument("cluster")
@click.option("--over", help="Time from the full share to none, as 90s, 10m or 1h30m; at once by default.")
@_contexts
@_kubeconfig
@_dry_run
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def drain(
    *, cluster: str, over: str | None, contexts: tuple[str, ...], kubeconfig: Path | None, dry_run: bool, yes: bool
) -> None:
    """Let clients of all clusters leave the backends of CLUSTER, as far as others have some.

    New connections alone are meant: those that are there stay. Asking again changes nothing, but may end it sooner.
    """
    from isthmus.kube.meshobjects import Drain

    if over is not None:
        _check_duration(over)
    if not (yes or dry_run) and sys.stdin.isatty():
        how = f"over {over}" if over else "at once"
        click.confirm(f"Drain cluster {cluster} {how}, for the clients of all clusters?", abort=True, err=True)
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    _change(cluster, Drain(since, over or ""), contexts, kubeconfig, dry_run=dry_run)


@click.command()
@click.argument("cluster")
@_contexts
@_kubeconfig
@_dry_run
def undrain(*, cluster: str, contexts: tuple[str, ...], kubeconfig: Path | None, dry_run: bool) -> None:
    """Give CLUSTER its full share of new connections again."""
    _change(cluster, None, contexts, kubeconfig, dry_run=dry_run)


def _change(
    cluster: str, wanted: "Drain | None", contexts: tuple[str, ...], kubeconfig: Path | None, *, dry_run: bool
) -> None:
    from isthmus.cli.service.draining import Asked, change

    async def work() -> "tuple[list[Line], list[str]]":
        asked = Asked(cluster, wanted, dry_run)
        return await change(asked, kubeconfig=kubeconfig, contexts=contexts, now=time.time())

    lines, _ = perform(work)
    for line in lines:
        click.echo(line.text)
    if not all(line.well for line in lines):
        sys.exit(1)


def _check_duration(text: str) -> None:
    from isthmus.model.durations import seconds

    # The API knows no smaller units than milliseconds here.
    if seconds(text) is None or not re.fullmatch(r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+", text):
        raise click.BadParameter(f"{text!r} is no duration, as 90s, 10m or 1h30m", param_hint="--over")
