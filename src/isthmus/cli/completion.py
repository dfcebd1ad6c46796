"""`isthmus completion`: what a shell must run to complete commands, options and names of clusters and nodes."""

import click

_PROGRAM = "isthmus"
_HOW = {
    "bash": "source <(isthmus completion bash)        # in ~/.bashrc; needs bash 4.4 or newer",
    "zsh": "source <(isthmus completion zsh)         # in ~/.zshrc, after compinit",
    "fish": "isthmus completion fish | source        # in ~/.config/fish/config.fish",
}


@click.command(
    epilog="\b\nTo switch it on:\n" + "\n".join(f"    {line}" for line in _HOW.values()),
)
@click.argument("shell", type=click.Choice(sorted(_HOW)))
def command(shell: str) -> None:
    """Print the completion script for a SHELL."""
    from click.shell_completion import get_completion_class

    from isthmus.cli import main

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101
    click.echo(found(main, {}, _PROGRAM, f"_{_PROGRAM.upper()}_COMPLETE").source())
