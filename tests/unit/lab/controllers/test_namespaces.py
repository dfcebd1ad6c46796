"""What a namespace on its way out says, and what discovery makes of an API server's answers."""

from typing import Any

import msgspec
import pytest

from isthmus.kube.errors import BadAnswer, ServerFailure
from isthmus.kube.resources import CONFIG_MAPS, PODS
from isthmus.lab.controllers.discovery import discover
from isthmus.lab.controllers.namespaces.conditions import Remains, conditions
from tests.support.clusterobjects import NOW


def test_what_is_left_and_what_holds_it() -> None:
    found = conditions(Remains({PODS: 2, CONFIG_MAPS: 1}, {"example.com/x": 3}), (), now=NOW)
    told = {one.type: (one.status, one.reason, one.message) for one in found}
    assert told["NamespaceContentRemaining"] == (
        "True",
        "SomeResourcesRemain",
        "Some resources are remaining: configmaps has 1 resource instances, pods has 2 resource instances",
    )
    assert told["NamespaceFinalizersRemaining"][2] == (
        "Some content in the namespace has finalizers remaining: example.com/x in 3 resource instances"
    )
    assert told["NamespaceDeletionContentFailure"][0] == "False"


def test_a_condition_that_stays_keeps_its_time() -> None:
    first = conditions(Remains({PODS: 2}), (), now=NOW)
    later = conditions(Remains({PODS: 1}), first, now=NOW + 60)
    assert {one.lastTransitionTime for one in later} == {first[0].lastTransitionTime}


def test_nothing_is_empty_that_could_not_be_looked_at() -> None:
    assert Remains().empty
    assert not Remains(failures=("pods: no",)).empty
    assert not Remains(discovery=("metrics.k8s.io/v1beta1: stale",)).empty


class Answers:
    """Gives canned answers by path."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    async def raw(self, method: str, path: str, **how: Any) -> bytes:
        answer = self._answers[path]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else msgspec.json.encode(answer)


def aggregated(*groups: Any) -> dict[str, Any]:
    return {"kind": "APIGroupDiscoveryList", "items": list(groups)}


def version(name: str, *resources: str, **more: Any) -> dict[str, Any]:
    listed = [
        {"resource": one, "responseKind": {"kind": one.title()}, "scope": "Namespaced", "verbs": ["list", "delete"]}
        for one in resources
    ]
    return {"version": name, "resources": listed, **more}


async def found(answers: dict[str, Any]) -> Any:
    client: Any = Answers(answers)
    return await discover(client)


async def test_a_resource_is_known_by_its_preferred_version() -> None:
    group = {"metadata": {"name": "example.com"}, "versions": [version("v2", "a"), version("v1", "a", "b")]}
    result = await found({"/api": aggregated(), "/apis": aggregated(group)})
    assert [(one.resource.version, one.resource.plural) for one in result.resources] == [("v2", "a"), ("v1", "b")]


async def test_a_group_that_is_stale_is_a_problem() -> None:
    group = {"metadata": {"name": "metrics.k8s.io"}, "versions": [version("v1beta1", freshness="Stale")]}
    result = await found({"/api": aggregated(), "/apis": aggregated(group)})
    assert result.problems == ("metrics.k8s.io/v1beta1: stale GroupVersion discovery",)


async def test_servers_without_aggregated_discovery_are_asked_group_by_group() -> None:
    pods = {"name": "pods", "kind": "Pod", "namespaced": True, "verbs": ["list"]}
    preferred = {"groupVersion": "apps/v1", "version": "v1"}
    answers = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/api/v1": {"resources": [pods, {**pods, "name": "pods/log"}]},
        "/apis": {"kind": "APIGroupList", "groups": [{"name": "apps", "preferredVersion": preferred}]},
        "/apis/apps/v1": ServerFailure(status=503, message="not now"),
    }
    result = await found(answers)
    assert [one.resource for one in result.resources] == [PODS]
    assert result.problems == ("apps/v1: not now",)


@pytest.mark.parametrize("answer", [b"not json", b"[]", {"kind": "APIGroupDiscoveryList", "items": [{}]}])
async def test_discovery_that_makes_no_sense_is_an_error(answer: Any) -> None:
    with pytest.raises(BadAnswer, match="GET /api: the discovery makes no sense"):
        await found({"/api": answer, "/apis": aggregated()})
