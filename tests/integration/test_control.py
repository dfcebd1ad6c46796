"""What the tracker writes into its own cluster, on an API server over HTTP; the other clusters are told by hand."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

import isthmus.mesh
from isthmus.kube.client import Client
from isthmus.kube.errors import NotFound
from isthmus.kube.events import EventRecorder
from isthmus.kube.kubeconfig import load
from isthmus.kube.resources import (
    ENDPOINT_SLICES,
    EVENTS,
    GLOBAL_SERVICES,
    MESH_CLUSTERS,
    NAMESPACES,
    SERVICES,
    Resource,
)
from isthmus.mesh.control import mirrored
from isthmus.mesh.control.control import Control, Set
from isthmus.mesh.control.session import OwnCluster
from isthmus.mesh.control.world import Member
from isthmus.model import sharing
from isthmus.model.mesh import ClusterSynced, ServiceTold, SliceTold
from isthmus.model.sharing import SharedService
from tests.support.apiserver import ApiServer
from tests.support.control import remote_slice
from tests.support.controllers import SERVERS, running_server

DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False)
MANIFEST = Path(isthmus.mesh.__file__).parent / "manifests" / "crds.yaml"
HTTP = (sharing.ServicePort("http", 6, 80),)
MEMBERS = (Member("here", 1, "Synced"), Member("there", 2, "Synced"))
_numbers = itertools.count()

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_server(request.param, tmp_path_factory.mktemp("api")) as found:
        yield found


class Here:
    """The own cluster, seen by a user who has a namespace there."""

    def __init__(self, server: ApiServer, client: Client, namespace: str) -> None:
        self.server = server
        self.client = client
        self.namespace = namespace
        self.key = (namespace, "web")

    async def service(self, **annotations: str) -> None:
        noted = {f"service.cilium.io/{key.rstrip('_')}": value for key, value in annotations.items()}
        spec = {"ports": [{"name": "http", "port": 80}]}
        meta = {"name": "web", "namespace": self.namespace, "annotations": noted}
        await self.create(SERVICES, {"metadata": meta, "spec": spec})

    async def annotate(self, **annotations: str | None) -> None:
        noted = {f"service.cilium.io/{key.rstrip('_')}": value for key, value in annotations.items()}
        await self.patch(SERVICES, {"metadata": {"annotations": noted}})

    async def backends(self, *ready: bool) -> None:
        """Makes or changes the EndpointSlice of the Service."""
        endpoints = [{"addresses": [f"10.9.0.{n}"], "conditions": {"ready": up}} for n, up in enumerate(ready, 1)]
        with suppress(NotFound):
            await self.patch(ENDPOINT_SLICES, {"endpoints": endpoints}, name="web-own")
            return
        body = {
            "metadata": {"name": "web-own", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }
        await self.create(ENDPOINT_SLICES, body)

    async def create(self, resource: Resource, body: dict[str, Any], *, namespaced: bool = True) -> dict[str, Any]:
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return await self.client.create(resource, body, type=dict, namespace=self.namespace if namespaced else None)

    async def get(self, resource: Resource, name: str = "web") -> dict[str, Any] | None:
        try:
            namespace = self.namespace if resource.namespaced else None
            return await self.client.get(resource, name, type=dict, namespace=namespace)
        except NotFound:
            return None

    async def patch(self, resource: Resource, body: Any, *, name: str = "web", subresource: str | None = None) -> None:
        namespace = self.namespace if resource.namespaced else None
        await self.client.patch(resource, name, body, type=dict, namespace=namespace, subresource=subresource)

    async def delete(self, resource: Resource, name: str = "web") -> None:
        await self.client.delete(resource, name, namespace=self.namespace if resource.namespaced else None)

    async def status(self, good: Callable[[dict[str, Any]], bool] = bool) -> dict[str, Any]:
        """Waits for a status of the GlobalService; the test's time-out is the limit."""
        found = await until(lambda: self.get(GLOBAL_SERVICES), lambda obj: bool(obj) and good(obj.get("status", {})))
        return dict(found["status"])

    async def slices(self) -> list[dict[str, Any]]:
        """Returns what is mirrored."""
        found = await self.client.list_all(
            ENDPOINT_SLICES,
            type=dict,
            namespace=self.namespace,
            label_selector="endpointslice.kubernetes.io/managed-by=endpointslice-controller.isthmus.dev",
        )
        return sorted(found, key=lambda item: str(item["metadata"]["name"]))

    async def reasons(self) -> list[str]:
        found = await self.client.list_all(EVENTS, type=dict, namespace=self.namespace)
        return sorted(event["reason"] for event in found if event["source"].get("component") == "isthmus-tracker")


async def until(ask: Callable[[], Awaitable[Any]], good: Callable[[Any], bool] = bool) -> Any:
    while True:
        found = await ask()
        if good(found):
            return found
        await asyncio.sleep(0.02)


async def apply_definitions(client: Client) -> None:
    for body in yaml.safe_load_all(MANIFEST.read_text()):
        with suppress(Exception):
            await client.create(DEFINITIONS, body, type=dict)
    for kind in (MESH_CLUSTERS, GLOBAL_SERVICES):
        await until(lambda kind=kind: served(client, kind))


async def served(client: Client, kind: Resource) -> bool:
    try:
        await client.list_all(kind, type=dict)
    except NotFound:
        return False
    return True


@pytest.fixture
async def here(server: ApiServer) -> AsyncIterator[Here]:
    async with Client(load(server.directory / "kubeconfig")) as client:
        await apply_definitions(client)
        name = f"demo{next(_numbers)}"
        await client.create(
            NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, type=dict
        )
        yield Here(server, client, name)


@asynccontextmanager
async def tracking(
    here: Here, *, mode: str = mirrored.ALL, members: Any = None, **given: Any
) -> AsyncIterator[Control]:
    """Runs a tracker's writer, which has heard all clusters."""
    found = members or (lambda: Set(MEMBERS, True))
    control = Control("here", clusters=found, mode=mirrored.ALL, settling=0.0, rest=0.02, **given)
    control.apply([ClusterSynced("here"), ClusterSynced("there")])
    follower = OwnCluster(lambda: load(here.server.directory / "kubeconfig"), [control])
    async with AsyncExitStack() as stack:
        task = asyncio.create_task(follower.serve())

        async def stop() -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        stack.push_async_callback(stop)
        yield control


def tell(control: Control, here: Here, *ready: bool, **fields: Any) -> None:
    fields = {"ports": HTTP, **fields}
    control.apply([ServiceTold(SharedService("there", *here.key, **fields))])
    control.apply([SliceTold(remote_slice("there", *ready, key=here.key))])


async def test_a_service_that_becomes_global_is_described_and_forgotten_again(here: Here) -> None:
    async with tracking(here) as control:
        tell(control, here, True, False)
        await here.service()
        await here.backends(True)
        await here.annotate(global_="true")
        status = await here.status(lambda found: found.get("summary") == "here 1/1, there 1/2")
        assert status["used"] == "here, there"
        owner = (await here.get(GLOBAL_SERVICES))["metadata"]["ownerReferences"][0]
        assert owner["uid"] == (await here.get(SERVICES))["metadata"]["uid"]
        (slice_,) = await until(here.slices)
        assert slice_["metadata"]["labels"]["multicluster.kubernetes.io/source-cluster"] == "there"
        await here.annotate(global_="false")
        await until(lambda: here.get(GLOBAL_SERVICES), lambda found: found is None)
        await until(here.slices, lambda found: not found)


async def test_failover_conflicts_and_bad_annotations_become_events_of_the_service(here: Here) -> None:
    async with tracking(here) as control:
        tell(control, here, True)
        await here.service(global_="true", affinity="local")
        await here.backends(True)
        await here.status(lambda found: found.get("used") == "here")
        await here.backends(False)
        await here.status(lambda found: found.get("used") == "there")
        await here.backends(True)
        await here.status(lambda found: found.get("used") == "here")
        tell(control, here, True, ports=(sharing.ServicePort("web", 6, 80),))
        await here.status(lambda found: found["conditions"][1]["status"] == "True")
        await here.annotate(affinity="lokal")
        await here.status(lambda found: found["conditions"][0]["status"] == "False")
        expected = ["GlobalServiceFailedOver", "GlobalServiceRestored", "InvalidGlobalService", "PortMismatch"]
        await until(here.reasons, lambda found: len(found) >= 4)
        assert await here.reasons() == expected


async def test_a_bad_annotation_of_a_service_that_is_not_global_is_told(here: Here) -> None:
    async with tracking(here):
        await here.service(global_="ture")
        await until(here.reasons)
        assert await here.reasons() == ["InvalidGlobalService"]
        assert await here.get(GLOBAL_SERVICES) is None


async def test_what_is_deleted_or_edited_is_put_right(here: Here) -> None:
    async with tracking(here) as control:
        tell(control, here, True)
        await here.service(global_="true")
        await here.status()
        (slice_,) = await until(here.slices)
        name = slice_["metadata"]["name"]
        await here.delete(GLOBAL_SERVICES)
        await here.status(lambda found: "there 1/1" in found.get("summary", ""))
        await here.patch(GLOBAL_SERVICES, {"status": {"summary": "lies", "clusters": []}}, subresource="status")
        await here.status(lambda found: "there 1/1" in found.get("summary", ""))
        await here.delete(ENDPOINT_SLICES, name)
        await until(lambda: here.get(ENDPOINT_SLICES, name))
        await here.patch(ENDPOINT_SLICES, {"endpoints": [], "metadata": {"labels": {"theirs": "x"}}}, name=name)
        found = await until(lambda: here.get(ENDPOINT_SLICES, name), lambda found: bool(found and found["endpoints"]))
        assert found["metadata"]["labels"]["theirs"] == "x"
        await here.delete(MESH_CLUSTERS, "there")
        await until(lambda: here.get(MESH_CLUSTERS, "there"), lambda found: bool(found and found.get("status")))


async def test_a_slice_of_somebody_else_keeps_its_name_and_a_leftover_goes(here: Here) -> None:
    taken = mirrored.slice_name(remote_slice("there", True, key=here.key), "web")
    ours = {
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.isthmus.dev",
        "multicluster.kubernetes.io/source-cluster": "gone",
    }
    for name, labels in ((taken, {"whose": "theirs"}), ("web-gone-0", ours)):
        body = {"metadata": {"name": name, "labels": labels}, "addressType": "IPv4", "endpoints": [], "ports": []}
        await here.create(ENDPOINT_SLICES, body)
    async with tracking(here) as control:
        tell(control, here, True)
        await here.service(global_="true")
        await here.status()
        await until(lambda: here.get(ENDPOINT_SLICES, "web-gone-0"), lambda found: found is None)
        found = await here.get(ENDPOINT_SLICES, taken)
        assert found is not None
        assert found["metadata"]["labels"] == {"whose": "theirs"}
        await here.delete(ENDPOINT_SLICES, taken)


async def test_a_drain_that_comes_while_states_change_is_never_lost(here: Here) -> None:
    states = itertools.cycle(["Synced", "Degraded"])
    now = itertools.count(1_700_000_000)
    members = lambda: Set((MEMBERS[0], Member("there", 2, next(states))), True)  # noqa: E731
    async with tracking(here, members=members, clock=lambda: next(now)) as control:
        await until(lambda: here.get(MESH_CLUSTERS, "there"), lambda found: bool(found and found.get("status")))
        drain = {"since": "2023-11-14T22:13:20Z"}
        for number in range(20):
            control.look()
            await here.patch(MESH_CLUSTERS, {"spec": {"drain": {**drain, "over": f"{number + 1}s"}}}, name="there")
        found = await here.get(MESH_CLUSTERS, "there")
        assert found is not None
        assert found["spec"]["drain"]["over"] == "20s"
        await until(lambda: asyncio.sleep(0, control.world.drained), lambda found: found.get("there") == 0)
    await here.delete(MESH_CLUSTERS, "there")


async def test_a_tracker_that_starts_while_a_cluster_is_drained_never_says_otherwise(here: Here) -> None:
    async with tracking(here) as control:
        tell(control, here, True)
        await here.service(global_="true")
        await here.backends(True)
        await here.status(lambda found: found.get("used") == "here, there")
        await here.patch(MESH_CLUSTERS, {"spec": {"drain": {"since": "2023-11-14T22:13:20Z"}}}, name="there")
        await here.status(lambda found: found.get("used") == "here")
    async with tracking(here) as control:
        tell(control, here, True)
        await here.backends(True, True)
        await here.status(lambda found: found.get("summary", "").startswith("here 2/2"))
    after = await here.get(GLOBAL_SERVICES)
    assert after is not None
    assert after["status"]["used"] == "here"
    assert await here.slices() == []
    await here.delete(MESH_CLUSTERS, "there")


async def test_two_trackers_at_once_agree_and_leave_each_other_in_peace(here: Here) -> None:
    async with tracking(here) as one, tracking(here) as other:
        for control in (one, other):
            tell(control, here, True)
        await here.service(global_="true")
        await here.status(lambda found: "there 1/1" in found.get("summary", ""))
        await until(here.slices)
        before = [(await here.get(GLOBAL_SERVICES))["metadata"]["resourceVersion"]]
        before += [found["metadata"]["resourceVersion"] for found in await here.slices()]
        # One sees a backend that the other does not see yet: both insist, but less and less often.
        tell(other, here, True, True)
        await until(here.slices, lambda found: len(found[0]["endpoints"]) == 2)
        tell(one, here, True, True)
        await here.status(lambda found: "there 2/2" in found.get("summary", ""))
        (slice_,) = await until(here.slices, lambda found: len(found) == 1 and len(found[0]["endpoints"]) == 2)
        writes = int(slice_["metadata"]["resourceVersion"]) - int(before[1])
        assert writes < 60


async def test_definitions_may_go_and_come_back(here: Here) -> None:
    async with tracking(here) as control:
        tell(control, here, True)
        await here.service(global_="true")
        await here.status()
        for kind in (GLOBAL_SERVICES, MESH_CLUSTERS):
            await here.delete(DEFINITIONS, f"{kind.plural}.{kind.group}")
        await until(lambda: gone(here.client))
        # EndpointSlices need no definition of ours.
        tell(control, here, True, True)
        await until(here.slices, lambda found: bool(found) and len(found[0]["endpoints"]) == 2)
        await apply_definitions(here.client)
        await here.status(lambda found: "there 2/2" in found.get("summary", ""))


async def test_without_definitions_slices_are_mirrored_all_the_same(here: Here) -> None:
    for kind in (GLOBAL_SERVICES, MESH_CLUSTERS):
        await here.delete(DEFINITIONS, f"{kind.plural}.{kind.group}")
    await until(lambda: gone(here.client))
    async with tracking(here) as control:
        tell(control, here, True)
        await here.service(global_="true")
        await until(here.slices)
        await apply_definitions(here.client)
        await here.status(lambda found: "there 1/1" in found.get("summary", ""))


async def gone(client: Client) -> bool:
    return not any([await served(client, kind) for kind in (GLOBAL_SERVICES, MESH_CLUSTERS)])


async def test_new_credentials_in_the_kubeconfig_are_taken(here: Here) -> None:
    first = load(here.server.directory / "kubeconfig")
    nobody = load(here.server.directory / "kubeconfig", context="nobody")
    ways = iter([nobody, nobody])
    control = Control("here", clusters=lambda: Set(MEMBERS, True), settling=0.0, rest=0.02)
    control.apply([ClusterSynced("here"), ClusterSynced("there")])
    follower = OwnCluster(lambda: next(ways, first), [control], reread=0.05)
    task = asyncio.create_task(follower.serve())
    try:
        await here.service(global_="true")
        await here.status()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_random_edits_by_others_end_in_what_should_be(here: Here) -> None:
    dice = random.Random(4)
    async with tracking(here) as control:
        tell(control, here, True)
        await here.service(global_="true")
        await here.status()
        (slice_,) = await until(here.slices)
        name = slice_["metadata"]["name"]
        for _ in range(12):
            with suppress(NotFound):
                match dice.randrange(4):
                    case 0:
                        await here.delete(GLOBAL_SERVICES)
                    case 1:
                        await here.patch(GLOBAL_SERVICES, {"metadata": {"ownerReferences": []}})
                    case 2:
                        await here.delete(ENDPOINT_SLICES, name)
                    case _:
                        tell(control, here, *[dice.random() < 0.5 for _ in range(3)])
        tell(control, here, True, True, True)
        await here.status(lambda found: found.get("summary") == "here 0/0, there 3/3")
        await until(here.slices, lambda found: bool(found) and len(found[0]["endpoints"]) == 3)


@pytest.fixture(autouse=True)
def _quiet_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are written as fast as they come."""
    monkeypatch.setattr(EventRecorder, "_take_token", lambda _self: asyncio.sleep(0))
