"""Mirrored EndpointSlices."""

import pytest

from isthmus.kube.resources import ENDPOINT_SLICES
from isthmus.kube.schema import ServicePort
from isthmus.mesh.control import mirrored
from isthmus.mesh.control.effects import Change, Create, Delete
from isthmus.mesh.control.facts import own_slice
from isthmus.mesh.control.mirrored import slice_name
from isthmus.mesh.control.world import source_of
from isthmus.model.mesh import ClusterLeft, SliceGone, SliceTold
from isthmus.model.sharing import SharedEndpoint, SharedPort
from tests.support.control import KEY, Place, remote_slice


@pytest.fixture
def place() -> Place:
    made = Place()
    made.mode = mirrored.ALL
    made.members("there", "yonder")
    made.service(global_="true")
    made.backends(True)
    made.remote("there", True, False)
    made.settle()
    return made


def slices(effects):
    return [effect for effect in effects if getattr(effect, "resource", None) == ENDPOINT_SLICES]


def test_a_mirrored_slice_is_labelled_and_owned_and_names_no_node(place: Place) -> None:
    (found,) = place.mirrors()
    assert found.metadata.name.startswith("web-there-")
    assert found.metadata.labels == {
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.isthmus.dev",
        "multicluster.kubernetes.io/source-cluster": "there",
        "multicluster.kubernetes.io/service-name": "web",
    }
    assert [(owner.kind, owner.uid) for owner in found.metadata.ownerReferences] == [("Service", "svc")]
    assert [(e.addresses, e.conditions.ready, e.nodeName) for e in found.endpoints] == [
        (("10.136.0.1",), True, None),
        (("10.136.0.2",), False, None),
    ]
    assert [(port.name, port.protocol, port.port) for port in found.ports] == [("http", "TCP", 8080)]
    place.world.touch_all()
    assert place.settle() == []


def test_only_headless_services_and_those_that_ask_are_mirrored_beside_the_agents(place: Place) -> None:
    place.mode = mirrored.HEADLESS_ONLY
    place.world.touch_all()
    place.settle()
    assert place.mirrors() == []
    place.service(global_="true", sync="true")
    place.settle()
    assert len(place.mirrors()) == 1
    place.service(global_="true", cluster_ip="None")
    place.settle()
    assert place.mirrors()[0].metadata.labels["service.kubernetes.io/headless"] == ""
    place.service(global_="true", cluster_ip="None", sync="false")
    place.settle()
    assert place.mirrors() == []


def test_hostnames_and_zones_travel_and_what_is_none_is_left_out(place: Place) -> None:
    endpoints = (
        SharedEndpoint("10.5.0.1", hostname="web-0", zone="a"),
        SharedEndpoint("10.5.0.2", hostname="Not a name", zone="z" * 300),
        SharedEndpoint("127.0.0.1"),
        SharedEndpoint("169.254.1.1"),
        SharedEndpoint("fd00::1"),
        SharedEndpoint("nothing"),
    )
    place.world.tell([SliceTold(remote_slice("there", endpoints=endpoints))])
    place.settle()
    (found,) = place.mirrors()
    assert [(e.addresses[0], e.hostname, e.zone) for e in found.endpoints] == [
        ("10.5.0.1", "web-0", "a"),
        ("10.5.0.2", None, None),
    ]


def test_a_change_of_one_backend_is_one_write_of_its_slice(place: Place) -> None:
    place.world.tell([SliceTold(remote_slice("there", True, name="b"))])
    place.settle()
    place.world.tell([SliceTold(remote_slice("there", False, name="b"))])
    assert [type(effect) for effect in slices(place.settle())] == [Change]
    place.world.tell([SliceGone("there", ("demo", "web-b"))])
    assert [type(effect) for effect in slices(place.settle())] == [Delete]


def test_only_clusters_that_are_used_are_mirrored(place: Place) -> None:
    place.service(global_="true", affinity="local")
    place.settle()
    assert place.mirrors() == []
    place.backends(False)
    place.settle()
    assert len(place.mirrors()) == 1
    place.remote("yonder", True)
    place.service(global_="true", order="yonder")
    place.settle()
    assert [source_of(found) for found in place.mirrors()] == ["yonder"]


def test_ports_that_the_service_does_not_have_are_left_out(place: Place) -> None:
    ports = (SharedPort("http", 6, 9090), SharedPort("admin", 6, 9091), SharedPort("http", 17, 9090))
    place.world.tell([SliceTold(remote_slice("there", True, ports=ports))])
    place.settle()
    assert [(port.name, port.protocol, port.port) for port in place.mirrors()[0].ports] == [("http", "TCP", 9090)]
    place.service(global_="true", ports=(ServicePort(80, "other"),))
    place.settle()
    assert place.mirrors() == []


def test_what_more_endpoints_a_slice_has_than_the_api_takes_goes_into_another(place: Place) -> None:
    endpoints = tuple(SharedEndpoint(f"10.60.{n // 250}.{n % 250 + 1}") for n in range(1001))
    place.world.tell([SliceTold(remote_slice("there", endpoints=endpoints))])
    place.settle()
    assert sorted(len(found.endpoints) for found in place.mirrors()) == [1, 1000]


def test_who_edits_or_deletes_ours_is_overruled_and_labels_of_others_stay(place: Place) -> None:
    (name,) = [key[2] for key in place.objects if key[0] == "endpointslices"]
    body = place.objects["endpointslices", "demo", name]
    labels = {**body["metadata"]["labels"], "theirs": "1", "kubernetes.io/service-name": "other"}
    edited = {**body, "metadata": {**body["metadata"], "labels": labels}, "endpoints": []}
    place.put(ENDPOINT_SLICES, edited, namespace="demo", name=name)
    place.world.touch_all()
    for _ in range(3):
        place.settle()
    (found,) = place.mirrors()
    assert len(found.endpoints) == 2
    assert found.metadata.labels["kubernetes.io/service-name"] == "web"
    place.drop(ENDPOINT_SLICES, name, namespace="demo")
    assert [type(effect) for effect in slices(place.settle())] == [Create]


def test_leftovers_go_and_slices_of_others_stay(place: Place) -> None:
    (name,) = [key[2] for key in place.objects if key[0] == "endpointslices"]
    body = place.objects["endpointslices", "demo", name]
    place.put(ENDPOINT_SLICES, body, namespace="demo", name="web-left")
    theirs = {**body["metadata"]["labels"], "endpointslice.kubernetes.io/managed-by": "somebody.example"}
    place.put(
        ENDPOINT_SLICES, {**body, "metadata": {**body["metadata"], "labels": theirs}}, namespace="demo", name="web-his"
    )
    place.settle()
    assert {key[2] for key in place.objects if key[0] == "endpointslices"} == {name, "web-his"}


def test_a_slice_of_another_cluster_is_never_a_fact_of_this_one(place: Place) -> None:
    (found,) = place.mirrors()
    assert own_slice(found, cluster="here") is None
    assert {part.cluster for part in place.world.slices(KEY)} == {"here", "there"}


def test_what_a_cluster_had_stays_until_it_was_heard(place: Place) -> None:
    later = Place()
    later.mode = mirrored.ALL
    for (plural, namespace, name), body in place.objects.items():
        if plural == "endpointslices":
            later.put(ENDPOINT_SLICES, body, namespace=namespace, name=name)
    later.members("there", state="Degraded")
    later.service(global_="true")
    later.settle()
    assert len(later.mirrors()) == 1
    later.members("there")
    later.settle()
    assert later.mirrors() == []


def test_a_cluster_that_left_leaves_nothing(place: Place) -> None:
    place.world.tell([ClusterLeft("there")])
    place.members("yonder")
    place.settle()
    assert place.mirrors() == []


def test_names_fit_and_differ() -> None:
    long = remote_slice("c" * 32, name="x" * 200)
    assert len(slice_name(long, "s" * 253)) <= 253
    one, other = remote_slice("there", name="a"), remote_slice("there", name="b")
    assert slice_name(one, "web") != slice_name(other, "web")
    assert slice_name(one, "web") == slice_name(one, "web")
