"""`isthmus service`: what became of global services, and drains of clusters."""

from typing import ClassVar

import click

from isthmus.cli.lazy import LazyGroup

_MODULES = {"changing": ("drain", "undrain"), "inspecting": ("describe", "list")}


class _Commands(LazyGroup):
    places: ClassVar = {
        found: f"isthmus.cli.service.{module}:{found if found != 'list' else 'list_'}"
        for module, names in _MODULES.items()
        for found in names
    }


@click.group(cls=_Commands)
def command() -> None:
    """Look at global services, and take the load off a cluster."""
