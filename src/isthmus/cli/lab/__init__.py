"""`isthmus lab`: Kubernetes clusters on this machine, without root and without containers."""

import importlib
from pathlib import Path

import click

from isthmus.lab.statedir import STATE_VARIABLE, StateDir, default_root

_COMMANDS = {
    "create": "creating",
    "delete": "creating",
    "down": "creating",
    "exec": "inspecting",
    "heal": "disturbing",
    "kubeconfig": "inspecting",
    "list": "inspecting",
    "logs": "inspecting",
    "partition": "disturbing",
    "ps": "inspecting",
    "start": "disturbing",
    "status": "wellbeing",
    "stop": "disturbing",
    "up": "creating",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{_COMMANDS[cmd_name]}")
        found = module.COMMANDS[cmd_name]
        assert isinstance(found, click.Command)  # noqa: S101
        return found


@click.group(cls=_Lazy)
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
