"""The client against the lab's API server: two programs that share no code."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from isthmus.kube import kubeconfig
from isthmus.kube.client import Client, Patch
from isthmus.kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound, Unauthorized
from isthmus.kube.events import EventRecorder
from isthmus.kube.reflector import Degraded, Gone, Healthy, Put, Snapshot, State, follow
from isthmus.kube.resources import CONFIG_MAPS, EVENTS, NAMESPACES, SERVICES
from isthmus.kube.schema import Bare, Namespace, ObjectReference, Service
from isthmus.mesh.source.kubernetes import KubernetesSource
from isthmus.model.endpoint import Cluster
from tests.support.apiserver import ApiServer, running_apiserver
from tests.support.mesh import Believer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path_factory.mktemp("apiserver")) as server:
        yield server


@contextlib.asynccontextmanager
async def connected(server: ApiServer, context: str = "admin") -> AsyncIterator[Client]:
    async with Client(kubeconfig.load(server.directory / "kubeconfig", context=context)) as client:
        yield client


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


async def test_every_verb(server: ApiServer) -> None:
    async with connected(server) as client:
        made = await client.create(CONFIG_MAPS, config_map("verbs", a="1"), type=dict, namespace="default")
        with pytest.raises(AlreadyExists):
            await client.create(CONFIG_MAPS, config_map("verbs"), type=dict, namespace="default")
        made["data"] = {"a": "2"}
        await client.replace(CONFIG_MAPS, "verbs", made, type=dict, namespace="default")
        with pytest.raises(Conflict):
            await client.replace(CONFIG_MAPS, "verbs", made, type=dict, namespace="default")
        await client.patch(CONFIG_MAPS, "verbs", {"data": {"b": "3"}}, type=dict, namespace="default")
        applied = {**config_map("verbs", c="4")}
        await client.patch(
            CONFIG_MAPS, "verbs", applied, type=dict, kind=Patch.APPLY, namespace="default", field_manager="tests"
        )
        found = await client.get(CONFIG_MAPS, "verbs", type=dict, namespace="default")
        assert found["data"] == {"a": "2", "b": "3", "c": "4"}
        with pytest.raises(Conflict):
            await client.delete(CONFIG_MAPS, "verbs", namespace="default", uid="another")
        await client.delete(CONFIG_MAPS, "verbs", namespace="default", uid=found["metadata"]["uid"])
        with pytest.raises(NotFound):
            await client.get(CONFIG_MAPS, "verbs", type=Bare, namespace="default")
        with pytest.raises(Invalid):
            await client.create(CONFIG_MAPS, config_map("Not A Name"), type=dict, namespace="default")


async def test_lists_in_small_pages_are_whole(server: ApiServer) -> None:
    async with connected(server) as client:
        await asyncio.gather(
            *(client.create(CONFIG_MAPS, config_map(f"page-{i}"), type=Bare, namespace="default") for i in range(25))
        )
        pages = [page async for page in client.list_pages(CONFIG_MAPS, type=Bare, namespace="default", limit=10)]

    names = {item.key[1] for page in pages for item in page.items}
    assert len(pages) >= 3
    assert {f"page-{i}" for i in range(25)} <= names


async def test_credentials(server: ApiServer) -> None:
    async with connected(server, "token") as client:
        assert await client.get(NAMESPACES, "default", type=Namespace)
    async with connected(server, "nobody") as client:
        with pytest.raises((Unauthorized, Forbidden)):
            await client.create(NAMESPACES, {"metadata": {"name": "x"}}, type=Bare)
        assert (await client.raw("GET", "/readyz", accept="*/*")).startswith(b"ok")


@pytest.mark.parametrize("watch_list", [True, False])
async def test_follow_tells_what_happens(server: ApiServer, watch_list: bool) -> None:
    name = f"follow-{str(watch_list).lower()}"
    states: list[State] = []
    async with connected(server) as client:
        changes = follow(client, SERVICES, Service, namespace="default", on_state=states.append, watch_list=watch_list)
        async with asyncio.timeout(20), contextlib.aclosing(changes):
            first = await anext(changes)
            assert isinstance(first, Snapshot)
            assert "kubernetes" in {service.metadata.name for service in first.objects}
            body = {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}
            await client.create(SERVICES, body, type=dict, namespace="default")
            put = await anext(changes)
            assert isinstance(put, Put)
            assert (put.object.metadata.name, put.object.spec.ports[0].port) == (name, 80)
            await client.delete(SERVICES, name, namespace="default")
            gone = await anext(changes)
            assert isinstance(gone, Gone)
            assert gone.object.metadata.uid == put.object.metadata.uid
    assert states == [Healthy()]


async def test_follow_survives_the_kill_of_the_server(tmp_path: Any) -> None:
    states: list[State] = []
    with running_apiserver(tmp_path) as own:
        async with connected(own) as client:
            changes = follow(client, CONFIG_MAPS, Bare, namespace="default", on_state=states.append)
            async with asyncio.timeout(60), contextlib.aclosing(changes):
                seen = {item.metadata.name for item in (await anext(changes)).objects}
                await client.create(CONFIG_MAPS, config_map("before"), type=Bare, namespace="default")
                await anext(changes)
                waiting = asyncio.ensure_future(anext(changes))
                await asyncio.to_thread(own.kill)
                await asyncio.to_thread(own.start)
                await client.create(CONFIG_MAPS, config_map("after"), type=Bare, namespace="default")
                change = await waiting
                while True:
                    names = (
                        {o.metadata.name for o in change.objects}
                        if isinstance(change, Snapshot)
                        else {change.object.metadata.name}
                    )
                    if "after" in names:
                        break
                    change = await anext(changes)
    assert "before" not in seen
    assert any(isinstance(state, Degraded) for state in states)
    assert isinstance(states[-1], Healthy)


async def test_an_event_can_be_seen_beside_its_object(server: ApiServer) -> None:
    async with connected(server) as client:
        recorder = EventRecorder(client, "isthmus-test", "host")
        task = asyncio.create_task(recorder.serve())
        about = ObjectReference(kind="ConfigMap", namespace="default", name="x", uid="u", apiVersion="v1")
        changes = follow(client, EVENTS, dict, namespace="default", field_selector="involvedObject.name=x")
        async with asyncio.timeout(20), contextlib.aclosing(changes):
            await anext(changes)
            recorder.emit(about, reason="Tested", message="it works")
            recorder.emit(about, reason="Tested", message="it works")
            counts = []
            while counts != [1, 2]:
                change = await anext(changes)
                assert isinstance(change, Put)
                counts.append(change.object["count"])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_cluster_as_a_source_of_mesh_events(server: ApiServer) -> None:
    pod: dict[str, Any] = {
        "metadata": {"name": "web", "labels": {"app": "web", "pod-template-hash": "abc"}},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "c", "image": "x", "ports": [{"name": "http", "containerPort": 80}]}],
        },
    }
    status = {
        "status": {"phase": "Running", "podIP": "10.10.0.5", "podIPs": [{"ip": "10.10.0.5"}], "hostIP": "192.0.2.1"}
    }
    believer = Believer()
    async with connected(server) as client:
        for path, body in (
            ("/api/v1/namespaces", {"metadata": {"name": "mesh", "labels": {"team": "a"}}}),
            (
                "/api/v1/nodes",
                {"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.10.0.0/24", "podCIDRs": ["10.10.0.0/24"]}},
            ),
        ):
            code, answer = await asyncio.to_thread(server.request, "POST", path, body)
            assert code == 201, answer
        source = KubernetesSource(client, Cluster("c1", 1))
        async with asyncio.timeout(30), contextlib.aclosing(source.events()) as events:

            async def until(condition: Any) -> None:
                while not condition():
                    believer.take(await anext(events))

            await until(lambda: believer.synced)
            assert ("c1", "n1") in believer.nodes

            code, answer = await asyncio.to_thread(server.request, "POST", "/api/v1/namespaces/mesh/pods", pod)
            assert code == 201, answer
            code, answer = await asyncio.to_thread(
                server.request,
                "PATCH",
                "/api/v1/namespaces/mesh/pods/web/status",
                status,
                headers={"Content-Type": "application/merge-patch+json"},
            )
            assert code == 200, answer
            await until(lambda: ("c1", "10.10.0.5") in believer.endpoints)
            endpoint = believer.endpoints["c1", "10.10.0.5"]
            identity = believer.identities["c1", endpoint.identity]
            assert (endpoint.pod, endpoint.node, endpoint.named_ports[0].name) == ("web", "n1", "http")
            assert (identity.labels, identity.namespace_labels) == ({"app": "web"}, {"team": "a"})

            await client.patch(NAMESPACES, "mesh", {"metadata": {"labels": {"team": "b"}}}, type=Bare)
            await until(lambda: {i.namespace_labels.get("team") for i in believer.identities.values()} == {"b"})
            assert source.health.connected
