"""`isthmus clustermesh enable`, `connect`, `disconnect`, `disable`."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isthmus.cli.clustermesh.talking import listed, of_a_cluster, perform, tell

if TYPE_CHECKING:
    from isthmus.mesh.joining.connecting import Outcome, Party

_MODE = click.Choice(["unicast", "bidirectional", "mesh"])
_mode = click.option(
    "--connection-mode",
    type=_MODE,
    default="bidirectional",
    show_default=True,
    help="unicast: only this cluster reads the others; mesh: they read each other too.",
)


@click.command()
@of_a_cluster
@click.option(
    "--service-type",
    type=click.Choice(["LoadBalancer", "NodePort", "ClusterIP"]),
    help="Type of the Service by which others reach the tracker's etcd; as it is by default.",
)
@click.option("--cluster-name", default="", help="Name of the cluster in the mesh: 1-32 letters, digits, dashes.")
@click.option("--cluster-id", type=int, help="ID of the cluster in the mesh, 1-255.")
@click.option("--image", default="", help="Image of tracker and agents; as it is, or that of this version by default.")
@click.option(
    "--policy-scope",
    type=click.Choice(["clusterset", "local"]),
    help="Which clusters a policy's peer selector sees when it names none; as it is, or clusterset by default.",
)
def enable(
    *,
    kubeconfig: Path | None,
    context: str | None,
    service_type: str | None,
    cluster_name: str,
    cluster_id: int | None,
    image: str,
    policy_scope: str | None,
) -> None:
    """Make a cluster ready for the mesh: definitions, accounts, certificates, tracker and agents."""
    from isthmus.mesh.joining.enabling import Wishes
    from isthmus.mesh.joining.enabling import enable as enable_member
    from isthmus.mesh.joining.members import open_member
    from isthmus.policy.rules import Scope

    wishes = Wishes(
        service_type=service_type or "",
        cluster_name=cluster_name,
        cluster_id=cluster_id,
        image=image.strip(),
        scope=Scope(policy_scope) if policy_scope else None,
    )

    async def work() -> None:
        async with open_member(kubeconfig, context) as member:
            await enable_member(member, wishes, tell=tell)

    perform(work)


@click.command()
@of_a_cluster
@click.option("--force", is_flag=True, help="Also while clusters are connected.")
def disable(*, kubeconfig: Path | None, context: str | None, force: bool) -> None:
    """Take away what `enable` made."""
    from isthmus.mesh.joining.enabling import disable as disable_member
    from isthmus.mesh.joining.members import open_member

    async def work() -> None:
        async with open_member(kubeconfig, context) as member:
            await disable_member(member, force=force, tell=tell)

    perform(work)


@click.command()
@of_a_cluster
@click.option(
    "--destination-context", required=True, metavar="CONTEXT[,CONTEXT]", help="Contexts of the clusters to connect to."
)
@_mode
@click.option("--source-endpoint", metavar="URL", help="API server of this cluster as the others' trackers reach it.")
@click.option(
    "--destination-endpoint",
    metavar="URL[,URL]",
    help="API server of each other cluster as this one's tracker reaches it. By default what the kubeconfig says, or "
    "what the cluster itself says where that is an address of this machine.",
)
@click.option("--parallel", type=click.IntRange(1, 64), default=1, show_default=True, help="Clusters at a time.")
def connect(
    *,
    kubeconfig: Path | None,
    context: str | None,
    destination_context: str,
    connection_mode: str,
    source_endpoint: str | None,
    destination_endpoint: str | None,
    parallel: int,
) -> None:
    """Let clusters read each other: an account in one, and a token of it in the other."""
    from isthmus.mesh.joining.connecting import connect as connect_members

    contexts = _destinations(destination_context)
    endpoints = listed(destination_endpoint) or [""] * len(contexts)
    if len(endpoints) != len(contexts):
        raise click.UsageError("--destination-endpoint: say one for each --destination-context, in the same order")

    async def work() -> "Outcome":
        async with contextlib.AsyncExitStack() as stack:
            source, *others = await _parties(
                stack, kubeconfig, [context, *contexts], [source_endpoint or "", *endpoints]
            )
            return await connect_members(source, others, mode=connection_mode, parallel=parallel, tell=tell)

    outcome = perform(work)
    source, *names = outcome.names
    if connection_mode == "mesh":
        click.echo(f"✅ Connected clusters {_sentence([*names, source])}!")
        return
    for name in names:
        click.echo(f"✅ Connected cluster {source} {'=>' if connection_mode == 'unicast' else '<=>'} {name}!")


@click.command()
@of_a_cluster
@click.option(
    "--destination-context",
    metavar="CONTEXT[,CONTEXT]",
    help="Contexts of the clusters to disconnect from.",
)
@click.option(
    "--destination-cluster",
    metavar="NAME[,NAME]",
    help="Names of clusters that are no more, or that nobody reaches: only this side is taken away.",
)
@_mode
def disconnect(
    *,
    kubeconfig: Path | None,
    context: str | None,
    destination_context: str | None,
    destination_cluster: str | None,
    connection_mode: str,
) -> None:
    """Take a connection away, with the accounts that were made for it."""
    from isthmus.mesh.joining.connecting import disconnect as disconnect_members
    from isthmus.mesh.joining.connecting import forget

    gone = listed(destination_cluster)
    contexts = _destinations(destination_context) if destination_context is not None or not gone else []

    async def work() -> "Outcome":
        async with contextlib.AsyncExitStack() as stack:
            source, *others = await _parties(stack, kubeconfig, [context, *contexts], [""] * (1 + len(contexts)))
            outcome = await disconnect_members(source, others, mode=connection_mode, tell=tell)
            for name in gone:
                await forget(source.member, name, tell=tell)
            return outcome

    outcome = perform(work)
    source, *names = outcome.names
    if connection_mode == "mesh" and names:
        click.echo(f"✅ Disconnected clusters {_sentence([*names, source])}!")
    for name in names if connection_mode != "mesh" else ():
        click.echo(f"✅ Disconnected clusters {source} {'x>' if connection_mode == 'unicast' else '<x>'} {name}!")
    for name in gone:
        click.echo(f"✅ Disconnected clusters {source} x> {name}!")


def _destinations(text: str | None) -> list[str]:
    contexts = listed(text)
    if not contexts:
        raise click.UsageError("--destination-context: name at least one context")
    if len(set(contexts)) != len(contexts):
        raise click.UsageError("--destination-context: a context is there twice")
    return contexts


async def _parties(
    stack: contextlib.AsyncExitStack, kubeconfig: Path | None, contexts: list[str | None], endpoints: list[str]
) -> "list[Party]":
    from isthmus.mesh.joining.connecting import Party, endpoint_url
    from isthmus.mesh.joining.members import open_member

    parties = []
    for context, endpoint in zip(contexts, endpoints, strict=True):
        url = endpoint_url(endpoint) if endpoint else ""
        parties.append(Party(await stack.enter_async_context(open_member(kubeconfig, context)), url))
    return parties


def _sentence(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])}{',' if len(names) > 2 else ''} and {names[-1]}"
