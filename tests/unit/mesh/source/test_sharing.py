"""What a cluster tells the others of its Services, by what people write on them."""

import pytest

from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.schema import (
    EndpointConditions,
    EndpointOfSlice,
    EndpointPort,
    EndpointSlice,
    Namespace,
    ObjectMeta,
    Service,
    ServicePort,
    ServiceSpec,
)
from isthmus.mesh.mcs.api import ExportSpec, ServiceExport
from isthmus.mesh.source.sharing import Sharing
from isthmus.model import sharing
from isthmus.model.mesh import ExportGone, ExportTold, ServiceGone, ServiceTold, SliceGone, SliceTold
from isthmus.wire import kvstore

GLOBAL = {"service.cilium.io/global": "true"}
KEY = ("demo", "web")


def a_service(name: str = "web", *, namespace: str = "demo", annotations=None, **spec: object) -> Service:
    meta = ObjectMeta(name=name, namespace=namespace, annotations=GLOBAL if annotations is None else annotations)
    given = {"clusterIP": "172.20.0.9", "clusterIPs": ("172.20.0.9",), "ports": (ServicePort(80, "http"),), **spec}
    return Service(metadata=meta, spec=ServiceSpec(**given))


def a_slice(
    name: str = "web-1", *, of: str = "web", addresses=("10.1.0.5",), labels=None, **more: object
) -> EndpointSlice:
    endpoints = tuple(
        EndpointOfSlice(addresses=(ip,), nodeName="n1", hostname=f"h{n}") for n, ip in enumerate(addresses)
    )
    meta = ObjectMeta(name=name, namespace="demo", labels={"kubernetes.io/service-name": of, **(labels or {})})
    given = {"endpoints": endpoints, "ports": (EndpointPort("http", "TCP", 8080),), "addressType": "IPv4", **more}
    return EndpointSlice(metadata=meta, **given)


def a_namespace(name: str = "demo", **annotations: str) -> Namespace:
    return Namespace(metadata=ObjectMeta(name=name, annotations=annotations))


def an_export(name: str = "web", **spec: dict[str, str]) -> ServiceExport:
    meta = ObjectMeta(name=name, namespace="demo", creationTimestamp="2026-01-02T03:04:05Z")
    return ServiceExport(metadata=meta, spec=ExportSpec(**spec))


@pytest.fixture
def found() -> Sharing:
    found = Sharing("c1")
    found.namespaces(Snapshot((a_namespace(),)))
    return found


def names(events: list[object]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_a_global_service_is_told_and_its_slices_with_all_conditions(found):
    endpoints = (
        EndpointOfSlice(("10.1.0.5",), EndpointConditions(True, True, False), "n1", "zone-a", "web-0"),
        EndpointOfSlice(("10.1.0.6",), EndpointConditions(False, True, True), "n2"),
        EndpointOfSlice(("10.1.0.7",)),
    )
    assert found.slices(Put(a_slice(endpoints=endpoints))) == []

    told, part = found.services(Put(a_service()))

    assert told.service == sharing.SharedService(
        "c1", "demo", "web", cluster_ips=("172.20.0.9",), ports=(sharing.ServicePort("http", 6, 80),)
    )
    assert part.slice == sharing.SharedSlice(
        "c1",
        "demo",
        "web-1",
        "web",
        4,
        (
            sharing.SharedEndpoint("10.1.0.5", node="n1", hostname="web-0", zone="zone-a"),
            sharing.SharedEndpoint("10.1.0.6", ready=False, serving=True, terminating=True, node="n2"),
            sharing.SharedEndpoint("10.1.0.7"),
        ),
        (sharing.SharedPort("http", 6, 8080),),
    )
    assert found.services(Put(a_service())) == [], "what is known is no news"
    assert found.counts == {"services": 1, "slices": 1, "exports": 0}


def test_a_service_that_is_not_global_is_not_told(found):
    found.slices(Put(a_slice()))

    assert found.services(Put(a_service(annotations={}))) == []


def test_a_service_that_stops_sharing_keeps_using_others(found):
    found.slices(Put(a_slice()))
    found.services(Put(a_service()))

    events = found.services(Put(a_service(annotations={**GLOBAL, "service.cilium.io/shared": "false"})))

    assert names(events) == ["ServiceTold", "SliceGone"]
    assert not events[0].service.shared
    assert names(found.services(Put(a_service()))) == ["ServiceTold", "SliceTold"]


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.services(Put(a_service(annotations={}))),
        lambda found: found.services(Gone(a_service())),
        lambda found: found.services(Snapshot(())),
        lambda found: found.services(Put(a_service(type="ExternalName"))),
        lambda found: found.namespaces(Put(a_namespace(**{"clustermesh.cilium.io/global": "false"}))),
        lambda found: found.namespaces(Gone(a_namespace())),
        lambda found: found.namespaces(Snapshot(())),
    ],
)
def test_what_is_not_global_any_more_is_taken_back(found, change):
    found.slices(Put(a_slice()))
    found.services(Put(a_service()))

    assert change(found) == [SliceGone("c1", ("demo", "web-1")), ServiceGone("c1", KEY)]
    assert found.counts == {"services": 0, "slices": 0, "exports": 0}


def test_a_service_waits_for_its_namespace():
    found = Sharing("c1")
    assert found.services(Put(a_service())) == []

    assert names(found.namespaces(Put(a_namespace()))) == ["ServiceTold"]


@pytest.mark.parametrize(
    "labels",
    [
        {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.isthmus.dev"},
        {"endpointslice.kubernetes.io/managed-by": "endpointslice-mesh-controller.cilium.io"},
        {"multicluster.kubernetes.io/source-cluster": "c2"},
    ],
)
def test_a_slice_that_was_mirrored_in_is_never_told_on(found, labels):
    found.services(Put(a_service()))

    assert found.slices(Put(a_slice(labels=labels))) == []


def test_a_slice_that_turns_out_to_be_mirrored_is_taken_back(found):
    found.services(Put(a_service()))
    own = {"multicluster.kubernetes.io/source-cluster": "c1"}
    assert names(found.slices(Put(a_slice(labels=own)))) == ["SliceTold"], "its own cluster is no other one"

    foreign = {"multicluster.kubernetes.io/source-cluster": "c2"}
    assert names(found.slices(Put(a_slice(labels=foreign)))) == ["SliceGone"]


def test_one_changed_slice_is_one_event(found):
    found.services(Put(a_service()))
    found.slices(Snapshot(tuple(a_slice(f"web-{n}", addresses=(f"10.1.{n}.1",)) for n in range(50))))

    (event,) = found.slices(Put(a_slice("web-7", addresses=("10.1.7.1", "10.1.7.2"))))

    assert isinstance(event, SliceTold)
    assert event.slice.name == "web-7"


def test_slices_that_are_gone_from_a_list_are_taken_back(found):
    found.services(Put(a_service()))
    found.slices(Snapshot((a_slice("web-1"), a_slice("web-2"))))

    assert found.slices(Snapshot((a_slice("web-2"),))) == [SliceGone("c1", ("demo", "web-1"))]


def test_a_slice_that_changes_its_service_goes_with_it(found):
    found.services(Put(a_service()))
    found.slices(Put(a_slice()))

    assert found.slices(Put(a_slice(of="other"))) == [SliceGone("c1", ("demo", "web-1"))]
    told = found.services(Put(a_service("other")))
    assert [event.slice.service for event in told if isinstance(event, SliceTold)] == ["other"]


def test_headless_services_are_told_with_their_hostnames(found):
    found.slices(Put(a_slice(labels={"service.kubernetes.io/headless": ""})))

    told, part = found.services(Put(a_service(clusterIP="None", clusterIPs=("None",))))

    assert told.service.headless
    assert told.service.cluster_ips == ()
    assert [endpoint.hostname for endpoint in part.slice.endpoints] == ["h0"]


def test_the_weight_that_a_cluster_gives_its_backends_goes_with_each_slice(found):
    found.services(Put(a_service()))
    found.slices(Put(a_slice()))

    told, part = found.services(Put(a_service(annotations={**GLOBAL, "isthmus.dev/weight": "20"})))

    assert (told.service.weight, part.slice.weight) == (20, 20)
    (part,) = found.slices(Put(a_slice(addresses=("10.1.0.6",))))
    assert part.slice.weight == 20


def test_bad_annotations_are_problems_and_are_reported_once(found):
    (told,) = found.services(Put(a_service(annotations={**GLOBAL, "service.cilium.io/affinity": "near"})))

    (problem,) = told.service.problems
    assert problem.startswith("metadata.annotations[service.cilium.io/affinity]: 'near'")
    (report,) = found.reports()
    assert (report.kind, report.name, report.key) == (
        "Service",
        "web",
        "metadata.annotations[service.cilium.io/affinity]",
    )
    found.services(Put(a_service(annotations={**GLOBAL, "service.cilium.io/affinity": "near", "x": "y"})))
    assert found.reports() == []
    found.namespaces(Put(a_namespace(**{"clustermesh.cilium.io/global": "maybe"})))
    assert [report.kind for report in found.reports()] == ["Namespace"]


def test_what_no_api_server_would_take_is_left_out_of_a_slice_and_said(found):
    found.services(Put(a_service()))
    bad = ("10.1.0.5", "127.0.0.1", "fe80::1", "nonsense", "10.1.0.5%x", "169.254.1.1")
    (event,) = found.slices(
        Put(
            a_slice(
                addresses=bad, ports=(EndpointPort("http", "TCP", 8080), EndpointPort("x", "ICMP", 1), EndpointPort())
            )
        )
    )

    assert [endpoint.address for endpoint in event.slice.endpoints] == ["10.1.0.5"]
    assert [port.name for port in event.slice.ports] == ["http"]
    assert len(found.reports()) == 6


def test_a_slice_beyond_every_bound_is_cut(found):
    found.services(Put(a_service()))
    many = tuple(f"10.1.{n // 250}.{n % 250 + 1}" for n in range(1500))
    ports = tuple(EndpointPort(f"p{n}", "TCP", n + 1) for n in range(1100))

    (event,) = found.slices(Put(a_slice(addresses=many, ports=ports)))

    assert (len(event.slice.endpoints), len(event.slice.ports)) == (100, 1000)
    assert kvstore.encode_slice(b"", event.slice, cluster_id=1)
    assert {report.key for report in found.reports()} == {"endpoints", "ports"}


def test_an_export_is_told_while_its_service_is_there(found):
    assert found.exports(Put(an_export(exportedLabels={"a": "b"}, exportedAnnotations={"c": "d"}))) == []

    (told,) = found.services(
        Put(
            a_service(
                annotations={},
                sessionAffinity="ClientIP",
                ipFamilies=("IPv4",),
                trafficDistribution="PreferClose",
            )
        )
    )

    assert told == ExportTold(
        sharing.SharedExport(
            "c1",
            "demo",
            "web",
            created="2026-01-02T03:04:05Z",
            ports=(sharing.ServicePort("http", 6, 80),),
            session_affinity="ClientIP",
            affinity_seconds=10800,
            ip_families=("IPv4",),
            internal_traffic_policy="Cluster",
            traffic_distribution="PreferClose",
            labels={"a": "b"},
            annotations={"c": "d"},
        )
    )
    assert found.services(Put(a_service(annotations={}, type="ExternalName"))) == [ExportGone("c1", KEY)]
    found.services(Put(a_service(annotations={})))
    assert found.exports(Gone(an_export())) == [ExportGone("c1", KEY)]
    assert found.exports(Snapshot((an_export(),)))
    assert found.exports(Snapshot(())) == [ExportGone("c1", KEY)], "the definition was deleted, and all exports with it"


def test_a_namespace_that_is_not_global_exports_nothing(found):
    found.services(Put(a_service()))
    found.exports(Put(an_export()))

    events = found.namespaces(Put(a_namespace(**{"clustermesh.cilium.io/global": "False"})))

    assert names(events) == ["ServiceGone", "ExportGone"]
    assert names(found.namespaces(Put(a_namespace()))) == ["ServiceTold", "ExportTold"]


def test_services_told_are_in_an_order_that_does_not_depend_on_chance(found):
    told = found.services(Snapshot(tuple(a_service(name) for name in ("c", "a", "b"))))

    assert [event.service.name for event in told if isinstance(event, ServiceTold)] == ["a", "b", "c"]


def test_a_word_that_no_reader_takes_is_left_out_and_the_endpoint_stays(found):
    """API servers do not look at zones; of one bad word the whole slice would be refused by who reads it."""
    bad = EndpointOfSlice(("10.1.0.5",), EndpointConditions(True, True, False), "No_de", "zone a", "a_b")
    good = EndpointOfSlice(("10.1.0.6",), EndpointConditions(True, True, False), "n1", "zone-a", "web-0")
    ports = (EndpointPort("http", "TCP", 8080, "not an app"), EndpointPort("a b", "TCP", 1))
    found.services(Put(a_service()))
    (told,) = found.slices(Put(a_slice(endpoints=(bad, good), ports=ports)))

    assert [(e.node, e.zone, e.hostname) for e in told.slice.endpoints] == [("", "", ""), ("n1", "zone-a", "web-0")]
    assert told.slice.ports == (sharing.SharedPort("http", 6, 8080),)
    assert {report.key for report in found.reports()} == {
        "endpoints[0].nodeName",
        "endpoints[0].zone",
        "endpoints[0].hostname",
        "ports[0].appProtocol",
        "ports[1].name",
    }
    key = kvstore.object_key(kvstore.Kind.SLICES, "c1", told.slice.key, cached=False)
    value = kvstore.encode_slice(key, told.slice, cluster_id=1)
    assert kvstore.decode_slice(key, value, place=told.slice.key, cluster="c1", cluster_id=1) == told.slice
