"""`isthmus clustermesh inspect-policy-default-local-cluster`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from isthmus.cli.clustermesh.talking import of_a_cluster, perform

_KINDS = (
    ("CiliumNetworkPolicy", "CiliumNetworkPolicy", "ciliumNetworkPolicies"),
    ("CiliumClusterwideNetworkPolicy", "CiliumClusterWideNetworkPolicy", "ciliumClusterWideNetworkPolicies"),
    ("NetworkPolicy", "NetworkPolicy", "networkPolicies"),
)
"""Kinds, and what they are called in the two outputs: the words that scripts for Cilium's command know."""


@click.command(name="inspect-policy-default-local-cluster")
@of_a_cluster
@click.option("-A", "--all-namespaces", is_flag=True, help="Policies of all namespaces, and those without one.")
@click.option("-n", "--namespace", help="Namespace of the policies; that of the context by default.")
@click.option("-o", "--output", type=click.Choice(["summary", "json"]), default="summary", show_default=True)
def inspect(
    *, kubeconfig: Path | None, context: str | None, all_namespaces: bool, namespace: str | None, output: str
) -> None:
    """List the policies that a change of the default scope would affect: those whose selectors name no cluster.

    The counts are of policies that would mean the same, as Cilium's command has them; see also: isthmus policy
    inspect-scope.
    """
    found = perform(lambda: _read(kubeconfig, context, namespace, all_namespaces=all_namespaces))
    if output == "json":
        # One blank for each level, and no kind without policies: as Cilium's command writes it.
        told = {word: found[kind] for kind, _, word in _KINDS if found[kind]}
        click.echo(json.dumps(told, indent=1))
        return
    blocks = []
    for kind, title, _ in _KINDS:
        differing = found[kind]
        same = sum(not affected for affected in differing.values())
        lines = [f"{_sign(same < len(differing))} {title} {same}/{len(differing)}"]
        lines += [f"\t{_sign(affected)} {name}" for name, affected in differing.items()]
        blocks.append("\n".join(lines))
    sys.stdout.write("\n\n".join(blocks) + "\n")


def _sign(affected: bool) -> str:
    return "⚠️" if affected else "✅"


async def _read(
    kubeconfig: Path | None, context: str | None, namespace: str | None, *, all_namespaces: bool
) -> dict[str, dict[str, bool]]:
    """Returns, by kind and `namespace/name` (sorted), whether a policy means something else under the other scope."""
    from isthmus.kube.errors import NotFound
    from isthmus.kube.resources import POLICY_KINDS
    from isthmus.mesh.joining.members import open_member
    from isthmus.policy.context import Context
    from isthmus.policy.scoping import under_scopes

    resources = {resource.kind: resource for resource in POLICY_KINDS}
    found: dict[str, dict[str, bool]] = {}
    async with open_member(kubeconfig, context) as member:
        place = None if all_namespaces else namespace or member.client.access.namespace or "default"
        for kind, _, _ in _KINDS:
            resource = resources[kind]
            objects: list[dict[str, Any]] = []
            if resource.namespaced or all_namespaces:
                try:
                    objects = await member.client.list_all(
                        resource, type=dict[str, Any], namespace=place if resource.namespaced else None
                    )
                except NotFound:
                    objects = []
            found[kind] = {}
            for obj in sorted(objects, key=_name):
                differs = under_scopes(obj, Context("some-cluster"), kind=kind)
                found[kind][_name(obj)] = differs is not None
    return found


def _name(obj: dict[str, Any]) -> str:
    meta = obj["metadata"]
    return f"{meta.get('namespace') or ''}/{meta['name']}"
