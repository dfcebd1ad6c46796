"""NetworkPolicy objects, good and malformed: what is read, what is said, and that nothing fails open."""

from ipaddress import ip_network

import pytest

from isthmus.model.identity import Identity
from isthmus.model.labels import CLUSTERSET_CLUSTER
from isthmus.policy.metadata import SCOPE_ANNOTATION
from isthmus.policy.networkpolicy import parse
from isthmus.policy.rules import CidrPeer, Direction, PodPeer, PortName, PortRange, Scope

BOTH = frozenset(Direction)
INGRESS = frozenset({Direction.INGRESS})


def read(spec, *, scope=Scope.CLUSTERSET, annotations=None):
    metadata = {"name": "p", "namespace": "shop", "annotations": annotations}
    return parse({"metadata": metadata, "spec": spec}, cluster="east", scope=scope)


def test_a_policy_without_types_isolates_egress_only_if_it_has_egress_rules():
    assert read({"podSelector": {}}).isolates == INGRESS
    assert read({"podSelector": {}, "egress": []}).isolates == INGRESS
    assert read({"podSelector": {}, "egress": [{}]}).isolates == BOTH


def test_rules_of_a_direction_that_is_not_isolated_are_inert():
    policy = read({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}]})

    assert policy.isolates == {Direction.EGRESS}
    assert policy.rules == ()


def test_ports_are_read_with_their_defaults():
    ports = [{"port": 80}, {"protocol": "UDP"}, {"port": 8000, "endPort": 8002, "protocol": "SCTP"}, {"port": "web"}]
    (rule,) = read({"podSelector": {}, "ingress": [{"ports": ports}]}).rules

    assert rule.ports == (PortRange(6, 80, 80), PortRange(17), PortRange(132, 8000, 8002), PortName(6, "web"))
    assert rule.peers is None


def test_host_bits_of_a_cidr_are_dropped_as_kubernetes_does():
    block = {"cidr": "10.1.2.3/16", "except": ["10.1.4.9/24"]}
    (rule,) = read({"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}]}).rules

    assert rule.peers == (CidrPeer(ip_network("10.1.0.0/16"), (ip_network("10.1.4.0/24"),)),)


@pytest.mark.parametrize(
    ("peer", "cluster"),
    [
        ({"namespaceSelector": {}}, "east"),
        ({"podSelector": {"matchLabels": {"app": "a"}}}, "east"),
        ({"namespaceSelector": {"matchLabels": {CLUSTERSET_CLUSTER: "west"}}}, ""),
        ({"namespaceSelector": {"matchExpressions": [{"key": CLUSTERSET_CLUSTER, "operator": "Exists"}]}}, ""),
        ({"podSelector": {"matchLabels": {"io.cilium.k8s.policy.cluster": "west"}}}, ""),
    ],
)
def test_local_scope_narrows_only_peers_that_do_not_name_a_cluster(peer, cluster):
    (rule,) = read({"podSelector": {}, "ingress": [{"from": [peer]}]}, scope=Scope.LOCAL).rules

    assert [p.cluster for p in rule.peers if isinstance(p, PodPeer)] == [cluster]


def test_an_annotation_overrides_the_clusters_scope():
    spec = {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}

    assert read(spec, annotations={SCOPE_ANNOTATION: "local"}).scope is Scope.LOCAL
    assert read(spec, scope=Scope.LOCAL, annotations={SCOPE_ANNOTATION: "clusterset"}).scope is Scope.CLUSTERSET


def test_a_scope_that_is_no_scope_is_the_narrow_one_and_said():
    policy = read({"podSelector": {}}, annotations={SCOPE_ANNOTATION: "galaxy"})

    assert policy.scope is Scope.LOCAL
    assert str(policy.problems[0]).startswith(f'metadata.annotations[{SCOPE_ANNOTATION}]: "galaxy" is neither')


INGRESS_FROM = "spec.ingress[0].from[0]"


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}, f"{INGRESS_FROM}.ipBlock.cidr"),
        ({"from": [{"ipBlock": {"cidr": "fe80::1%eth0/64"}}]}, f"{INGRESS_FROM}.ipBlock.cidr"),
        ({"from": [{"ipBlock": {"cidr": 7}}]}, f"{INGRESS_FROM}.ipBlock.cidr"),
        ({"from": [{"ipBlock": {}}]}, f"{INGRESS_FROM}.ipBlock.cidr"),
        (
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}}]},
            f"{INGRESS_FROM}.ipBlock.except[0]",
        ),
        (
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]},
            f"{INGRESS_FROM}.ipBlock.except[0]",
        ),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["::/0"]}}]}, f"{INGRESS_FROM}.ipBlock.except[0]"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}, INGRESS_FROM),
        ({"from": [{}]}, INGRESS_FROM),
        ({"from": [{"clusterSelector": {}}]}, f"{INGRESS_FROM}.clusterSelector"),
        ({"from": ["everyone"]}, INGRESS_FROM),
        ({"from": {"podSelector": {}}}, "spec.ingress[0].from"),
        (
            {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like", "values": ["b"]}]}}]},
            f"{INGRESS_FROM}.podSelector.matchExpressions[0].operator",
        ),
        (
            {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}}]},
            f"{INGRESS_FROM}.podSelector.matchExpressions[0].values",
        ),
        ({"from": [{"podSelector": {"matchLabels": {"a b": "c"}}}]}, f"{INGRESS_FROM}.podSelector.matchLabels"),
        ({"from": [{"podSelector": {"matchLabel": {"a": "c"}}}]}, f"{INGRESS_FROM}.podSelector.matchLabel"),
        ({"ports": [{"port": 0}]}, "spec.ingress[0].ports[0].port"),
        ({"ports": [{"port": 65536}]}, "spec.ingress[0].ports[0].port"),
        ({"ports": [{"port": True}]}, "spec.ingress[0].ports[0].port"),
        ({"ports": [{"port": "Web"}]}, "spec.ingress[0].ports[0].port"),
        ({"ports": [{"port": 80, "endPort": 79}]}, "spec.ingress[0].ports[0].endPort"),
        ({"ports": [{"endPort": 79}]}, "spec.ingress[0].ports[0].endPort"),
        ({"ports": [{"port": 80, "protocol": "ICMP"}]}, "spec.ingress[0].ports[0].protocol"),
        ({"ports": [None]}, "spec.ingress[0].ports[0]"),
        ({"ports": "80"}, "spec.ingress[0].ports"),
        ({"form": [{"podSelector": {}}]}, "spec.ingress[0].form"),
        (7, "spec.ingress[0]"),
    ],
)
def test_a_malformed_rule_is_named_by_its_field_and_allows_nothing(rule, field):
    policy = read({"podSelector": {}, "ingress": [rule]})

    assert [problem.field for problem in policy.problems] == [field]
    assert policy.rules == ()
    assert policy.isolates == INGRESS


def test_what_is_well_beside_a_malformed_part_stays_in_force():
    peers = [{"ipBlock": {"cidr": "bad"}}, {"podSelector": {"matchLabels": {"app": "b"}}}]
    policy = read({"podSelector": {}, "ingress": [{"from": peers, "ports": [{"port": -1}, {"port": 80}]}]})

    (rule,) = policy.rules
    assert len(policy.problems) == 2
    assert rule.peers is not None and len(rule.peers) == 1
    assert rule.ports == (PortRange(6, 80, 80),)


def test_a_malformed_subject_isolates_the_whole_namespace_and_allows_nothing():
    policy = read({"podSelector": {"matchLabels": {"app": "not valid!"}}, "ingress": [{}]})

    assert policy.selects(Identity(0, "east", "shop", {"anything": "x"}, {}))
    assert policy.rules == ()
    assert policy.problems[0].field == 'spec.podSelector.matchLabels["app"]'


@pytest.mark.parametrize("types", [["Ingres"], "Ingress", [1], ["Ingress"] * 3])
def test_malformed_policy_types_isolate_in_both_directions(types):
    assert read({"podSelector": {}, "policyTypes": types}).isolates == BOTH


@pytest.mark.parametrize("spec", [None, [], "x", 7])
def test_a_malformed_spec_isolates_the_whole_namespace(spec):
    policy = read(spec)

    assert policy.isolates == BOTH
    assert policy.selects(Identity(0, "east", "shop", {}, {}))


@pytest.mark.parametrize(
    "obj", [{}, {"metadata": []}, {"metadata": {"name": "p"}}, {"metadata": {"name": 1, "namespace": "x"}}]
)
def test_an_object_without_a_name_is_refused(obj):
    with pytest.raises(ValueError, match="without metadata"):
        parse(obj, cluster="east")


def test_a_quoted_value_cannot_break_out_of_the_message():
    policy = read({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "1\n\x1b[31m" + "x" * 500}}]}]})

    text = str(policy.problems[0])
    assert text.isprintable() and len(text) < 200


@pytest.mark.parametrize("field", ["policyType", "status", "endpointSelector"])
def test_a_field_that_is_not_known_isolates_in_both_directions_and_allows_nothing(field):
    policy = read({"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{}], field: []})

    assert [str(problem) for problem in policy.problems] == [f"spec.{field}: is not a field of a NetworkPolicy"]
    assert policy.isolates == BOTH and policy.rules == ()
    assert not policy.selects(Identity(0, "east", "shop", {"app": "b"}, {}))


def test_what_is_said_of_a_hostile_object_is_short():
    deep = 1
    for _ in range(3000):
        deep = [deep]
    policy = read({"podSelector": deep, "x" * 5000 + "\n": deep, "ingress": 10**5000, "egress": [deep]})

    assert len(policy.problems) == 4
    assert all(str(one).isprintable() and len(str(one)) < 400 for one in policy.problems)


def test_fields_that_are_unknown_are_told_in_one_order_by_every_process():
    strange = dict.fromkeys(("zeta", "alpha", "kappa", "beta", "omega", "delta", "iota", "gamma"), 1)
    block = {"ipBlock": {"cidr": "10.0.0.0/8"} | strange}
    ingress = [{"from": [block], "ports": [{"port": 80} | strange]}, strange]
    fields = [problem.field for problem in read({"podSelector": strange, "ingress": ingress}).problems]

    peer, port = "spec.ingress[0].from[0].ipBlock", "spec.ingress[0].ports[0]"
    assert fields == [
        *(f"spec.podSelector.{word}" for word in sorted(strange)),
        *(f"{peer}.{word}" for word in sorted(strange)),
        f"{port}.alpha",
        *(f"spec.ingress[1].{word}" for word in sorted(strange)),
    ]
