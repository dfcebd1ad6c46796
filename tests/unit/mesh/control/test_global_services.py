"""GlobalServices: what they say, and what is said of their changes."""

import msgspec
import pytest

from isthmus.kube.reflector import Put, Snapshot
from isthmus.kube.resources import GLOBAL_SERVICES, MESH_CLUSTERS
from isthmus.kube.schema import ServicePort
from isthmus.mesh.control import global_services
from isthmus.mesh.control.effects import Change, Create, Delete
from isthmus.mesh.control.seeing import MOST_SHOWN
from isthmus.mesh.control.world import Member
from isthmus.model import sharing
from isthmus.model.mesh import ClusterLeft, ClusterSeen, ServiceGone, ServiceTold, SliceTold
from isthmus.model.sharing import SharedEndpoint, SharedPort, SharedService
from isthmus.services.draining import moment
from tests.support.control import KEY, NOW, Place, remote_slice


@pytest.fixture
def place() -> Place:
    made = Place()
    made.members("there")
    made.service(global_="true")
    made.backends(True, True)
    made.remote("there", True, False)
    made.settle()
    made.told.clear()
    return made


def entry(place: Place, name: str):
    return next(found for found in place.status().clusters if found.name == name)


def condition(place: Place, kind: str):
    return next(found for found in place.status().conditions if found.type == kind)


def test_a_global_service_says_who_has_what_and_what_is_used(place: Place) -> None:
    status = place.status()
    assert status.summary == "here 2/2, there 1/2"
    assert status.used == "here, there"
    assert [(found.name, found.own, found.share) for found in status.clusters] == [
        ("here", True, 67),
        ("there", False, 33),
    ]
    assert status.ports[0].port == 80
    shown = entry(place, "there").endpoints
    assert [(found.ready, found.ports, found.node) for found in shown] == [
        (True, ("http:8080/TCP",), "far"),
        (False, ("http:8080/TCP",), "far"),
    ]
    assert condition(place, "Valid").status == "True"
    assert condition(place, "Conflict").status == "False"
    assert place.objects["globalservices", *KEY]["metadata"]["ownerReferences"][0]["uid"] == "svc"


def test_what_was_done_leaves_nothing_to_do(place: Place) -> None:
    place.world.touch_all()
    assert place.settle() == []


def test_a_service_that_is_not_global_any_more_loses_its_object(place: Place) -> None:
    place.service(global_="false")
    assert [type(effect) for effect in place.settle() if effect.resource == GLOBAL_SERVICES] == [Delete]
    place.service(global_="true")
    found = [effect for effect in place.settle() if effect.resource == GLOBAL_SERVICES]
    assert isinstance(found[0], Create)


@pytest.mark.parametrize("mode", ["off", "nftables"])
def test_a_namespace_that_is_not_global_and_a_tracker_that_is_told_so_have_none(place: Place, mode: str) -> None:
    place.mode = mode
    place.namespace("demo", is_global="true" if mode == "off" else "false")
    place.world.touch_all()
    place.settle()
    assert not place.world.global_services


def test_a_service_that_was_made_anew_owns_its_object(place: Place) -> None:
    place.service(global_="true", uid="another")
    assert [type(effect) for effect in place.settle()] == [Change]
    assert place.objects["globalservices", *KEY]["metadata"]["ownerReferences"][0]["uid"] == "another"


def test_bad_annotations_are_told_with_their_field(place: Place) -> None:
    place.service(global_="true", affinity="lokal")
    place.settle()
    found = condition(place, "Valid")
    assert (found.status, found.reason) == ("False", "InvalidAnnotation")
    assert "metadata.annotations[service.cilium.io/affinity]" in found.message
    about = global_services.problems_told(place.world.services[KEY])
    assert about is not None
    assert (about[0].kind, about[0].name, about[0].uid) == ("Service", "web", "svc")


def test_clusters_that_are_no_members_are_told_once_until_they_join(place: Place) -> None:
    place.service(global_="true", order="there,nowhere,here", weight="elsewhere=5,nowhere=20")
    place.settle()
    found = condition(place, "Valid")
    assert (found.status, found.reason) == ("True", "Accepted")
    assert found.message == (
        "metadata.annotations[isthmus.dev/affinity]: nowhere is not a member of the cluster mesh; "
        "metadata.annotations[isthmus.dev/weight]: elsewhere, nowhere are not members of the cluster mesh"
    )
    (told,) = place.told
    assert (told.reason, told.type, told.message) == ("UnknownCluster", "Warning", found.message)
    place.world.touch_all()
    assert place.settle() == []
    place.told.clear()
    place.members("there", "nowhere", "elsewhere")
    place.settle()
    assert condition(place, "Valid").message == ""
    assert place.reasons() == []


def test_nobody_is_told_of_unknown_clusters_while_the_members_are_not_known() -> None:
    place = Place()
    place.members("there", known=False)
    place.service(global_="true", order="nowhere")
    place.settle()
    assert condition(place, "Valid").message == ""
    assert place.reasons() == []


def test_faults_and_unknown_clusters_are_both_told_and_there_is_room_for_both(place: Place) -> None:
    many = ",".join(f"{'x' * 30}{n}" for n in range(10, 40))
    place.service(global_="true", weight="bad=" + "9" * 3000 + ",worse=" * 200, order=many)
    place.settle()
    found = condition(place, "Valid")
    assert (found.status, found.reason) == ("False", "InvalidAnnotation")
    assert len(found.message) <= global_services.LONGEST
    assert "and 18 more are not members of the cluster mesh" in found.message
    assert place.reasons() == ["UnknownCluster"]
    place.world.touch_all()
    assert place.settle() == []


@pytest.mark.parametrize(
    ("port", "reason", "text"),
    [
        (
            sharing.ServicePort("web", 6, 80),
            "PortMismatch",
            "there has nothing for port http:80/TCP here; it has web:80/TCP",
        ),
        (sharing.ServicePort("http", 17, 80), "ProtocolMismatch", "it has http:80/UDP"),
    ],
)  # fmt: skip
def test_ports_that_do_not_meet_are_a_conflict(place: Place, port, reason: str, text: str) -> None:
    place.remote("there", True, ports=(port,))
    slice_ = remote_slice("there", True, ports=(SharedPort(port.name, port.protocol, 8080),))
    place.world.tell([SliceTold(slice_)])
    place.settle()
    found = condition(place, "Conflict")
    assert (found.status, found.reason) == ("True", reason)
    assert text in found.message
    assert place.reasons() == [reason]
    assert not entry(place, "there").used
    assert text in entry(place, "there").why
    place.remote("there", True)
    place.settle()
    assert condition(place, "Conflict").status == "False"


def test_a_port_number_of_its_own_is_no_conflict(place: Place) -> None:
    place.remote("there", True, ports=(sharing.ServicePort("http", 6, 8888),))
    place.settle()
    assert condition(place, "Conflict").status == "False"


def test_failing_over_and_coming_back_are_told_once_each(place: Place) -> None:
    place.service(global_="true", affinity="local")
    place.settle()
    assert place.used() == ["here"]
    assert place.reasons() == []
    place.backends(False, False)
    place.settle()
    assert place.used() == ["there"]
    assert [(tell.reason, tell.type) for tell in place.told] == [("GlobalServiceFailedOver", "Normal")]
    assert place.told[0].message == "here: no ready backend left; new connections go to there"
    place.told.clear()
    place.world.touch_all()
    place.settle()
    assert place.reasons() == []
    place.backends(True, False)
    place.settle()
    assert place.used() == ["here"]
    assert place.reasons() == ["GlobalServiceRestored"]
    place.world.touch_all()
    assert place.settle() == []


def test_nobody_left_is_told_and_so_is_the_first_who_comes_back(place: Place) -> None:
    place.backends(False)
    place.remote("there", False)
    place.settle()
    assert place.used() == []
    assert place.status().used == ""
    assert [tell.type for tell in place.told] == ["Warning"]
    assert place.reasons() == ["GlobalServiceUnavailable"]
    place.remote("there", True)
    place.settle()
    assert place.reasons() == ["GlobalServiceRestored"]


def test_what_people_change_is_no_failover(place: Place) -> None:
    place.service(global_="true", affinity="remote")
    place.settle()
    place.service(global_="true", shared="false")
    place.settle()
    place.remote("there", True, shared=False)
    place.settle()
    assert place.used() == ["here"]
    assert entry(place, "there").why == "there does not share it"
    place.world.tell([ServiceGone("there", KEY)])
    place.settle()
    assert place.reasons() == []


def test_who_never_had_a_backend_fails_nobody_and_is_not_restored() -> None:
    place = Place()
    place.members("there")
    place.service(global_="true")
    place.remote("there", True)
    place.settle()
    place.backends(False)
    place.settle()
    place.backends(True)
    place.settle()
    assert place.used() == ["here", "there"]
    assert place.reasons() == []


def test_a_drain_is_seen_step_by_step_and_is_no_failover(place: Place) -> None:
    place.put(MESH_CLUSTERS, {"metadata": {}, "spec": {"drain": {"since": "2023-11-14T22:13:20Z", "over": "10m"}}}, name="there")  # fmt: skip  # noqa: E501
    assert moment("2023-11-14T22:13:20Z") == NOW
    for passed, weight in ((0, 100), (60, 90), (300, 50), (600, 0)):
        place.now = NOW + passed
        place.members("there")
        place.settle()
        assert entry(place, "there").weight == weight
    assert place.used() == ["here"]
    assert entry(place, "there").why.endswith("; drained")
    assert place.reasons() == []


def test_a_cluster_that_is_stale_is_the_last_resort(place: Place) -> None:
    place.world.tell([ClusterSeen("there", NOW - 599, "no route")])
    place.members("there")
    place.settle()
    assert place.used() == ["here", "there"]
    place.now = NOW + 1
    place.members("there")
    place.settle()
    assert place.used() == ["here"]
    place.world.tell([ClusterSeen("there")])
    place.members("there")
    place.settle()
    assert place.used() == ["here", "there"]


def test_weights_and_the_order_of_clusters_are_followed(place: Place) -> None:
    place.service(global_="true", weight="there=50")
    place.settle()
    assert [found.share for found in place.status().clusters] == [80, 20]
    place.service(global_="true", order="there,here")
    place.settle()
    assert (place.used(), place.status().affinity) == (["there"], "there,here")


def test_pods_with_two_addresses_are_counted_once(place: Place) -> None:
    endpoints = tuple(SharedEndpoint(f"fd00::{n}") for n in (1, 2))
    place.world.tell([SliceTold(remote_slice("there", name="six", version=6, endpoints=endpoints))])
    place.settle()
    assert (entry(place, "there").backends, len(entry(place, "there").endpoints)) == (2, 4)


def test_a_large_service_shows_a_bounded_number_of_endpoints_and_counts_all(place: Place) -> None:
    endpoints = tuple(SharedEndpoint(f"10.50.{n // 250}.{n % 250 + 1}") for n in range(900))
    for name in "bc":
        shown = tuple(
            SharedEndpoint(found.address.replace("10.50", "10.51") if name == "c" else found.address)
            for found in endpoints
        )
        place.world.tell([SliceTold(remote_slice("there", name=name, endpoints=shown))])
    place.settle()
    assert entry(place, "there").backends == 1802
    assert len(entry(place, "there").endpoints) == MOST_SHOWN


def test_a_cluster_that_was_not_heard_since_the_start_stays_as_it_was(place: Place) -> None:
    later = Place()
    later.put(GLOBAL_SERVICES, place.objects["globalservices", *KEY], namespace="demo", name="web")
    later.members("there", state="Degraded")
    later.world.heard.add("here")
    later.service(global_="true")
    later.backends(True, True)
    later.settle()
    assert later.used() == ["here", "there"]
    assert (entry(later, "there").ready, entry(later, "there").backends) == (1, 2)
    assert entry(later, "there").why.endswith("as last known, not heard since the tracker started")
    later.members("there")
    later.settle()
    assert later.used() == ["here"]


def test_a_cluster_that_left_is_not_shown_any_more(place: Place) -> None:
    place.world.tell([ClusterLeft("there")])
    place.members()
    place.settle()
    assert place.status().summary == "here 2/2"
    assert place.reasons() == []


def test_an_external_name_is_not_global() -> None:
    place = Place()
    place.members("there")
    place.service(global_="true")
    found = place.world.services[KEY]
    assert found.settings.is_global
    external = type(found)(found.namespace, found.name, found.uid, found.settings, external=True, annotations=found.annotations)  # fmt: skip  # noqa: E501
    judged = external.judged(namespace_global=True)
    assert not judged.settings.is_global
    assert judged.settings.problems[-1].field == "spec.type"


def test_a_state_of_the_cluster_is_shown_beside_it(place: Place) -> None:
    place.observe([Member("here", 1, "Synced"), Member("there", 2, "Degraded", "no route")])
    place.settle()
    assert entry(place, "there").state == "Degraded"


def test_many_clusters_fit_into_one_line() -> None:
    place = Place()
    names = [f"c{n:03}" for n in range(200)]
    place.members(*names)
    place.service(global_="true")
    for name in names:
        place.world.tell([ServiceTold(SharedService(name, *KEY, ports=(sharing.ServicePort("http", 6, 80),)))])
    place.settle()
    assert place.status().summary.endswith("and 189 more")
    assert len(place.status().clusters) == 201


def test_a_status_of_many_clusters_with_endless_names_fits_into_an_object() -> None:
    place = Place()
    names = [f"c{n:03}" for n in range(254)]
    place.members(*names)
    place.service(global_="true", cluster_ip="None", ports=())
    for name in names:
        endpoints = tuple(SharedEndpoint(f"10.60.0.{n}", node="n" * 9999) for n in range(60))
        ports = tuple(SharedPort(f"{'p' * 60}{n}", 6, n + 1) for n in range(200))
        told = [SharedService(name, *KEY)]
        place.world.tell([ServiceTold(told[0]), SliceTold(remote_slice(name, endpoints=endpoints, ports=ports))])
    place.settle()
    assert len(msgspec.json.encode(place.status())) < 1_400_000
    assert entry(place, "c000").backends == 60


def test_ports_of_a_service_decide_which_backends_count() -> None:
    place = Place()
    place.members("there")
    place.service(global_="true", ports=(ServicePort(80, "http"), ServicePort(53, "dns", "UDP")))
    place.remote("there", True, ports=(sharing.ServicePort("http", 6, 80),))
    place.settle()
    assert condition(place, "Conflict").message == "there has nothing for port dns:53/UDP here; it has http:80/TCP"
    assert entry(place, "there").used


def test_a_patience_of_nothing_waits_for_ever(place: Place) -> None:
    place.world.tell([ClusterSeen("there", NOW - 10_000.0, "no answer")])
    members = list(place.world.members.values())
    place.world.observe(members, known=True, now=NOW, patience=0)
    assert place.world.stale == frozenset()
    place.world.observe(members, known=True, now=NOW, patience=600)
    assert place.world.stale == {"there"}


def test_a_service_that_another_cluster_withdraws_is_looked_at_again(place: Place) -> None:
    place.world.take_services()
    place.world.tell([ServiceGone("there", KEY)])
    assert KEY in place.world.take_services()


def test_a_watch_that_comes_late_does_not_take_back_what_was_written_and_a_list_counts(place: Place) -> None:
    (name, now), *_ = place.world.mesh_clusters.items()

    def of(version: str, state: str) -> object:
        return msgspec.structs.replace(
            now,
            metadata=msgspec.structs.replace(now.metadata, resourceVersion=version),
            status=msgspec.structs.replace(now.status, state=state),
        )

    place.world.on_mesh_clusters(Put(of("900", "Synced")))
    place.world.on_mesh_clusters(Put(of("899", "Degraded")))
    assert place.world.mesh_clusters[name].status.state == "Synced"
    place.world.on_mesh_clusters(Put(of("901", "Degraded")))
    assert place.world.mesh_clusters[name].status.state == "Degraded"
    # A server that was restored from a copy counts from an earlier number.
    place.world.on_mesh_clusters(Snapshot((of("7", "Syncing"),)))
    assert place.world.mesh_clusters[name].status.state == "Syncing"
