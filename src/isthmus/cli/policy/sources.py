"""Where the commands of `isthmus policy` get the state of the clusters from: a kubeconfig, or manifests."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from isthmus.mesh.picture.live import Wanted
    from isthmus.policy.explaining.facts import Picture
    from isthmus.policy.explaining.scene import Scene
    from isthmus.policy.rules import Scope

_Command = Callable[..., None]
_T = TypeVar("_T")

_OPTIONS = (
    click.option(
        "--kubeconfig",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Kubeconfig of the clusters; found as kubectl finds it by default.",
    ),
    click.option(
        "--context",
        "contexts",
        multiple=True,
        help="Context of a cluster to look at; repeatable, the first is meant where none is named. By default all "
        "clusters of the mesh that the current context belongs to.",
    ),
    click.option(
        "--policy-scope",
        "scopes",
        multiple=True,
        metavar="[CLUSTER=]SCOPE",
        help="Default scope of the policies (clusterset or local), of one cluster or of all; repeatable. By default "
        "what each cluster says.",
    ),
    click.option("--partial", is_flag=True, help="Answer without the clusters that cannot be read, with a warning."),
)
_MANIFESTS = click.option(
    "--manifests",
    multiple=True,
    metavar="[CLUSTER=]DIR",
    help="Read manifests instead of clusters; repeatable. DIR has a directory for each cluster, or is one.",
)


class Sources(NamedTuple):
    """What was said of the clusters to look at, as it was written."""

    kubeconfig: Path | None
    contexts: tuple[str, ...]
    scopes: tuple[str, ...]
    partial: bool
    manifests: tuple[str, ...] = ()


def of_clusters(command: _Command) -> _Command:
    """Gives a command the options that say which clusters it looks at, live or as manifests, as `clusters`."""
    return live_only(_MANIFESTS(command))


def live_only(command: _Command) -> _Command:
    """Gives a command the options that say which live clusters it looks at, as `clusters`."""

    @functools.wraps(command)
    def told(**said: Any) -> None:
        command(clusters=Sources(**{field: said.pop(field) for field in Sources._fields if field in said}), **said)

    found: _Command = told
    for option in reversed(_OPTIONS):
        found = option(found)
    return found


def picture(clusters: Sources) -> "Picture":
    """Reads the clusters; what goes wrong ends the command with its reason, and warnings go to standard error."""
    from isthmus.mesh.picture.documents import DocumentError

    if clusters.manifests:
        if clusters.contexts or clusters.kubeconfig is not None:
            raise click.UsageError("--manifests cannot be used together with --context or --kubeconfig")
        from isthmus.mesh.picture.manifests import read_manifests

        try:
            return read_manifests(clusters.manifests, scopes=read_scopes(clusters.scopes))
        except (DocumentError, OSError) as error:
            raise click.ClickException(str(error)) from None
    from isthmus.mesh.picture.live import read_live

    asked = wanted(clusters)
    found = perform(lambda: read_live(asked))
    for warning in found.warnings:
        click.echo(f"Warning: {warning}", err=True)
    return found


def scene_of(found: "Picture") -> "Scene":
    """Returns what a picture means to policy; objects that nobody can tell what they are are warned of."""
    from isthmus.policy.explaining.scene import Scene

    scene = Scene(found)
    for bad in scene.unreadable:
        click.echo(f"Warning: {bad.ref} of {bad.cluster} is left out: {bad.reason}", err=True)
    return scene


def warn_of_kept(found: "Picture") -> None:
    """Tells of policies that some nodes have in an earlier version, which only they know."""
    for cluster in found.clusters:
        for (kind, namespace, name), nodes in cluster.kept.items():
            title = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
            of = f"{len(nodes)} of {len(cluster.nodes)} nodes of {cluster.name}"
            said = f"{title} is not valid, and an earlier version is in force on {of}"
            click.echo(f"Warning: {said}; what is shown is what the object says", err=True)


def wanted(clusters: Sources) -> "Wanted":
    """Returns which live clusters are meant."""
    from isthmus.mesh.picture.live import Wanted

    return Wanted(
        kubeconfig=clusters.kubeconfig,
        contexts=clusters.contexts,
        scopes=read_scopes(clusters.scopes),
        partial=clusters.partial,
    )


def perform(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Runs `work` and returns what it returns; clusters that cannot be read end the command with the reason."""
    from isthmus.kube.errors import KubeError
    from isthmus.mesh.picture.live import PictureError

    try:
        return asyncio.run(work())
    except (PictureError, KubeError) as error:
        raise click.ClickException(str(error)) from None


def read_scopes(texts: tuple[str, ...]) -> "dict[str, Scope]":
    """Returns scopes by cluster, "" for all."""
    from isthmus.policy.rules import Scope

    found = {}
    for text in texts:
        cluster, _, word = text.rpartition("=")
        try:
            found[cluster] = Scope(word)
        except ValueError:
            raise click.BadParameter(f"{word!r} is neither clusterset nor local", param_hint="--policy-scope") from None
    return found


def show(data: Any, output: str) -> None:
    """Writes data as JSON or YAML."""
    import msgspec

    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(data, enc_hook=str), indent=2).decode())
        return
    click.echo(as_yaml(data), nl=False)


def as_yaml(data: Any) -> str:
    """Returns data as YAML, keys in their order, lists indented as people write them."""
    import msgspec
    import yaml

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:
            return True

    plain = msgspec.to_builtins(data, enc_hook=str)
    text = yaml.dump(plain, Dumper=Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=100)
    assert isinstance(text, str)  # noqa: S101
    return text
