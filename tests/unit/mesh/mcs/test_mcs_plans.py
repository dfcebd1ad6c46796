"""What is written for exports and imports: names, labels, ports, conditions, and who may be overruled."""

from typing import Any

import msgspec
import pytest

from isthmus.kube.resources import SERVICES
from isthmus.mesh.mcs import conditions, desired, told
from isthmus.mesh.mcs.api import Condition, ServicePort, derived_name, is_ours
from isthmus.mesh.mcs.slices import copies, is_same
from isthmus.mesh.mcs.state import Apply, Objects, Remove
from isthmus.mesh.mcs.told import Told
from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterJoined, ClusterLeft, ClusterSynced, ExportGone, ExportTold
from isthmus.model.sharing import ServicePort as SharedPort
from isthmus.model.sharing import SharedExport
from isthmus.services.exports import Merged, merge
from tests.support.mcs import API, NOW, Server, service

KEY = ("shop", "web")
HTTP = SharedPort("http", 6, 80)


def export(cluster: str = "koornacht", **given: Any) -> SharedExport:
    return SharedExport(cluster, *KEY, **{"created": "2026-01-01T00:00:00Z", "ports": (HTTP,), **given})


def merged(*exports: SharedExport) -> Merged:
    found = merge(exports or (export(),))
    assert found is not None
    return found


def world(*exports: SharedExport, synced: bool = True) -> tuple[Server, Objects, Told]:
    """A server, and a follower that was told of these exports and has listed everything."""
    heard = Told(own="tion")
    heard.take([ClusterJoined(Cluster("tion", 1)), ClusterJoined(Cluster("koornacht", 2))])
    heard.take([ExportTold(one) for one in exports])
    if synced:
        heard.take([ClusterSynced("koornacht")])
    objects = Objects(API, heard)
    objects.put_namespace("shop", {})
    return Server(), objects, heard


@pytest.mark.parametrize(
    ("key", "name"),
    [
        # The first as in the tests of Cilium.
        (("default", "full"), "derived-9jo8ljlgl7"),
        (("shop", "web"), "derived-isrlchlhrq"),
    ],
)
def test_derived_services_have_the_names_that_others_give_them(key: tuple[str, str], name: str) -> None:
    assert derived_name(key) == name


def test_labels_of_an_export_are_taken_if_they_are_labels_and_not_ours() -> None:
    given = {
        "team": "red",
        "example.com/empty": "",
        "kubernetes.io/service-name": "other",
        "multicluster.kubernetes.io/source-cluster": "other",
        "app.kubernetes.io/managed-by": "Helm",
        "not a key": "x",
        "UPPER.example.com/x": "x",
        "bad": "not a value!",
        "long": "x" * 64,
        "/": "x",
    }
    assert desired.labels(given) == {"team": "red", "example.com/empty": ""}
    assert len(desired.labels({f"k{number}": "v" for number in range(1000)})) == desired.MAX_LABELS


def test_annotations_of_an_export_are_bounded_and_do_not_unshare() -> None:
    given = {
        "service.cilium.io/affinity": "local",
        "service.cilium.io/shared": "false",
        "service.cilium.io/global": "false",
        "io.cilium/global-service": "false",
        "io.cilium/shared-service": "false",
        "multicluster.kubernetes.io/derived-service": "other",
        "a b": "x",
    }
    assert desired.annotations(given) == {"service.cilium.io/affinity": "local"}
    big = desired.annotations({"a": "x", "b": "y" * desired.MAX_ANNOTATIONS, "c": "z"})
    assert big == {"a": "x"}


def test_ports_lead_to_local_pods_only_where_the_local_service_has_them() -> None:
    local = service(ports=(ServicePort(80, "web", targetPort=8080), ServicePort(53, "dns", "UDP", targetPort="named")))
    found = merged(
        export(ports=(HTTP, SharedPort("dns", 6, 53), SharedPort("udp", 17, 53, "not valid!"))),
    )
    body = desired.derived_body(KEY, found, owner=_import(), local=local, held=None, own="tion")
    ports = [(port["name"], port["protocol"], port["port"], port["targetPort"]) for port in body["spec"]["ports"]]
    assert ports == [("http", "TCP", 80, 8080), ("dns", "TCP", 53, "not-here"), ("udp", "UDP", 53, "named")]
    assert all("appProtocol" not in port for port in body["spec"]["ports"])


@pytest.mark.parametrize(
    ("wanted", "held", "expected"),
    [
        ((), (), {"ipFamilyPolicy": "PreferDualStack"}),
        (("IPv4",), (), {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}),
        (("IPv6", "IPv4"), (), {"ipFamilyPolicy": "PreferDualStack"}),
        (("IPv4",), ("IPv4",), {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}),
        (("IPv4", "IPv6"), ("IPv4",), {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4"]}),
        (("IPv4",), ("IPv6", "IPv4"), {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"]}),
    ],
)
def test_families_are_those_of_the_exports_and_what_a_service_has_stays(
    wanted: tuple[str, ...], held: tuple[str, ...], expected: dict[str, Any]
) -> None:
    before = service(ipFamilies=held) if held else None
    found = merged(export(ip_families=wanted))
    body = desired.derived_body(KEY, found, owner=_import(), local=None, held=before, own="tion")
    assert {part: body["spec"][part] for part in ("ipFamilyPolicy", "ipFamilies") if part in body["spec"]} == expected


def test_what_cannot_be_changed_is_made_again() -> None:
    plain = service(ipFamilies=("IPv4",))
    assert not desired.must_be_made_again(plain, merged(export(ip_families=("IPv4", "IPv6"))))
    assert desired.must_be_made_again(plain, merged(export(ip_families=("IPv6",))))
    assert desired.must_be_made_again(plain, merged(export(type="Headless")))
    assert not desired.must_be_made_again(service(clusterIP="None"), merged(export(type="Headless")))


def test_affinity_from_another_cluster_is_within_what_the_api_takes() -> None:
    found = merged(export(session_affinity="ClientIP", affinity_seconds=10**9))
    spec = desired.import_body(KEY, found, api=API, ips=("10.96.0.1",))["spec"]
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 86400}}
    assert "sessionAffinity" not in desired.import_body(
        KEY, merged(export(type="Headless", session_affinity="ClientIP")), api=API, ips=()
    )["spec"]  # fmt: skip


def test_conditions_keep_their_time_as_long_as_their_status() -> None:
    held = [
        Condition("Valid", "True", "Valid", lastTransitionTime="2020-01-01T00:00:00Z"),
        Condition("Conflict", "False", "NoConflicts", lastTransitionTime="2020-01-01T00:00:00Z"),
    ]
    wanted = conditions.of_export(service(), merged(export(), export("corellia", labels={"a": "b"})), shared=True)
    times = {one["type"]: one["lastTransitionTime"] for one in conditions.stamped(held, wanted, generation=3, now=NOW)}
    assert times == {"Valid": "2020-01-01T00:00:00Z", "Ready": NOW, "Conflict": NOW}


def test_an_import_cannot_be_exported_again() -> None:
    derived = msgspec.convert(
        {"metadata": {"name": "derived-x", "ownerReferences": [{"kind": "ServiceImport", "name": "web"}]}},
        type(service()),
    )
    found = conditions.of_export(derived, None, shared=True)
    assert [(one.type, one.status, one.reason) for one in found] == [
        ("Valid", "False", "InvalidServiceType"),
        ("Ready", "False", "Failed"),
    ]


def test_a_hand_made_import_is_never_written_and_one_with_the_mark_is_taken_over() -> None:
    server, objects, _ = world(export())
    server.hand_made(KEY)
    server.tell(objects)
    assert objects.foreign(KEY)
    assert objects.plan(KEY, now=NOW) is None
    # As an operator of Cilium leaves it.
    server.held["imports"][KEY]["metadata"]["annotations"] = {
        "multicluster.kubernetes.io/derived-service": derived_name(KEY)
    }
    server.listed(objects)
    assert not objects.foreign(KEY)
    assert isinstance(objects.plan(KEY, now=NOW), Apply)


def test_an_answer_that_was_overtaken_does_not_hide_what_somebody_changed() -> None:
    server, objects, _ = world(export())
    server.settle(objects, KEY)
    server.tell(objects)
    step = Apply(API.imports, desired.import_body(KEY, merged(), api=API, ips=("10.96.0.1",)))
    answer = objects._imports[KEY]
    meta = msgspec.structs.replace(answer.metadata, resourceVersion="900")
    changed = msgspec.structs.replace(answer.spec, type="Headless")
    objects.put_import(msgspec.structs.replace(answer, metadata=meta, spec=changed))
    objects.settle(step, answer)
    found = objects.plan(KEY, now=NOW)
    assert isinstance(found, Apply) and found.resource == API.imports and not found.status


def test_what_is_refused_is_said_and_asked_for_again_later() -> None:
    server, objects, _ = world(export())
    step = objects.plan(KEY, now=NOW)
    assert isinstance(step, Apply) and step.resource == API.imports
    server.do(objects, step)
    step = objects.plan(KEY, now=NOW)
    assert isinstance(step, Apply) and step.resource == SERVICES
    objects.refuse(KEY, "IPFamilyNotSupported", "no such family")
    step = objects.plan(KEY, now=NOW)
    assert isinstance(step, Apply) and step.status
    assert step.body["status"]["conditions"][0]["reason"] == "IPFamilyNotSupported"
    server.do(objects, step)
    assert objects.plan(KEY, now=NOW) is None
    assert objects.forgive(KEY) and not objects.forgive(KEY)
    step = objects.plan(KEY, now=NOW)
    assert isinstance(step, Apply) and step.resource == SERVICES


@pytest.mark.parametrize("unknown", ["conditions", "clusters", "internalTrafficPolicy"])
def test_a_server_that_drops_fields_is_not_asked_for_ever(unknown: str) -> None:
    _, objects, _ = world(export(ip_families=("IPv4",)))
    server = Server(unknown=frozenset({unknown}))
    server.service(KEY, clusterIP="10.0.0.1", ports=[{"name": "http", "port": 80}], selector={"app": "web"})
    server.export(KEY)
    server.tell(objects)
    server.settle(objects, KEY)
    asked = server.asked
    server.tell(objects)
    server.settle(objects, KEY)
    assert server.asked == asked


def test_an_import_that_is_being_deleted_is_waited_for() -> None:
    server, objects, heard = world(export())
    server.settle(objects, KEY)
    server.held["imports"][KEY]["metadata"]["deletionTimestamp"] = NOW
    server.listed(objects)
    heard.take([ExportGone("koornacht", KEY)])
    assert objects.plan(KEY, now=NOW) is None


def test_the_derived_service_goes_before_its_import() -> None:
    server, objects, heard = world(export())
    server.settle(objects, KEY)
    heard.take([ClusterLeft("koornacht")])
    first = objects.plan(KEY, now=NOW)
    assert isinstance(first, Remove) and first.resource == SERVICES
    server.do(objects, first)
    second = objects.plan(KEY, now=NOW)
    assert isinstance(second, Remove) and second.resource == API.imports


def test_a_flood_of_exports_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "MAX_EXPORTS", 3)
    heard = Told(own="tion")
    names = [msgspec.structs.replace(export(), name=f"web-{number}") for number in range(5)]
    keys, _ = heard.take([ExportTold(one) for one in names])
    assert keys == {("shop", "web-0"), ("shop", "web-1"), ("shop", "web-2")} == heard.keys()
    assert heard.overflowing == {"koornacht"}
    assert heard.take([ExportTold(export("corellia"))])[0] == {KEY}
    heard.take([ExportGone("koornacht", ("shop", "web-0"))])
    assert heard.take([ExportTold(names[4])])[0] == {("shop", "web-4")}
    # One that is known may change.
    assert heard.take([ExportTold(msgspec.structs.replace(names[1], type="Headless"))])[0] == {("shop", "web-1")}


@pytest.mark.parametrize("name", ["..", "a/b", "Web", "", "a" * 64, "web\n", "-web"])
def test_names_that_no_service_can_have_are_passed_over(name: str) -> None:
    heard = Told(own="tion")
    assert heard.take([ExportTold(msgspec.structs.replace(export(), name=name))]) == (set(), set())
    assert heard.take([ExportTold(msgspec.structs.replace(export(), namespace=name))]) == (set(), set())


def test_a_distribution_that_older_servers_refuse_is_told_and_not_tried() -> None:
    found = merged(export(traffic_distribution="PreferSameNode"))
    assert desired.import_body(KEY, found, api=API, ips=())["spec"]["trafficDistribution"] == "PreferSameNode"
    body = desired.derived_body(KEY, found, owner=_import(), local=None, held=None, own="tion")
    assert "trafficDistribution" not in body["spec"]


def test_what_is_told_of_the_own_cluster_is_left_to_its_own_objects() -> None:
    heard = Told(own="tion")
    assert heard.take([ExportTold(export("tion")), ExportGone("tion", KEY)]) == (set(), set())


def test_copies_leave_out_what_is_not_of_this_cluster_and_what_makes_no_sense() -> None:
    derived = service(derived_name(KEY), clusterIP="None")
    good: dict[str, Any] = {
        "metadata": {"name": "web-1", "labels": {}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.1"]}] * 1500,
        "ports": [{"name": "http", "port": 8080}, {"name": "extra", "port": 1}, "x"],
    }
    foreign = {**good, "metadata": {"name": "a", "labels": {"multicluster.kubernetes.io/source-cluster": "other"}}}
    others: list[dict[str, Any]] = [
        foreign,
        {**good, "addressType": "FQDN", "metadata": {"name": "b"}},
        {**good, "metadata": None},
        {**good, "metadata": {"name": "c"}, "ports": [{"name": "extra", "port": 1}]},
    ]
    found = copies([good, *others], service=service(), derived=derived, merged=merged(), own="tion")
    (made,) = found.values()
    assert made["ports"] == [{"name": "http", "port": 8080}]
    assert len(made["endpoints"]) == 1000
    assert made["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
    assert is_same(made, made)
    assert not is_same({**made, "endpoints": None}, made)
    # A Service of no ports has slices of no ports.
    bare = service(ports=())
    portless = {**good, "metadata": {"name": "d"}, "ports": None}
    (made,) = copies([portless], service=bare, derived=derived, merged=merged(export(ports=())), own="tion").values()
    assert made["ports"] == []


def test_marks_tell_whose_an_import_is() -> None:
    assert not is_ours(_import())
    assert is_ours(_import(labels={"app.kubernetes.io/managed-by": "isthmus"}))
    assert not is_ours(_import(annotations={"multicluster.kubernetes.io/derived-service": "derived-other"}))


def _import(**meta: Any) -> Any:
    server = Server()
    server.hand_made(KEY)
    server.held["imports"][KEY]["metadata"] |= meta
    _, objects, _ = world()
    server.listed(objects)
    return objects._imports[KEY]


def test_a_list_counts_although_its_server_was_restored_and_counts_from_an_earlier_number() -> None:
    server, objects, _ = world(export())
    server.settle(objects, KEY)
    server.tell(objects)
    held = objects._imports[KEY]
    meta = msgspec.structs.replace(held.metadata, resourceVersion="1")
    restored = msgspec.structs.replace(held, metadata=meta, spec=msgspec.structs.replace(held.spec, type="Headless"))
    objects.put_import(restored)
    assert objects.plan(KEY, now=NOW) is None  # from a watch it would be late news
    objects.put_import(restored, listed=True)
    found = objects.plan(KEY, now=NOW)
    assert isinstance(found, Apply) and found.resource == API.imports


def test_who_may_still_tell_what_it_exports() -> None:
    heard = Told(own="tion")
    heard.take([ClusterJoined(Cluster("corellia", 3))])
    heard.know(complete=True, kept={"duros"})
    # A member, and one whose entry cannot be read: it may be one. Nobody else is.
    assert [name for name in ("tion", "corellia", "duros", "naboo") if heard.pending(name)] == ["corellia", "duros"]
    heard.take([ClusterSynced("corellia"), ClusterSynced("duros")])
    assert not heard.pending("corellia") and not heard.pending("duros")
    heard.know(complete=False, kept=())
    assert heard.pending("naboo")


def test_a_derived_service_whose_address_must_go_is_made_again() -> None:
    server, objects, heard = world(export())
    server.settle(objects, KEY)
    server.tell(objects)
    derived = objects.derived(KEY)
    assert derived is not None
    heard.take([ExportTold(msgspec.structs.replace(export(), type="Headless"))])
    assert objects.plan(KEY, now=NOW) == Remove(SERVICES, (KEY[0], derived_name(KEY)), derived.metadata.uid)
