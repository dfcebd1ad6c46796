"""`isthmus agent`: enforce policy on this node; `isthmus agent cleanup` and `isthmus agent probe` beside it."""

import socket
import sys
from pathlib import Path
from typing import NoReturn

import click

from isthmus.cli import logs


def _fail(error: Exception) -> NoReturn:
    """Ends the process with the message of an error that the user can mend."""
    click.echo(f"Error: {error}", err=True)
    sys.exit(1)


@click.group(invoke_without_command=True)
@click.option("--node-name", envvar="NODE_NAME", default=socket.gethostname, show_default="host name, or $NODE_NAME")
@click.option("--cluster-name", envvar="CLUSTER_NAME", help="Name of this cluster in the ClusterSet.")
@click.option("--cluster-id", type=click.IntRange(1, 255), help="ID of this cluster; --standalone needs it.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Kubeconfig of this cluster (default as kubectl).")
@click.option("--context", help="Context of the kubeconfig.")
@click.option("--etcd-endpoint", "etcd_endpoints", multiple=True, metavar="URL", help="The tracker's etcd; repeatable.")
@click.option("--etcd-ca", type=click.Path(path_type=Path), help="CA of the tracker's etcd.")
@click.option("--etcd-cert", type=click.Path(path_type=Path), help="Client certificate for the tracker's etcd.")
@click.option("--etcd-key", type=click.Path(path_type=Path), help="Key of the client certificate.")
@click.option("--standalone", is_flag=True, help="Watch the API servers of all clusters; no tracker, no etcd.")
@click.option(
    "--clusters-file",
    type=click.Path(path_type=Path),
    help="With --standalone: YAML list of clusters (name, id, kubeconfig, context); read again when it changes.",
)
@click.option(
    "--policy-scope",
    type=click.Choice(["clusterset", "local"]),
    default="clusterset",
    show_default=True,
    help="Which clusters a peer selector sees when it names none.",
)
@click.option(
    "--live-connections",
    type=click.Choice(["cut", "keep"]),
    envvar="ISTHMUS_LIVE_CONNECTIONS",
    default="cut",
    show_default=True,
    help="What becomes of established connections that policy forbids by now.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    help="Directory of what the next agent on this node has to know: which versions of policies stay in force because "
    "later ones are invalid. Without it a restart forgets them.",
)
@click.option(
    "--kube-proxy-replacement",
    is_flag=True,
    help="Serve the cluster's Services on this node too; for nodes without a kube-proxy.",
)
@click.option(
    "--global-services",
    type=click.Choice(["nftables", "endpointslices", "off"]),
    default="nftables",
    show_default=True,
    help="Who leads to other clusters' backends of global services: agents, EndpointSlices of the tracker, or nobody.",
)
@click.option(
    "--remote-health",
    type=click.Choice(["on", "off"]),
    is_flag=False,
    flag_value="on",
    default="on",
    show_default=True,
    help="Probe the nodes that hold backends of services of several clusters, and prefer those that answer.",
)
@click.option(
    "--remote-health-port",
    type=click.IntRange(1, 65535),
    default=10250,
    show_default=True,
    help="TCP port of the nodes that is probed; a refusal is an answer too.",
)
@click.option(
    "--remote-staleness",
    default="10m",
    show_default=True,
    metavar="DURATION",
    help="After so long without news, a cluster's backends are used only if nothing else is left; 0 is never.",
)
@click.option("--metrics-bind-address", default="127.0.0.1:9080", show_default=True, metavar="HOST:PORT")
@click.option(
    "--sync-timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds to wait for other clusters before the first ruleset; ten times that where there is an earlier one.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True)
@click.pass_context
def command(
    context: click.Context,
    /,
    **options: object,
) -> None:
    """Enforce policies of every kind on this node, for peers in every cluster of the ClusterSet."""
    if context.invoked_subcommand is None:
        _run(context.params)


def _run(options: dict[str, object]) -> None:
    from isthmus.agent.options import Options, OptionsError
    from isthmus.agent.process import serve
    from isthmus.agent.writer import UnfitKernel
    from isthmus.aio.health import BindError
    from isthmus.aio.signals import run_until_signal
    from isthmus.kube.errors import ConfigError
    from isthmus.mesh.clusters import ClustersError

    log_format, log_level = options.pop("log_format"), options.pop("log_level")
    logs.configure(log_format="json" if log_format == "json" else "text", level=str(log_level))
    try:
        checked = Options.check(options)
        sys.exit(run_until_signal(lambda: serve(checked)))
    except (OptionsError, BindError, ClustersError, ConfigError, UnfitKernel) as error:
        _fail(error)
    except BaseExceptionGroup as group:
        known, rest = group.split((BindError, ConfigError, UnfitKernel))
        if rest is not None or known is None:
            raise
        _fail(known.exceptions[0] if isinstance(known.exceptions[0], Exception) else Exception(str(known)))


@command.command()
def cleanup() -> None:
    """Remove table `inet isthmus`, and with it everything that the agent enforces and serves here."""
    from isthmus.agent.writer import remove_table
    from isthmus.kernel.errors import KernelError

    try:
        remove_table()
    except KernelError as error:
        _fail(error)
    click.echo("Table inet isthmus is removed; no policy is enforced on this node now.")


@command.command()
def probe() -> None:
    """Say what this kernel has, and lacks, of what the ruleset needs."""
    from isthmus.kernel.errors import KernelError
    from isthmus.kernel.nftables import Nft
    from isthmus.kernel.probe import CONSTRUCTS, SERVICE_CONSTRUCTS, missing
    from isthmus.kernel.probe import probe as probe_kernel

    try:
        with Nft() as nft:
            findings = probe_kernel(nft, constructs=CONSTRUCTS + SERVICE_CONSTRUCTS)
    except KernelError as error:
        _fail(error)
    for finding in findings:
        click.echo(
            f"{'ok  ' if finding.well else 'FAIL'}  {finding.name}" + (f": {finding.reason}" if finding.reason else "")
        )
    if missing(findings):
        sys.exit(1)
