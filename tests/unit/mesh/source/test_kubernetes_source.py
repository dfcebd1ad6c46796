"""A source against a scripted API server, in virtual time."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest

from isthmus.kube.client import Client
from isthmus.kube.resources import POLICY_KINDS, Resource
from isthmus.mesh.source.kubernetes import KubernetesSource
from isthmus.mesh.source.properties import VERSIONS
from isthmus.mesh.source.reports import Report
from isthmus.mesh.source.selection import SelectedKeys
from isthmus.model.endpoint import Cluster
from isthmus.model.identity import Identity
from isthmus.model.mesh import ClusterJoined, ClusterSynced
from tests.support.kubeserver import Answer, ScriptedServer, answer, event, status
from tests.support.mesh import Believer

pytestmark = pytest.mark.looptime

C1 = Cluster("cluster-1", 1)
PODS, NAMESPACES, NODES = "/api/v1/pods", "/api/v1/namespaces", "/api/v1/nodes"
POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"
SERVICES, SLICES = "/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices"
GROUP = "/apis/multicluster.x-k8s.io"
KINDS = {PODS: "Pod", NAMESPACES: "Namespace", NODES: "Node", POLICIES: "NetworkPolicy"}
KINDS |= {SERVICES: "Service", SLICES: "EndpointSlice"}
PROPERTIES, OLDER = (f"/apis/about.k8s.io/{version}/clusterproperties" for version in ("v1beta1", "v1alpha1"))
CILIUM = "/apis/cilium.io/v2/ciliumnetworkpolicies"
KINDS |= {PROPERTIES: "ClusterProperty", OLDER: "ClusterProperty", CILIUM: "CiliumNetworkPolicy"}
ABSENT = answer(status(404, "NotFound"), status=404)


def thing(path: str, name: str, **more: Any) -> dict[str, Any]:
    meta = {"name": name, "uid": f"uid-{name}", "resourceVersion": "5", **more.pop("meta", {})}
    if path not in (NAMESPACES, NODES):
        meta["namespace"] = "demo"
    return {"kind": KINDS[path], "metadata": meta, **more}


def a_pod(name: str, ip: str, **labels: str) -> dict[str, Any]:
    return thing(PODS, name, meta={"labels": labels}, status={"phase": "Running", "podIPs": [{"ip": ip}]})


def initial(
    server: ScriptedServer, path: str, *objects: dict[str, Any], later: tuple[Any, ...] = (), then: str = "hang"
) -> Answer:
    """A watch-list with `objects`, followed by `later` events."""
    end = {
        "kind": KINDS[path],
        "metadata": {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}},
    }
    return server.stream(*(event("ADDED", o) for o in objects), event("BOOKMARK", end), *later, then=then)


class Following:
    """A source and what was heard from it."""

    def __init__(self, server: ScriptedServer, client: Client, **options: Any) -> None:
        self.server = server
        self.reports: list[Report] = []
        self.source = KubernetesSource(client, C1, on_report=self.reports.append, **options)
        self.believer = Believer()
        self.batches: list[Any] = []
        self._events = self.source.events()

    async def next(self) -> Any:
        batch = await anext(self._events)
        self.batches.append(batch)
        self.believer.take(batch)
        return batch

    async def until_synced(self) -> None:
        while not self.believer.synced:
            await self.next()

    async def close(self) -> None:
        await self._events.aclose()


@contextlib.asynccontextmanager
async def following(**options: Any) -> AsyncIterator[Following]:
    async with ScriptedServer() as server, Client(server.access) as client:
        server.scripts = {
            PODS: deque([initial(server, PODS, a_pod("web", "10.1.0.5", app="web"))]),
            NAMESPACES: deque([initial(server, NAMESPACES, thing(NAMESPACES, "demo"))]),
            NODES: deque([initial(server, NODES, thing(NODES, "n1", spec={"podCIDRs": ["10.1.0.0/24"]}))]),
            POLICIES: deque([initial(server, POLICIES)]),
            SERVICES: deque([initial(server, SERVICES)]),
            SLICES: deque([initial(server, SLICES)]),
            GROUP: deque([ABSENT] * 1000),
            **{kind.path(): deque([ABSENT] * 1000) for kind in (*POLICY_KINDS[1:], *VERSIONS)},
        }
        found = Following(server, client, **options)
        try:
            yield found
        finally:
            await found.close()
            server.release.set()


async def test_a_cluster_joins_is_told_and_is_synced_in_this_order() -> None:
    async with following() as found:
        assert await found.next() == [ClusterJoined(C1)]
        assert found.source.ready() == "not synced yet"
        await found.until_synced()

        assert found.batches[-1][-1] == ClusterSynced("cluster-1")
        assert set(found.believer.meaning()) == {("cluster-1", "10.1.0.5")}
        assert set(found.believer.nodes) == {("cluster-1", "n1")}
        health = found.source.health
        assert (health.connected, health.synced, health.trouble) == (True, True, {})
        assert health.counts["endpoints"] == 1
        assert found.source.ready() is None


async def test_an_empty_cluster_is_synced() -> None:
    async with following() as found:
        for path in (PODS, NAMESPACES, NODES):
            found.server.scripts[path] = deque([initial(found.server, path)])
        await found.until_synced()

        assert found.believer.endpoints == {}


async def test_a_burst_of_changes_is_one_batch() -> None:
    burst = tuple(event("ADDED", a_pod(f"p{i}", f"10.1.1.{i}", app="web")) for i in range(100))
    async with following() as found:
        found.server.scripts[PODS] = deque([initial(found.server, PODS, later=burst)])
        await found.until_synced()
        while len(found.believer.endpoints) < 100:
            await found.next()

        assert len(found.batches) <= 4


async def test_a_slow_consumer_loses_nothing() -> None:
    many = tuple(event("ADDED", a_pod(f"p{i}", f"10.1.{i // 250}.{i % 250 + 1}", app="web")) for i in range(3000))
    async with following() as found:
        found.server.scripts[PODS] = deque([initial(found.server, PODS, later=many)])
        while len(found.believer.endpoints) < 3000:
            await found.next()
            await asyncio.sleep(50)

        assert found.source.health.counts["endpoints"] == 3000


async def test_an_api_server_that_fails_takes_nothing_back() -> None:
    down = answer(status(503, "ServiceUnavailable", "down"), status=503)
    async with following() as found:
        for path in (PODS, NAMESPACES, NODES):
            found.server.scripts[path] = deque([await_cut(found.server.scripts[path][0]), *[down] * 50])
        await found.until_synced()
        before = found.believer.meaning()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                await found.next()

        assert found.believer.meaning() == before
        health = found.source.health
        assert (health.connected, health.synced) == (False, True)
        assert health.trouble["pods"] == "down"
        assert found.source.ready() is None


def await_cut(first: Answer) -> Answer:
    """The same stream, but its connection is cut some seconds later."""

    async def respond(request: Any) -> Any:
        assert request.transport is not None
        asyncio.get_running_loop().call_later(5, request.transport.abort)
        return await first(request)

    return respond


async def test_after_a_new_snapshot_only_differences_and_synced_are_told() -> None:
    async with following() as found:
        server = found.server
        expired = event("ERROR", status(410, "Expired", "too old"))
        server.scripts[PODS] = deque(
            [
                initial(server, PODS, a_pod("a", "10.1.0.1"), a_pod("b", "10.1.0.2"), later=(expired,)),
                initial(server, PODS, a_pod("b", "10.1.0.2"), a_pod("c", "10.1.0.3")),
            ]
        )
        while {ip for _, ip in found.believer.endpoints} != {"10.1.0.2", "10.1.0.3"}:
            await found.next()
        await found.until_synced()

        assert found.batches[-1][-1] == ClusterSynced("cluster-1")
        assert sum(len(batch) for batch in found.batches) <= 12


async def test_without_leave_to_read_policies_a_cluster_is_still_synced() -> None:
    forbidden = answer(status(403, "Forbidden", "networkpolicies is forbidden"), status=403)
    async with following() as found:
        found.server.scripts[POLICIES] = deque([forbidden] * 50)
        await found.until_synced()

        assert found.source.health.trouble == {"networkpolicies.networking.k8s.io": "networkpolicies is forbidden"}


async def test_without_leave_to_read_pods_it_says_why_it_is_not_ready() -> None:
    forbidden = answer(status(403, "Forbidden", "pods is forbidden"), status=403)
    async with following() as found:
        found.server.scripts[PODS] = deque([forbidden] * 50)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                await found.until_synced()

        assert found.source.ready() == "not synced yet: pods: pods is forbidden"
        assert found.source.health.last_error == "pods: pods is forbidden"


async def test_labels_that_policies_of_any_cluster_select_on_are_kept() -> None:
    selection = SelectedKeys()
    async with following(selection=selection) as found:
        found.server.scripts[PODS] = deque(
            [initial(found.server, PODS, a_pod("a", "10.1.0.1", **{"job-name": "j", "controller-uid": "u"}))]
        )
        peers = [{"podSelector": {"matchLabels": {"job-name": "j"}}}]
        mine = thing(POLICIES, "p", spec={"ingress": [{"from": peers}]})
        found.server.scripts[POLICIES] = deque([initial(found.server, POLICIES, mine)])
        await found.until_synced()
        assert [i.labels for i in found.believer.identities.values()] == [{"job-name": "j"}]

        selection.tell("cluster-2", {"controller-uid"})
        await found.next()
        assert [i.labels for i in found.believer.identities.values()] == [{"job-name": "j", "controller-uid": "u"}]


def declared(name: str, value: str) -> dict[str, Any]:
    meta = {"name": name, "uid": f"uid-{name}", "resourceVersion": "5"}
    return {"kind": "ClusterProperty", "metadata": meta, "spec": {"value": value}}


@pytest.mark.parametrize("path", [PROPERTIES, OLDER])
async def test_properties_of_the_cluster_are_told_before_it_is_complete(path: str) -> None:
    async with following() as found:
        objects = (declared("region", "north"), declared("cluster.clusterset.k8s.io", "cluster-2"))
        found.server.scripts[path] = deque([answer({"items": [{}]}), initial(found.server, path, *objects)])
        told: list[Any] = []
        while not found.believer.synced:
            told += await found.next()

        joined = ClusterJoined(Cluster("cluster-1", 1, {"region": "north"}))
        assert told[0] == ClusterJoined(C1)
        assert 0 < told.index(joined) < told.index(ClusterSynced("cluster-1"))
        assert [(r.kind, r.name) for r in found.reports] == [("ClusterProperty", "cluster.clusterset.k8s.io")]


async def test_properties_that_change_are_told_again() -> None:
    async with following() as found:
        later = (event("MODIFIED", declared("region", "south")),)
        found.server.scripts[PROPERTIES] = deque(
            [answer({"items": [{}]}), initial(found.server, PROPERTIES, declared("region", "north"), later=later)]
        )
        while found.believer.properties != {"cluster-1": {"region": "south"}}:
            await found.next()
        await found.until_synced()


async def test_a_cluster_whose_properties_may_not_be_read_has_none() -> None:
    async with following() as found:
        for kind in VERSIONS:
            found.server.scripts[kind.path()] = deque([answer(status(403, "Forbidden"), status=403)] * 1000)
        await found.until_synced()

        assert found.believer.properties == {}
        assert found.source.health.trouble == {}


async def test_a_cluster_is_not_complete_while_nobody_can_say_what_its_properties_are() -> None:
    async with following() as found:
        away = answer(status(503, "ServiceUnavailable"), status=503)
        path = PROPERTIES
        one = declared("region", "north")
        found.server.scripts[path] = deque([away] * 5 + [answer({"items": [{}]}), initial(found.server, path, one)])
        await found.until_synced()

        assert found.believer.properties == {"cluster-1": {"region": "north"}}


async def test_policies_of_other_kinds_are_read_where_the_server_has_them() -> None:
    async with following() as found:
        found.server.scripts[PODS] = deque(
            [initial(found.server, PODS, a_pod("a", "10.1.0.1", **{"job-name": "j", "controller-uid": "u"}))]
        )
        rule = {"fromEndpoints": [{"matchLabels": {"k8s:job-name": "j"}}]}
        found.server.scripts[CILIUM] = deque(
            [
                answer({"items": [{}]}),
                initial(found.server, CILIUM, thing(CILIUM, "p", specs=[{"ingressDeny": [rule]}])),
            ]
        )
        await found.until_synced()

        assert [i.labels for i in found.believer.identities.values()] == [{"job-name": "j"}]


class Taker:
    """Keeps what it is told of policies."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def retain_policies(self, resource: Resource, objects: Any) -> None:
        self.told.append(("retain", [obj["metadata"]["name"] for obj in objects]))

    def put_policies(self, resource: Resource, objects: Any, *, listed: bool) -> None:
        self.told.append(("listed" if listed else "put", [obj["metadata"]["name"] for obj in objects]))

    def drop_policy(self, resource: Resource, obj: Any) -> None:
        self.told.append(("drop", obj["metadata"]["name"]))

    def listed_policies(self, resource: Resource) -> None:
        self.told.append(("all", resource.kind))


async def test_who_wants_the_policies_hears_of_each_change_and_of_listings_in_pieces() -> None:
    taker = Taker()
    async with following(policies=taker) as found:
        many = [thing(CILIUM, f"p{i:02}") for i in range(50)]
        later = (event("ADDED", thing(CILIUM, "late")), event("DELETED", thing(CILIUM, "p00")))
        found.server.scripts[CILIUM] = deque([answer({"items": []}), initial(found.server, CILIUM, *many, later=later)])
        while ("drop", "p00") not in taker.told:
            await found.next()

    told = [one for one in taker.told if one not in (("retain", []), ("all", "ClusterNetworkPolicy"))]
    names = [thing["metadata"]["name"] for thing in many]
    assert ("retain", names) in told
    assert [name for what, some in told if what == "listed" for name in some] == names
    assert len([what for what, _ in told if what == "listed"]) > 1
    order = [told.index(one) for one in (("all", "CiliumNetworkPolicy"), ("put", ["late"]), ("drop", "p00"))]
    assert order == sorted(order)
    assert ("all", "ClusterNetworkPolicy") in taker.told, "that there are none is told as well"


async def test_persisted_numbers_are_adopted() -> None:
    kept = Identity((1 << 16) + 400, "cluster-1", "demo", {"app": "web"}, {}, "")
    async with following(adopt={kept.number: kept}) as found:
        await found.until_synced()

        assert found.believer.identities == {("cluster-1", kept.number): kept}


async def test_hostile_objects_are_reported_and_do_not_stop_the_rest() -> None:
    lying = a_pod("liar", "10.1.0.66", **{"cluster.clusterset.k8s.io": "cluster-2"})
    wrong = {"kind": "Pod", "metadata": {"name": "wrong", "namespace": "demo"}, "status": {"podIPs": "10.1.0.7"}}
    strange = a_pod("strange", "999.1.2.3")
    async with following() as found:
        found.server.scripts[PODS] = deque(
            [initial(found.server, PODS, lying, wrong, strange, a_pod("ok", "10.1.0.8"))]
        )
        await found.until_synced()

        assert {ip for _, ip in found.believer.endpoints} == {"10.1.0.66", "10.1.0.8"}
        assert found.source.health.dropped == 1
        assert [(r.name, r.key) for r in found.reports] == [
            ("liar", "cluster.clusterset.k8s.io"),
            ("strange", "status.podIPs"),
        ]


async def test_a_source_is_followed_once() -> None:
    async with following() as found:
        await found.next()
        with pytest.raises(RuntimeError, match="once"):
            await anext(found.source.events())


async def test_closing_ends_every_watch() -> None:
    async with following() as found:
        await found.until_synced()
        before = len(asyncio.all_tasks())
        await found.close()

        assert len(asyncio.all_tasks()) <= before - 4


async def test_a_fault_of_ours_reaches_the_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> AsyncIterator[Any]:
        raise ZeroDivisionError
        yield

    monkeypatch.setattr("isthmus.mesh.source.kubernetes.follow", broken)
    async with following() as found:
        with pytest.raises(RuntimeError, match="cluster-1 failed"):
            await found.until_synced()


def a_service(name: str, **annotations: str) -> dict[str, Any]:
    spec = {"clusterIP": "172.20.0.9", "clusterIPs": ["172.20.0.9"], "ports": [{"name": "http", "port": 80}]}
    return thing(SERVICES, name, meta={"annotations": annotations}, spec=spec)


def a_slice(name: str, of: str, *addresses: str, **labels: str) -> dict[str, Any]:
    return thing(
        SLICES,
        name,
        meta={"labels": {"kubernetes.io/service-name": of, **labels}},
        addressType="IPv4",
        endpoints=[{"addresses": [ip]} for ip in addresses],
        ports=[{"name": "http", "port": 8080, "protocol": "TCP"}],
    )


async def test_services_are_told_before_the_cluster_is_complete_and_followed_afterwards() -> None:
    shared = {"service.cilium.io/global": "true"}
    async with following() as found:
        server = found.server
        many = [a_service(f"s{n}", **shared) for n in range(100)]
        later = (event("MODIFIED", a_slice("web-1", "web", "10.1.0.5", "10.1.0.6")),)
        server.scripts[SERVICES] = deque([initial(server, SERVICES, a_service("web", **shared), *many)])
        slices = [a_slice("web-1", "web", "10.1.0.5"), a_slice("other-1", "other", "10.1.0.7")]
        mirrored = a_slice("web-m", "web", "10.2.0.1", **{"multicluster.kubernetes.io/source-cluster": "cluster-2"})
        server.scripts[SLICES] = deque([initial(server, SLICES, *slices, mirrored, later=later)])
        await found.until_synced()
        while found.believer.backends != {"10.1.0.5", "10.1.0.6"}:
            await found.next()

        assert len(found.believer.services) == 101
        health = found.source.health
        assert (health.counts["services"], health.counts["slices"], health.counts["exports"]) == (101, 1, 0)


async def test_a_cluster_is_not_complete_before_its_slices_are_known() -> None:
    async with following() as found:
        refused = answer(status(403, "Forbidden"), status=403)
        found.server.scripts[SLICES] = deque([refused, refused, initial(found.server, SLICES)])
        task = asyncio.create_task(found.until_synced())
        await asyncio.sleep(0.05)

        assert not task.done(), "without them, everything that was shared before would be taken back"
        assert "endpointslices" in (found.source.ready() or "")
        await task


async def test_a_server_that_answers_nothing_degrades_the_source_while_its_watches_believe_all_is_well() -> None:
    async with following() as found:
        silent: asyncio.Event = asyncio.Event()

        async def say_nothing(_request: Any) -> Any:
            silent.set()
            await found.server.release.wait()

        await found.until_synced()
        believed = found.believer.meaning()
        found.server.scripts["/version"] = deque([say_nothing] * 2)
        following_on = asyncio.ensure_future(found.next())
        while "connection" not in found.source.health.trouble:
            await asyncio.sleep(0.5)
        health = found.source.health
        assert silent.is_set()
        assert health.trouble == {"connection": "the API server does not answer: GET /version: no answer in 3 s"}
        assert (health.connected, health.synced) == (False, True)
        while found.source.health.trouble:
            await asyncio.sleep(0.5)
        assert found.source.health.connected
        assert found.believer.meaning() == believed
        following_on.cancel()
        await asyncio.gather(following_on, return_exceptions=True)
