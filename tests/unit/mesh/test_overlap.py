from isthmus.mesh.overlap import Overlaps
from isthmus.model.endpoint import Endpoint, Node
from isthmus.model.mesh import (
    ClusterLeft,
    ClusterSeen,
    EndpointGone,
    EndpointTold,
    ExportGone,
    ExportTold,
    IdentityTold,
    MeshEvent,
    NodeGone,
    NodeTold,
    ServiceGone,
    ServiceTold,
    SliceGone,
    SliceTold,
)
from tests.support.mesh import C1, C2, export, identity, service, shared_slice


def endpoint(cluster: str, ip: str, pod: str = "web") -> EndpointTold:
    return EndpointTold(Endpoint(cluster, ip, 300, "demo", pod))


def node(cluster: str, *cidrs: str, name: str = "n1") -> NodeTold:
    return NodeTold(Node(cluster, name, (), cidrs))


def networks(events: list[MeshEvent]) -> list[tuple[str, tuple[str, ...]]]:
    return [(event.node.cluster, event.node.pod_cidrs) for event in events if isinstance(event, NodeTold)]


def test_clusters_that_do_not_overlap_pass_as_they_are() -> None:
    events: list[MeshEvent] = [
        node("c1", "10.1.0.0/24", "fd00:1::/64"),
        node("c2", "10.2.0.0/24", "fd00:2::/64"),
        IdentityTold(identity(C1)),
        endpoint("c1", "10.1.0.1"),
        endpoint("c2", "10.2.0.1"),
        endpoint("c1", "10.1.0.1", pod="successor"),
        EndpointGone("c1", "10.1.0.1"),
        NodeGone("c2", "n1"),
    ]
    overlaps = Overlaps()

    assert overlaps.apply(events) == events
    assert overlaps.reports() == []


def test_the_first_keeps_an_address_and_the_second_gets_it_when_the_first_lets_go() -> None:
    overlaps = Overlaps()
    overlaps.apply([endpoint("c1", "10.0.0.1", "a")])

    assert overlaps.apply([endpoint("c2", "10.0.0.1", "b")]) == []
    assert overlaps.apply([endpoint("c2", "10.0.0.1", "b2")]) == []
    (report,) = overlaps.reports()
    assert (report.kind, report.name, report.value) == ("Pod", "b", "10.0.0.1")
    assert report.reason == "cluster c2: is held by another cluster; the endpoint is withheld: c1"
    assert overlaps.withheld == 1
    assert overlaps.apply([EndpointGone("c1", "10.0.0.1")]) == [
        EndpointGone("c1", "10.0.0.1"),
        endpoint("c2", "10.0.0.1", "b2"),
    ]
    assert overlaps.withheld == 0


def test_a_withheld_endpoint_that_goes_says_nothing() -> None:
    overlaps = Overlaps()
    overlaps.apply([endpoint("c1", "10.0.0.1"), endpoint("c2", "10.0.0.1")])

    assert overlaps.apply([EndpointGone("c2", "10.0.0.1")]) == []
    assert overlaps.apply([EndpointGone("c1", "10.0.0.1")]) == [EndpointGone("c1", "10.0.0.1")]


def test_the_same_pod_networks_are_refused_with_every_address_in_them() -> None:
    overlaps = Overlaps()
    overlaps.apply([node("c1", "10.0.0.0/24")])

    assert networks(overlaps.apply([node("c2", "10.0.0.0/16", "10.9.0.0/24")])) == [("c2", ("10.9.0.0/24",))]
    (report,) = overlaps.reports()
    assert (report.kind, report.name, report.value) == ("Node", "n1", "10.0.0.0/16")
    assert overlaps.apply([endpoint("c2", "10.0.0.7"), endpoint("c2", "10.0.1.7")]) == [endpoint("c2", "10.0.1.7")]
    assert overlaps.apply([NodeGone("c1", "n1")]) == [
        NodeGone("c1", "n1"),
        node("c2", "10.0.0.0/16", "10.9.0.0/24"),
        endpoint("c2", "10.0.0.7"),
    ]


def test_a_network_inside_anothers_is_refused() -> None:
    overlaps = Overlaps()
    overlaps.apply([node("c1", "10.0.0.0/8")])

    assert networks(overlaps.apply([node("c2", "10.3.0.0/24")])) == [("c2", ())]


def test_nodes_of_one_cluster_may_share_a_network() -> None:
    overlaps = Overlaps()
    overlaps.apply([node("c1", "10.0.0.0/24"), node("c1", "10.0.0.0/24", name="n2")])
    overlaps.apply([NodeGone("c1", "n1")])

    assert overlaps.reports() == []
    assert networks(overlaps.apply([node("c2", "10.0.0.0/25")])) == [("c2", ())]
    assert overlaps.apply([NodeGone("c1", "n2")])[-1] == node("c2", "10.0.0.0/25")


def test_a_node_that_changes_its_network_frees_the_old_one() -> None:
    overlaps = Overlaps()
    overlaps.apply([node("c1", "10.0.0.0/24"), node("c2", "10.0.0.0/24")])

    assert networks(overlaps.apply([node("c1", "10.1.0.0/24")])) == [("c1", ("10.1.0.0/24",)), ("c2", ("10.0.0.0/24",))]


def test_a_refused_network_is_reported_once() -> None:
    overlaps = Overlaps()
    overlaps.apply([node("c1", "10.0.0.0/24"), node("c2", "10.0.0.0/24")])
    overlaps.apply([node("c2", "10.0.0.0/24"), node("c1", "10.7.0.0/24", name="n2"), NodeGone("c1", "n2")])

    assert len(overlaps.reports()) == 1


def test_a_cluster_that_leaves_frees_all_that_it_had() -> None:
    overlaps = Overlaps()
    overlaps.apply([node("c1", "10.0.0.0/24"), endpoint("c1", "10.0.0.1")])
    overlaps.apply([node("c2", "10.0.0.0/24"), endpoint("c2", "10.0.0.1"), endpoint("c2", "10.0.0.2")])

    assert overlaps.apply([ClusterLeft("c1")]) == [
        ClusterLeft("c1"),
        node("c2", "10.0.0.0/24"),
        endpoint("c2", "10.0.0.1"),
        endpoint("c2", "10.0.0.2"),
    ]
    assert overlaps.apply([IdentityTold(identity(C2))]) == [IdentityTold(identity(C2))]


def test_what_is_shared_passes_in_its_order() -> None:
    overlaps = Overlaps()
    told = [
        ServiceTold(service(C1)),
        SliceTold(shared_slice(C1, 1)),
        SliceTold(shared_slice(C2, 1)),
        ExportTold(export(C1)),
        ClusterSeen("c2", 12.0, "away"),
        SliceGone("c1", ("demo", "web-1")),
        ServiceGone("c1", ("demo", "web")),
        ExportGone("c1", ("demo", "web")),
        ClusterSeen("c2"),
    ]

    assert overlaps.apply(told) == told
