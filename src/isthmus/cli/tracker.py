"""`isthmus tracker`: read clusters, publish what agents need to know of them."""

import sys
from pathlib import Path

import click

from isthmus.cli import logs

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--cluster-name", envvar="CLUSTER_NAME", required=True, help="Name of the own cluster in the ClusterSet.")
@click.option("--cluster-id", envvar="CLUSTER_ID", type=int, required=True, help="ID of the own cluster, 1-255.")
@click.option("--kubeconfig", type=_PATH, help="Kubeconfig of the own cluster (default as kubectl, or in-cluster).")
@click.option("--context", help="Context of that kubeconfig.")
@click.option(
    "--cluster",
    "clusters",
    multiple=True,
    metavar="name=NAME,id=ID[,kubeconfig=FILE][,context=NAME]",
    help="Another cluster; repeatable.",
)
@click.option(
    "--clusters-file",
    type=_PATH,
    help="YAML list of clusters (name, id, kubeconfig, context); read again when it changes.",
)
@click.option("--data-dir", type=_PATH, help="Directory of the etcd that the tracker runs; kept between restarts.")
@click.option(
    "--etcd-listen",
    metavar="URL",
    default="http://127.0.0.1:2379",
    show_default=True,
    help="Where that etcd listens for agents and other trackers; https:// for all but this machine.",
)
@click.option(
    "--etcd-endpoints", multiple=True, metavar="URL[,URL]", help="Use this etcd instead of running one; repeatable."
)
@click.option("--etcd-ca", type=_PATH, help="CA of etcd and of its clients.")
@click.option("--etcd-cert", type=_PATH, help="Certificate of our etcd; with --etcd-endpoints our client certificate.")
@click.option("--etcd-key", type=_PATH, help="Key of that certificate.")
@click.option(
    "--etcd-user",
    "etcd_users",
    multiple=True,
    metavar="NAME=local|remote",
    help="A client certificate's common name that may read our etcd, as an agent or as a peer; repeatable. "
    "Always known: local, local-CLUSTER, remote, isthmus-agent:CLUSTER.",
)
@click.option(
    "--global-services",
    type=click.Choice(["nftables", "endpointslices", "off"]),
    default="nftables",
    show_default=True,
    help="How other clusters' backends come to be used here: by the agents (headless Services get EndpointSlices), by "
    "EndpointSlices for a kube-proxy, or not at all.",
)
@click.option(
    "--remote-staleness",
    default="10m",
    show_default=True,
    metavar="DURATION",
    help="After so long without news, a cluster's backends are used only if nothing else is left; 0 is never. The same "
    "as the agents'.",
)
@click.option("--metrics-bind-address", default="127.0.0.1:9090", show_default=True, metavar="HOST:PORT")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True)
def command(*, log_format: str, log_level: str, **options: object) -> None:
    """Publish pods, identities and nodes of every cluster of the ClusterSet to etcd.

    The keys are those of Cilium Cluster Mesh. A cluster that cannot be reached keeps its last state; one that is taken
    off the list is removed.
    """
    from isthmus.aio.health import BindError
    from isthmus.aio.signals import run_until_signal
    from isthmus.mesh.clusters import ClustersError
    from isthmus.mesh.tracker import serve
    from isthmus.mesh.tracker_options import OptionsError, TrackerOptions
    from isthmus.store.child import ChildError
    from isthmus.store.errors import StoreError

    logs.configure(log_format="json" if log_format == "json" else "text", level=log_level)
    try:
        checked = TrackerOptions.check(options)
        sys.exit(run_until_signal(lambda: serve(checked)))
    except (OptionsError, ClustersError, ChildError, StoreError, BindError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
