"""`isthmus policy validate`."""

import sys
from typing import Any

import click

from isthmus.cli.policy import NO
from isthmus.cli.policy.sources import show
from isthmus.cli.policy.wrapping import wrapped


@click.command()
@click.option(
    "-f", "--filename", "files", multiple=True, required=True, help="Files, directories; - is standard input."
)
@click.option("--cluster-name", default="", help="Cluster that shall get them, for policies that mean only its own.")
@click.option("--policy-scope", "scope", type=click.Choice(["clusterset", "local"]), default="clusterset")
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of objects that name none.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
def validate(*, files: tuple[str, ...], cluster_name: str, scope: str, namespace: str, output: str) -> None:
    """Check policies without any cluster: what is invalid, and what is valid but not enforced. Exits with 2 if any is
    invalid.

    Services and CIDR groups that policies refer to are taken from the same files.
    """
    from isthmus.cli.policy.files import objects_of
    from isthmus.policy.context import Parsed
    from isthmus.policy.ordered.ties import with_ties
    from isthmus.policy.parsing import KINDS, read

    found = objects_of(files)
    context = _context(found, cluster_name, scope, namespace)
    readings: list[tuple[str, str, dict[str, Any], Parsed | None, str]] = []
    others = 0
    for origin, obj in found:
        if obj["kind"] not in KINDS or obj["apiVersion"].partition("/")[0] != KINDS[obj["kind"]].group:
            others += 1
            continue
        obj = _placed(obj, namespace)
        meta = obj.get("metadata")
        meta = meta if isinstance(meta, dict) else {}
        parsed: Parsed | None
        try:
            parsed, fault = read(obj, context), ""
        except ValueError as error:
            parsed, fault = None, str(error)
        readings.append((origin, obj["kind"], meta, parsed, fault))
    remarked = iter(with_ties([parsed for *_, parsed, _ in readings if parsed is not None]))
    results = [
        _result(origin, kind, meta, next(remarked) if parsed is not None else None, fault)
        for origin, kind, meta, parsed, fault in readings
    ]
    if output == "table":
        _tell(results, others)
    else:
        show(results, output)
    if any(result["verdict"] == "Invalid" for result in results):
        sys.exit(NO)
    if not results:
        raise click.ClickException(f"{', '.join(files)}: no policy in it (known kinds: {', '.join(KINDS)})")


def _placed(obj: dict[str, Any], namespace: str) -> dict[str, Any]:
    from isthmus.cli.policy.files import placed

    return placed(obj, namespace)


def _context(found: list[tuple[str, dict[str, Any]]], cluster: str, scope: str, namespace: str) -> Any:
    """Returns what the policies are read against: the CIDR groups and Services that are among the objects."""
    from isthmus.policy.cilium.groups import cidr_group
    from isthmus.policy.context import Context, ServiceFacts
    from isthmus.policy.rules import Scope

    groups, services = {}, {}
    for _, obj in found:
        if obj["kind"] == "CiliumCIDRGroup" and (group := cidr_group(obj)) is not None:
            groups[group.name] = group
        meta, spec = obj.get("metadata"), obj.get("spec")
        if obj["kind"] == "Service" and isinstance(meta, dict) and isinstance(spec, dict):
            space, name = str(meta.get("namespace") or namespace), str(meta.get("name") or "")
            services[space, name] = ServiceFacts(space, name, _texts(meta.get("labels")), _texts(spec.get("selector")))
    return Context(cluster or "cluster", Scope(scope), groups, services)


def _texts(value: object) -> dict[str, str]:
    return {str(key): str(inner) for key, inner in value.items()} if isinstance(value, dict) else {}


def _result(origin: str, kind: str, meta: dict[str, Any], parsed: Any, fault: str) -> dict[str, Any]:
    from isthmus.policy.rules import Grade
    from isthmus.wire.kvstore.checks import name_fault

    problems = [{"field": "metadata", "grade": "Invalid", "message": fault}] if fault else []
    if parsed is not None and (unfit := name_fault(parsed.ref.name)) is not None:
        # No API server stores it, so that whoever reads stored objects never sees one.
        problems.append({"field": "metadata.name", "grade": "Invalid", "message": unfit})
    problems += [
        {"field": problem.field, "grade": problem.grade.value, "message": problem.message}
        for problem in (parsed.problems if parsed is not None else ())
    ]
    grades = {problem["grade"] for problem in problems}
    verdict = "Valid"
    for grade in (Grade.WARNING, Grade.UNENFORCED, Grade.INVALID):
        if grade.value in grades and grade is not Grade.WARNING:
            verdict = grade.value
    return {
        "file": origin,
        "kind": kind,
        "namespace": parsed.ref.namespace if parsed is not None else str(meta.get("namespace") or ""),
        "name": parsed.ref.name if parsed is not None else str(meta.get("name") or ""),
        "verdict": verdict,
        "problems": problems,
    }


def _tell(results: list[dict[str, Any]], others: int) -> None:
    for result in results:
        sign = {"Valid": "✅", "NotEnforced": "⚠️ ", "Invalid": "❌"}[result["verdict"]]
        name = f"{result['namespace']}/{result['name']}" if result["namespace"] else result["name"] or "(no name)"
        click.echo(f"{sign} {result['file']}: {result['kind']} {name}: {result['verdict']}")
        for problem in result["problems"]:
            click.echo("\n".join(wrapped(_spoken(problem), "   ", hanging=2)))
    verdicts = [result["verdict"] for result in results]
    words = [f"{verdicts.count('Valid')} valid"]
    words += [f"{partly} valid but not enforced as a whole"] if (partly := verdicts.count("NotEnforced")) else []
    words += [f"{invalid} invalid"] if (invalid := verdicts.count("Invalid")) else []
    words += [f"{others} object{'s' if others > 1 else ''} of other kinds left out"] if others else []
    if results:
        click.echo(", ".join(words))


def _spoken(problem: dict[str, Any]) -> str:
    message = problem["message"]
    word = {"NotEnforced": "not enforced: ", "Warning": "warning: "}.get(problem["grade"], "")
    return f"{problem['field']}: {'' if message.startswith('is not enforced') else word}{message}"
