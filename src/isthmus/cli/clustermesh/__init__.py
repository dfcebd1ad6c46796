"""`isthmus clustermesh`: join clusters into one mesh, take them apart, and see how they are joined."""

from typing import ClassVar

import click

from isthmus.cli.lazy import LazyGroup

_MODULES = {"changing": ("connect", "disable", "disconnect", "enable"), "inspecting": ("status",)}


class _Commands(LazyGroup):
    places: ClassVar = {
        found: f"isthmus.cli.clustermesh.{module}:{found}" for module, names in _MODULES.items() for found in names
    } | {"inspect-policy-default-local-cluster": "isthmus.cli.clustermesh.policies:inspect"}


@click.group(cls=_Commands)
def command() -> None:
    """Join clusters by contexts of your kubeconfig: enable each of them, connect them, look at their status."""
