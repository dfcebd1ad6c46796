"""`isthmus lab list`, `ps`, `kubeconfig`, `logs`, `exec`: looking at a lab without changing it."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from isthmus.cli.lab.talking import cluster_names, connected, errors, node_names, print_table
from isthmus.lab.statedir import StateDir

_Row = dict[str, Any]
_output = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")


@click.command(name="list")
@_output
@click.pass_obj
def list_(state: StateDir, output: str) -> None:
    """List the clusters of the lab."""
    _show(
        _cluster_rows(state),
        output,
        nothing="There is no cluster.",
        head=("NAME", "STATE", "ID", "NODES", "POD SUBNET", "SERVICE SUBNET", "POLICY", "CONTEXT", "API SERVER"),
        cells=lambda row: (
            row["name"],
            row["state"],
            str(row["id"]),
            str(len(row["nodes"])),
            row["podSubnet"],
            row["serviceSubnet"],
            row["policy"],
            row["context"],
            row["server"],
        ),
    )


@click.command()
@_output
@click.pass_obj
def ps(state: StateDir, output: str) -> None:
    """List the processes of the lab with their numbers on this machine."""
    _show(
        _process_rows(state),
        output,
        nothing="No lab is running.",
        head=("CLUSTER", "COMPONENT", "STATE", "PID", "RESTARTS", "MEMORY"),
        cells=lambda row: (
            row["cluster"] or "-",
            row["name"],
            row["state"],
            str(row["pid"] or "-"),
            str(row["restarts"]),
            f"{row['memory'] / 2**20:.1f}Mi",
        ),
    )


@click.command()
@click.argument("name", required=False, shell_complete=cluster_names)
@click.option("--merge", is_flag=True, help="Add the contexts to your own kubeconfig instead of printing them.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead.")
@click.pass_obj
def kubeconfig(state: StateDir, name: str | None, *, merge: bool, output: Path | None) -> None:
    """Print the kubeconfig of cluster NAME, or of all clusters; a context is lab-NAME unless chosen otherwise."""
    from isthmus.lab import kubeconfig as files
    from isthmus.lab.life.ownconfig import merge_user_config, user_config
    from isthmus.lab.life.wellbeing import lab_view
    from isthmus.lab.plan import check_known

    if merge and output is not None:
        raise click.UsageError("--merge and --output exclude each other")
    with errors():
        plans = [view.note.plan for view in lab_view(state)]
        check_known([] if name is None else [name], [plan.name for plan in plans])
        chosen = [plan for plan in plans if name in (None, plan.name)]
        if not chosen:
            raise click.ClickException("there is no cluster; create one with `isthmus lab create NAME`")
        if merge:
            path = files.users_own()
            for plan in chosen:
                merge_user_config(state, plan.name, path)
                click.echo(f'Added context "{plan.context}" to {path}', err=True)
        elif output is not None:
            files.write(output, user_config(state, chosen))
        else:
            click.echo(files.dump(user_config(state, chosen)), nl=False)


@click.command()
@click.argument("cluster", required=False, shell_complete=cluster_names)
@click.argument("component", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as the logs grow.")
@click.option("--tail", "lines", default=50, show_default=True, type=click.IntRange(0), help="Lines of each log.")
@click.pass_obj
def logs(state: StateDir, cluster: str | None, component: str | None, *, follow: bool, lines: int) -> None:
    """Print the log of COMPONENT (apiserver, controllers, tracker, node-NAME, agent-NAME), or all of a CLUSTER's."""
    from isthmus.lab import inspection

    with errors():
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


@click.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("cluster", shell_complete=cluster_names)
@click.argument("node", shell_complete=node_names)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def exec_(state: StateDir, cluster: str, node: str, argv: tuple[str, ...]) -> None:
    """Run a program of this machine on NODE of CLUSTER: isthmus lab exec a a-worker -- nft list table inet isthmus."""
    from isthmus.lab.inspection import run_in_node

    with connected(state) as connection:
        code = run_in_node(connection, state, cluster=cluster, node=node, argv=argv)
    sys.exit(code if code >= 0 else 128 - code)


def _show(
    rows: list[_Row], output: str, *, nothing: str, head: Sequence[str], cells: Callable[[_Row], Sequence[str]]
) -> None:
    """Prints rows as JSON, or as a table, or says that there are none."""
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        print_table(head, [cells(row) for row in rows])
    else:
        click.echo(nothing, err=True)


def _cluster_rows(state: StateDir) -> list[_Row]:
    from isthmus.lab.life.wellbeing import lab_view

    with errors():
        views = lab_view(state)
    return [
        {
            "name": view.note.plan.name,
            "id": view.note.plan.id,
            "state": view.state,
            "context": view.note.plan.context,
            "server": view.note.server,
            "podSubnet": ",".join(view.note.plan.pod_subnets),
            "serviceSubnet": ",".join(view.note.plan.service_subnets),
            "policy": view.note.plan.mode.value,
            "nodes": [
                {"name": node.name, "address": node.address, "podCIDR": node.pod_cidr}
                | ({"address6": node.address6, "podCIDR6": node.pod_cidr6} if node.address6 else {})
                for node in view.note.plan.nodes
            ],
        }
        for view in views
    ]


def _process_rows(state: StateDir) -> list[_Row]:
    from isthmus.lab.inspection import processes
    from isthmus.lab.launch import connect

    with errors():
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
