"""A whole tracker between two API servers: what it writes into its own cluster while the other one comes and goes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import isthmus.mesh
from isthmus.aio.backoff import Backoff
from isthmus.cli import main
from isthmus.lab import addons
from isthmus.mesh.clusters import ClusterSpec
from isthmus.mesh.storing.reader import follow
from isthmus.mesh.tracker import serve
from isthmus.mesh.tracker_options import TrackerOptions
from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterJoined
from isthmus.store.client import Client
from tests.support.apiserver import TOKEN, ApiServer, running_apiserver
from tests.support.etcd import free_port, needs_etcd

pytestmark = [needs_etcd, pytest.mark.etcd, pytest.mark.timeout(90)]

MANIFEST = Path(isthmus.mesh.__file__).parent / "manifests" / "crds.yaml"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MESH = "/apis/isthmus.dev/v1alpha1"
SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
GLOBAL = f"{MESH}/namespaces/default/globalservices/web"
OWN, OTHER = "tion", "koornacht"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, ApiServer]]:
    for name in (OWN, OTHER):
        (tmp_path / name).mkdir()
    with running_apiserver(tmp_path / OWN) as one, running_apiserver(tmp_path / OTHER) as two:
        for body in yaml.safe_load_all(MANIFEST.read_text()):
            assert one.request("POST", DEFINITIONS, body)[0] == 201
        yield {OWN: one, OTHER: two}


@asynccontextmanager
async def tracking(
    servers: dict[str, ApiServer], directory: Path, *, port: int = 0, **given: Any
) -> AsyncIterator[None]:
    own, other = (
        ClusterSpec(Cluster(name, number), servers[name].directory / "kubeconfig", "admin")
        for number, name in enumerate((OWN, OTHER), 1)
    )
    options = TrackerOptions(
        own=own,
        clusters=(other,),
        data_dir=directory,
        listen=f"http://127.0.0.1:{port or free_port()}",
        metrics_bind_address="127.0.0.1:0",
        **given,
    )
    task = asyncio.create_task(serve(options))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def service(**annotations: str) -> dict[str, Any]:
    noted = {f"service.cilium.io/{key.rstrip('_')}": value for key, value in annotations.items()}
    meta = {"name": "web", "annotations": noted}
    spec = {"ports": [{"name": "http", "port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def slice_(*addresses: str, ready: bool = True) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address in addresses],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def write(server: ApiServer, method: str, path: str, body: Any) -> None:
    media = "application/merge-patch+json" if method == "PATCH" else "application/json"
    data = json.dumps(body).encode()
    code, answer = server.request(method, path, data, headers={"Content-Type": media})
    assert code in (200, 201), answer


async def until(server: ApiServer, path: str, good: Callable[[Any], Any]) -> Any:
    """Waits until an object is as it should be; the test's time-out is the limit."""

    def look() -> Any:
        code, answer = server.get(path, token=TOKEN)
        return json.loads(answer) if code == 200 else {}

    while True:
        found = await asyncio.to_thread(look)
        if found and good(found):
            return found
        await asyncio.sleep(0.05)


def mirrors(found: Any) -> list[list[str]]:
    """The addresses of mirrored slices in a list of slices."""
    label = "multicluster.kubernetes.io/source-cluster"
    ours = [item for item in found["items"] if label in item["metadata"]["labels"]]
    return [[end["addresses"][0] for end in item["endpoints"] or []] for item in ours]


async def test_a_service_of_two_clusters_is_described_mirrored_and_kept_while_the_other_is_away(
    servers: dict[str, ApiServer], tmp_path: Path
) -> None:
    own, other = servers[OWN], servers[OTHER]
    write(own, "POST", SERVICES, service(global_="true", affinity="local"))
    write(own, "POST", SLICES, slice_("10.1.0.1"))
    write(other, "POST", SERVICES, service(global_="true"))
    write(other, "POST", SLICES, slice_("10.2.0.1", "10.2.0.2"))
    async with tracking(servers, tmp_path / "one", global_services="endpointslices"):
        await until(own, f"{MESH}/meshclusters/{OTHER}", lambda obj: obj.get("status", {}).get("state") == "Synced")
        found = await until(own, GLOBAL, lambda obj: obj.get("status"))
        assert found["status"]["summary"] == "tion 1/1, koornacht 2/2"
        assert found["status"]["used"] == OWN
        write(own, "PATCH", f"{SLICES}/web-1", slice_("10.1.0.1", ready=False))
        await until(own, SLICES, lambda found: mirrors(found) == [["10.2.0.1", "10.2.0.2"]])
        write(other, "PATCH", f"{SLICES}/web-1", slice_("10.2.0.1"))
        await until(own, SLICES, lambda found: mirrors(found) == [["10.2.0.1"]])
        other.stop()
        await until(own, f"{MESH}/meshclusters/{OTHER}", lambda obj: obj["status"]["state"] == "Degraded")
    async with tracking(servers, tmp_path / "two", global_services="endpointslices"):
        # A tracker that has lost all it knew has the API servers alone, and one of those is away.
        await until(own, f"{MESH}/meshclusters/{OTHER}", lambda obj: obj["status"]["state"] == "Degraded")
        write(own, "PATCH", f"{SLICES}/web-1", slice_("10.1.0.1", "10.1.0.2", ready=False))
        await until(own, SLICES, lambda found: mirrors(found) == [["10.2.0.1"]])
        other.start()
        await until(
            own,
            GLOBAL,
            lambda obj: (
                (obj["status"]["summary"], obj["status"]["clusters"][1]["state"])
                == ("tion 0/2, koornacht 1/1", "Synced")
            ),
        )
        done = await asyncio.to_thread(
            CliRunner().invoke, main, ["service", "describe", "web", "--kubeconfig", str(own.directory / "kubeconfig")]
        )
        assert done.exit_code == 0, done.output
        assert "koornacht         Synced   1" in done.output
        assert "GlobalServiceFailedOver" in done.output
        write(own, "PATCH", f"{SERVICES}/web", {"metadata": {"annotations": {"service.cilium.io/global": "false"}}})
        await until(own, SLICES, lambda found: mirrors(found) == [])


PROPERTIES = "/apis/about.k8s.io/v1beta1/clusterproperties"
CILIUM = "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies"


def definition(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((Path(addons.__file__).parent / "crds" / f"{kind}.yaml").read_text())
    return found


async def test_properties_of_the_other_cluster_arrive_and_policies_of_the_own_one_are_judged(
    servers: dict[str, ApiServer], tmp_path: Path
) -> None:
    own, other = servers[OWN], servers[OTHER]
    told: dict[str, dict[str, str]] = {}
    changed = asyncio.Event()

    async def read(url: str) -> None:
        client = Client([url])
        try:
            async for events in follow(client, backoff=Backoff(base=0.02, cap=0.1)):
                told.update((e.cluster.name, e.cluster.properties) for e in events if isinstance(e, ClusterJoined))
                changed.set()
        finally:
            await client.close()

    async def until_told(expected: dict[str, str]) -> None:
        while told.get(OTHER) != expected:
            changed.clear()
            await changed.wait()

    port = free_port()
    async with tracking(servers, tmp_path / "one", port=port):
        reading = asyncio.create_task(read(f"http://127.0.0.1:{port}"))
        await until_told({})
        # The kinds come while the tracker runs.
        write(other, "POST", DEFINITIONS, definition("clusterproperties"))
        write(own, "POST", DEFINITIONS, definition("ciliumnetworkpolicies"))
        await until(other, PROPERTIES, lambda found: "items" in found)
        region = {"metadata": {"name": "region"}, "spec": {"value": "north"}}
        lie = {"metadata": {"name": "cluster.clusterset.k8s.io"}, "spec": {"value": OWN}}
        for body in (region, lie):
            head = {"apiVersion": "about.k8s.io/v1beta1", "kind": "ClusterProperty"}
            write(other, "POST", PROPERTIES, {**head, **body})
        await until_told({"region": "north"})
        write(other, "PATCH", f"{PROPERTIES}/region", {"spec": {"value": "south"}})
        await until_told({"region": "south"})

        await until(own, CILIUM, lambda found: "items" in found)
        spec = {"endpointSelector": {}, "ingress": [{"fromCIDR": ["10.0.0.0/8"], "fromEndpoints": [{}]}]}
        head = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "bad"}}
        write(own, "POST", CILIUM, {**head, "spec": spec})
        found = await until(own, f"{CILIUM}/bad", lambda found: found.get("status"))
        valid = {one["type"]: one for one in found["status"]["conditions"]}["Valid"]
        assert valid["status"] == "False"
        assert "fromCIDR" in valid["message"]

        code, answer = other.request("DELETE", f"{DEFINITIONS}/clusterproperties.about.k8s.io")
        assert code == 200, answer
        await until_told({})
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
