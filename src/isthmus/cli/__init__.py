"""The command line: one module a command, imported when it is called."""

import sys
from typing import ClassVar

import click

from isthmus.cli.lazy import LazyGroup

if "structlog" not in sys.modules:
    # structlog imports rich, and that pygments, wherever it finds them: 6 MB of each agent and tracker, which only
    # write plain lines.
    vars(sys)["modules"].setdefault("rich", None)


class _Commands(LazyGroup):
    places: ClassVar = {
        name: f"isthmus.cli.{name}:command"
        for name in ("agent", "clustermesh", "completion", "demo", "lab", "policy", "service", "tracker")
    }


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="isthmus")
def main() -> None:
    """Join Kubernetes clusters into one ClusterSet at the network level."""
