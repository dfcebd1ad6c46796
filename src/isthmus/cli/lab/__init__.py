"""`isthmus lab`: Kubernetes clusters on this machine, without root and without containers."""

from pathlib import Path
from typing import ClassVar

import click

from isthmus.cli.lazy import LazyGroup
from isthmus.lab.statedir import STATE_VARIABLE, StateDir, default_root

_MODULES = {
    "creating": ("create", "delete", "down", "up"),
    "disturbing": ("heal", "partition", "start", "stop"),
    "inspecting": ("exec_", "kubeconfig", "list_", "logs", "ps"),
    "wellbeing": ("status",),
}


class _Commands(LazyGroup):
    places: ClassVar = {
        found.rstrip("_"): f"isthmus.cli.lab.{module}:{found}" for module, names in _MODULES.items() for found in names
    }


@click.group(cls=_Commands)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=STATE_VARIABLE,
    help="Where the lab keeps its files; one lab per directory.",
)
@click.pass_context
def command(context: click.Context, state_dir: Path | None) -> None:
    """Run Kubernetes clusters on this machine: API server, nodes and pods as processes, with real packets."""
    context.obj = StateDir(state_dir.absolute() if state_dir else default_root())
