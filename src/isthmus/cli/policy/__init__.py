"""`isthmus policy`: why a connection is allowed or not, what a change would do, what is valid and enforced."""

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import click

from isthmus.cli.lazy import LazyGroup

_MODULES = {
    "explaining": {"explain": "explain"},
    "comparing": {"what-if": "what_if", "matrix": "matrix"},
    "checking": {"validate": "validate"},
    "standing": {"status": "status"},
    "scopes": {"inspect-scope": "inspect_scope"},
}

NO = 2
"""Exit code of an answer that is "no": denied, invalid, not enforced everywhere. 1 is for what went wrong."""


@contextlib.contextmanager
def _wrong() -> Iterator[None]:
    """Takes what was written wrong out of the way of `NO`, which is click's code for it."""
    try:
        yield
    except click.UsageError as error:
        vars(error)["exit_code"] = 1  # click has it as a constant of the class
        raise


class _Commands(LazyGroup):
    places: ClassVar = {
        name: f"isthmus.cli.policy.{module}:{function}"
        for module, names in _MODULES.items()
        for name, function in names.items()
    }

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        """Takes the arguments apart."""
        with _wrong():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command, whose arguments are taken apart here too."""
        with _wrong():
            return super().invoke(ctx)


@click.group(cls=_Commands)
def command() -> None:
    """Ask what policies of all clusters mean: why, what if, who may, is it valid, is it enforced.

    Commands exit with 0 for an answer that is not "no", with 2 for one that is (denied, invalid, not enforced on every
    node), and with 1 if there is no answer.
    """
