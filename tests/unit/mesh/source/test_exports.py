"""ServiceExports of servers that do not know them, learn of them and forget them; virtual time."""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest

from isthmus.kube.client import Client
from isthmus.kube.reflector import Change, Put, Snapshot
from isthmus.mesh.mcs.api import ServiceExport
from isthmus.mesh.source.exports import find_exports
from isthmus.mesh.source.optional import follow_optional
from tests.support.kubeserver import Answer, ScriptedServer, answer, event, status

pytestmark = pytest.mark.looptime

GROUP = "/apis/multicluster.x-k8s.io"
ABSENT = answer(status(404, "NotFound"), status=404)
AWAY = answer(status(503, "ServiceUnavailable"), status=503)


def group(*versions: str) -> Answer:
    return answer({"kind": "APIGroup", "versions": [{"version": version} for version in versions]})


def resources(*names: str) -> Answer:
    return answer({"kind": "APIResourceList", "resources": [{"name": name} for name in names]})


BOTH = resources("serviceexports", "serviceimports")


def initial(server: ScriptedServer, *names: str, later: tuple[Any, ...] = (), then: str = "hang") -> Answer:
    meta = {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}
    end = {"kind": "ServiceExport", "metadata": meta}
    return server.stream(*(event("ADDED", export(name)) for name in names), event("BOOKMARK", end), *later, then=then)


def export(name: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "demo", "uid": name, "resourceVersion": "5"}
    return {"kind": "ServiceExport", "metadata": meta, "spec": {"exportedLabels": {"a": "b"}}}


def names(change: object) -> list[str]:
    assert isinstance(change, Snapshot)
    return [obj.metadata.name for obj in change.objects]


def exports_of(client: Client, **options: Any) -> AsyncGenerator[Change[ServiceExport], None]:
    return follow_optional(client, partial(find_exports, client), ServiceExport, **options)


def serve(server: ScriptedServer, version: str, *watches: Answer) -> None:
    server.scripts[f"{GROUP}/{version}"] = deque([BOTH] * 100)
    server.scripts[f"{GROUP}/{version}/serviceexports"] = deque([answer({"items": []}), *watches])


async def test_a_kind_that_comes_later_is_followed_in_its_best_version() -> None:
    async with ScriptedServer() as server, Client(server.access) as client:
        server.scripts[GROUP] = deque([ABSENT, ABSENT, ABSENT, group("v1alpha1", "v1beta1", "v2")])
        serve(server, "v1beta1", initial(server, "web", later=(event("ADDED", export("db")),)))
        async with aclosing(exports_of(client)) as changes:
            assert names(await anext(changes)) == []
            assert names(await anext(changes)) == ["web"], "absence is told once"
            change = await anext(changes)
            assert isinstance(change, Put)
            assert change.object.spec.exportedLabels == {"a": "b"}
        server.release.set()


async def test_an_older_version_serves_where_it_is_the_only_one() -> None:
    async with ScriptedServer() as server, Client(server.access) as client:
        server.scripts[GROUP] = deque([group("v1alpha1")])
        serve(server, "v1alpha1", initial(server, "web"))
        async with aclosing(exports_of(client)) as changes:
            assert names(await anext(changes)) == ["web"]
        server.release.set()


async def test_a_kind_that_we_may_not_read_is_as_good_as_none() -> None:
    async with ScriptedServer() as server, Client(server.access) as client:
        server.scripts[GROUP] = deque([group("v1beta1")] * 100)
        serve(server, "v1beta1")
        refused = answer(status(403, "Forbidden"), status=403)
        server.scripts[f"{GROUP}/v1beta1/serviceexports"] = deque([refused] * 100)
        async with aclosing(exports_of(client)) as changes:
            assert names(await anext(changes)) == []


async def test_a_server_that_cannot_be_asked_says_nothing() -> None:
    async with ScriptedServer() as server, Client(server.access) as client:
        server.scripts[GROUP] = deque([AWAY] * 5 + [group("v1beta1")])
        serve(server, "v1beta1", initial(server, "web"))
        states: list[object] = []
        async with aclosing(exports_of(client, on_state=states.append)) as changes:
            assert names(await anext(changes)) == ["web"]
        assert [type(state).__name__ for state in states] == ["Degraded"] * 5 + ["Healthy"]
        assert "ServiceUnavailable" in str(states[0])
        server.release.set()


async def test_a_kind_that_is_deleted_takes_its_exports_with_it_and_may_return() -> None:
    async with ScriptedServer() as server, Client(server.access) as client:
        found = group("v1beta1")
        server.scripts[GROUP] = deque([found, ABSENT, ABSENT, ABSENT, found])
        gone = [ABSENT] * 20
        serve(server, "v1beta1", initial(server, "web", then="cut"), *gone)
        async with aclosing(exports_of(client)) as changes:
            assert names(await anext(changes)) == ["web"]
            assert names(await anext(changes)) == []
            script = deque([answer({"items": []}), initial(server, "again")])
            server.scripts[f"{GROUP}/v1beta1/serviceexports"] = script
            assert names(await anext(changes)) == ["again"]
        server.release.set()
