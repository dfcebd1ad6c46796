"""`isthmus clustermesh status`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isthmus.cli.clustermesh.talking import of_a_cluster, perform, tell

if TYPE_CHECKING:
    from isthmus.mesh.joining.status import Status


@click.command()
@of_a_cluster
@click.option("--wait", is_flag=True, help="Wait until all is well.")
@click.option("--wait-duration", default="15m", show_default=True, help="How long to wait at most, as 90s or 15m.")
@click.option("-o", "--output", type=click.Choice(["summary", "json"]), default="summary", show_default=True)
def status(*, kubeconfig: Path | None, context: str | None, wait: bool, wait_duration: str, output: str) -> None:
    """Tell how a cluster is connected to the others. Exits with 1 unless all is well."""
    import msgspec

    from isthmus.mesh.joining import telling
    from isthmus.mesh.joining.looking import look, wait_until_well
    from isthmus.mesh.joining.members import open_member

    limit = _seconds(wait_duration)

    def waiting(seconds: float, what: str) -> None:
        tell(f"⌛ Waiting ({seconds:.0f}s) {what}")

    async def work() -> "Status":
        async with open_member(kubeconfig, context) as member:
            if wait:
                return await wait_until_well(member, limit=limit, on_wait=waiting)
            return await look(member)

    found = perform(work)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(telling.as_json(found)), indent=2).decode())
    else:
        click.echo(telling.summary(found), nl=False)
    if not found.well:
        if wait:
            click.echo(f"Error: timeout after {wait_duration}, still waiting {telling.waiting_for(found)}", err=True)
        sys.exit(1)


def _seconds(text: str) -> float:
    from isthmus.model.durations import seconds

    found = seconds(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration, as 90s or 15m", param_hint="--wait-duration")
    return found
