"""`isthmus lab status`: whether all is well."""

import sys
import time
from typing import TYPE_CHECKING

import click

from isthmus.cli.lab.talking import errors
from isthmus.lab.statedir import StateDir

if TYPE_CHECKING:
    from isthmus.lab.life.wellbeing import ClusterHealth, LabHealth

_PAUSE = 0.5
"""Seconds between two looks."""


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@click.option("--wait", is_flag=True, help="Wait until all is well.")
@click.option("--timeout", default=90.0, show_default=True, help="Seconds to wait at most.")
@click.pass_obj
def status(state: StateDir, output: str, *, wait: bool, timeout: float) -> None:
    """Tell how each cluster is: API server, nodes, agents, processes, memory. Exits with 1 unless all is well."""
    import msgspec

    from isthmus.lab.life.wellbeing import lab_health

    deadline = time.monotonic() + timeout
    with errors():
        health = lab_health(state)
        while wait and health.running and not health.healthy and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            health = lab_health(state)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(health), indent=2).decode())
    else:
        _print(health)
    if not health.healthy and (health.running or health.clusters):
        sys.exit(1)


def _print(health: "LabHealth") -> None:
    if not health.running:
        if health.clusters:
            names = ", ".join(cluster.name for cluster in health.clusters)
            click.echo(f"The lab is stopped; it holds {names}. Start it with: isthmus lab start")
        else:
            click.echo("No lab is running.", err=True)
        return
    if not health.clusters:
        click.echo("There is no cluster; create one with: isthmus lab create NAME", err=True)
    for cluster in health.clusters:
        click.echo(f"{'✓' if cluster.healthy else '✗'} {cluster.name}: {'; '.join(_words(cluster))}")
    for one, other in health.partitions:
        click.echo(f"! partition: {one} and {other} do not hear each other")
    click.echo(f"{health.memory / 2**20:.0f} MiB of memory in {health.processes} processes, pods included")


def _words(cluster: "ClusterHealth") -> list[str]:
    if cluster.state == "stopped":
        return ["stopped; start it with: isthmus lab start"]
    words = [f"API server: {cluster.api_server}" if cluster.api_server else "API server ready"]
    if not cluster.api_server:
        words.append(cluster.nodes or f"{cluster.node_count} of {cluster.node_count} nodes ready")
    if cluster.agents:
        words.append(cluster.agents)
    elif cluster.agent_count:
        words.append(f"{cluster.agent_count} of {cluster.agent_count} agents enforce")
    if cluster.service_proxy == "none":
        words.append("ClusterIPs are served by others, or by nobody")
    if cluster.global_services not in ("", "nftables"):
        words.append(f"global services: {cluster.global_services}")
    if cluster.policy_scope not in ("", "clusterset"):
        words.append(f"policy scope: {cluster.policy_scope}")
    if cluster.live_connections not in ("", "cut"):
        words.append(f"live connections: {cluster.live_connections}")
    if cluster.stopped_nodes:
        words.append(f"stopped nodes: {', '.join(cluster.stopped_nodes)}")
    if cluster.stopped_units:
        words.append(f"stopped: {', '.join(cluster.stopped_units)}")
    if cluster.waiting_units:
        words.append(f"ended and about to start again: {', '.join(cluster.waiting_units)}")
    words.append(f"{cluster.memory / 2**20:.0f} MiB")
    return words
