"""`isthmus demo`: create a lab of two clusters, play the demo, say what came of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

KUBECTL_HINT = """\
kubectl is not installed, and the demo uses the real one. Install it by
    the steps on https://kubernetes.io/docs/tasks/tools/install-kubectl-linux/
(any version from 1.31 on), or name one with --kubectl PATH."""


@click.command()
@click.option("--kubectl", metavar="PATH", help="The kubectl to use instead of the one on PATH.")
@click.option("--nodes", default=2, show_default=True, type=click.IntRange(1, 10), help="Nodes of each cluster.")
def command(kubectl: str | None, nodes: int) -> None:
    """Show a policy across clusters: two clusters, real kubectl, real packets. Leaves the lab up."""
    from isthmus.lab.demo import CLUSTERS, Demo, Failed, Stage, environment

    program = kubectl or shutil.which("kubectl")
    if program is None or not Path(program).exists():
        raise click.ClickException(KUBECTL_HINT)
    isthmus = [sys.executable, "-m", "isthmus"]
    there = _running(isthmus)
    for number, name in enumerate(CLUSTERS, start=1):
        if name in there:
            if there[name] == "none":
                raise click.ClickException(f"cluster {name} is there, without agents: isthmus lab delete {name}")
            click.echo(f"Cluster {name} is there already.")
            continue
        create = ["lab", "create", name, "--id", str(number), "--nodes", str(nodes)]
        create += ["--pod-subnet", f"10.{number}.0.0/16", "--service-subnet", f"172.20.{number}.0/24"]
        click.echo(f"$ isthmus {' '.join(create)}")
        if subprocess.run([*isthmus, *create], check=False).returncode:
            raise click.ClickException(f"cluster {name} could not be created; see `isthmus lab logs {name}`")
    health = subprocess.run([*isthmus, "lab", "status"], capture_output=True, text=True, check=False)
    if health.returncode:
        hint = "see `isthmus lab logs`, or start anew after `isthmus lab delete --all`"
        raise click.ClickException(f"the lab is not well; {hint}\n{health.stdout or health.stderr}".rstrip())
    kubeconfig = _kubeconfig(isthmus)

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    demo = Demo(Stage(environ=environment(kubeconfig), write=write), kubectl=kubectl or "kubectl")
    try:
        outcomes = demo.play()
    except Failed as failure:
        raise click.ClickException(f"{failure}; logs: isthmus lab logs") from None
    except subprocess.TimeoutExpired as slow:
        raise click.ClickException(f"no end after {slow.timeout:.0f} s: {slow.cmd}; logs: isthmus lab logs") from None
    _table([(o.what, o.expected, o.seen, "ok" if o.well else "DIFFERENT") for o in outcomes])
    click.echo(
        f"""
The lab is still up. To look around:
    export KUBECONFIG={kubeconfig}
    kubectl --context=lab-cluster-2 -n demo-c2 describe networkpolicy default-deny-ingress
    isthmus lab list
    isthmus lab exec cluster-2 {_node_hint(kubeconfig, program)} -- nft list table inet isthmus
    isthmus lab logs cluster-2
(`isthmus` is .venv/bin/isthmus in this checkout.) To take it down:
    isthmus lab delete --all        # or: make clean-demo"""
    )
    if not all(outcome.well for outcome in outcomes):
        sys.exit(1)


def _running(isthmus: list[str]) -> dict[str, str]:
    """Returns the clusters that run, with their policy mode."""
    import json

    done = subprocess.run([*isthmus, "lab", "list", "-o", "json"], capture_output=True, text=True, check=False)
    try:
        entries = json.loads(done.stdout or "[]")
    except ValueError:
        return {}
    return {entry["name"]: entry["policy"] for entry in entries}


def _kubeconfig(isthmus: list[str]) -> Path:
    """Writes the kubeconfig of the whole lab beside its state, and returns where."""
    done = subprocess.run([*isthmus, "lab", "kubeconfig"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr.strip() or "no kubeconfig from `isthmus lab kubeconfig`")
    from isthmus.lab.statedir import default_root

    path = default_root() / "kubeconfig"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(done.stdout)
    return path


def _node_hint(kubeconfig: Path, program: str) -> str:
    ask = ["--context=lab-cluster-2", "-n", "demo-c2", "get", "pod", "web-c2", "-o", "jsonpath={.spec.nodeName}"]
    environ = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    done = subprocess.run([program, *ask], capture_output=True, text=True, check=False, env=environ)
    return done.stdout.strip() or "NODE"


def _table(rows: list[tuple[str, str, str, str]]) -> None:
    head = ("connection to web-c2 in cluster-2 from", "expected", "seen", "")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(4)]
    click.echo()
    for row in [head, tuple("-" * width for width in widths), *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
