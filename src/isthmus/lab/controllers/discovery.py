"""Which resources an API server serves, custom ones included: aggregated discovery, or group by group where that is not
known.

A group that cannot be discovered (an aggregated API that is down) is reported and does not hide the others.
"""

from typing import Any

import msgspec

from isthmus.kube.client import Client
from isthmus.kube.errors import DECODE_ERRORS, BadAnswer, KubeError, clip
from isthmus.kube.resources import Resource

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"


class Served(msgspec.Struct, frozen=True):
    """A resource and its verbs."""

    resource: Resource
    verbs: frozenset[str]

    def can(self, *verbs: str) -> bool:
        """Whether it has all of these verbs."""
        return self.verbs.issuperset(verbs)


class Found(msgspec.Struct, frozen=True):
    """What is served in the preferred versions, and what is wrong with the groups that could not be asked."""

    resources: tuple[Served, ...]
    problems: tuple[str, ...] = ()


async def discover(client: Client) -> Found:
    """Returns all resources. Raises KubeError when the server cannot be asked at all."""
    found: list[Served] = []
    problems: list[str] = []
    for path in ("/api", "/apis"):
        raw = await client.raw("GET", path, accept=_AGGREGATED)
        try:
            answer = msgspec.json.decode(raw, type=dict[str, Any])
            if answer.get("kind") == "APIGroupDiscoveryList":
                _aggregated(answer, found, problems)
            else:
                await _one_by_one(client, answer, found, problems)
        except (*DECODE_ERRORS, KeyError, TypeError, AttributeError) as error:
            raise BadAnswer(f"GET {path}: the discovery makes no sense: {clip(str(error))}") from error
    return Found(tuple(found), tuple(problems))


def _aggregated(answer: dict[str, Any], found: list[Served], problems: list[str]) -> None:
    for group in answer.get("items") or ():
        name = group["metadata"].get("name") or ""
        seen: set[str] = set()
        for version in group.get("versions") or ():
            if version.get("freshness") == "Stale":
                problems.append(f"{name}/{version['version']}: stale GroupVersion discovery")
            for item in version.get("resources") or ():
                # The versions come in the order of preference; the first that has a resource speaks for it.
                if item["resource"] in seen:
                    continue
                seen.add(item["resource"])
                kind = (item.get("responseKind") or {}).get("kind", "")
                namespaced = item.get("scope") == "Namespaced"
                resource = Resource(name, version["version"], item["resource"], kind, namespaced=namespaced)
                found.append(Served(resource, frozenset(item.get("verbs") or ())))


async def _one_by_one(client: Client, answer: dict[str, Any], found: list[Served], problems: list[str]) -> None:
    paths = [("", version, f"/api/{version}") for version in answer.get("versions") or ()]
    for group in answer.get("groups") or ():
        preferred = group["preferredVersion"]
        paths.append((group["name"], preferred["version"], f"/apis/{preferred['groupVersion']}"))
    for name, version, path in paths:
        try:
            listed = msgspec.json.decode(await client.raw("GET", path), type=dict[str, Any])
        except KubeError as error:
            problems.append(f"{name}/{version}: {error}")
            continue
        for item in listed.get("resources") or ():
            if "/" not in item["name"]:
                resource = Resource(name, version, item["name"], item["kind"], namespaced=item["namespaced"])
                found.append(Served(resource, frozenset(item.get("verbs") or ())))
