"""What the agent takes in: snapshots as differences, identity of objects, and when it knows enough."""

import msgspec
import pytest

from isthmus.agent.view import View
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.resources import CILIUM_NETWORK_POLICIES, CLUSTER_NETWORK_POLICIES, NETWORK_POLICIES, POLICY_KINDS
from isthmus.kube.schema import Bare, Node, ObjectMeta, Pod
from isthmus.model import endpoint
from isthmus.model.endpoint import Cluster, Endpoint
from isthmus.model.flow import Flow
from isthmus.model.identity import HOST, Identity
from isthmus.model.mesh import (
    ClusterJoined,
    ClusterLeft,
    ClusterSynced,
    EndpointGone,
    EndpointTold,
    IdentityTold,
    NodeTold,
)
from isthmus.policy.gate import build
from isthmus.policy.rules import Grade, Scope
from isthmus.ruleset import subjects
from isthmus.ruleset.interpreter import Packet, passes


def pod(name="a", *, uid="1", ip="10.1.0.10", phase="Running", dying="", **spec) -> Pod:
    data = {
        "metadata": {
            "name": name,
            "namespace": "x",
            "uid": uid,
            "labels": {"app": name},
            "creationTimestamp": f"2026-01-01T00:00:{int(uid):02}Z",
            **({"deletionTimestamp": dying} if dying else {}),
        },
        "spec": spec,
        "status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]},
    }
    return msgspec.convert(data, Pod)


NODE = msgspec.convert(
    {
        "metadata": {"name": "n1"},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "not a network"]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "172.18.0.2"}, {"type": "Hostname", "address": "n1"}]
        },
    },
    Node,
)


def policy(name="p", **spec):
    return {"metadata": {"namespace": "x", "name": name}, "spec": {"podSelector": {}, **spec}}


def namespace(name="x", **labels: str) -> Bare:
    return Bare(metadata=ObjectMeta(name, labels=labels))


def tell_inputs(view: View, *policies, pods=(), namespaces=None) -> None:
    """Tells all that the own API server has to say."""
    for resource in POLICY_KINDS:
        view.policies(Snapshot(policies if resource is NETWORK_POLICIES else ()), resource)
    view.namespaces(Snapshot((namespace(),) if namespaces is None else tuple(namespaces)))
    view.pods(Snapshot(tuple(pods)))
    view.node(Snapshot((NODE,)))
    view.api_servers(Snapshot(()))


@pytest.fixture
def view() -> View:
    view = View(cluster="east", scope=Scope.CLUSTERSET)
    view.namespaces(Snapshot((namespace(),)))
    return view


def test_nothing_is_known_until_every_input_and_every_member_of_the_set_has_told_all():
    view = View(cluster="east", scope=Scope.CLUSTERSET)
    assert view.missing == [
        *map(str, POLICY_KINDS),
        "pods",
        "namespaces",
        "node",
        "addresses of the API server",
        "mesh state of east",
    ]
    tell_inputs(view)
    assert view.locally_ready
    view.mesh([ClusterJoined(Cluster("east", 1)), ClusterJoined(Cluster("west", 2)), ClusterSynced("east")])
    assert view.missing == ["mesh state of west"]
    view.mesh([ClusterSynced("west")])
    assert view.missing == []


def test_a_node_that_is_not_there_is_still_missing(view: View):
    view.node(Snapshot(()))

    assert "node" in view.missing


def test_a_snapshot_that_says_the_same_changes_nothing(view: View):
    changes = (Snapshot((policy(),)), Snapshot((pod(),)))
    view.policies(changes[0])
    view.pods(changes[1])
    view.compiler.table.take_delta()

    view.policies(changes[0])
    view.pods(changes[1])

    assert not view.compiler.table.take_delta()


def test_a_snapshot_of_many_policies_builds_the_gates_of_pods_that_look_the_same_once(view: View, monkeypatch):
    built = []
    monkeypatch.setattr(subjects, "build", lambda *a, **k: built.append(a) or build(*a, **k))
    view.pods(Snapshot(tuple(pod(f"a{n}", ip=f"10.1.0.{n}") for n in range(1, 6))))
    view.policies(Snapshot(tuple(policy(f"p{n}") for n in range(20))))

    assert len(built) == 1
    assert len(_closed(view)) == 5


def test_what_a_snapshot_does_not_hold_is_gone(view: View):
    view.policies(Snapshot((policy("p"), policy("q"))))
    view.pods(Snapshot((pod("a"), pod("b", ip="10.1.0.11"))))

    view.policies(Snapshot((policy("q"),)))
    view.pods(Snapshot((pod("b", ip="10.1.0.11"),)))

    assert [ref.name for ref in view.compiler.world.policies] == ["q"]
    assert list(view.compiler.world.pods) == ["x/b"]


def test_the_late_end_of_an_old_pod_does_not_remove_its_namesake(view: View):
    view.pods(Put(pod(uid="2")))
    view.pods(Gone(pod(uid="1")))

    assert list(view.compiler.world.pods) == ["x/a"]


ON_B = policy(podSelector={"matchLabels": {"app": "b"}})


def _closed(view: View) -> set[str]:
    return {ip for (ip,) in view.compiler.table.elements["ingress4"]}


@pytest.mark.parametrize("late", ["2026-01-01T01:00:00Z", ""], ids=["dying", "not yet told to die"])
def test_an_address_stays_with_the_pod_that_took_it_over_whatever_comes_late_of_the_old_one(view: View, late):
    view.policies(Snapshot((ON_B,)))
    view.pods(Put(pod("a", uid="1")))
    view.pods(Put(pod("b", uid="2")))
    assert _closed(view) == {"10.1.0.10"}

    view.pods(Put(pod("a", uid="1", dying=late, nodeName="n1")))
    assert _closed(view) == {"10.1.0.10"}
    view.pods(Gone(pod("a", uid="1")))
    assert _closed(view) == {"10.1.0.10"}


def test_a_relist_in_which_two_pods_have_one_address_gives_it_to_the_younger_in_any_order(view: View):
    view.policies(Snapshot((ON_B,)))
    old, new = pod("c", uid="1"), pod("b", uid="2")
    for pods in ((old, new), (new, old)):
        view.pods(Snapshot(pods))
        assert _closed(view) == {"10.1.0.10"}


def test_an_address_goes_back_to_who_claimed_it_before_when_the_later_pod_ends(view: View):
    view.policies(Snapshot((ON_B,)))
    view.pods(Snapshot((pod("b", uid="1"), pod("c", uid="2"))))
    assert _closed(view) == set()

    view.pods(Put(pod("c", uid="2", phase="Failed")))

    assert _closed(view) == {"10.1.0.10"}
    assert ("10.1.0.10",) in view.compiler.table.elements["pods4"]


@pytest.mark.parametrize("change", [pod(phase="Succeeded"), pod(phase="Failed"), pod(hostNetwork=True)])
def test_finished_and_host_network_pods_are_no_subjects(view: View, change: Pod):
    view.pods(Put(pod()))
    view.pods(Put(change))

    assert view.compiler.world.pods == {}


def test_problems_of_a_policy_are_told_once_and_so_is_their_end(view: View):
    bad = policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}])

    (report,) = view.policies(Put(bad))
    assert report.problems[0].field == "spec.ingress[0].from[0].ipBlock.cidr"
    assert view.policies(Put(bad)) == []
    assert view.book.grades[Grade.INVALID] == 1
    (report,) = view.policies(Put(policy()))
    assert report.problems == ()
    assert view.book.grades[Grade.INVALID] == 0


def test_an_object_without_a_name_is_reported_and_nothing_else_happens(view: View):
    (report,) = view.policies(Snapshot(({"metadata": {}, "spec": {}},)))

    assert "without metadata.namespace" in report.problems[0].message


def test_a_cluster_that_leaves_takes_all_its_facts_with_it_and_nobody_elses(view: View):
    for number, cluster in ((0x10100, "east"), (0x20100, "west")):
        view.mesh(
            [
                IdentityTold(Identity(number, cluster, "x", {}, {})),
                EndpointTold(Endpoint(cluster, f"10.{number >> 16}.0.1", number, "x", "a")),
            ]
        )
    view.mesh([ClusterLeft("west")])

    assert list(view.compiler.world.endpoints) == ["10.1.0.1"]
    assert [n for n, one in view.compiler.world.identities.items() if one.is_pod] == [0x10100]


def test_only_the_cluster_that_holds_an_address_can_give_it_up(view: View):
    view.mesh([EndpointTold(Endpoint("east", "10.1.0.1", 0x10100, "x", "a"))])

    view.mesh([EndpointGone("west", "10.1.0.1")])
    assert "10.1.0.1" in view.compiler.world.endpoints
    view.mesh([EndpointGone("east", "10.1.0.1")])
    assert "10.1.0.1" not in view.compiler.world.endpoints


# -- namespaces, properties, and what nobody may say of itself ---------------------------------------------------------

IN_TEAM = {
    "metadata": {"name": "guard", "uid": "9"},
    "spec": {
        "tier": "Admin",
        "priority": 1,
        "subject": {"namespaces": {"matchLabels": {"team": "blue"}}},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
    },
}


def test_a_pod_of_a_namespace_that_is_not_known_yet_is_an_address_that_nobody_knows():
    view = View(cluster="east", scope=Scope.CLUSTERSET)
    tell_inputs(view, policy(), namespaces=())
    view.pods(Put(pod()))
    assert view.compiler.world.pods == {}
    assert not passes(view.compiler.table, Packet(Flow("192.0.2.1", "10.1.0.10", 6, 80)))

    view.namespaces(Put(namespace("y")))
    assert view.compiler.world.pods == {}
    view.namespaces(Put(namespace("x", team="blue")))
    assert view.compiler.world.pods["x/a"].namespace_labels == {"team": "blue"}


def test_a_pod_that_goes_before_its_namespace_is_known_does_not_come_back(view: View):
    view.namespaces(Snapshot(()))
    view.pods(Put(pod()))
    view.pods(Gone(pod()))
    view.namespaces(Put(namespace()))
    assert view.compiler.world.pods == {}

    view.namespaces(Snapshot(()))
    view.pods(Put(pod()))
    view.pods(Snapshot(()))
    view.namespaces(Put(namespace()))
    assert view.compiler.world.pods == {}


def test_a_pod_that_outlives_its_namespace_keeps_what_that_said(view: View):
    view.policies(Put(IN_TEAM), CLUSTER_NETWORK_POLICIES)
    view.namespaces(Put(namespace(team="blue")))
    view.pods(Put(pod()))
    assert _closed(view) == {"10.1.0.10"}

    view.namespaces(Gone(namespace()))
    view.pods(Put(pod(dying="2026-01-01T01:00:00Z")))
    assert _closed(view) == {"10.1.0.10"}
    view.pods(Put(pod(uid="2")))
    assert view.compiler.world.pods == {}, "another pod: nobody knows the labels of its namespace"


def test_labels_of_a_namespace_make_its_pods_subjects_and_take_that_back(view: View):
    view.policies(Put(IN_TEAM), CLUSTER_NETWORK_POLICIES)
    view.pods(Snapshot((pod(), pod("b", ip="10.1.0.11"))))
    assert _closed(view) == set()
    view.namespaces(Put(namespace(team="blue")))
    assert _closed(view) == {"10.1.0.10", "10.1.0.11"}
    view.compiler.table.take_delta()
    view.namespaces(Put(namespace(team="blue")))
    assert not view.compiler.table.take_delta()

    view.namespaces(Snapshot((namespace(team="red"),)))
    assert _closed(view) == set()


CLAIMS = {
    "cluster.clusterset.k8s.io": "west",
    "io.cilium.k8s.policy.cluster": "west",
    "property.isthmus.dev/tier": "gold",
    "io.cilium.k8s.policy.serviceaccount": "admin",
    "io.cilium.k8s.namespace.labels.team": "blue",
}


def test_what_a_pod_or_a_namespace_claims_of_its_cluster_never_counts(view: View):
    spoofed = pod()
    spoofed.metadata.labels.update(CLAIMS)
    view.namespaces(Put(namespace(**CLAIMS)))
    view.pods(Put(spoofed))
    told = Identity(0x20100, "west", "x", {"app": "a", **CLAIMS}, dict(CLAIMS))
    view.mesh([IdentityTold(told)])

    here, there = view.compiler.world.pods["x/a"].subject, view.compiler.world.identities[0x20100]
    for identity, cluster in ((here, "east"), (there, "west")):
        assert identity.labels == {"app": "a"}
        assert identity.namespace_labels == {}
        for see in (identity.pod_label, identity.namespace_label, identity.cilium_label):
            assert [see(key) for key in CLAIMS] == [cluster, cluster, None, None, None]


def test_properties_of_a_cluster_are_those_of_its_pods_and_nodes_whenever_they_come(view: View):
    view.node(Snapshot((NODE,)))
    view.pods(Put(pod()))
    view.mesh(
        [IdentityTold(Identity(0x20100, "west", "x", {}, {})), ClusterJoined(Cluster("west", 2, {"tier": "gold"}))]
    )
    view.mesh(
        [IdentityTold(Identity(0x20101, "west", "x", {}, {})), NodeTold(endpoint.Node("west", "w1", ("10.9.9.9",)))]
    )
    view.mesh(
        [IdentityTold(Identity(0x10100, "east", "x", {}, {})), ClusterJoined(Cluster("east", 1, {"tier": "iron"}))]
    )
    world = view.compiler.world

    def tiers() -> list[str | None]:
        found = [world.identities[number] for number in (0x20100, 0x20101, 0x10100, HOST)]
        found += [world.identity_at("10.9.9.9"), world.pods["x/a"].subject]
        return [one.properties.get("tier") for one in found]

    assert tiers() == ["gold", "gold", "iron", "iron", "gold", "iron"]
    view.mesh([ClusterJoined(Cluster("west", 2)), ClusterJoined(Cluster("east", 1, {"tier": "tin"}))])
    assert tiers() == [None, None, "tin", "tin", None, "tin"]


def test_a_cluster_that_comes_back_without_its_properties_has_none(view: View):
    told = [
        IdentityTold(Identity(0x20100, "west", "x", {}, {})),
        NodeTold(endpoint.Node("west", "w1", ("10.9.9.9",))),
    ]
    view.mesh([ClusterJoined(Cluster("west", 2, {"tier": "gold"})), *told])
    view.mesh([ClusterLeft("west"), ClusterJoined(Cluster("west", 2)), *told])

    world = view.compiler.world
    assert [one.properties for one in (world.identities[0x20100], world.identity_at("10.9.9.9"))] == [{}, {}]


def test_nodes_are_known_by_the_labels_that_policies_ask_for(view: View):
    view.mesh([NodeTold(endpoint.Node("east", "n2", ("10.9.9.9",), labels={"rack": "r1", "noise": "1"}))])
    assert view.compiler.world.identity_at("10.9.9.9").labels == {}
    nodes = {"action": "Deny", "to": [{"nodes": {"matchLabels": {"rack": "r1"}}}]}
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [nodes]}
    asks = {"metadata": {"name": "racks"}, "spec": spec}
    view.policies(Put(asks), CLUSTER_NETWORK_POLICIES)
    assert view.compiler.world.identity_at("10.9.9.9").labels == {"rack": "r1"}

    view.policies(Gone(asks), CLUSTER_NETWORK_POLICIES)
    assert view.compiler.world.identity_at("10.9.9.9").labels == {}


def test_network_policies_and_what_is_on_the_node_are_the_least_that_can_be_enforced():
    view = View(cluster="east", scope=Scope.CLUSTERSET)
    view.namespaces(Snapshot((namespace(),)))
    view.pods(Snapshot(()))
    view.node(Snapshot((NODE,)))
    assert not view.able
    view.policies(Snapshot(()), NETWORK_POLICIES)
    assert view.able
    assert not view.locally_ready


def test_a_service_account_is_part_of_a_subject(view: View):
    view.pods(Put(pod(serviceAccountName="robot")))

    subject = view.compiler.world.pods["x/a"].subject
    assert subject.cilium_label("io.cilium.k8s.policy.serviceaccount") == "robot"


def test_policies_that_refer_to_what_is_not_known_are_missing(view: View):
    tell_inputs(view)
    assert view.locally_ready
    rule = {"fromCIDRSet": [{"cidrGroupRef": "g"}]}
    obj = {"metadata": {"namespace": "x", "name": "p"}, "spec": {"endpointSelector": {}, "ingressDeny": [rule]}}
    view.policies(Put(obj), CILIUM_NETWORK_POLICIES)
    assert not view.locally_ready
    assert "CiliumCIDRGroup objects that policies refer to" in view.missing
    assert view.able

    view.groups(Snapshot(()))
    assert view.locally_ready
