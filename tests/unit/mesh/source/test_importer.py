from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.schema import ContainerPort
from isthmus.mesh.source.identities import SPACE, Allocator, Looks
from isthmus.mesh.source.importer import Importer
from isthmus.model.endpoint import Cluster, NamedPort
from isthmus.model.mesh import EndpointGone, EndpointTold, IdentityGone, IdentityTold, MeshEvent, NodeGone, NodeTold
from tests.support.kubeobjects import a_namespace, a_node, a_pod

C1 = Cluster("cluster-1", 1)


def importer(**namespace_labels: str) -> Importer:
    """Returns an importer that knows the namespace `demo`."""
    found = Importer(C1)
    found.namespaces(Snapshot((a_namespace(**namespace_labels),)))
    return found


def kinds(events: list[MeshEvent]) -> list[str]:
    return [type(event).__name__ for event in events]


def told(events: list[MeshEvent]) -> dict[str, str]:
    return {event.endpoint.ip: event.endpoint.pod for event in events if isinstance(event, EndpointTold)}


def test_a_pod_is_an_identity_and_an_endpoint_for_each_of_its_addresses() -> None:
    ports = (ContainerPort(8080, "http"), ContainerPort(53, "dns", "UDP"), ContainerPort(1), ContainerPort(0, "bad"))
    events = importer(team="a").pods(Put(a_pod("web", "10.1.0.5", "fd00::0:5", labels={"app": "web"}, ports=ports)))

    assert kinds(events) == ["IdentityTold", "EndpointTold", "EndpointTold"]
    identity, four, six = events
    assert isinstance(identity, IdentityTold)
    assert isinstance(four, EndpointTold)
    assert isinstance(six, EndpointTold)
    assert identity.identity.labels == {"app": "web"}
    assert identity.identity.namespace_labels == {"team": "a"}
    assert identity.identity.cluster == "cluster-1"
    endpoint = four.endpoint
    assert (endpoint.cluster, endpoint.ip, endpoint.identity) == ("cluster-1", "10.1.0.5", identity.identity.number)
    assert (endpoint.namespace, endpoint.pod, endpoint.uid, endpoint.node) == ("demo", "web", "uid-web", "n1")
    assert endpoint.named_ports == (NamedPort("http", 8080), NamedPort("dns", 53, "UDP"))
    assert six.endpoint.ip == "fd00::5"


def test_what_objects_claim_about_their_cluster_is_taken_out_and_reported_once() -> None:
    found = importer(**{"cluster.clusterset.k8s.io": "cluster-9"})
    lying = a_pod("web", "10.1.0.5", labels={"app": "x", "io.cilium.k8s.policy.cluster": "cluster-2"})
    events = found.pods(Put(lying))
    found.pods(Put(lying))

    (identity,) = [event.identity for event in events if isinstance(event, IdentityTold)]
    assert identity.labels == {"app": "x"}
    assert identity.namespace_labels == {}
    assert [(r.kind, r.namespace, r.name, r.key, r.value) for r in found.reports()] == [
        ("Namespace", "", "demo", "cluster.clusterset.k8s.io", "cluster-9"),
        ("Pod", "demo", "web", "io.cilium.k8s.policy.cluster", "cluster-2"),
    ]
    assert found.reports() == []
    found.pods(Gone(lying))
    found.pods(Put(lying))
    assert len(found.reports()) == 1


def test_a_true_claim_is_no_report() -> None:
    found = importer(**{"cluster.clusterset.k8s.io": "cluster-1"})

    assert found.reports() == []


def test_a_pod_waits_for_its_namespace() -> None:
    found = Importer(C1)

    assert found.pods(Put(a_pod("web", "10.1.0.5"))) == []
    assert found.counts["waiting"] == 1
    assert kinds(found.namespaces(Put(a_namespace()))) == ["IdentityTold", "EndpointTold"]
    assert kinds(found.namespaces(Gone(a_namespace()))) == ["EndpointGone", "IdentityGone"]


def test_a_completed_pod_and_one_on_the_hosts_network_own_no_address() -> None:
    found = importer()
    found.pods(Put(a_pod("job", "10.1.0.5")))

    assert found.pods(Put(a_pod("node", "192.0.2.1", host_network=True))) == []
    assert kinds(found.pods(Put(a_pod("job", "10.1.0.5", phase="Succeeded")))) == ["EndpointGone", "IdentityGone"]
    assert found.pods(Put(a_pod("job2", "10.1.0.5", phase="Failed"))) == []


def test_a_terminating_pod_keeps_its_identity_until_it_is_gone() -> None:
    found = importer()
    found.pods(Put(a_pod("web", "10.1.0.5")))

    assert found.pods(Put(a_pod("web", "10.1.0.5", terminating=True))) == []
    assert kinds(found.pods(Gone(a_pod("web", "10.1.0.5", terminating=True)))) == ["EndpointGone", "IdentityGone"]


def test_a_late_delete_of_an_old_pod_does_not_take_the_address_from_its_successor() -> None:
    found = importer()
    found.pods(Put(a_pod("web-0", "10.1.0.5", uid="old")))
    events = found.pods(Put(a_pod("web-0", "10.1.0.5", uid="new")))

    assert kinds(events) == ["EndpointTold"]
    assert found.pods(Gone(a_pod("web-0", "10.1.0.5", uid="old"))) == []
    assert kinds(found.pods(Gone(a_pod("web-0", "10.1.0.5", uid="new")))) == ["EndpointGone", "IdentityGone"]


def test_a_living_pod_takes_an_address_from_a_dying_one_without_a_report() -> None:
    found = importer()
    found.pods(Put(a_pod("old", "10.1.0.5", terminating=True)))

    assert told(found.pods(Put(a_pod("new", "10.1.0.5")))) == {"10.1.0.5": "new"}
    assert found.pods(Gone(a_pod("old", "10.1.0.5"))) == []
    assert found.reports() == []


def test_two_living_pods_with_one_address_are_reported_and_the_other_takes_over() -> None:
    found = importer()
    found.pods(Put(a_pod("b", "10.1.0.5", created="2026-01-02T00:00:00Z")))
    assert found.pods(Put(a_pod("a", "10.1.0.5", created="2026-01-01T00:00:00Z"))) == []

    (report,) = found.reports()
    assert (report.name, report.key, report.value) == ("a", "status.podIPs", "10.1.0.5")
    assert "demo/b" in report.reason
    assert told(found.pods(Gone(a_pod("b", "10.1.0.5")))) == {"10.1.0.5": "a"}
    assert found.reports() == []


def test_labels_that_change_make_another_identity_and_the_old_one_goes_after() -> None:
    found = importer()
    found.pods(Put(a_pod("web", "10.1.0.5", labels={"app": "a"})))

    events = found.pods(Put(a_pod("web", "10.1.0.5", labels={"app": "b"})))
    assert kinds(events) == ["IdentityTold", "EndpointTold", "IdentityGone"]

    events = found.namespaces(Put(a_namespace(team="x")))
    assert kinds(events) == ["IdentityTold", "EndpointTold", "IdentityGone"]


def test_an_update_that_changes_nothing_of_note_says_nothing() -> None:
    found = importer()
    found.pods(Put(a_pod("web", "10.1.0.5")))

    assert found.pods(Put(a_pod("web", "10.1.0.5"))) == []
    assert found.pods(Snapshot((a_pod("web", "10.1.0.5"),))) == []
    assert found.namespaces(Put(a_namespace())) == []


def test_bad_addresses_and_labels_are_left_out_and_reported_and_the_rest_counts() -> None:
    found = importer()
    bad = a_pod(
        "web",
        "10.1.0.5",
        "not-an-ip",
        "::ffff:10.1.0.6",
        "127.0.0.1",
        "fe80::1%eth0",
        labels={"a;b": "c", "x": "y=z", "ok": "1"},
    )
    events = found.pods(Put(bad))

    assert told(events) == {"10.1.0.5": "web", "10.1.0.6": "web"}
    assert isinstance(events[0], IdentityTold)
    assert events[0].identity.labels == {"ok": "1"}
    assert [(r.key, r.value) for r in found.reports()] == [
        ("metadata.labels[a;b]", "c"),
        ("metadata.labels[x]", "y=z"),
        ("status.podIPs", "127.0.0.1"),
        ("status.podIPs", "fe80::1%eth0"),
        ("status.podIPs", "not-an-ip"),
    ]


def test_labels_of_rollouts_do_not_multiply_identities_unless_a_policy_selects_on_them() -> None:
    found = importer()
    for i in range(5):
        found.pods(Put(a_pod(f"web-{i}", f"10.1.0.{i + 1}", labels={"app": "web", "pod-template-hash": str(i)})))
    assert found.counts["identities"] == 1

    events = found.select({"pod-template-hash", "app"})
    assert kinds(events).count("EndpointTold") == 5
    assert kinds(events)[-1] == "IdentityGone"
    assert found.counts["identities"] == 5
    assert found.select({"pod-template-hash"}) == []
    found.select(())
    assert found.counts["identities"] == 1


def test_a_snapshot_takes_away_what_is_not_in_it() -> None:
    found = importer()
    found.pods(Snapshot((a_pod("a", "10.1.0.1"), a_pod("b", "10.1.0.2"))))

    events = found.pods(Snapshot((a_pod("b", "10.1.0.2"), a_pod("c", "10.1.0.3"))))

    assert EndpointGone("cluster-1", "10.1.0.1") in events
    assert told(events) == {"10.1.0.3": "c"}


def test_without_a_number_an_endpoint_is_withheld_and_told_when_there_is_one() -> None:
    allocator = Allocator(C1, grace=0)
    for i in range(SPACE):
        allocator.acquire(Looks("other", {"i": str(i)}, {}, ""))
    found = Importer(C1, allocator=allocator)
    found.namespaces(Put(a_namespace()))

    assert found.pods(Put(a_pod("web", "10.1.0.5"))) == []
    found.pods(Put(a_pod("web", "10.1.0.5", labels={"pod-template-hash": "x"})))
    (report,) = found.reports()
    assert "no identity number left" in report.reason
    allocator.release((1 << 16) + 256)
    assert kinds(found.pods(Put(a_pod("unrelated", "10.1.0.6", labels={"a": "b"})))) == ["IdentityTold", "EndpointTold"]
    assert found.counts["waiting"] == 1
    allocator.release((1 << 16) + 257)
    assert told(found.nodes(Put(a_node("n"))) + found.pods(Put(a_pod("z")))) == {"10.1.0.5": "web"}


def test_nodes_with_their_addresses_and_networks() -> None:
    found = Importer(C1)
    events = found.nodes(
        Put(a_node("n1", "192.0.2.1", "junk", cidrs=("10.1.0.7/24", "fd00:0::/64", "nope", "0.0.0.0/0")))
    )

    (event,) = events
    assert isinstance(event, NodeTold)
    assert (event.node.cluster, event.node.addresses) == ("cluster-1", ("192.0.2.1",))
    assert event.node.pod_cidrs == ("10.1.0.0/24", "fd00::/64")
    assert [r.value for r in found.reports()] == ["0.0.0.0/0", "nope", "junk"]
    assert found.nodes(Put(a_node("n1", "192.0.2.1", "junk", cidrs=("10.1.0.0/24", "fd00::/64")))) == []
    assert found.nodes(Snapshot(())) == [NodeGone("cluster-1", "n1")]
    assert found.nodes(Gone(a_node("n1"))) == []


def test_gone_identities_are_told() -> None:
    found = importer()
    (first, *_) = found.pods(Put(a_pod("a", "10.1.0.1")))
    found.pods(Put(a_pod("b", "10.1.0.2")))
    assert isinstance(first, IdentityTold)

    assert found.pods(Gone(a_pod("a", "10.1.0.1"))) == [EndpointGone("cluster-1", "10.1.0.1")]
    assert found.pods(Gone(a_pod("b", "10.1.0.2")))[-1] == IdentityGone("cluster-1", first.identity.number)
