"""Values of exports, memberships and freshness: as Cilium writes them where it does, and what is refused and why."""

import json

import pytest

from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterSeen
from isthmus.model.sharing import ServicePort, SharedExport
from isthmus.wire import kvstore
from isthmus.wire.kvstore import CodecError, Membership

EXPORT = {
    "cluster": "cluster3",
    "name": "web",
    "namespace": "demo",
    "exportCreationTimestamp": "2023-10-12T10:00:00Z",
    "ports": [{"name": "http", "protocol": "TCP", "port": 80, "appProtocol": "http"}, {"port": 81}],
    "type": "ClusterSetIP",
    "sessionAffinity": "ClientIP",
    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
    "ipFamilies": ["IPv4"],
    "internalTrafficPolicy": "Local",
    "trafficDistribution": "PreferClose",
    "labels": {"a": "b"},
    "annotations": {"c": "d"},
}


def exported(**changes: object) -> SharedExport:
    value = json.dumps({**EXPORT, **changes}).encode()
    return kvstore.decode_export(b"k", value, place=("demo", "web"), cluster="cluster3")


def test_an_export_as_cilium_writes_it():
    assert exported() == SharedExport(
        "cluster3",
        "demo",
        "web",
        "2023-10-12T10:00:00Z",
        "ClusterSetIP",
        (ServicePort("http", 6, 80, "http"), ServicePort("", 6, 81)),
        "ClientIP",
        60,
        ("IPv4",),
        "Local",
        "PreferClose",
        {"a": "b"},
        {"c": "d"},
    )
    headless = exported(type="Headless", sessionAffinity="", sessionAffinityConfig=None, ports=None)
    assert (headless.type, headless.session_affinity, headless.ports) == ("Headless", "None", ())


def test_an_export_is_written_with_the_fields_that_readers_insist_on():
    value = kvstore.encode_export(b"k", SharedExport("c1", "demo", "web", created="2023-10-12T10:00:00Z"))

    assert json.loads(value) == {
        "cluster": "c1",
        "name": "web",
        "namespace": "demo",
        "exportCreationTimestamp": "2023-10-12T10:00:00Z",
        "ports": [],
        "type": "ClusterSetIP",
        "sessionAffinity": "None",
    }
    with pytest.raises(CodecError, match="exportCreationTimestamp: '' is not a time"):
        kvstore.encode_export(b"k", SharedExport("c1", "demo", "web"))


@pytest.mark.parametrize(
    ("changes", "field_"),
    [
        ({"cluster": "x"}, "cluster"),
        ({"name": "x"}, "name"),
        ({"namespace": "x"}, "namespace"),
        ({"exportCreationTimestamp": None}, "exportCreationTimestamp"),
        ({"exportCreationTimestamp": "yesterday"}, "exportCreationTimestamp"),
        ({"type": "Other"}, "type"),
        ({"sessionAffinity": "Other"}, "sessionAffinity"),
        ({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100000}}}, "sessionAffinityConfig"),
        ({"internalTrafficPolicy": "Other"}, "internalTrafficPolicy"),
        ({"trafficDistribution": "Other"}, "trafficDistribution"),
        ({"ipFamilies": ["IPv5"]}, "ipFamilies"),
        ({"ports": [{"port": 0}]}, "ports.port"),
        ({"annotations": {"a b": "c"}}, "annotations"),
    ],
)
def test_exports_that_no_reader_would_take_are_refused(changes, field_):
    with pytest.raises(CodecError) as caught:
        exported(**changes)

    assert caught.value.field == field_


@pytest.mark.parametrize(
    ("mode", "slices", "services"),
    [
        (None, False, True),
        ("", False, True),
        ("services-and-endpointslices", True, True),
        ("endpointslices-only", True, False),
    ],
)
def test_a_membership_says_how_services_are_written(mode, slices, services):
    capabilities = {"syncedCanaries": True} | ({"endpointSlicesExportMode": mode} if mode is not None else {})
    value = json.dumps({"id": 3, "capabilities": capabilities}).encode()

    found = kvstore.decode_membership(b"k", value, cluster="cluster3")

    assert found == Membership(Cluster("cluster3", 3), slices=slices, services=services)


def test_a_membership_with_a_way_that_nobody_knows_is_refused_as_cilium_refuses_it():
    value = json.dumps({"id": 3, "capabilities": {"endpointSlicesExportMode": "something-new"}}).encode()

    with pytest.raises(CodecError, match=r"^k: capabilities\.endpointSlicesExportMode: 'something-new' is not known$"):
        kvstore.decode_membership(b"k", value, cluster="cluster3")


def test_exported_labels_under_their_earlier_names_are_read():
    """Cilium wrote `Labels` and `Annotations` before it wrote `labels` and `annotations` as well."""
    said = {"cluster": "c1", "namespace": "demo", "name": "web", "exportCreationTimestamp": "2026-01-02T03:04:05Z"}
    said |= {"type": "ClusterSetIP", "ports": [], "sessionAffinity": "None"}
    old = {"Labels": {"team": "shop"}, "Annotations": {"example.com/owner": "me"}}

    for more in (old, {**old, "labels": {"team": "shop"}, "annotations": {"example.com/owner": "me"}}):
        value = json.dumps(said | more).encode()
        found = kvstore.decode_export(b"k", value, place=("demo", "web"), cluster="c1")
        assert (found.labels, found.annotations) == ({"team": "shop"}, {"example.com/owner": "me"})


def test_our_membership_is_what_cilium_understands():
    ours = Membership(Cluster("c1", 1), slices=True, exports=True, whole=True)

    capabilities = json.loads(kvstore.encode_membership(ours))["capabilities"]

    assert capabilities["endpointSlicesExportMode"] == "services-and-endpointslices"
    assert capabilities["serviceExportsEnabled"] is True


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        b'{"cluster":"c2","staleSince":1}',
        b'{"cluster":"c1","staleSince":-1}',
        b'{"cluster":"c1","staleSince":1e400}',
    ],
)
def test_freshness_that_cannot_be_is_refused(value):
    with pytest.raises(CodecError):
        kvstore.decode_seen(b"k", value, cluster="c1")


def test_of_a_fresh_cluster_nothing_is_written():
    with pytest.raises(CodecError):
        kvstore.encode_seen(b"k", ClusterSeen("c1"))
