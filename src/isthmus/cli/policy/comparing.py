"""`isthmus policy what-if` and `matrix`."""

from typing import TYPE_CHECKING

import click

from isthmus.cli.policy.sources import Sources, of_clusters, picture, scene_of, show, warn_of_kept

if TYPE_CHECKING:
    from isthmus.policy.context import Parsed
    from isthmus.policy.explaining.facts import Change, Picture
    from isthmus.policy.explaining.scene import Scene

_output = click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True
)


@click.command()
@click.option("-f", "--filename", "files", multiple=True, required=True, help="Policies; - is standard input.")
@click.option("--cluster", "targets", multiple=True, help="Cluster that gets them; repeatable. By default the current.")
@click.option("--delete", is_flag=True, help="The policies would be deleted.")
@click.option("-n", "--namespace", help="Namespace of objects that name none; that of the context by default.")
@of_clusters
@_output
def what_if(
    *,
    files: tuple[str, ...],
    targets: tuple[str, ...],
    delete: bool,
    namespace: str | None,
    clusters: Sources,
    output: str,
) -> None:
    """Tell what applying (or deleting) policies would change: who could talk that cannot now, and who no longer could.

    Pods that no policy tells apart are one line. Nothing is applied.
    """
    from isthmus.cli.policy import pairs
    from isthmus.cli.policy.files import policies_of
    from isthmus.policy.explaining.effects import effects
    from isthmus.policy.explaining.facts import Change, changed, place, places
    from isthmus.policy.explaining.groups import Grouping
    from isthmus.policy.explaining.scene import Scene

    found = picture(clusters)
    objects = policies_of(files, namespace=namespace or found.namespace)
    changes = []
    for name in _clusters(found, targets):
        seen = found.cluster(name)
        there = places(seen) if seen is not None else set()
        for obj in objects:
            if delete and place(obj) not in there:
                lost = Change(cluster=name, object=obj)
                click.echo(f"Warning: {_title(lost)} is not in {name}", err=True)
                continue
            changes.append(Change(cluster=name, object=obj, delete=delete))
    warn_of_kept(found)
    before = scene_of(found)
    after = Scene(changed(found, *changes), reuse=before)
    problems = [] if delete else _problems(after, changes)
    kept = [] if delete else [change for change in changes if _valid(before, change) and _valid(after, change) is False]
    if kept:  # nodes go on with the version before
        after = Scene(changed(found, *(change for change in changes if change not in kept)), reuse=before)
        problems += [f"Kept: {_title(change)} in {change.cluster} stays as it is in force now" for change in kept]
    result = effects(before, after)
    if output == "table":
        for line in problems:
            click.echo(line)
        grouping = Grouping(before, after)
        everyone = grouping.pods((cluster.name, pod) for cluster in found.clusters for pod in cluster.pods)
        click.echo(pairs.effects_text(result, [*everyone, *grouping.nodes(), *grouping.outside()]), nl=False)
    else:
        show({"problems": problems, "changes": pairs.effects_data(result)}, output)


def _parsed(scene: "Scene", change: "Change") -> "list[Parsed]":
    from isthmus.policy.explaining.facts import place

    where = place(change.object)
    found = scene.parsed[change.cluster]
    return [parsed for parsed in found if (parsed.ref.kind, parsed.ref.namespace, parsed.ref.name) == where]


def _valid(scene: "Scene", change: "Change") -> bool | None:
    """Tells whether the object is valid in `scene`; None where it is not in it."""
    found = _parsed(scene, change)
    return all(parsed.valid for parsed in found) if found else None


def _title(change: "Change") -> str:
    from isthmus.policy.explaining.facts import place
    from isthmus.policy.rules import ObjectRef

    return str(ObjectRef(*place(change.object)))


def _problems(after: "Scene", changes: "list[Change]") -> list[str]:
    lines = []
    for change in changes:
        for parsed in _parsed(after, change):
            lines += [f"{p.grade.value}: {parsed.ref} in {change.cluster}: {p}" for p in parsed.problems]
    lines += [f"Invalid: {bad.ref} in {bad.cluster}: {bad.reason}" for bad in after.unreadable]
    return lines


def _clusters(found: "Picture", targets: tuple[str, ...]) -> list[str]:
    names = [cluster.name for cluster in found.clusters]
    for target in targets:
        if target not in names:
            raise click.BadParameter(
                f"there is no cluster {target!r} (known: {', '.join(names)})", param_hint="--cluster"
            )
    if targets:
        return list(dict.fromkeys(targets))
    if not found.current:
        raise click.UsageError(f"--cluster: say which cluster gets the policies (known: {', '.join(names)})")
    return [found.current]


@click.command()
@click.option("-n", "--namespace", "namespaces", multiple=True, help="Only pods of this namespace; repeatable.")
@click.option("--port", metavar="NUMBER[/PROTOCOL]", help="Only this port, as 80/TCP; every port by default.")
@click.option("--icmp", is_flag=False, flag_value="8", metavar="[TYPE]", help="Only ICMP messages of a type.")
@click.option("--outside/--no-outside", default=True, help="Whether addresses outside are shown.")
@click.option("--nodes", is_flag=True, help="Show nodes too, and with them pods of their networks.")
@of_clusters
@_output
def matrix(
    *,
    namespaces: tuple[str, ...],
    port: str | None,
    icmp: str | None,
    outside: bool,
    nodes: bool,
    clusters: Sources,
    output: str,
) -> None:
    """Tell who may talk to whom, within and across clusters.

    Pods that no policy tells apart are one line, and so are nodes, with --nodes. They are shown as pods of other nodes
    meet them; for a pod and its own node, ask explain.
    """
    from isthmus.cli.policy import pairs
    from isthmus.cli.policy.explaining import read_port
    from isthmus.policy.explaining.matrix import matrix as judge

    wanted = read_port(port, icmp)
    found = picture(clusters)
    warn_of_kept(found)
    result = judge(scene_of(found), namespaces=frozenset(namespaces), outside=outside, nodes=nodes, port=wanted)
    if output == "table":
        click.echo(pairs.matrix_text(result, wanted), nl=False)
    else:
        show(pairs.matrix_data(result, wanted), output)
