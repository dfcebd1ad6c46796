"""What all `isthmus clustermesh` commands share: which clusters are meant, and how failures are told."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

_T = TypeVar("_T")
_Command = TypeVar("_Command", bound=Callable[..., object])

_kubeconfig = click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Kubeconfig of the clusters; found as kubectl finds it by default.",
)
_context = click.option("--context", help="Context of the cluster; the current one by default.")


def of_a_cluster(command: _Command) -> _Command:
    """Gives a command the options that say which cluster it is about."""
    return _kubeconfig(_context(command))


def tell(text: str) -> None:
    """Shows a step."""
    click.echo(text, err=True)


def perform(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Runs `work` and returns what it returns; what goes wrong ends the command with its reason."""
    from isthmus.kube.errors import KubeError
    from isthmus.mesh.joining.members import JoiningError

    try:
        return asyncio.run(work())
    except (JoiningError, KubeError) as error:
        raise click.ClickException(str(error)) from None


def listed(text: str | None) -> list[str]:
    """Returns the parts of a list with commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]
