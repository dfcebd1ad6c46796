"""`isthmus lab create`, `up`, `delete`, `down`."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from isthmus.cli.lab.talking import changing, cluster_names, errors, tick
from isthmus.lab.statedir import StateDir

if TYPE_CHECKING:
    from isthmus.lab.plan import ClusterPlan

_KUBECTL = "kubectl is not installed; see https://kubernetes.io/docs/tasks/tools/install-kubectl-linux/"
_READY = (("koornacht", 1), ("tion", 2))
"""The clusters of `lab up` with their IDs."""

_Command = Callable[..., None]


def _choice(flag: str, *values: str, help: str) -> Callable[[_Command], _Command]:
    """Returns an option that is one of `values`, the first by default."""
    return click.option(flag, type=click.Choice(values), default=values[0], show_default=True, help=help)


_policy = _choice(
    "--policy",
    "tracker",
    "standalone",
    "none",
    help="Who tells the policy agents about other clusters; with none there are no agents.",
)
_family = click.option(
    "--ip-family", type=click.Choice(["ipv4", "dual"]), help="IPv4 alone, or both families. Default: ipv4."
)
_prefix = click.option(
    "--context-prefix", default="lab-", show_default=True, help="What contexts are called before the cluster's name."
)
_images = click.option(
    "--images-file",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="A file that adds to the table of images.",
)
_merge = click.option(
    "--kubeconfig-merge", is_flag=True, help="Add the context to your own kubeconfig and switch to it."
)
_binaries = click.option(
    "--apiserver-binaries",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="KUBEBUILDER_ASSETS",
    help="Directory of kube-apiserver and etcd, to run the lab on them. Default: $KUBEBUILDER_ASSETS.",
)
_wait = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait until nodes, agents and DNS are ready too."
)
_proxy = _choice(
    "--service-proxy",
    "isthmus",
    "none",
    help="Who serves Services: the agents, or nobody, so that you can run a kube-proxy on the nodes.",
)
_global = _choice(
    "--global-services",
    "nftables",
    "endpointslices",
    "off",
    help="How other clusters' backends come to be used: by agents, by EndpointSlices of the tracker, or not at all.",
)
_scope = _choice(
    "--policy-scope",
    "clusterset",
    "local",
    help="Which clusters a policy's peer selector sees when it names none.",
)
_live = _choice(
    "--live-connections",
    "cut",
    "keep",
    help="What a change of policy does to open connections that it no longer allows.",
)


class _New(NamedTuple):
    """What can be said of any new cluster, by the names of the options."""

    ip_family: str | None
    policy: str
    policy_scope: str
    live_connections: str
    service_proxy: str
    global_services: str
    context_prefix: str
    images_file: Path | None
    apiserver_binaries: Path | None
    wait: bool
    kubeconfig_merge: bool


def _as_new(command: _Command) -> _Command:
    """Gives a command what can be said of any new cluster, as its argument `new`."""

    @functools.wraps(command)
    def gathered(*arguments: object, **given: Any) -> None:
        new = _New(**{name: given.pop(name) for name in _New._fields})
        command(*arguments, new=new, **given)

    found: _Command = gathered
    for option in (_merge, _wait, _binaries, _images, _prefix, _global, _proxy, _live, _scope, _policy, _family):
        found = option(found)
    return found


@click.command()
@click.argument("argument", metavar="[NAME]", required=False)
@click.option("--name", help="The cluster's name, as with kind; the same as NAME.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="A file of kind (kind.x-k8s.io/v1alpha4); - is standard input.",
)
@click.option("--id", "cluster_id", type=int, help="Cluster ID, 1-255; the lowest free one by default.")
@click.option("--pod-subnet", metavar="CIDR[,CIDR]", help="Default: 10.ID.0.0/16, and fd00:10:ID::/56 with dual.")
@click.option(
    "--service-subnet", metavar="CIDR[,CIDR]", help="Default: 172.20.ID.0/24, and fd00:172:20:ID::/112 with dual."
)
@click.option("--nodes", type=int, help="Number of nodes, the control plane included. Default: 2.")
@click.option("--api-port", type=click.IntRange(1, 65535), help="Port of the API server on 127.0.0.1; any by default.")
@click.option(
    "--connect/--no-connect",
    default=True,
    show_default=True,
    help="Join it with the other clusters; without, do it yourself: isthmus clustermesh enable, connect.",
)
@_as_new
@click.pass_obj
def create(
    state: StateDir,
    argument: str | None,
    *,
    name: str | None,
    config: Path | None,
    cluster_id: int | None,
    pod_subnet: str | None,
    service_subnet: str | None,
    nodes: int | None,
    api_port: int | None,
    connect: bool,
    new: _New,
) -> None:
    """Create the cluster NAME, from flags or from a file of kind. Flags win over the file."""
    from isthmus.lab import kubeconfig
    from isthmus.lab.kindconfig.cluster import KindCluster, read_cluster
    from isthmus.lab.life.creating import Wishes, create_clusters
    from isthmus.lab.life.raising import Patience
    from isthmus.lab.plan import FLAGS, Mode, plan_cluster

    if argument and name and argument != name:
        raise click.UsageError(f'two names: "{argument}" and --name "{name}"')
    with errors():
        kind = KindCluster() if config is None else read_cluster(config)
        for notice in kind.notices:
            tick(f"{'standard input' if str(config) == '-' else config}: {notice}", False)
        chosen = name or argument or kind.name
        if not chosen:
            raise click.UsageError("name the cluster: isthmus lab create NAME")
        own = {"pods": pod_subnet, "services": service_subnet, "nodes": nodes, "family": new.ip_family}
        origins = {**FLAGS, **{key: field for key, field in kind.origins.items() if own.get(key) is None}}
        labels = kind.labels if nodes is None else kind.labels[:nodes]

        def planner(existing: "list[ClusterPlan]") -> "list[ClusterPlan]":
            plan = plan_cluster(
                chosen,
                existing=existing,
                cluster_id=cluster_id,
                pod_subnet=pod_subnet or kind.pod_subnet,
                service_subnet=service_subnet or kind.service_subnet,
                nodes=nodes if nodes is not None else kind.nodes or 2,
                mode=Mode(new.policy),
                ip_family=new.ip_family or kind.ip_family or "ipv4",
                labels=labels,
                origins=origins,
            )
            return [_as_wished(plan, new, connect=connect)]

        wishes = Wishes(
            api_host=kind.api_address or "127.0.0.1",
            api_port=api_port or kind.api_port,
            port_origin="--api-port" if api_port or not kind.api_port else "networking.apiServerPort",
            merge_into=kubeconfig.users_own() if new.kubeconfig_merge else None,
            images_file=new.images_file,
        )
        click.echo(f'Creating cluster "{chosen}" ...', err=True)
        with changing(state):
            plans = create_clusters(state, planner, wishes=wishes, patience=Patience(all_of_it=new.wait), tell=tick)
    _say_how_to_use(state, plans, merged=new.kubeconfig_merge)


@click.command()
@click.option("--nodes", default=3, show_default=True, help="Nodes of each cluster, the control plane included.")
@_as_new
@click.pass_obj
def up(state: StateDir, *, nodes: int, new: _New) -> None:
    """Bring up a ready lab of two clusters, koornacht and tion; what is there already stays as it is."""
    from isthmus.lab import kubeconfig
    from isthmus.lab.life.creating import Wishes, create_clusters
    from isthmus.lab.life.raising import Patience
    from isthmus.lab.life.restarting import start_lab
    from isthmus.lab.plan import ClusterPlan, Mode, plan_cluster

    def planner(existing: "list[ClusterPlan]") -> "list[ClusterPlan]":
        there = {plan.name for plan in existing}
        plans: list[ClusterPlan] = []
        for name, number in _READY:
            if name in there:
                continue
            plan = plan_cluster(
                name,
                existing=[*existing, *plans],
                cluster_id=number,
                nodes=nodes,
                mode=Mode(new.policy),
                ip_family=new.ip_family or "ipv4",
            )
            plans.append(_as_wished(plan, new))
        return plans

    patience = Patience(all_of_it=new.wait)
    wishes = Wishes(merge_into=kubeconfig.users_own() if new.kubeconfig_merge else None, images_file=new.images_file)
    with changing(state):
        started, there = start_lab(state, patience=patience, tell=tick)
        for name in started:
            tick(f'Cluster "{name}" is back')
        for name in there:
            tick(f'Cluster "{name}" is there already')
        plans = create_clusters(state, planner, wishes=wishes, patience=patience, tell=tick)
    if plans:
        _say_how_to_use(state, plans, merged=new.kubeconfig_merge)


@click.command()
@click.argument("names", nargs=-1, shell_complete=cluster_names)
@click.option("--all", "every", is_flag=True, help="Delete every cluster of the lab.")
@click.pass_obj
def delete(state: StateDir, names: tuple[str, ...], *, every: bool) -> None:
    """Delete clusters, and with the last one the lab."""
    if bool(names) == every:
        raise click.UsageError("name the clusters to delete, or say --all")
    _delete(state, None if every else list(dict.fromkeys(names)))


@click.command()
@click.pass_obj
def down(state: StateDir) -> None:
    """Take the whole lab away, with everything that was in it."""
    _delete(state, None)


def _delete(state: StateDir, names: list[str] | None) -> None:
    from isthmus.lab.life.creating import delete_clusters
    from isthmus.lab.plan import check_known

    done: list[str] = []
    if state.known:
        with changing(state):
            done = delete_clusters(state, names, tell=tick)
    else:
        with errors():
            check_known(names or (), ())
    if not done:
        click.echo("There is no cluster.", err=True)


def _as_wished(plan: "ClusterPlan", new: _New, *, connect: bool = True) -> "ClusterPlan":
    import msgspec

    from isthmus.lab.plan import (
        GlobalServices,
        LiveConnections,
        PolicyScope,
        ServiceProxy,
        with_policy,
        with_services,
    )

    binaries = "" if new.apiserver_binaries is None else _checked(new.apiserver_binaries)
    plan = msgspec.structs.replace(plan, context_prefix=new.context_prefix, binaries=binaries, connect=connect)
    plan = with_policy(
        plan, scope=PolicyScope(new.policy_scope), live_connections=LiveConnections(new.live_connections)
    )
    return with_services(
        plan, proxy=ServiceProxy(new.service_proxy), global_services=GlobalServices(new.global_services)
    )


def _checked(binaries: Path) -> str:
    for name in ("kube-apiserver", "etcd"):
        if not os.access(binaries / name, os.X_OK):
            raise click.ClickException(f"--apiserver-binaries {binaries}: there is no program {name} in it")
    return str(binaries.absolute())


def _say_how_to_use(state: StateDir, plans: "list[ClusterPlan]", *, merged: bool) -> None:
    import shutil

    if merged:
        click.echo(f'The current context is now "{plans[-1].context}". Use it with:', err=True)
    else:
        click.echo(f"Use it with:\n    export KUBECONFIG={state.kubeconfig}", err=True)
    for plan in plans:
        click.echo(f"    kubectl --context {plan.context} get nodes -o wide", err=True)
    if shutil.which("kubectl") is None:
        click.echo(_KUBECTL, err=True)
