"""`isthmus lab`: Kubernetes clusters on this machine, without root and without containers."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from isthmus.lab.statedir import STATE_VARIABLE, StateDir, StateError, default_root

F = TypeVar("F", bound=Callable[..., Any])

_KUBECTL = "kubectl is not installed; see https://kubernetes.io/docs/tasks/tools/install-kubectl-linux/"


@click.group()
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=STATE_VARIABLE,
    help="Where the lab keeps its files; one lab per directory.",
)
@click.pass_context
def command(context: click.Context, state_dir: Path | None) -> None:
    """Run Kubernetes clusters on this machine: API server, nodes and pods as processes, with real packets."""
    context.obj = StateDir(state_dir.absolute() if state_dir else default_root())


@command.command()
@click.argument("name")
@click.option("--id", "cluster_id", type=int, help="Cluster ID, 1-255; the lowest free one by default.")
@click.option("--pod-subnet", metavar="CIDR", help="Default: 10.ID.0.0/16.")
@click.option("--service-subnet", metavar="CIDR", help="Default: 172.20.ID.0/24.")
@click.option("--nodes", default=2, show_default=True, help="Number of nodes, the control plane included.")
@click.option("--api-port", type=click.IntRange(1, 65535), help="Port of the API server on 127.0.0.1; any by default.")
@click.option(
    "--policy",
    type=click.Choice(["tracker", "standalone", "none"]),
    default="tracker",
    show_default=True,
    help="Who tells the policy agents about other clusters; with none there are no agents.",
)
@click.option("--kubeconfig-merge", is_flag=True, help="Add the context to your own kubeconfig and switch to it.")
@click.pass_obj
def create(
    state: StateDir,
    name: str,
    *,
    cluster_id: int | None,
    pod_subnet: str | None,
    service_subnet: str | None,
    nodes: int,
    api_port: int | None,
    policy: str,
    kubeconfig_merge: bool,
) -> None:
    """Create the cluster NAME."""
    import shutil

    from isthmus.lab import kubeconfig
    from isthmus.lab.creation import create_cluster
    from isthmus.lab.plan import ClusterPlan, Mode, plan_cluster

    def planner(existing: list[ClusterPlan]) -> ClusterPlan:
        return plan_cluster(
            name,
            existing=existing,
            cluster_id=cluster_id,
            pod_subnet=pod_subnet,
            service_subnet=service_subnet,
            nodes=nodes,
            mode=Mode(policy),
        )

    merge_into = kubeconfig.users_own() if kubeconfig_merge else None
    click.echo(f'Creating cluster "{name}" ...', err=True)
    with _errors():
        state.prepare()
        with state.lock():
            plan = create_cluster(state, planner, api_port=api_port, merge_into=merge_into, tell=_tick)
    if merge_into is None:
        click.echo(f"Use it with:\n    export KUBECONFIG={state.kubeconfig}", err=True)
    else:
        click.echo(f'The current context is now "{plan.context}". Use it with:', err=True)
    click.echo(f"    kubectl --context {plan.context} get nodes -o wide", err=True)
    if shutil.which("kubectl") is None:
        click.echo(_KUBECTL, err=True)


@command.command()
@click.argument("names", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Delete every cluster of the lab.")
@click.pass_obj
def delete(state: StateDir, names: tuple[str, ...], *, every: bool) -> None:
    """Delete clusters, and with the last one the lab."""
    from isthmus.lab.creation import delete_clusters

    if bool(names) == every:
        raise click.UsageError("name the clusters to delete, or say --all")
    if every and not state.root.exists():
        click.echo("There is no cluster.", err=True)
        return
    with _errors():
        state.prepare()
        with state.lock():
            done = delete_clusters(state, None if every else list(dict.fromkeys(names)), tell=_tick)
    if not done:
        click.echo("There is no cluster.", err=True)


@command.command(name="list")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@click.pass_obj
def list_(state: StateDir, output: str) -> None:
    """List the clusters of the lab."""
    rows = _cluster_rows(state)
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("There is no cluster.", err=True)
        return
    _print_table(
        ("NAME", "ID", "NODES", "POD SUBNET", "SERVICE SUBNET", "POLICY", "CONTEXT", "API SERVER"),
        [
            (
                row["name"],
                str(row["id"]),
                str(len(row["nodes"])),
                row["podSubnet"],
                row["serviceSubnet"],
                row["policy"],
                row["context"],
                row["server"],
            )
            for row in rows
        ],
    )


@command.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@click.pass_obj
def status(state: StateDir, output: str) -> None:
    """Tell whether every process of the lab runs; exits with 1 if one does not."""
    rows = _process_rows(state)
    waiting = [row for row in rows if row["state"] != "running"]
    if output == "json":
        click.echo(json.dumps({"clusters": _cluster_rows(state), "processes": rows, "healthy": not waiting}, indent=2))
    elif not rows:
        click.echo("No lab is running.", err=True)
    else:
        for cluster in _cluster_rows(state):
            own = [row for row in rows if row["cluster"] == cluster["name"]]
            down = [row["name"] for row in own if row["state"] != "running"]
            text = f"{len(own)} processes run" if not down else f"not running: {', '.join(down)}"
            click.echo(f"{'✗' if down else '✓'} {cluster['name']}: {text}")
        count, memory = _whole(state)
        click.echo(f"{memory / 2**20:.0f} MiB of memory in {count} processes, pods included")
    if waiting:
        sys.exit(1)


@command.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@click.pass_obj
def ps(state: StateDir, output: str) -> None:
    """List the processes of the lab with their numbers on this machine."""
    rows = _process_rows(state)
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("No lab is running.", err=True)
        return
    _print_table(
        ("CLUSTER", "COMPONENT", "STATE", "PID", "RESTARTS", "MEMORY"),
        [
            (
                row["cluster"] or "-",
                row["name"],
                row["state"],
                str(row["pid"] or "-"),
                str(row["restarts"]),
                f"{row['memory'] / 2**20:.1f}Mi",
            )
            for row in rows
        ],
    )


@command.command()
@click.argument("name", required=False)
@click.option("--merge", is_flag=True, help="Add the contexts to your own kubeconfig instead of printing them.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead.")
@click.pass_obj
def kubeconfig(state: StateDir, name: str | None, *, merge: bool, output: Path | None) -> None:
    """Print the kubeconfig of cluster NAME, or of all clusters; contexts are called lab-NAME."""
    from isthmus.lab import kubeconfig as files
    from isthmus.lab.creation import merge_user_config, running, user_config
    from isthmus.lab.launch import connect

    if merge and output is not None:
        raise click.UsageError("--merge and --output exclude each other")
    with _errors():
        connection = connect(state)
        if connection is None:
            raise click.ClickException("no lab is running; create a cluster with `isthmus lab create NAME`")
        with connection:
            plans = running(connection)
        chosen = [plan for plan in plans if name in (None, plan.name)]
        if not chosen:
            known = f"; there are: {', '.join(plan.name for plan in plans)}" if plans else ""
            raise click.ClickException(f'no cluster "{name}"{known}')
        if merge:
            path = files.users_own()
            for plan in chosen:
                merge_user_config(state, plan.name, path)
                click.echo(f'Added context "{plan.context}" to {path}', err=True)
        elif output is not None:
            files.write(output, user_config(state, chosen))
        else:
            click.echo(files.dump(user_config(state, chosen)), nl=False)


@command.command()
@click.argument("cluster", required=False)
@click.argument("component", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as the logs grow.")
@click.option("--tail", "lines", default=50, show_default=True, type=click.IntRange(0), help="Lines of each log.")
@click.pass_obj
def logs(state: StateDir, cluster: str | None, component: str | None, *, follow: bool, lines: int) -> None:
    """Print the log of COMPONENT (apiserver, controllers, tracker, node-NAME, agent-NAME), or all of a CLUSTER's."""
    from isthmus.lab import inspection

    with _errors():
        files = inspection.log_files(state, cluster=cluster, component=component)
        several = len(files) > 1

        def show(title: str, line: str) -> None:
            click.echo(f"{title}: {line}" if several else line)

        if follow:
            for title, line in inspection.follow(files, lines=lines):
                show(title, line)
        for title, path in files.items():
            for line in inspection.tail(path, lines):
                show(title, line)


@command.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("cluster")
@click.argument("node")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def exec_(state: StateDir, cluster: str, node: str, argv: tuple[str, ...]) -> None:
    """Run a program of this machine on NODE of CLUSTER: isthmus lab exec a a-worker -- nft list table inet isthmus."""
    from isthmus.lab.inspection import run_in_node
    from isthmus.lab.launch import connect

    with _errors():
        connection = connect(state)
        if connection is None:
            raise click.ClickException("no lab is running")
        with connection:
            code = run_in_node(connection, state, cluster=cluster, node=node, argv=argv)
    sys.exit(code if code >= 0 else 128 - code)


def _cluster_rows(state: StateDir) -> list[dict[str, Any]]:
    from isthmus.lab.creation import read_note, running
    from isthmus.lab.launch import connect

    with _errors():
        connection = connect(state)
        if connection is None:
            return []
        with connection:
            plans = running(connection)
    rows = []
    for plan in plans:
        note = read_note(state, plan.name)
        rows.append(
            {
                "name": plan.name,
                "id": plan.id,
                "context": plan.context,
                "server": f"https://127.0.0.1:{note.api_port}" if note else "",
                "podSubnet": plan.pod_subnet,
                "serviceSubnet": plan.service_subnet,
                "policy": plan.mode.value,
                "nodes": [
                    {"name": node.name, "address": node.address, "podCIDR": node.pod_cidr} for node in plan.nodes
                ],
            }
        )
    return rows


def _process_rows(state: StateDir) -> list[dict[str, Any]]:
    from isthmus.lab.inspection import processes
    from isthmus.lab.launch import connect

    with _errors():
        connection = connect(state)
        if connection is None:
            return []
        with connection:
            found = processes(connection)
    return [
        {
            "cluster": row.cluster,
            "node": row.node,
            "name": row.name,
            "state": row.state,
            "pid": row.pid,
            "restarts": row.restarts,
            "memory": row.memory,
        }
        for row in found
    ]


def _whole(state: StateDir) -> tuple[int, int]:
    from isthmus.lab.inspection import whole_memory
    from isthmus.lab.launch import connect

    with _errors():
        connection = connect(state)
        if connection is None:
            return 0, 0
        with connection:
            return whole_memory(connection)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turns what the lab raises into one line for people."""
    from isthmus.lab.control import ControlError
    from isthmus.lab.creation import CreationError
    from isthmus.lab.images.rootfs import RootfsError
    from isthmus.lab.inspection import InspectionError
    from isthmus.lab.kubeconfig import KubeconfigError
    from isthmus.lab.launch import LaunchError
    from isthmus.lab.plan import PlanError

    try:
        yield
    except (
        ControlError,
        CreationError,
        InspectionError,
        KubeconfigError,
        LaunchError,
        PlanError,
        RootfsError,
        StateError,
    ) as error:
        raise click.ClickException(str(error)) from error


def _tick(text: str, good: bool = True, /) -> None:
    click.echo(f" {'✓' if good else '!'} {text}", err=True)


def _print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
