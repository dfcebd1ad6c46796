"""`isthmus policy inspect-scope`."""

from typing import TYPE_CHECKING, Any

import click

from isthmus.cli.policy.sources import Sources, of_clusters, picture, scene_of, show
from isthmus.cli.policy.wrapping import wrapped

if TYPE_CHECKING:
    from isthmus.model.identity import Identity
    from isthmus.policy.scoping import RuleUnderScopes, ScopedObject


@click.command()
@click.option("-n", "--namespace", help="Only policies of this namespace, and those without one.")
@of_clusters
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
def inspect_scope(
    *,
    namespace: str | None,
    clusters: Sources,
    output: str,
) -> None:
    """List the policies that mean something else under the other scope, and whom they see under each.

    Under clusterset, a selector that names no cluster sees the pods of all clusters; under local, those of its own.
    """
    from isthmus.policy.explaining.groups import Grouping
    from isthmus.policy.explaining.scene import context_of
    from isthmus.policy.scoping import inspect

    found = picture(clusters)
    scene = scene_of(found)
    people = [
        (group.name.partition(":")[2], group.identity)
        for group in Grouping(scene).pods((cluster.name, pod) for cluster in found.clusters for pod in cluster.pods)
    ]
    results = []
    for cluster in found.clusters:
        wanted = [obj for obj in cluster.policies if not namespace or _space(obj) in ("", namespace)]
        inspection = inspect(wanted, context_of(cluster))
        results.append(
            {
                "cluster": cluster.name,
                "scope": cluster.scope.value,
                "total": inspection.total,
                "policies": [_policy(one, people) for one in inspection.objects],
                "unreadable": list(inspection.unreadable),
            }
        )
    if output == "table":
        click.echo("\n".join(_text(results)))
    else:
        show(results, output)


def _space(obj: Any) -> str:
    from isthmus.policy.explaining.facts import place

    return place(obj)[1]


def _policy(one: "ScopedObject", people: "list[tuple[str, Identity]]") -> dict[str, Any]:
    return {
        "kind": one.ref.kind,
        "namespace": one.ref.namespace,
        "name": one.ref.name,
        "scope": one.scope.value,
        "pinned": one.pinned,
        "rules": [_rule(rule, people) for rule in one.rules],
    }


def _rule(rule: "RuleUnderScopes", people: "list[tuple[str, Identity]]") -> dict[str, Any]:
    from isthmus.policy.rules import Scope

    return {
        "direction": rule.direction.value,
        "field": rule.field,
        "rule": rule.name,
        "action": rule.action.value,
        "clusterset": rule.seen(Scope.CLUSTERSET, people),
        "local": rule.seen(Scope.LOCAL, people),
    }


def _text(results: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for result in results:
        policies = result["policies"]
        lines += [""] if lines else []
        sign = "⚠️ " if policies else "✅"
        count = f"{len(policies)} of {result['total']} policies depend on the scope"
        lines.append(f"{sign} {result['cluster']} (scope {result['scope']}): {count}")
        for policy in policies:
            name = f"{policy['namespace']}/{policy['name']}" if policy["namespace"] else policy["name"]
            how = f"scope {policy['scope']}, by its annotation" if policy["pinned"] else f"scope {policy['scope']}"
            lines += ["", f"   {policy['kind']} {name} ({how})"]
            for rule in policy["rules"]:
                title = f' "{rule["rule"]}"' if rule["rule"] else ""
                lines.append(f"     {rule['field']}{title}: {_verb(rule)}")
                for scope in ("clusterset", "local"):
                    lines += _seen(scope, rule[scope])
        lines += [f"   {text}" for text in result["unreadable"]]
    return lines


def _verb(rule: dict[str, Any]) -> str:
    verb = {"Allow": "allows", "Deny": "denies", "Pass": "passes on"}[rule["action"]]
    return f"{verb} {'from' if rule['direction'] == 'ingress' else 'to'}"


def _seen(scope: str, seen: dict[str, list[str]]) -> list[str]:
    said = "; ".join(f"{cluster}: {_few(names)}" for cluster, names in seen.items()) or "nobody that is there now"
    return wrapped(said, f"       {scope + ':':<12}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
