"""Which policies mean something else under the other scope: by reading both ways, and by what each would see."""

import pytest

from isthmus.model.identity import Identity
from isthmus.model.labels import CLUSTERSET_CLUSTER
from isthmus.policy.context import Context
from isthmus.policy.metadata import SCOPE_ANNOTATION
from isthmus.policy.rules import Action, Direction, Scope
from isthmus.policy.scoping import inspect, under_scopes

EAST = Context("east", Scope.LOCAL)
WEB = {"podSelector": {"matchLabels": {"app": "web"}}}
PODS = [
    (f"{cluster}/{namespace}/{app}", Identity(1, cluster, namespace, {"app": app}, {}))
    for cluster in ("east", "west")
    for namespace in ("shop", "data")
    for app in ("web", "db")
]


def networkpolicy(*peers, name="p", annotations=None):
    metadata = {"name": name, "namespace": "shop", "annotations": annotations}
    spec = {"podSelector": {}, "ingress": [{"from": list(peers)}]}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def cilium(spec, kind="CiliumNetworkPolicy"):
    return {
        "apiVersion": "cilium.io/v2",
        "kind": kind,
        "metadata": {"name": "c", "namespace": "shop"},
        "spec": {"endpointSelector": {}} | spec,
    }


def admin(action, **peer):
    spec = {
        "tier": "Admin",
        "priority": 1,
        "subject": {"namespaces": {}},
        "ingress": [{"name": "first", "action": action, "from": [peer]}],
    }
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "a"},
        "spec": spec,
    }


def test_a_policy_that_names_no_cluster_is_found_with_its_rule_and_what_each_scope_sees():
    found = under_scopes(networkpolicy(WEB, {"ipBlock": {"cidr": "10.0.0.0/8"}}), EAST)

    assert found is not None
    assert (str(found.ref), found.scope, found.pinned) == ("NetworkPolicy shop/p", Scope.LOCAL, False)
    (rule,) = found.rules
    assert (rule.direction, rule.field, rule.action) == (Direction.INGRESS, "spec.ingress[0]", Action.ALLOW)
    assert [str(peer) for peer in rule.clusterset] == ["namespace shop pods app=web"]
    assert [str(peer) for peer in rule.local] == ["namespace shop pods app=web in cluster east"]
    assert rule.seen(Scope.LOCAL, PODS) == {"east": ["east/shop/web"]}
    assert rule.seen(Scope.CLUSTERSET, PODS) == {"east": ["east/shop/web"], "west": ["west/shop/web"]}


@pytest.mark.parametrize(
    "obj",
    [
        networkpolicy({"namespaceSelector": {"matchLabels": {CLUSTERSET_CLUSTER: "west"}}}),
        networkpolicy({"ipBlock": {"cidr": "10.0.0.0/8"}}),
        cilium({"ingress": [{"fromEntities": ["cluster"]}]}),
        cilium({"ingress": [{"fromEndpoints": [{"matchLabels": {"io.cilium.k8s.policy.cluster": "west"}}]}]}),
        admin("Deny", namespaces={}),
    ],
)
def test_a_policy_that_names_clusters_or_sees_them_all_anyway_is_not_found(obj):
    assert under_scopes(obj, EAST) is None


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        (cilium({"ingress": [{"fromEndpoints": [{"matchLabels": {"app": "web"}}]}]}), "spec.ingress[0]"),
        (
            cilium({"egress": [{}, {"toEndpoints": [{}]}]}, "CiliumClusterwideNetworkPolicy"),
            "spec.egress[1]",
        ),
        (cilium({"ingressDeny": [{"fromEndpoints": [{}]}]}), "spec.ingressDeny[0]"),
        (admin("Accept", namespaces={}), "spec.ingress[0]"),
        (admin("Pass", namespaces={}), "spec.ingress[0]"),
    ],
)
def test_other_kinds_are_found_by_the_rule_that_depends(obj, field):
    found = under_scopes(obj, EAST)

    assert found is not None
    assert [rule.field for rule in found.rules] == [field]
    assert {*found.rules[0].seen(Scope.LOCAL, PODS)} == {"east"}
    assert {*found.rules[0].seen(Scope.CLUSTERSET, PODS)} == {"east", "west"}


def test_peers_that_become_one_under_a_scope_are_compared_as_they_are():
    both = [{"matchLabels": {"app": "web"}}, {"matchLabels": {"app": "web", "io.cilium.k8s.policy.cluster": "east"}}]
    found = under_scopes(cilium({"ingress": [{"fromEndpoints": both}]}), EAST)

    assert found is not None
    (rule,) = found.rules
    assert (len(rule.clusterset), len(rule.local)) == (1, 0)


def test_a_rule_that_is_read_as_two_is_compared_as_one():
    peers = [{"pods": {"namespaceSelector": {}, "podSelector": {}}}, {"networks": ["192.0.2.0/24"]}]
    ports = [{"namedPort": "web"}, {"portNumber": {"protocol": "TCP", "port": 80}}]
    spec = {"priority": 1, "subject": {"namespaces": {}}, "egress": [{"action": "Allow", "to": peers, "ports": ports}]}
    obj = {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": "AdminNetworkPolicy",
        "metadata": {"name": "a"},
        "spec": spec,
    }
    found = under_scopes(obj, EAST)
    assert found is not None
    (rule,) = found.rules
    assert [len(rule.clusterset), len(rule.local)] == [1, 1], "pods alone; networks are the same under both"


def test_an_annotation_pins_a_policy_and_does_not_hide_it():
    pinned = networkpolicy(WEB, annotations={SCOPE_ANNOTATION: "clusterset"})
    found = under_scopes(pinned, EAST)

    assert found is not None
    assert (found.pinned, found.scope) == (True, Scope.CLUSTERSET)
    assert pinned["metadata"]["annotations"] == {SCOPE_ANNOTATION: "clusterset"}


def test_objects_are_inspected_together_in_the_order_of_their_names_and_unreadable_ones_are_counted():
    plain = networkpolicy({"ipBlock": {"cidr": "10.0.0.0/8"}})
    inspection = inspect([networkpolicy(WEB, name="z"), {"kind": "Pod"}, networkpolicy(WEB, name="a"), plain], EAST)

    assert [one.ref.name for one in inspection.objects] == ["a", "z"]
    assert inspection.total == 4
    assert inspection.unreadable == ('null "Pod" is not a kind of policy that is known',)
