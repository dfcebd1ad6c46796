"""What stands behind a Service: slices, Endpoints and mirrors."""

from typing import Any

from msgspec.structs import replace

from isthmus.kube.schema import PodIP, ServicePort
from isthmus.lab.controllers.effects import Change, Create, Delete, Effect
from isthmus.lab.controllers.endpoints import slices, subsets
from isthmus.lab.controllers.endpoints.backends import stands_behind
from isthmus.lab.controllers.objects.meta import Meta
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.services import Endpoints, EndpointSlice, Service, ServiceSpec
from tests.support.clusterobjects import names, pod


def service(*ports: ServicePort, labels: dict[str, str] | None = None, **spec: Any) -> Service:
    spec = {"clusterIP": "10.96.0.1", "selector": {"app": "a"}, **spec}
    meta = Meta(name="s", namespace="n", uid="uid-s", labels=labels or {})
    return Service(metadata=meta, spec=ServiceSpec(ports=ports or (ServicePort(80),), **spec))


def bodies(effects: list[Effect]) -> list[dict[str, Any]]:
    return [effect.body for effect in effects if isinstance(effect, Create)]


def stored(body: dict[str, Any]) -> EndpointSlice:
    meta = body["metadata"]
    return EndpointSlice(
        metadata=Meta(name=meta["name"], namespace="n", uid=meta["name"], labels=meta["labels"], resourceVersion="1"),
        addressType=body["addressType"],
        endpoints=tuple(body["endpoints"]),
        ports=tuple(body["ports"]),
    )


def both(item: Pod, second: str) -> Pod:
    return replace(item, status=replace(item.status, podIPs=(PodIP(item.status.podIP), PodIP(second))))


def test_conditions_say_ready_serving_and_terminating() -> None:
    pods = [pod("c", ip="10.0.0.3", leaving=True), pod("a", ip="10.0.0.1"), pod("b", ip="10.0.0.2", ready=False)]
    (body,) = bodies(slices.plan(service(), pods, [], fresh=names()))
    assert [(entry["addresses"], *entry["conditions"].values()) for entry in body["endpoints"]] == [
        (["10.0.0.1"], True, True, False),
        (["10.0.0.2"], False, False, False),
        (["10.0.0.3"], False, True, True),
    ]
    assert body["metadata"]["labels"] == {
        "kubernetes.io/service-name": "s",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert body["metadata"]["name"] == "s-00000"
    assert body["ports"] == [{"name": "", "protocol": "TCP", "port": 80}]


def test_those_that_are_not_ready_are_published_if_asked_for() -> None:
    made = slices.plan(
        service(publishNotReadyAddresses=True), [pod("b", ip="10.0.0.2", ready=False)], [], fresh=names()
    )
    assert bodies(made)[0]["endpoints"][0]["conditions"] == {"ready": True, "serving": False, "terminating": False}


def test_named_ports_that_differ_by_pod_make_several_slices() -> None:
    named = service(ServicePort(80, name="w", targetPort="web"), ServicePort(81, name="m", targetPort=9))
    pods = [pod("a", ip="10.0.0.1", port=8080), pod("b", ip="10.0.0.2", port=9090), pod("c", ip="10.0.0.3", port=8080)]
    found = {
        body["ports"][0]["port"]: [entry["addresses"][0] for entry in body["endpoints"]]
        for body in bodies(slices.plan(named, pods, [], fresh=names()))
    }
    assert found == {8080: ["10.0.0.1", "10.0.0.3"], 9090: ["10.0.0.2"]}


def test_a_port_name_that_a_pod_does_not_have_is_left_out() -> None:
    named = service(ServicePort(80, name="x", targetPort="none"), ServicePort(81, name="m", targetPort=9))
    (body,) = bodies(slices.plan(named, [pod("a", ip="10.0.0.1")], [], fresh=names()))
    assert [port["name"] for port in body["ports"]] == ["m"]


def test_each_family_has_slices_of_its_own() -> None:
    dual = service(ipFamilies=("IPv4", "IPv6"))
    pods = [both(pod("a", ip="10.0.0.1"), "fd00::1"), pod("only4", ip="10.0.0.2")]
    found = {body["addressType"]: body["endpoints"] for body in bodies(slices.plan(dual, pods, [], fresh=names()))}
    assert [entry["addresses"] for entry in found["IPv4"]] == [["10.0.0.1"], ["10.0.0.2"]]
    assert [entry["addresses"] for entry in found["IPv6"]] == [["fd00::1"]]


def test_a_family_that_the_service_gave_up_loses_its_slices() -> None:
    dual = service(ipFamilies=("IPv4", "IPv6"))
    known = [stored(body) for body in bodies(slices.plan(dual, [], [], fresh=names()))]
    effects = slices.plan(service(), [], known, fresh=names())
    assert [effect.name for effect in effects if isinstance(effect, Delete)] == ["s-00001"]


def test_headless_services_know_hostnames() -> None:
    named = pod("web-0", ip="10.0.0.1", hostname="web-0", subdomain="s")
    other = pod("web-1", ip="10.0.0.2", hostname="web-1", subdomain="elsewhere")
    (body,) = bodies(slices.plan(service(clusterIP="None"), [named, other], [], fresh=names()))
    assert [entry.get("hostname") for entry in body["endpoints"]] == ["web-0", None]
    assert body["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def test_what_is_right_is_not_written() -> None:
    pods = [pod("a", ip="10.0.0.1")]
    known = [stored(body) for body in bodies(slices.plan(service(), pods, [], fresh=names()))]
    assert slices.plan(service(), pods, known, fresh=names()) == []
    assert slices.plan(service(), [], [], fresh=names()) != []


def test_labels_follow_the_service() -> None:
    known = [stored(body) for body in bodies(slices.plan(service(labels={"old": "1"}), [], [], fresh=names()))]
    (change,) = slices.plan(service(labels={"new": "1"}), [], known, fresh=names())
    assert isinstance(change, Change)
    assert change.patch["metadata"]["labels"]["new"] == "1"
    assert change.patch["metadata"]["labels"]["old"] is None


def test_slices_of_others_are_left_alone() -> None:
    (body,) = bodies(slices.plan(service(), [], [], fresh=names()))
    body["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = "somebody"
    made = slices.plan(service(), [], [stored(body)], fresh=names())
    assert [type(effect) for effect in made] == [Create]


def test_one_pod_of_many_changes_one_slice() -> None:
    pods = [pod(f"p{n:03}", ip=f"10.0.1.{n}") for n in range(250)]
    known = [stored(body) for body in bodies(slices.plan(service(), pods, [], fresh=names()))]
    assert sorted(len(item.endpoints) for item in known) == [50, 100, 100]
    effects = slices.plan(service(), pods[1:], known, fresh=names())
    assert [type(effect) for effect in effects] == [Change]


def test_who_stands_behind() -> None:
    assert stands_behind(pod("a", ip="10.0.0.1"), service())
    assert not stands_behind(pod("a"), service())
    assert not stands_behind(pod("a", ip="10.0.0.1", phase="Succeeded"), service())
    assert not stands_behind(pod("a", ip="10.0.0.1", labels={}), service())
    assert not stands_behind(pod("a", ip="10.0.0.1", namespace="m"), service())


def test_endpoints_tell_ready_from_unready_and_leave_out_those_that_go() -> None:
    pods = [pod("a", ip="10.0.0.1"), pod("b", ip="10.0.0.2", ready=False), pod("c", ip="10.0.0.3", leaving=True)]
    (created,) = bodies(subsets.plan(service(), pods, None))
    (subset,) = created["subsets"]
    assert [entry["ip"] for entry in subset["addresses"]] == ["10.0.0.1"]
    assert [entry["ip"] for entry in subset["notReadyAddresses"]] == ["10.0.0.2"]
    assert subset["ports"] == [{"protocol": "TCP", "port": 80}]
    known = Endpoints(
        metadata=Meta(name="s", namespace="n", labels=created["metadata"]["labels"]),
        subsets=tuple(created["subsets"]),
    )
    assert subsets.plan(service(), pods, known) == []
    (change,) = subsets.plan(service(), pods[:1], known)
    assert isinstance(change, Change)
    assert "notReadyAddresses" not in change.patch["subsets"][0]


def test_endpoints_are_cut_at_their_capacity_and_say_so() -> None:
    pods = [pod(f"p{n:04}", ip=f"10.{n // 250}.0.{n % 250}", ready=n > 0) for n in range(1001)]
    (created,) = bodies(subsets.plan(service(), pods, None))
    assert created["metadata"]["annotations"] == {"endpoints.kubernetes.io/over-capacity": "truncated"}
    (subset,) = created["subsets"]
    assert len(subset["addresses"]) == 1000
    assert "notReadyAddresses" not in subset


def by_hand(**labels: str) -> Endpoints:
    subset = {"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "ports": [{"port": 5432, "protocol": "TCP"}]}
    return Endpoints(metadata=Meta(name="s", namespace="n", uid="uid-e", labels=labels), subsets=(subset,))


def test_endpoints_made_by_hand_are_mirrored_by_family() -> None:
    made = bodies(slices.mirror(by_hand(), service(selector={}), [], fresh=names()))
    assert {body["addressType"]: body["endpoints"][0]["addresses"] for body in made} == {
        "IPv4": ["192.0.2.1"],
        "IPv6": ["2001:db8::1"],
    }
    labels = made[0]["metadata"]["labels"]
    assert labels["endpointslice.kubernetes.io/managed-by"] == "endpointslicemirroring-controller.k8s.io"
    assert made[0]["metadata"]["ownerReferences"][0].kind == "Endpoints"
    known = [stored(body) for body in made]
    assert slices.mirror(by_hand(), service(selector={}), known, fresh=names()) == []


def test_what_is_not_mirrored() -> None:
    plain = service(selector={})
    assert slices.is_mirrored(by_hand(), plain)
    assert not slices.is_mirrored(by_hand(), None)
    assert not slices.is_mirrored(by_hand(), service())
    assert not slices.is_mirrored(by_hand(**{slices.SKIP_MIRROR: "true"}), plain)
    own = replace(by_hand(), metadata=Meta(name="kubernetes", namespace="default"))
    assert not slices.is_mirrored(own, plain)
