"""The command line: one module a command, imported when it is called.

Start-up time is part of the interface (`isthmus --help`, shell completion), so nothing heavy is imported here.
"""

import importlib

import click

_COMMANDS = {
    "agent": "isthmus.cli.agent",
    "completion": "isthmus.cli.completion",
    "demo": "isthmus.cli.demo",
    "lab": "isthmus.cli.lab",
    "tracker": "isthmus.cli.tracker",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(_COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)  # noqa: S101
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="isthmus")
def main() -> None:
    """Join Kubernetes clusters into one ClusterSet at the network level."""
