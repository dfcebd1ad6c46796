"""`isthmus policy`: why a connection is allowed or not, what a change would do, what is valid and enforced."""

from typing import ClassVar

import click

from isthmus.cli.lazy import LazyGroup

_MODULES = {
    "explaining": {"explain": "explain"},
    "comparing": {"what-if": "what_if", "matrix": "matrix"},
    "checking": {"validate": "validate"},
    "standing": {"status": "status"},
    "scopes": {"inspect-scope": "inspect_scope"},
}


class _Commands(LazyGroup):
    places: ClassVar = {
        name: f"isthmus.cli.policy.{module}:{function}"
        for module, names in _MODULES.items()
        for name, function in names.items()
    }


@click.group(cls=_Commands)
def command() -> None:
    """Ask what policies of all clusters mean: why, what if, who may, is it valid, is it enforced."""
