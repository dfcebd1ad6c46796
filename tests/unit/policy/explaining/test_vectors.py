"""Answers to the questions that the cases of every API ask, read from pictures and not from worlds made for them."""

from copy import deepcopy
from typing import Any

import pytest

from isthmus.policy.explaining.halves import halves, party_at
from isthmus.policy.explaining.scene import Scene
from tests.support.cases import SCOPES, Case, load
from tests.support.pictures import of_world

CASES = [*load("network-policy.json"), *load("kubernetes-e2e-netpol.json")]


def _objects(case: Case, upto: int) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Returns the world and the objects by cluster after the first steps."""
    world = deepcopy(case.world)
    first = world["clusters"][0]
    found: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for step in case.data["steps"][: upto + 1]:
        for change in step["do"]:
            if "apply" in change:
                meta, cluster = change["apply"]["metadata"], change.get("cluster", first["id"])
                place = (cluster, change["apply"]["kind"], meta.get("namespace", ""), meta["name"])
                found[place] = change["apply"]
            elif "delete" in change:
                gone = change["delete"]
                del found[first["id"], "NetworkPolicy", gone["namespace"], gone["name"]]
            elif "nsLabels" in change:
                space = next(ns for ns in first["namespaces"] if ns["name"] == change["nsLabels"])
                space["labels"] = change["labels"]
            else:
                namespace, name = change["podLabels"].split("/")
                pod = next(pod for pod in first["pods"] if (pod["ns"], pod["name"]) == (namespace, name))
                pod["labels"] = change["labels"]
    by_cluster: dict[str, list[dict[str, Any]]] = {}
    for (cluster, *_), obj in found.items():
        by_cluster.setdefault(cluster, []).append(obj)
    return world, by_cluster


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_halves_are_as_the_case_says(case: Case) -> None:
    for number, step in enumerate(case.steps()):
        if any(probe.get("dns") for probe in case.data["steps"][number].get("probes", [])):
            continue  # names are not learned here
        world, objects = _objects(case, number)
        scene = Scene(of_world(world, objects, SCOPES[case.scope]))
        for probe in step.probes:
            ends = party_at(scene, probe.flow.source), party_at(scene, probe.flow.destination)
            allowed = all(half.allowed for half in halves(scene, probe.flow, *ends))
            assert allowed == probe.allowed, probe.name
