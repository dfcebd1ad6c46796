"""Why a Service can be reached, or not: whose backends are asked about, at which port."""

from typing import Any

import pytest

from isthmus.model.endpoint import NamedPort
from isthmus.policy.evaluate import Reason
from isthmus.policy.explaining.ends import TargetError
from isthmus.policy.explaining.facts import ServiceSeen
from isthmus.policy.explaining.scene import Scene
from isthmus.policy.explaining.targets import parse, resolve
from tests.support.pictures import scene_of
from tests.support.scenes import ANYONE, DENY_ALL, ask, cluster_policy, pod, scene, service


def test_a_service_is_judged_at_its_backends_and_their_port() -> None:
    (answer,) = ask(scene(services=(service("web", "10.0.1.2", target=8080),)), "a", "svc/web", None)
    assert (answer.destination.name, answer.port) == ("here:default/b", 8080)


def test_a_global_service_has_the_backends_of_clusters_that_share_theirs() -> None:
    def web(*backends: str, **more: Any) -> ServiceSeen:
        return service("web", *backends, is_global=True, ips=("10.96.0.1",), **more)

    here = {"pods": (pod("a", 1), pod("b", 2)), "services": (web("10.0.1.2", shared=True),)}
    away = {"pods": (pod("c", 1, ips=("10.9.0.1",)),), "services": (web("10.9.0.1", shared=False),)}
    far = {"pods": (pod("d", 1, ips=("10.8.0.1",)),), "services": (web("10.8.0.1", target=8080, shared=True),)}
    found = scene_of(here=here, away=away, far=far)

    def ends(text: str, cluster: str) -> list[tuple[str, tuple[int, int] | None]]:
        return [(end.name, end.port) for end in resolve(found, parse(text), cluster=cluster, port=None)[0]]

    own, other = ("here:default/b", (6, 80)), ("far:default/d", (6, 8080))
    assert ends("here:svc/web", "here") == [own, other]
    assert ends("away:svc/web", "away") == [("away:default/c", (6, 80)), own, other], "its own pods have it anyway"
    assert ends("10.96.0.1", "far") == [other, own], "clusters may use one address for different Services"
    # An address of another cluster's pod, as somebody wrote it into a slice by hand.
    strange = scene_of(here={**here, "services": (service("web", "10.9.0.1"),)}, away=away)
    (end,) = resolve(strange, parse("here:svc/web"), cluster="here", port=None)[0]
    assert (end.cluster, end.name) == ("away", "away:default/c (10.9.0.1)")


def test_a_pod_that_has_no_address_yet_cannot_be_asked_about() -> None:
    waiting = scene(pods=(pod("a", 1, ips=()), pod("b", 2)))
    with pytest.raises(TargetError, match="here:default/a has no address yet"):
        ask(waiting, "a", "b")


def test_a_target_port_by_name_is_what_the_pod_says() -> None:
    pods = (pod("a", 1), pod("b", 2, named_ports=(NamedPort("http", 9000),)))
    (answer,) = ask(scene(pods=pods, services=(service("web", "10.0.1.2", target="http"),)), "a", "svc/web", (6, 80))
    assert answer.port == 9000


HOST = {"host_network": True, "ips": ("172.18.0.2",)}


def led(found: Scene, text: str, port: tuple[int, int] | None = None) -> tuple[list[tuple[str, int | None]], list[str]]:
    ends, notes = resolve(found, parse(text), cluster="here", port=port)
    return [(end.name, end.port[1] if end.port else None) for end in ends], notes


def test_a_target_port_by_name_of_a_pod_in_its_nodes_network_is_what_the_pod_says() -> None:
    named = (NamedPort("dns", 5353, "UDP"), NamedPort("http", 9000))
    pods = (pod("a", 1), pod("b", 2, "n2", named_ports=named, **HOST), pod("c", 3, "n2", **HOST))
    web = service("web", "172.18.0.2", target="http", selector={"app": "b"})
    found = scene(DENY_ALL, pods=pods, services=(web,))
    assert led(found, "svc/web")[0] == [("here:default/b (network of node n2)", 9000)]
    (answer,) = ask(found, "a", "svc/web")
    assert (answer.allowed, answer.egress.reason, answer.port) == (False, Reason.DEFAULT_DENY, 9000)


def test_what_endpointslices_say_of_a_port_goes_before_what_a_service_and_pods_say() -> None:
    pods = (pod("a", 1), pod("b", 2, named_ports=(NamedPort("http", 9000),)), pod("c", 3, "n2", **HOST))
    told = {"10.0.1.2": (("", 6, 9001),), "172.18.0.2": (("x", 6, 1), ("", 17, 2), ("", 6, 9002))}
    by_name = service("web", *told, target="http", told=told)
    by_hand = service("own", *told, target=80, told=told)
    found = scene(pods=pods, services=(by_name, by_hand))
    expected = [("here:default/b", 9001), ("here:node/n2 (172.18.0.2)", 9002)]
    assert led(found, "svc/web")[0] == expected
    assert led(found, "svc/own")[0] == expected


def test_a_backend_whose_port_nobody_knows_is_left_out_and_said() -> None:
    pods = (pod("a", 1, named_ports=(NamedPort("http", 9000),)), pod("b", 2), pod("c", 3, "n2", **HOST))
    told = {"10.0.1.2": (("metrics", 6, 9100),)}
    everyone = ("10.0.1.1", "10.0.1.2", "172.18.0.2", "10.0.1.77")
    web = service("web", *everyone, target="http", selector={}, told=told)
    ends, notes = led(scene(pods=pods, services=(web,)), "svc/web")
    assert ends == [("here:default/a", 9000)]
    head = "service default/web of cluster here: "
    unknown = f"{head}the number of targetPort 'http' of port 80/TCP is not known for "
    assert notes[1:] == [
        f"{head}port 80/TCP does not lead to pod default/b, which has no port in its EndpointSlice",
        f"{unknown}pod default/c: nothing in spec.containers[].ports has this name, and no EndpointSlice says it",
        f"{unknown}10.0.1.77: no EndpointSlice says it, and no known pod has this address",
    ]


def test_a_port_that_nobody_knows_of_any_backend_is_an_error_that_names_them_with_the_field() -> None:
    pods = tuple(pod(f"p{number}", number, "n2", host_network=True, ips=("172.18.0.2",)) for number in range(1, 6))
    web = service("web", "172.18.0.2", target="http", selector={})
    with pytest.raises(TargetError) as error:
        led(scene(pods=pods, services=(web,)), "svc/web")
    assert str(error.value).startswith(
        "'svc/web': service default/web of cluster here: the number of targetPort 'http' of port 80/TCP is not known "
        "for pod default/p1: nothing in spec.containers[].ports has this name"
    )
    assert str(error.value).endswith("pod default/p3: nothing in spec.containers[].ports has this name, and no "
        "EndpointSlice says it; service default/web of cluster here: so it is with 2 more")  # fmt: skip


def test_a_cluster_whose_service_of_that_name_lacks_the_port_is_left_out() -> None:
    here = {"pods": (pod("b", 2),), "services": (service("web", "10.0.1.2", is_global=True, shared=True),)}
    other = service("web", "10.9.0.1", ports=(81, 82), is_global=True, shared=True)
    away = {"pods": (pod("c", 1, ips=("10.9.0.1",)),), "services": (other,)}
    ends, notes = led(scene_of(here=here, away=away), "here:svc/web")
    assert ends == [("here:default/b", 80)]
    assert notes[1:] == ["service default/web has no port 80/TCP in away"]


# -- Services of the ClusterSet ------------------------------------------------------------------------------------

NAME = "web.default.svc.clusterset.local"


def test_a_name_of_the_clusterset_leads_to_what_its_derived_service_leads_to() -> None:
    def derived(*backends: str) -> ServiceSeen:
        return service("derived-x", *backends, stands_for="web", is_global=True, shared=True)

    own = service("web", "10.0.1.1")  # of the cluster's own zone, which is something else
    here = {"pods": (pod("a", 1), pod("b", 2)), "services": (own, derived())}
    away = {"pods": (pod("c", 1, ips=("10.9.0.1",)),), "services": (derived("10.9.0.1"),)}
    found = scene_of(here=here, away=away)
    expected = [("away:default/c", 80)], ["service default/web of the ClusterSet: backends in away"]
    assert led(found, NAME) == expected
    assert led(found, f"{NAME.upper()}.") == expected
    assert led(found, "svc/derived-x") == expected


def test_without_derived_services_it_leads_to_the_services_of_clusters_that_export_it() -> None:
    exports = frozenset({("default", "web")})
    here = {"pods": (pod("b", 2),), "services": (service("web", "10.0.1.2", target=8080),), "exports": exports}
    two = {"pods": (pod("d", 1, ips=("10.8.0.1",)),), "exports": exports}
    away = {"pods": (pod("c", 1, ips=("10.9.0.1",)),), "services": (service("web", "10.9.0.1"),)}
    found = scene_of(here=here, away=away, two={**two, "services": (service("web", "10.8.0.1", ports=(80, 81)),)})
    assert led(found, NAME, (6, 80)) == (
        [("here:default/b", 8080), ("two:default/d", 80)],
        ["service default/web of the ClusterSet: backends in here, two"],
    )
    assert led(found, NAME, (6, 81))[0] == [("two:default/d", 81)]
    with pytest.raises(TargetError, match=r"of the ClusterSet has several ports; .* \(it has 80/TCP, 81/TCP\)"):
        led(found, NAME)
    with pytest.raises(TargetError, match="there is a ServiceExport default/web in two, but no Service default/web"):
        led(scene_of(away=away, two=two), NAME, (6, 80))
    with pytest.raises(TargetError) as error:
        led(found, "db.default.svc.clusterset.local")
    assert str(error.value) == (
        "'db.default.svc.clusterset.local': no cluster imports such a Service: it needs ServiceExport default/db "
        "(multicluster.x-k8s.io) in a cluster that has Service default/db, and a tracker that makes ServiceImports of "
        "it; imported are default/web"
    )
    empty = scene_of(here={"services": (service("web"),), "exports": exports})
    with pytest.raises(TargetError, match="service default/web of cluster here has no backends"):
        led(empty, NAME)


@pytest.mark.parametrize(
    ("target", "port", "said"),
    [
        ("svc/web", None, "has several ports; say which with --port (it has 80/TCP, 81/TCP)"),
        ("svc/web", (6, 82), "has no port 82/TCP (it has 80/TCP, 81/TCP)"),
        ("svc/empty", (6, 80), "has no backends"),
        ("svc/none", (6, 80), "no Service none in namespace default of cluster here; there are empty, web"),
        ("a", None, "here:default/a declares no ports; say which with --port"),
        ("here:other/a", (6, 80), "no pod or workload a in namespace other of cluster here; it has none"),
        ("there:a", (6, 80), "there is no cluster 'there' (known: here)"),
        ("app=c", (6, 80), "no pod with these labels in namespace default"),
        ("node/n3", (6, 80), "no node n3 in cluster here; there are n1, n2"),
        ("default/what/a", (6, 80), "neither 'default' nor 'what' is a kind"),
        ("fd00::1", (6, 80), "have no address family in common"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(target: str, port: tuple[int, int] | None, said: str) -> None:
    services = (service("web", "10.0.1.2", ports=(80, 81)), service("empty"))
    with pytest.raises(TargetError) as error:
        ask(scene(services=services), "b", target, port)
    assert said in str(error.value)


def test_the_hairpin_of_a_service_is_let_through_the_normal_tier_alone() -> None:
    base = cluster_policy("base", "Baseline", 1, ingress=[{"action": "Deny", "from": ANYONE}])
    (answer,) = ask(scene(base, services=(service("web", "10.0.1.1"),)), "a", "svc/web")
    assert (answer.allowed, answer.ingress.reason) == (False, Reason.DENIED)
