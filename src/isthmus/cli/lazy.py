"""Groups of commands whose modules are imported when they are called.

Start-up time is part of the interface (`isthmus --help`, shell completion), so nothing heavy may be imported before it
is known what was asked for. Rejected: imports inside each command's function alone, because what decorates a command
comes from those modules too.
"""

import importlib
from collections.abc import Mapping
from typing import ClassVar

import click


class LazyGroup(click.Group):
    """A group; `places` leads from the name of a command to `module:attribute`."""

    places: ClassVar[Mapping[str, str]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names, sorted."""
        return sorted(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command, or returns None if there is none of that name."""
        if cmd_name not in self.places:
            return None
        module, _, attribute = self.places[cmd_name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)  # noqa: S101
        return found
