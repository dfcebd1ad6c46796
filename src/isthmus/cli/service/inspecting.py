"""`isthmus service list` and `describe`."""

import json
import time
from pathlib import Path

import click

from isthmus.cli.clustermesh.talking import of_a_cluster, perform

_namespace = click.option("-n", "--namespace", help="Namespace; that of the context by default.")


@click.command(name="list")
@of_a_cluster
@_namespace
@click.option("-A", "--all-namespaces", is_flag=True, help="Those of all namespaces.")
@click.option("-o", "--output", type=click.Choice(["table", "wide", "json"]), default="table")
def list_(
    *, kubeconfig: Path | None, context: str | None, namespace: str | None, all_namespaces: bool, output: str
) -> None:
    """List the global services of a cluster: who has backends, and which clusters are used."""
    from isthmus.cli.service.describing import as_listed, head, in_order, rows
    from isthmus.cli.service.looking import Listed, list_services
    from isthmus.cli.service.tables import table
    from isthmus.mesh.joining.members import open_member

    async def work() -> tuple[str, Listed]:
        async with open_member(kubeconfig, context) as member:
            place = namespace or member.client.access.namespace
            return place, await list_services(member.client, None if all_namespaces else place)

    place, listed = perform(work)
    now, wide = time.time(), output == "wide"
    if output == "json":
        click.echo(json.dumps([as_listed(item, listed, now=now) for item in in_order(listed.services)], indent=2))
    elif listed.services:
        click.echo("\n".join(table(head(wide=wide), rows(listed, now=now, wide=wide))))
    else:
        where = "" if all_namespaces else f" in namespace {place}"
        click.echo(f"No global services found{where}.", err=True)


@click.command()
@click.argument("name")
@of_a_cluster
@_namespace
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def describe(*, name: str, kubeconfig: Path | None, context: str | None, namespace: str | None, output: str) -> None:
    """Tell what each cluster has of Service NAME, what is used in this cluster, and why.

    NAME may be that of a ServiceImport, too.
    """
    from isthmus.cli.service.describing import as_json, text
    from isthmus.cli.service.looking import Found, find
    from isthmus.mesh.joining.members import open_member

    async def work() -> Found:
        async with open_member(kubeconfig, context) as member:
            return await find(member.client, namespace or member.client.access.namespace, name)

    found = perform(work)
    now = time.time()
    if output == "json":
        click.echo(json.dumps(as_json(found, now=now), indent=2))
    else:
        click.echo(text(found, now=now), nl=False)
