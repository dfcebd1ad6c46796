"""`isthmus policy status`."""

import asyncio
import datetime
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from isthmus.cli.policy import NO
from isthmus.cli.policy.sources import Sources, live_only, perform, show, wanted
from isthmus.cli.policy.wrapping import wrapped

if TYPE_CHECKING:
    from isthmus.mesh.enforcement import Enforcement
    from isthmus.mesh.picture.live import Place, Wanted

SHORT_KINDS = {
    "netpol": "NetworkPolicy",
    "np": "NetworkPolicy",
    "cnp": "CiliumNetworkPolicy",
    "ciliumnp": "CiliumNetworkPolicy",
    "ccnp": "CiliumClusterwideNetworkPolicy",
    "anp": "AdminNetworkPolicy",
    "banp": "BaselineAdminNetworkPolicy",
}
"""Besides these, kinds and plurals with and without their groups, as kubectl takes and prints them."""

MOST_NODES = 5


@click.command()
@click.argument("name", required=False)
@click.option("-n", "--namespace", help="Namespace of the policies; that of the context by default.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Policies of all namespaces.")
@live_only
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
def status(
    *,
    name: str | None,
    namespace: str | None,
    all_namespaces: bool,
    clusters: Sources,
    output: str,
) -> None:
    """Tell on how many nodes policies are enforced, since when, and what is wrong with them.

    NAME is that of a policy, or KIND/NAME; policies without a namespace are always shown. Exits with 2 unless all that
    is shown is enforced on every node.
    """
    asked = wanted(clusters)
    kind, _, title = (name or "").rpartition("/")
    kind = _kind(kind)
    found, space = perform(lambda: _read(asked, namespace, all_namespaces=all_namespaces))
    chosen = [
        entry
        for entry in found
        if (not title or entry["name"] == title) and (not kind or entry["kind"].lower() == kind.lower())
    ]
    if name and not chosen:
        where = f"namespace {space}" if space else "any namespace"
        raise click.ClickException(f"no policy {name} in {where} of {', '.join(_clusters(found)) or 'these clusters'}")
    if output != "table":
        show(chosen, output)
    elif name:
        click.echo("\n\n".join("\n".join(_detail(entry)) for entry in chosen))
    else:
        click.echo("\n".join(_table(chosen, namespace=space)))
    if not all(entry["everywhere"] for entry in chosen):
        sys.exit(NO)


def _kind(word: str) -> str:
    """Returns the kind that a word stands for; one that is not known stays as it is."""
    from isthmus.kube.resources import POLICY_KINDS

    plain, _, group = word.lower().partition(".")
    if not group and plain in SHORT_KINDS:
        return SHORT_KINDS[plain]
    for resource in POLICY_KINDS:
        if plain in (resource.plural, resource.kind.lower()) and group in ("", resource.group):
            return resource.kind
    return word


def _clusters(found: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(entry["cluster"] for entry in found))


async def _read(
    asked: "Wanted", namespace: str | None, *, all_namespaces: bool
) -> tuple[list[dict[str, Any]], str | None]:
    """Returns the policies, and the namespace that they are of (None: all)."""
    from isthmus.mesh.picture.live import namespace_of, with_places

    async def work(
        asked: "Wanted", places: "list[Place]", current: str, warnings: list[str]
    ) -> tuple[list[dict[str, Any]], str | None]:
        space = None if all_namespaces else namespace or namespace_of(places, current)
        found = await asyncio.gather(*(_of_cluster(asked, place, space) for place in places))
        for warning in warnings:
            click.echo(f"Warning: {warning}", err=True)
        return [entry for entries in found for entry in entries], space

    return await with_places(asked, work)


async def _of_cluster(asked: "Wanted", place: "Place", namespace: str | None) -> list[dict[str, Any]]:
    from isthmus.kube.errors import NotFound
    from isthmus.kube.meshobjects import MeshNode
    from isthmus.kube.resources import MESH_NODES, NODES, POLICY_KINDS
    from isthmus.kube.schema import Bare
    from isthmus.mesh.enforcement import enforcement
    from isthmus.mesh.picture.live import whole

    spaces = [namespace if resource.namespaced else None for resource in POLICY_KINDS]
    listed = await asyncio.gather(
        *(whole(place.client, resource, space) for resource, space in zip(POLICY_KINDS, spaces, strict=True))
    )
    nodes = await place.client.list_all(NODES, type=Bare)
    try:
        mesh_nodes = await place.client.list_all(MESH_NODES, type=MeshNode)
    except NotFound:
        mesh_nodes = []
    objects = [obj for found in listed for obj in found]
    judged = enforcement(objects, mesh_nodes=mesh_nodes, nodes=[node.metadata.name for node in nodes], now=time.time())
    by_place = {(one.policy.kind, one.policy.namespace, one.policy.name): one for one in judged}
    entries = []
    for obj in objects:
        meta = obj["metadata"]
        one = by_place.get((obj["kind"], str(meta.get("namespace") or ""), str(meta["name"])))
        if one is not None:
            entries.append(_entry(asked, place, obj, one))
    return entries


def _entry(asked: "Wanted", place: "Place", obj: Any, one: "Enforcement") -> dict[str, Any]:
    from isthmus.mesh.picture.live import scope_of
    from isthmus.policy.context import Context
    from isthmus.policy.parsing import read

    try:
        problems = read(obj, Context(place.name, scope_of(asked, place))).problems
    except ValueError:
        problems = ()
    since, exact = one.since
    said = obj.get("status")
    told = said.get("conditions") if isinstance(said, dict) else None
    conditions = told if isinstance(told, list) else []
    entry = {
        "cluster": place.name,
        "kind": one.policy.kind,
        "namespace": one.policy.namespace,
        "name": one.policy.name,
        "generation": one.policy.generation,
        "enforced": one.enforced,
        "nodes": one.total,
        "everywhere": one.everywhere,
        "since": since,
        "sinceIsExact": exact,
        "lagging": [{"node": node.node, "state": node.standing.value, "message": node.message} for node in one.lagging],
        "conditions": [
            {key: str(entry.get(key) or "") for key in ("type", "status", "reason", "message")}
            for entry in conditions
            if isinstance(entry, dict)
        ],
        "problems": [
            {"field": problem.field, "grade": problem.grade.value, "message": problem.message}
            for problem in problems
            # What it refers to is not read here, so that it is missing is no news.
            if problem.grade.value != "Warning"
        ],
    }
    return {**entry, "state": _worst(entry)}


def _table(entries: list[dict[str, Any]], *, namespace: str | None) -> list[str]:
    from isthmus.cli.service.tables import NONE, table

    if not entries:
        if namespace is None:
            return ["There are no policies."]
        return [f"There are no policies in namespace {namespace}; -A shows those of all namespaces."]
    rows = [
        [
            entry["cluster"],
            entry["namespace"] or NONE,
            entry["kind"],
            entry["name"],
            f"{entry['enforced']}/{entry['nodes']}",
            _since(entry) or NONE,
            _worst(entry),
        ]
        for entry in entries
    ]
    return table(["CLUSTER", "NAMESPACE", "KIND", "NAME", "ENFORCED", "SINCE", "STATE"], rows)


def _worst(entry: dict[str, Any]) -> str:
    """Returns the state in a word or two."""
    grades = {problem["grade"] for problem in entry["problems"]}
    if "Invalid" in grades:
        return "Invalid"
    states = sorted({node["state"] for node in entry["lagging"]} - {"PartiallyEnforced"})
    if states:
        return ",".join(states)
    return "PartiallyEnforced" if "NotEnforced" in grades or entry["lagging"] else "Enforced"


def _detail(entry: dict[str, Any]) -> list[str]:
    sign = "✅" if entry["everywhere"] and not entry["problems"] else "⚠️ " if entry["enforced"] else "❌"
    name = f"{entry['namespace']}/{entry['name']}" if entry["namespace"] else entry["name"]
    since = f" since {_time(entry['since'])}" if entry["since"] else ""
    if since and not entry["sinceIsExact"]:
        since += " at the latest"
    where = f"{entry['enforced']}/{entry['nodes']} nodes of {entry['cluster']}"
    lines = [f"{sign} {entry['kind']} {name}: enforced on {where}{since}"]
    alike: dict[tuple[str, str], list[str]] = {}
    for node in entry["lagging"]:
        alike.setdefault((node["state"], node["message"]), []).append(node["node"])
    for (state, message), names in alike.items():
        more = f" and {len(names) - MOST_NODES} more" if len(names) > MOST_NODES else ""
        said = f"{', '.join(names[:MOST_NODES])}{more}: {state}" + (f": {message}" if message else "")
        lines += wrapped(said, "   ", hanging=2)
    for problem in entry["problems"]:
        # What the nodes say already is not said again.
        if not any(problem["field"] in message and problem["message"] in message for _, message in alike):
            word = "invalid: " if problem["grade"] == "Invalid" else "not enforced: "
            lines += wrapped(f"{word}{problem['field']}: {problem['message']}", "   ", hanging=2)
    for condition in entry["conditions"]:
        reason = f" ({condition['reason']})" if condition["reason"] else ""
        message = f": {condition['message']}" if condition["message"] else ""
        lines += wrapped(f"{condition['type']}={condition['status']}{reason}{message}", "   ", hanging=2)
    return lines


def _since(entry: dict[str, Any]) -> str:
    """Returns the moment since when; `≤` says that it may have been before."""
    said = _time(entry["since"])
    return f"≤{said}" if said and not entry["sinceIsExact"] else said


def _time(text: str) -> str:
    """Returns a moment as `12:03:04Z`, with the date if it is not today's."""
    try:
        moment = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    except ValueError:
        return text
    today = datetime.datetime.now(datetime.UTC).date()
    return moment.strftime("%H:%M:%SZ" if moment.date() == today else "%Y-%m-%dT%H:%M:%SZ")
