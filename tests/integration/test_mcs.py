"""Multi-Cluster Services against the lab's API server: objects in, objects out; the other cluster is told by hand."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from isthmus.kube.client import Client
from isthmus.kube.events import EventRecorder
from isthmus.kube.kubeconfig import load
from isthmus.lab import addons
from isthmus.mesh.mcs import follower as follower_module
from isthmus.mesh.mcs.api import derived_name
from isthmus.mesh.mcs.follower import McsFollower, Members
from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterJoined, ClusterLeft, ClusterSynced, ExportGone, ExportTold
from isthmus.model.sharing import ServicePort, SharedExport
from tests.support.apiserver import ApiServer, running_apiserver
from tests.support.tasks import running

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAMESPACES = "/api/v1/namespaces"
KEY = ("shop", "web")
DERIVED = derived_name(KEY)
HTTP = ServicePort("http", 6, 80)
OLD, YOUNG = "2020-01-01T00:00:00Z", "2040-01-01T00:00:00Z"
JOINED = [ClusterJoined(Cluster("tion", 1)), ClusterJoined(Cluster("koornacht", 2))]


def services(name: str = "") -> str:
    return f"{NAMESPACES}/shop/services" + (f"/{name}" if name else "")


def mcs(kind: str, name: str = "", *, version: str = "v1beta1") -> str:
    return f"/apis/multicluster.x-k8s.io/{version}/namespaces/shop/{kind}" + (f"/{name}" if name else "")


def slices(name: str = "") -> str:
    return "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices" + (f"/{name}" if name else "")


def definition(kind: str, *, versions: tuple[str, ...] = ("v1beta1", "v1alpha1")) -> dict[str, Any]:
    path = Path(addons.__file__).parent / "crds" / f"{kind}.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    found["spec"]["versions"] = [
        {**one, "storage": one["name"] == versions[0]} for one in found["spec"]["versions"] if one["name"] in versions
    ]
    return found


def export_object(name: str = "web", **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "shop"}
    return {"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport", "metadata": meta, "spec": spec}


def service_object(name: str = "web", **spec: Any) -> dict[str, Any]:
    given = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": given}


def told(name: str = "web", *, cluster: str = "koornacht", created: str = OLD, **given: Any) -> ExportTold:
    given = {"ports": (HTTP,), **given}
    return ExportTold(SharedExport(cluster=cluster, namespace="shop", name=name, created=created, **given))


class Cluster1:
    """The own cluster, and what the mesh tells of others."""

    def __init__(self, api: ApiServer, follower: McsFollower) -> None:
        self.api = api
        self.tell = follower.apply

    def send(self, method: str, path: str, body: Any = None, *, media: str = "application/json") -> Any:
        headers = {"Content-Type": media} if body is not None else None
        status, answer = self.api.request(method, path, body, headers=headers)
        assert status in (200, 201), answer
        return json.loads(answer)

    def get(self, path: str) -> Any:
        """Returns an object, None if there is none."""
        status, answer = self.api.request("GET", path)
        return json.loads(answer) if status == 200 else None

    def conditions(self, kind: str = "serviceexports", name: str = "web") -> dict[str, tuple[str, str]]:
        return conditions(self.get(mcs(kind, name)))

    async def until(self, path: str, good: Callable[[Any], bool] = lambda item: True) -> Any:
        """Waits until an object is there and as it should be; the test's time-out is the limit."""
        while True:
            found = await asyncio.to_thread(self.get, path)
            if found is not None and good(found):
                return found
            await asyncio.sleep(0.02)

    async def until_told(self, expected: dict[str, tuple[str, str]], kind: str = "serviceexports") -> Any:
        """Waits until an export or an import has just these conditions."""
        return await self.until(mcs(kind, "web"), lambda item: conditions(item) == expected)

    async def until_gone(self, path: str) -> None:
        while await asyncio.to_thread(self.get, path) is not None:
            await asyncio.sleep(0.02)


def conditions(item: Any) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in item.get("status", {}).get("conditions", [])}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path_factory.mktemp("mcs")) as api:
        yield api


@asynccontextmanager
async def following(api: ApiServer, *, members: Callable[[], Members] | None = None) -> AsyncIterator[McsFollower]:
    """Serves a follower as the tracker does."""
    follower = McsFollower("tion", look_again=0.2, members=members)
    async with Client(load(api.directory / "kubeconfig")) as client:
        recorder = EventRecorder(client, "tests")
        async with running(follower.serve(client, recorder), recorder.serve()):
            yield follower


@pytest.fixture
async def shop(server: ApiServer) -> AsyncIterator[None]:
    """The definitions and an empty namespace; nobody follows them yet."""
    for kind in ("serviceexports", "serviceimports"):
        assert server.request("POST", DEFINITIONS, definition(kind))[0] in (201, 409)
    meta = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    assert server.request("POST", NAMESPACES, meta)[0] == 201
    yield
    for path in (mcs("serviceexports"), mcs("serviceimports"), slices(), services(), f"{NAMESPACES}/shop/events"):
        assert server.request("DELETE", path)[0] == 200
    server.request("DELETE", f"{NAMESPACES}/shop")
    finalize = {**meta, "spec": {"finalizers": []}}
    server.request("PUT", f"{NAMESPACES}/shop/finalize", finalize)
    while server.request("GET", f"{NAMESPACES}/shop")[0] == 200:
        await asyncio.sleep(0.02)


@pytest.fixture
async def cluster(server: ApiServer, shop: None) -> AsyncIterator[Cluster1]:
    """A cluster whose tracker follows it."""
    async with following(server) as follower:
        yield Cluster1(server, follower)


GOOD = {"Valid": ("True", "Valid"), "Ready": ("True", "Exported"), "Conflict": ("False", "NoConflicts")}
READY = {"Ready": ("True", "Ready")}
SYNCED = ClusterSynced("koornacht")
PATCH = "application/merge-patch+json"


def taking_part(value: str | None) -> dict[str, Any]:
    return {"metadata": {"annotations": {"clustermesh.cilium.io/global": value}}}


async def test_a_service_of_another_cluster_can_be_used_here_until_it_is_exported_no_more(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, told(labels={"team": "red"}, annotations={"note": "x"}), SYNCED])
    made = await cluster.until_told(READY, "serviceimports")
    service = cluster.get(services(DERIVED))
    assert made["spec"]["ips"] == service["spec"]["clusterIPs"]
    assert made["spec"]["type"] == "ClusterSetIP"
    assert made["spec"]["ports"] == [{"name": "http", "port": 80, "protocol": "TCP"}]
    assert made["status"]["clusters"] == [{"cluster": "koornacht"}]
    assert made["metadata"]["labels"]["team"] == "red" and made["metadata"]["annotations"]["note"] == "x"
    assert made["metadata"]["annotations"]["multicluster.kubernetes.io/derived-service"] == DERIVED
    assert service["metadata"]["annotations"] == {"note": "x", "service.cilium.io/global": "true"}
    assert service["metadata"]["labels"]["multicluster.kubernetes.io/service-name"] == "web"
    assert service["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    assert "selector" not in service["spec"]
    assert cluster.get(mcs("serviceimports", "web", version="v1alpha1"))["spec"] == made["spec"]
    cluster.tell([told(labels={"team": "blue"}, session_affinity="ClientIP", affinity_seconds=60)])
    changed = await cluster.until(services(DERIVED), lambda item: item["spec"]["sessionAffinity"] == "ClientIP")
    assert changed["spec"]["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 60}}
    assert changed["metadata"]["labels"]["team"] == "blue" and "note" not in changed["metadata"]["annotations"]
    cluster.tell([ExportGone("koornacht", KEY)])
    await cluster.until_gone(mcs("serviceimports", "web"))
    await cluster.until_gone(services(DERIVED))


async def test_an_export_of_this_cluster_lends_its_selector_and_only_its_own_ports(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, told(ports=(HTTP, ServicePort("metrics", 6, 9090)), created=YOUNG), SYNCED])
    cluster.send("POST", services(), service_object())
    cluster.send("POST", mcs("serviceexports"), export_object())
    await cluster.until_told(GOOD)
    service = await cluster.until(services(DERIVED), lambda item: "selector" in item["spec"])
    assert service["spec"]["selector"] == {"app": "web"}
    targets = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
    assert targets == {"http": 8080, "metrics": "not-here"}
    cluster.send("PATCH", services("web"), {"spec": {"selector": {"app": "other"}}}, media=PATCH)
    await cluster.until(services(DERIVED), lambda item: item["spec"].get("selector") == {"app": "other"})
    cluster.send("DELETE", mcs("serviceexports", "web"))
    kept = await cluster.until(services(DERIVED), lambda item: "selector" not in item["spec"])
    assert kept["metadata"]["uid"] == service["metadata"]["uid"]
    clusters = cluster.get(mcs("serviceimports", "web"))["status"]["clusters"]
    assert clusters == [{"cluster": "koornacht"}]


async def test_exports_are_told_what_is_wrong_with_their_service(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, SYNCED])
    cluster.send("POST", mcs("serviceexports"), export_object())
    await cluster.until_told({"Valid": ("False", "NoService"), "Ready": ("False", "Pending")})
    cluster.send("POST", services(), service_object())
    good = await cluster.until_told(GOOD)
    assert all(one["lastTransitionTime"] and one["message"] for one in good["status"]["conditions"])
    await cluster.until(services(DERIVED))
    cluster.send("DELETE", services("web"))
    await cluster.until_told({"Valid": ("False", "NoService"), "Ready": ("False", "Pending")})
    await cluster.until_gone(mcs("serviceimports", "web"))
    external = service_object(type="ExternalName", externalName="example.com", selector=None, ports=None)
    cluster.send("POST", services(), external)
    await cluster.until_told({"Valid": ("False", "InvalidServiceType"), "Ready": ("False", "Failed")})
    assert cluster.get(mcs("serviceimports", "web")) is None


async def test_conflicts_are_told_and_taken_back(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, told(ports=(ServicePort("http", 6, 8000),), labels={"a": "b"}), SYNCED])
    cluster.send("POST", services(), service_object())
    cluster.send("POST", mcs("serviceexports"), export_object())
    found = await cluster.until_told({**GOOD, "Conflict": ("True", "PortConflict,LabelsConflict")})
    message = next(one["message"] for one in found["status"]["conditions"] if one["type"] == "Conflict")
    assert "http 8000/TCP of the older export in cluster koornacht is used" in message
    events = f"{NAMESPACES}/shop/events"
    warned = await cluster.until(events, lambda listed: bool(listed["items"]))
    assert [(one["reason"], one["type"], one["involvedObject"]["kind"]) for one in warned["items"]] == [
        ("PortConflict", "Warning", "ServiceExport")
    ]
    made = await cluster.until(mcs("serviceimports", "web"))
    assert [port["port"] for port in made["spec"]["ports"]] == [8000]
    service = await cluster.until(services(DERIVED))
    # Nobody is sent to local pods through a port that this cluster does not export.
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["not-here"]
    cluster.tell([ExportGone("koornacht", KEY)])
    await cluster.until_told(GOOD)
    await cluster.until(services(DERIVED), lambda item: item["spec"]["ports"][0]["targetPort"] == 8080)


async def test_a_headless_service_keeps_the_host_names_of_its_pods(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, told(type="Headless", ports=(ServicePort("web", 6, 80),)), SYNCED])
    cluster.send("POST", services(), service_object(clusterIP="None"))
    endpoint = {"addresses": ["10.10.0.1"], "conditions": {"ready": True}, "hostname": "web-0", "nodeName": "n1"}
    item = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-abc", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "admin", "port": 1, "protocol": "TCP"}],
        "endpoints": [endpoint],
    }
    cluster.send("POST", slices(), item)
    cluster.send("POST", mcs("serviceexports"), export_object())
    await cluster.until_told({**GOOD, "Conflict": ("True", "PortConflict")})
    derived = await cluster.until(services(DERIVED))
    assert derived["spec"]["clusterIP"] == "None" and "selector" not in derived["spec"]
    where = f"{slices()}?labelSelector=kubernetes.io/service-name={DERIVED}"
    found = (await cluster.until(where, lambda listed: bool(listed["items"])))["items"]
    assert [one["endpoints"] for one in found] == [[endpoint]]
    # Ports go by the import's names; what the Service does not export stays here.
    assert found[0]["ports"] == [{"name": "web", "port": 8080, "protocol": "TCP"}]
    labels = found[0]["metadata"]["labels"]
    assert labels["multicluster.kubernetes.io/service-name"] == "web"
    assert labels["multicluster.kubernetes.io/source-cluster"] == "tion"
    assert found[0]["metadata"]["ownerReferences"][0]["uid"] == derived["metadata"]["uid"]
    cluster.send("PATCH", slices("web-abc"), {"endpoints": [{**endpoint, "addresses": ["10.10.0.2"]}]}, media=PATCH)
    await cluster.until(
        where, lambda listed: [one["endpoints"][0]["addresses"] for one in listed["items"]] == [["10.10.0.2"]]
    )
    cluster.send("DELETE", slices("web-abc"))
    await cluster.until(where, lambda listed: not listed["items"])


async def test_endpoints_that_somebody_made_by_hand_are_exported(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, SYNCED])
    cluster.send("POST", services(), service_object(selector=None))
    cluster.send("POST", mcs("serviceexports"), export_object())
    await cluster.until_told(GOOD)
    item = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-manual", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["192.0.2.1"]}],
    }
    cluster.send("POST", slices(), item)
    where = f"{slices()}?labelSelector=kubernetes.io/service-name={DERIVED}"
    found = (await cluster.until(where, lambda listed: bool(listed["items"])))["items"]
    assert found[0]["endpoints"][0]["addresses"] == ["192.0.2.1"]
    cluster.send("PATCH", services("web"), {"spec": {"selector": {"app": "web"}}}, media=PATCH)
    await cluster.until(where, lambda listed: not listed["items"])
    await cluster.until(services(DERIVED), lambda derived: derived["spec"].get("selector") == {"app": "web"})


async def test_a_service_import_that_a_user_made_is_left_alone(cluster: Cluster1) -> None:
    meta = {"name": "web", "namespace": "shop", "labels": {"mine": "yes"}}
    item = {"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport", "metadata": meta}
    before = cluster.send("POST", mcs("serviceimports"), {**item, "spec": {"type": "ClusterSetIP", "ports": []}})
    cluster.tell([*JOINED, told(), told("other"), SYNCED])
    await cluster.until(mcs("serviceimports", "other"), lambda made: conditions(made) == READY)
    cluster.tell([ExportGone("koornacht", KEY), ExportGone("koornacht", ("shop", "other"))])
    await cluster.until_gone(mcs("serviceimports", "other"))
    assert cluster.get(mcs("serviceimports", "web")) == before
    assert cluster.get(services(DERIVED)) is None


async def test_a_service_that_only_has_the_name_is_left_alone(cluster: Cluster1) -> None:
    before = cluster.send("POST", services(), service_object(DERIVED))
    cluster.tell([*JOINED, told(), SYNCED])
    told_why = await cluster.until_told({"Ready": ("False", "Pending")}, "serviceimports")
    assert f"Service {DERIVED} exists" in told_why["status"]["conditions"][0]["message"]
    assert cluster.get(services(DERIVED)) == before
    cluster.send("DELETE", services(DERIVED))
    await cluster.until_told(READY, "serviceimports")


async def test_what_users_add_stays_and_what_they_change_is_put_right(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, told(), SYNCED])
    await cluster.until_told(READY, "serviceimports")
    mine = {"metadata": {"annotations": {"service.cilium.io/affinity": "local"}}}
    cluster.send("PATCH", services(DERIVED), mine, media=PATCH)
    cluster.send("PATCH", mcs("serviceimports", "web"), {"spec": {"ports": [{"port": 1}]}}, media=PATCH)
    await cluster.until(mcs("serviceimports", "web"), lambda item: item["spec"]["ports"][0]["port"] == 80)
    service = cluster.get(services(DERIVED))
    assert service["metadata"]["annotations"]["service.cilium.io/affinity"] == "local"
    assert service["metadata"]["annotations"]["service.cilium.io/global"] == "true"


async def test_a_quarrel_with_another_controller_is_bounded(cluster: Cluster1, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "MOST_WRITES", 12)
    cluster.tell([*JOINED, told(), SYNCED])
    before = await cluster.until_told(READY, "serviceimports")
    mine = {"spec": {"ports": [{"port": 1}]}}
    turns = 0
    while cluster.get(mcs("serviceimports", "web"))["spec"]["ports"][0]["port"] == 80:
        await asyncio.to_thread(cluster.send, "PATCH", mcs("serviceimports", "web"), mine, media=PATCH)
        turns += 1
        # Either they put it right, or they have had enough.
        for _ in range(20):
            await asyncio.sleep(0.02)
            if cluster.get(mcs("serviceimports", "web"))["spec"]["ports"][0]["port"] == 80:
                break
    assert 0 < turns <= 12
    assert before["metadata"]["uid"] == cluster.get(mcs("serviceimports", "web"))["metadata"]["uid"]


async def test_a_deleted_import_is_made_again_and_owns_its_service(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, told(), SYNCED])
    before = await cluster.until_told(READY, "serviceimports")
    cluster.send("DELETE", mcs("serviceimports", "web"))
    after = await cluster.until(
        mcs("serviceimports", "web"), lambda item: item["metadata"]["uid"] != before["metadata"]["uid"]
    )
    await cluster.until(
        services(DERIVED), lambda item: item["metadata"]["ownerReferences"][0]["uid"] == after["metadata"]["uid"]
    )


async def test_a_namespace_that_takes_no_part_gets_nothing_and_gives_nothing(cluster: Cluster1) -> None:
    cluster.send("POST", services(), service_object())
    cluster.send("POST", mcs("serviceexports"), export_object())
    cluster.tell([*JOINED, told("other"), SYNCED])
    await cluster.until_told(GOOD)
    await cluster.until(mcs("serviceimports", "other"))
    cluster.send("PATCH", f"{NAMESPACES}/shop", taking_part("false"), media=PATCH)
    await cluster.until_told({"Valid": ("True", "Valid"), "Ready": ("False", "Failed")})
    for name in ("web", "other"):
        await cluster.until_gone(mcs("serviceimports", name))
        await cluster.until_gone(services(derived_name(("shop", name))))
    cluster.send("PATCH", f"{NAMESPACES}/shop", taking_part(None), media=PATCH)
    await cluster.until_told(GOOD)
    await cluster.until(mcs("serviceimports", "other"))


async def test_a_namespace_that_comes_later_gets_what_is_exported(cluster: Cluster1) -> None:
    export = told().export
    cluster.tell([*JOINED, ExportTold(msgspec.structs.replace(export, namespace="late")), SYNCED, told()])
    await cluster.until_told(READY, "serviceimports")
    meta = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late"}}
    cluster.send("POST", NAMESPACES, meta)
    where = "/apis/multicluster.x-k8s.io/v1beta1/namespaces/late/serviceimports/web"
    await cluster.until(where, lambda item: conditions(item) == READY)
    cluster.tell([ExportGone("koornacht", ("late", "web"))])
    await cluster.until_gone(where)


async def test_an_export_that_is_deleted_and_made_again_at_once_is_told_again(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, SYNCED])
    cluster.send("POST", services(), service_object())
    cluster.send("POST", mcs("serviceexports"), export_object())
    await cluster.until_told(GOOD)
    for _ in range(5):
        cluster.send("DELETE", mcs("serviceexports", "web"))
        cluster.send("POST", mcs("serviceexports"), export_object())
    await cluster.until_told(GOOD)
    await cluster.until_told(READY, "serviceimports")
    assert (await cluster.until(services(DERIVED)))["spec"]["selector"] == {"app": "web"}


async def test_another_type_means_another_derived_service(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, told(), SYNCED])
    await cluster.until_told(READY, "serviceimports")
    cluster.tell([told(type="Headless")])
    await cluster.until(services(DERIVED), lambda item: item["spec"]["clusterIP"] == "None")
    made = await cluster.until(mcs("serviceimports", "web"), lambda item: item["spec"]["type"] == "Headless")
    assert "ips" not in (await cluster.until_told(READY, "serviceimports"))["spec"], made
    cluster.tell([told()])
    await cluster.until(services(DERIVED), lambda item: item["spec"]["clusterIP"] != "None")


async def test_a_family_that_this_cluster_does_not_have_is_said(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, told(ip_families=("IPv6",)), SYNCED])
    await cluster.until_told({"Ready": ("False", "IPFamilyNotSupported")}, "serviceimports")
    cluster.tell([told(ip_families=("IPv4",))])
    await cluster.until_told(READY, "serviceimports")


async def test_silence_after_a_start_takes_nothing_away(server: ApiServer, shop: None) -> None:
    async with following(server) as first:
        cluster = Cluster1(server, first)
        cluster.tell([*JOINED, told(labels={"team": "red"}), SYNCED])
        before = await cluster.until_told(READY, "serviceimports")
    async with following(server) as again:
        # Another life: the cluster is a member, and is away. One of this cluster's own is exported meanwhile.
        restarted = Cluster1(server, again)
        restarted.tell([*JOINED])
        restarted.send("POST", services(), service_object("own"))
        restarted.send("POST", mcs("serviceexports"), export_object("own"))
        await restarted.until(mcs("serviceimports", "own"), lambda item: conditions(item) == READY)
        after = restarted.get(mcs("serviceimports", "web"))
        assert (after["spec"], after["status"]) == (before["spec"], before["status"])
        assert after["metadata"]["uid"] == before["metadata"]["uid"]


class Membership:
    """Who is in the mesh, as a tracker says it that cannot read its peers yet."""

    known = False
    refused: Mapping[str, str] = {}


async def test_nobody_is_taken_for_gone_while_the_members_are_not_known(server: ApiServer, shop: None) -> None:
    async with following(server) as first:
        cluster = Cluster1(server, first)
        cluster.tell([*JOINED, told(), SYNCED])
        before = await cluster.until_told(READY, "serviceimports")
    membership = Membership()
    async with following(server, members=lambda: membership) as again:
        restarted = Cluster1(server, again)
        restarted.tell([JOINED[0], told("own", cluster="corellia")])
        await restarted.until(mcs("serviceimports", "own"), lambda item: conditions(item) == READY)
        assert restarted.get(mcs("serviceimports", "web")) == before
        # The peers can be read; what is said of this one cannot be used, but it is there.
        membership.refused, membership.known = {"koornacht": "no certificate"}, True
        restarted.tell([told("other", cluster="corellia")])
        await restarted.until(mcs("serviceimports", "other"), lambda item: conditions(item) == READY)
        assert restarted.get(mcs("serviceimports", "web")) == before
        membership.refused = {}
        await restarted.until_gone(mcs("serviceimports", "web"))


async def test_a_cluster_that_leaves_takes_its_exports_along(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, told(), SYNCED])
    await cluster.until_told(READY, "serviceimports")
    cluster.tell([ClusterLeft("koornacht")])
    await cluster.until_gone(mcs("serviceimports", "web"))


async def test_many_exports_at_once(cluster: Cluster1) -> None:
    cluster.tell([*JOINED, *(told(f"web-{number}") for number in range(150)), SYNCED])

    def all_ready(listed: Any) -> bool:
        return len(listed["items"]) == 150 and all(conditions(item) == READY for item in listed["items"])

    made = await cluster.until(mcs("serviceimports"), all_ready)
    assert len({item["spec"]["ips"][0] for item in made["items"]}) == 150
    cluster.tell([ClusterLeft("koornacht")])
    await cluster.until(mcs("serviceimports"), lambda listed: not listed["items"])


async def test_without_the_definitions_nothing_happens_until_they_come(tmp_path: Path) -> None:
    with running_apiserver(tmp_path) as api:
        meta = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
        async with following(api) as follower:
            cluster = Cluster1(api, follower)
            cluster.send("POST", NAMESPACES, meta)
            cluster.tell([*JOINED, told(), SYNCED])
            cluster.send("POST", DEFINITIONS, definition("serviceexports", versions=("v1alpha1",)))
            cluster.send("POST", DEFINITIONS, definition("serviceimports", versions=("v1alpha1",)))
            where = mcs("serviceimports", "web", version="v1alpha1")
            made = await cluster.until(where, lambda item: conditions(item) == READY)
            assert made["apiVersion"] == "multicluster.x-k8s.io/v1alpha1"
            derived = cluster.get(services(DERIVED))
            assert derived["metadata"]["ownerReferences"][0]["apiVersion"] == "multicluster.x-k8s.io/v1alpha1"
            # They go and come back, in another version.
            for kind in ("serviceexports", "serviceimports"):
                cluster.send("DELETE", f"{DEFINITIONS}/{kind}.multicluster.x-k8s.io")
                await cluster.until_gone(f"{DEFINITIONS}/{kind}.multicluster.x-k8s.io")
            for kind in ("serviceexports", "serviceimports"):
                cluster.send("POST", DEFINITIONS, definition(kind, versions=("v1beta1",)))
            await cluster.until(mcs("serviceimports", "web"), lambda item: conditions(item) == READY)
