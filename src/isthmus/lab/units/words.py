"""How a command line of the lab is put together."""

import importlib.util
import sys


def python(module: str) -> list[str]:
    """Returns the words that run a module, in the form that the nursery knows."""
    return [sys.executable, "-m", module]


def isthmus(command: str) -> list[str]:
    """Returns the words that run a command of ours."""
    return [*python("isthmus"), command]


def flags(values: dict[str, object]) -> list[str]:
    """Returns the flags, each as two words."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def joined_flags(values: dict[str, object]) -> list[str]:
    """Returns the flags, each as one word with an equals sign, as Go's flag packages want them."""
    return [f"--{name}={value}" for name, value in values.items()]


def installed(command: str) -> bool:
    """Tells whether a command of ours is there."""
    return importlib.util.find_spec(f"isthmus.cli.{command}") is not None
