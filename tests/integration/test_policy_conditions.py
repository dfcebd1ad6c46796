"""Conditions of policies against the lab's API server: objects and what agents say in, status out."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

import isthmus.mesh
from isthmus.kube.client import Client
from isthmus.kube.errors import KubeError, NotFound
from isthmus.kube.events import EventRecorder
from isthmus.kube.kubeconfig import load
from isthmus.kube.resources import (
    ADMIN_NETWORK_POLICIES,
    CILIUM_CIDR_GROUPS,
    CILIUM_NETWORK_POLICIES,
    CLUSTER_NETWORK_POLICIES,
    CUSTOM_RESOURCE_DEFINITIONS,
    MESH_NODES,
    NODES,
    Resource,
)
from isthmus.lab import addons
from isthmus.mesh.control.policies import follower
from isthmus.mesh.control.policies.follower import PolicyConditions
from isthmus.mesh.enforcement import SILENT_AFTER
from isthmus.mesh.source.kubernetes import KubernetesSource
from isthmus.model.endpoint import Cluster
from tests.support.apiserver import running_apiserver
from tests.support.tasks import running

OWN = "tion"
NAMES = ("ciliumnetworkpolicies", "ciliumcidrgroups", "clusternetworkpolicies", "adminnetworkpolicies")
ENFORCED = "isthmus.dev/Enforced"


def definitions() -> list[Any]:
    crds = Path(addons.__file__).parent / "crds"
    found = [yaml.safe_load((crds / f"{name}.yaml").read_text()) for name in NAMES]
    ours = yaml.safe_load_all((Path(isthmus.mesh.__file__).parent / "manifests" / "crds.yaml").read_text())
    return found + [one for one in ours if one["metadata"]["name"] == "meshnodes.isthmus.dev"]


class Here:
    """The own cluster."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def make(self, resource: Resource, name: str, **fields: Any) -> Any:
        namespace = "default" if resource.namespaced else None
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, **fields}
        return await self.client.create(resource, body, type=dict, namespace=namespace)

    async def change(self, resource: Resource, name: str, patch: Any, *, status: bool = False) -> Any:
        namespace = "default" if resource.namespaced else None
        subresource = "status" if status else None
        return await self.client.patch(resource, name, patch, type=dict, namespace=namespace, subresource=subresource)

    async def get(self, resource: Resource, name: str) -> Any:
        return await self.client.get(resource, name, type=dict, namespace="default" if resource.namespaced else None)

    async def until(self, resource: Resource, name: str, good: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Waits until the conditions (by type) are as they should be; the test's own time-out is the limit."""
        while True:
            found = conditions(await self.get(resource, name))
            if good(found):
                return found
            await asyncio.sleep(0.02)

    async def node(self, name: str) -> None:
        await self.make(NODES, name)
        await self.make(MESH_NODES, name)

    async def says(self, node: str, *recent: Any, exceptions: tuple[Any, ...] = ()) -> None:
        """An agent says which objects its kernel has."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.999Z")

        def line(obj: Any, **more: Any) -> dict[str, Any]:
            meta = obj["metadata"]
            where = {"kind": obj["kind"], "namespace": meta.get("namespace", ""), "name": meta["name"]}
            return {**where, "generation": meta["generation"], **more}

        policies = {
            "total": len(recent),
            "watermarks": {"CiliumNetworkPolicy": "0"},
            "recent": [line(obj, since=now) for obj in recent],
            "exceptions": [line(obj, state=state, message=text) for obj, state, text in exceptions],
            "since": now,
        }
        status = {"ready": True, "heartbeat": now, "policies": policies}
        await self.change(MESH_NODES, node, {"status": status}, status=True)


def conditions(obj: Any) -> dict[str, Any]:
    return {one["type"]: one for one in obj.get("status", {}).get("conditions", [])}


def said(found: dict[str, Any], type: str) -> tuple[str, str]:
    one = found.get(type, {})
    return one.get("status", ""), one.get("reason", "")


def cilium(*, label: str = "web", **spec: Any) -> dict[str, Any]:
    return {"endpointSelector": {"matchLabels": {"app": label}}, **spec}


def tiered(action: str = "Deny", priority: int = 10) -> dict[str, Any]:
    rule = {"action": action, "from": [{"namespaces": {}}]}
    return {"tier": "Admin", "priority": priority, "subject": {"namespaces": {}}, "ingress": [rule]}


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with running_apiserver(tmp_path_factory.mktemp("conditions")) as api:
        yield api.directory / "kubeconfig"


@asynccontextmanager
async def writing(client: Client, **options: Any) -> AsyncIterator[PolicyConditions]:
    """Serves the writer as the tracker does."""
    writer = PolicyConditions(OWN, rest=0.01, **options)
    async with running(writer.serve(client, EventRecorder(client, "tests")), telling(client, writer)):
        yield writer


async def telling(client: Client, writer: PolicyConditions) -> None:
    """Tells the writer of its cluster, as the source of the own cluster does."""
    source = KubernetesSource(client, Cluster(OWN, 1), policies=writer)
    async with aclosing(source.events()) as batches:
        async for batch in batches:
            writer.apply(batch)


async def clear(client: Client) -> None:
    kinds = [CILIUM_NETWORK_POLICIES, CLUSTER_NETWORK_POLICIES, ADMIN_NETWORK_POLICIES, CILIUM_CIDR_GROUPS]
    for resource in (*kinds, MESH_NODES, NODES):
        for obj in await client.list_all(resource, type=dict):
            meta = obj["metadata"]
            with suppress(NotFound):
                await client.delete(resource, meta["name"], namespace=meta.get("namespace"))


@pytest.fixture
async def here(kubeconfig: Path) -> AsyncIterator[Here]:
    async with Client(load(kubeconfig)) as client:
        await install(client)
        yield Here(client)
        await clear(client)


async def install(client: Client) -> None:
    for body in definitions():
        with suppress(KubeError):  # it is there already
            await client.create(CUSTOM_RESOURCE_DEFINITIONS, body, type=dict)
    for resource in (CILIUM_NETWORK_POLICIES, CILIUM_CIDR_GROUPS, CLUSTER_NETWORK_POLICIES, ADMIN_NETWORK_POLICIES):
        while True:
            try:
                await client.raw("GET", resource.path())
                break
            except NotFound:
                await asyncio.sleep(0.05)


async def test_a_policy_is_pending_until_every_node_has_it_and_again_when_it_changes(here: Here) -> None:
    await here.node("n1")
    await here.node("n2")
    await here.says("n1")
    await here.says("n2")
    async with writing(here.client):
        made = await here.make(CILIUM_NETWORK_POLICIES, "p", spec=cilium(ingress=[{}]))
        found = await here.until(
            CILIUM_NETWORK_POLICIES, "p", lambda found: said(found, ENFORCED) == ("False", "Pending")
        )
        assert (found["Valid"]["status"], found["Valid"]["message"]) == ("True", "Policy validation succeeded")
        assert "reason" not in found["Valid"]
        assert found[ENFORCED]["message"].startswith("On 0 of 2 nodes; not on n1 (not in its kernel yet), n2")

        await here.says("n1", made)
        found = await here.until(
            CILIUM_NETWORK_POLICIES, "p", lambda found: found[ENFORCED]["message"].startswith("On 1 of 2")
        )
        since = found[ENFORCED]["lastTransitionTime"]
        await here.says("n2", made)
        await here.until(CILIUM_NETWORK_POLICIES, "p", lambda found: said(found, ENFORCED) == ("True", "Enforced"))

        changed = await here.change(CILIUM_NETWORK_POLICIES, "p", {"spec": cilium(egress=[{}])})
        assert changed["metadata"]["generation"] == made["metadata"]["generation"] + 1
        found = await here.until(
            CILIUM_NETWORK_POLICIES, "p", lambda found: said(found, ENFORCED) == ("False", "Pending")
        )
        assert found[ENFORCED]["lastTransitionTime"] >= since


async def test_an_agent_that_falls_silent_is_said_of_every_policy_and_unsaid(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "LOOK", 0.02)
    monkeypatch.setattr(follower, "IN_TIME", 0.01)
    ahead = 0.0
    await here.node("n1")
    made = [await here.make(CILIUM_NETWORK_POLICIES, name, spec=cilium(ingress=[{}])) for name in ("p", "q")]
    await here.says("n1", *made)
    async with writing(here.client, clock=lambda: time.time() + ahead):
        for name in ("p", "q"):
            await here.until(CILIUM_NETWORK_POLICIES, name, lambda found: said(found, ENFORCED)[0] == "True")
        ahead = SILENT_AFTER + 5
        for name in ("p", "q"):
            found = await here.until(
                CILIUM_NETWORK_POLICIES, name, lambda found: said(found, ENFORCED) == ("False", "Pending")
            )
            assert "not on n1 (no heartbeat since" in found[ENFORCED]["message"]
        ahead = 0.0
        for name in ("p", "q"):
            await here.until(CILIUM_NETWORK_POLICIES, name, lambda found: said(found, ENFORCED)[0] == "True")


async def test_conditions_of_kinds_with_tiers_say_which_generation_they_are_about(here: Here) -> None:
    await here.node("n1")
    await here.says("n1")
    async with writing(here.client):
        made = await here.make(CLUSTER_NETWORK_POLICIES, "deny", spec=tiered())
        await here.says("n1", made)
        found = await here.until(
            CLUSTER_NETWORK_POLICIES, "deny", lambda found: said(found, ENFORCED) == ("True", "Enforced")
        )
        assert said(found, "Accepted") == ("True", "Accepted")
        assert {one["observedGeneration"] for one in found.values()} == {made["metadata"]["generation"]}

        await here.make(CLUSTER_NETWORK_POLICIES, "accept", spec=tiered("Accept"))
        for name in ("deny", "accept"):
            found = await here.until(
                CLUSTER_NETWORK_POLICIES, name, lambda found: "priority 10" in str(found.get(ENFORCED))
            )
            assert "may match the same traffic with different actions" in found[ENFORCED]["message"]


async def test_an_object_that_is_not_valid_says_why_and_what_is_in_force_instead(here: Here) -> None:
    await here.node("n1")
    await here.says("n1")
    bad = cilium(ingress=[{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{}]}}]}])
    bad["ingress"][0]["fromEndpoints"] = [{"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other", "a": "b"}}]
    bad["ingress"][0]["fromCIDR"] = ["10.0.0.0/8"]
    async with writing(here.client):
        made = await here.make(CILIUM_NETWORK_POLICIES, "p", spec=bad)
        found = await here.until(CILIUM_NETWORK_POLICIES, "p", lambda found: said(found, "Valid")[0] == "False")
        assert "fromCIDR" in found["Valid"]["message"]
        assert said(found, ENFORCED) == ("False", "Refused")
        await here.says("n1", made, exceptions=((made, "Kept", "generation 1 stays in force"),))
        found = await here.until(
            CILIUM_NETWORK_POLICIES, "p", lambda found: "earlier version" in found[ENFORCED]["message"]
        )
        assert "generation 1 stays in force" in found[ENFORCED]["message"]

        await here.change(CILIUM_NETWORK_POLICIES, "p", {"spec": {"ingress": [{}]}})
        await here.until(CILIUM_NETWORK_POLICIES, "p", lambda found: said(found, "Valid")[0] == "True")


async def test_parts_that_are_not_enforced_are_listed(here: Here) -> None:
    await here.node("n1")
    async with writing(here.client):
        spec = cilium(egress=[{"toFQDNs": [{"matchName": "example.com"}]}])
        made = await here.make(CILIUM_NETWORK_POLICIES, "p", spec=spec)
        await here.says("n1", made, exceptions=((made, "PartiallyEnforced", "names"),))
        found = await here.until(
            CILIUM_NETWORK_POLICIES, "p", lambda found: said(found, ENFORCED) == ("False", "PartiallyEnforced")
        )
        assert "toFQDNs" in found[ENFORCED]["message"]
        assert said(found, "Valid")[0] == "True"


async def test_a_cidr_group_that_comes_later_unsays_what_was_said(here: Here) -> None:
    async with writing(here.client):
        spec = cilium(egress=[{"toCIDRSet": [{"cidrGroupRef": "partners"}]}])
        await here.make(CILIUM_NETWORK_POLICIES, "p", spec=spec)
        await here.until(
            CILIUM_NETWORK_POLICIES, "p", lambda found: "partners" in found.get(ENFORCED, {}).get("message", "")
        )
        await here.make(CILIUM_CIDR_GROUPS, "partners", spec={"externalCIDRs": ["192.0.2.0/24"]})
        await here.until(CILIUM_NETWORK_POLICIES, "p", lambda found: "partners" not in found[ENFORCED]["message"])


async def test_conditions_of_others_stay_and_a_new_writer_writes_nothing_that_is_there(here: Here) -> None:
    await here.node("n1")
    theirs = {"type": "Theirs", "status": "True", "reason": "Yes", "message": "kept"}
    theirs["lastTransitionTime"] = "2020-01-01T00:00:00Z"
    made = await here.make(CLUSTER_NETWORK_POLICIES, "p", spec=tiered())
    await here.change(CLUSTER_NETWORK_POLICIES, "p", {"status": {"conditions": [theirs]}}, status=True)
    await here.says("n1", made)
    versions = []
    for marker in ("first", "second"):
        async with writing(here.client):
            found = await here.until(
                CLUSTER_NETWORK_POLICIES, "p", lambda found: said(found, ENFORCED) == ("True", "Enforced")
            )
            assert found["Theirs"] == theirs
            # An object that comes later and has its conditions says that the earlier one was looked at.
            await here.make(CLUSTER_NETWORK_POLICIES, marker, spec=tiered(priority=len(marker)))
            await here.until(CLUSTER_NETWORK_POLICIES, marker, lambda found: said(found, ENFORCED)[0])
        versions.append((await here.get(CLUSTER_NETWORK_POLICIES, "p"))["metadata"]["resourceVersion"])
    assert versions[0] == versions[1]


async def test_whoever_writes_valid_too_is_not_fought(here: Here) -> None:
    await here.node("n1")
    async with writing(here.client) as writer:
        await here.make(CILIUM_NETWORK_POLICIES, "p", spec=cilium(ingress=[{}]))
        found = await here.until(CILIUM_NETWORK_POLICIES, "p", lambda found: said(found, ENFORCED)[0])
        theirs = {**found["Valid"], "status": "False", "message": "not by our rules"}
        other = [one for one in found.values() if one["type"] != "Valid"]
        await here.change(CILIUM_NETWORK_POLICIES, "p", {"status": {"conditions": [theirs, *other]}}, status=True)
        while not writer.book.contests:
            await asyncio.sleep(0.02)
        await here.make(CILIUM_NETWORK_POLICIES, "later", spec=cilium(ingress=[{}]))
        await here.until(CILIUM_NETWORK_POLICIES, "later", lambda found: said(found, "Valid")[0] == "True")
        found = conditions(await here.get(CILIUM_NETWORK_POLICIES, "p"))
        assert found["Valid"]["message"] == "not by our rules"
