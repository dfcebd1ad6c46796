"""ClusterNetworkPolicy: what its definitions refuse, what they let pass and should not, and how each fails closed."""

import json
import re
from ipaddress import ip_network

import pytest

from isthmus.model.endpoint import Endpoint
from isthmus.model.flow import Flow
from isthmus.model.identity import Identity
from isthmus.model.labels import CLUSTERSET_CLUSTER
from isthmus.policy.context import Context
from isthmus.policy.evaluate import evaluate
from isthmus.policy.names import NamePattern
from isthmus.policy.ordered.clusternetworkpolicy import Channel, read
from isthmus.policy.rules import (
    Action,
    CidrPeer,
    Direction,
    Grade,
    NamePeer,
    NodePeer,
    PodPeer,
    PortName,
    PortRange,
    Scope,
    Tier,
)
from isthmus.policy.world import LocalPod, World
from tests.support.cases import VECTORS

VALIDATION = json.loads((VECTORS / "cluster-network-policy-validation.json").read_text())["cases"]
WORLD = tuple(CidrPeer(ip_network(every), outside=True) for every in ("0.0.0.0/0", "::/0"))
ALL = PodPeer()


def policy(spec, *, context=Context("east"), channel=Channel.EXPERIMENTAL):  # noqa: B008 - frozen
    whole = {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}} | spec
    return read({"metadata": {"name": "p", "generation": 4}, "spec": whole}, context, channel=channel)


def egress(*peers, action="Deny", protocols=None, tier="Admin", **where):
    rule = {"action": action, "to": list(peers)} | ({"protocols": protocols} if protocols is not None else {})
    return policy({"tier": tier, "egress": [rule]}, **where)


def rules(parsed):
    (one,) = parsed.policies
    return [(rule.action, rule.peers, rule.ports) for rule in one.rules]


def said(parsed):
    return [str(problem) for problem in parsed.problems]


def test_the_validation_cases_are_all_there():
    assert len(VALIDATION) == 47


@pytest.mark.parametrize("channel", Channel)
@pytest.mark.parametrize("case", VALIDATION, ids=lambda case: case["id"])
def test_what_the_definitions_refuse_is_invalid_and_named_by_its_field(case, channel):
    parsed = read(case["object"], Context("east"), channel=channel)

    assert parsed.valid is (case["expect"][channel.value] == "accept")
    for why in case["why"].get(channel.value, []):
        field = re.sub(r"\.(\d+)", r"[\1]", why.removeprefix(".").partition(":")[0])
        wrong = [problem.field for problem in parsed.problems if problem.grade is Grade.INVALID]
        assert any(one.startswith(field) for one in wrong), (field, said(parsed))


def test_a_sound_policy_is_read_with_everything_that_it_says():
    spec = {
        "tier": "Baseline",
        "priority": 7,
        "subject": {"pods": {"podSelector": {"matchLabels": {"app": "a"}}}},
        "ingress": [
            {
                "name": "web",
                "action": "Pass",
                "from": [{"namespaces": {"matchLabels": {"team": "x"}}}],
                "protocols": [
                    {"tcp": {"destinationPort": {"number": 80}}},
                    {"udp": {"destinationPort": {"range": {"start": 5, "end": 6}}}},
                    {"destinationNamedPort": "web"},
                ],
            }
        ],
        "egress": [{"action": "Accept", "to": [{"networks": ["10.1.2.3/8", "fd00::/8"]}, {"nodes": {}}]}],
    }
    parsed = read({"metadata": {"name": "p", "generation": 4}, "spec": spec}, Context("east"))
    (one,) = parsed.policies

    assert parsed.problems == () and parsed.generation == one.generation == 4
    assert (one.tier, one.priority, one.namespace, one.isolates) == (Tier.BASELINE, 7, "", frozenset())
    assert (str(one.ref), str(one.subject)) == ("ClusterNetworkPolicy p", "pods app=a")
    first, second = one.rules
    assert (first.direction, first.field, first.name) == (Direction.INGRESS, "spec.ingress[0]", "web")
    assert first.ports == (PortRange(6, 80, 80), PortRange(17, 5, 6), PortName(0, "web"))
    assert (
        first.action is Action.PASS
        and first.peers is not None
        and str(first.peers[0]) == "namespaces team=x pods (all)"
    )
    assert second.peers == (
        CidrPeer(ip_network("10.0.0.0/8")),
        CidrPeer(ip_network("fd00::/8")),
        NodePeer(cluster="east"),
    )


@pytest.mark.parametrize("rule", [7, {"action": "Deny"}, {"action": "Pass", "to": []}, {"action": "Pass", "to": [{}]}])
def test_denying_and_passing_rules_whose_peers_cannot_be_told_deny_all(rule):
    parsed = policy({"egress": [rule]})

    assert not parsed.valid
    assert rules(parsed) == [(Action.DENY, None, None)]


@pytest.mark.parametrize("peer", [7, {}, {"pods": {}}, {"networks": ["10.0.0.0/33"]}, {"services": {}}])
def test_a_peer_that_cannot_be_told_makes_a_denial_of_all_and_leaves_an_acceptance_with_the_others(peer):
    for action in ("Deny", "Pass"):
        assert rules(egress({"namespaces": {}}, peer, action=action)) == [(Action.DENY, None, None)]
    assert rules(egress({"namespaces": {}}, peer, action="Accept")) == [(Action.ALLOW, (ALL,), None)]
    assert rules(egress(peer, action="Accept")) == []


def test_a_port_that_cannot_be_told_makes_a_denial_of_all_ports_and_is_left_out_of_an_acceptance():
    ports = [{"tcp": {"destinationPort": {"number": 80}}}, {"tcp": {}}]

    for action in ("Deny", "Pass"):
        assert rules(egress({"namespaces": {}}, action=action, protocols=ports)) == [(Action.DENY, (ALL,), None)]
    assert rules(egress({"namespaces": {}}, action="Accept", protocols=ports)) == [
        (Action.ALLOW, (ALL,), (PortRange(6, 80, 80),))
    ]


def test_a_rule_whose_action_cannot_be_told_denies():
    assert rules(egress({"namespaces": {}}, action="Allow")) == [(Action.DENY, (ALL,), None)]


def test_a_rule_with_a_field_that_is_not_known_allows_nothing_and_denies_all():
    for action, left in (("Accept", []), ("Deny", [(Action.DENY, None, None)]), ("Pass", [(Action.DENY, None, None)])):
        parsed = policy({"egress": [{"action": action, "to": [{"namespaces": {}}], "except": []}]})

        assert said(parsed) == ["spec.egress[0].except: is not a field of a rule for egress"]
        assert rules(parsed) == left


RULES = {
    "ingress": [
        {"action": "Accept", "from": [{"namespaces": {}}]},
        {"action": "Pass", "from": [{"namespaces": {}}]},
        {"action": "Deny", "from": [{"namespaces": {}}]},
    ]
}


@pytest.mark.parametrize("place", [{"tier": "admin"}, {"tier": None}, {"priority": "5"}, {"priority": None}])
def test_a_policy_without_its_place_denies_before_all_others_and_allows_nothing(place):
    parsed = policy(RULES | place)
    (one,) = parsed.policies

    assert not parsed.valid
    assert (one.tier, one.priority) == (Tier.ADMIN, -1)
    assert rules(parsed) == [(Action.DENY, None, None), (Action.DENY, (ALL,), None)]


@pytest.mark.parametrize("subject", [None, {}, {"namespaces": {"matchLabels": {"a b": "c"}}}, {"pods": {}}, 7])
def test_a_policy_without_its_subject_denies_to_all_pods_and_allows_nothing(subject):
    parsed = policy(RULES | {"subject": subject})
    (one,) = parsed.policies

    assert not parsed.valid
    assert (one.tier, one.priority, one.subject) == (Tier.ADMIN, 5, ALL)
    assert rules(parsed) == [(Action.DENY, None, None), (Action.DENY, (ALL,), None)]


@pytest.mark.parametrize("spec", [None, [], "x", 7])
def test_a_spec_that_cannot_be_read_denies_all(spec):
    parsed = read({"metadata": {"name": "p"}, "spec": spec}, Context("east"))
    (one,) = parsed.policies

    assert {rule.direction for rule in one.rules} == set(Direction)
    assert rules(parsed) == [(Action.DENY, None, None)] * 2


@pytest.mark.parametrize("value", ["all", {}, [{}] * 10_001])
def test_rules_that_cannot_be_read_deny_all_in_their_direction(value):
    parsed = policy({"ingress": value})
    (one,) = parsed.policies

    assert [(rule.direction, rule.action, rule.peers) for rule in one.rules] == [(Direction.INGRESS, Action.DENY, None)]


def test_names_are_live_only_where_dns_is_proxied():
    name = NamePeer((NamePattern("*.example.com", whole_labels=True), NamePattern("a.b.", whole_labels=True)))
    peer = {"domainNames": ["a.b.", "*.example.com"]}

    learned = egress(peer, action="Accept", context=Context("east", dns_proxy=True))
    assert learned.problems == () and rules(learned) == [(Action.ALLOW, (name,), None)]
    unlearned = egress(peer, action="Accept")
    assert said(unlearned) == ["spec.egress[0].to[0].domainNames: names are not learned: no DNS proxy"]
    assert unlearned.problems[0].grade is Grade.UNENFORCED
    assert rules(unlearned) == rules(learned)


def test_names_that_may_not_be_there_deny_every_address_that_they_could_lead_to():
    peers = ({"namespaces": {}}, {"domainNames": ["a.b"]})

    for parsed, kept in (
        (egress(*peers, action="Deny"), [(Action.DENY, (ALL,), None)]),
        (egress(*peers, action="Pass"), [(Action.PASS, (ALL,), None)]),
    ):
        assert [problem.grade for problem in parsed.problems] == [Grade.UNENFORCED]
        assert rules(parsed) == [*kept, (Action.DENY, WORLD, None)]
    baseline = egress(*peers, action="Accept", tier="Baseline")
    assert [problem.grade for problem in baseline.problems] == [Grade.UNENFORCED]
    assert rules(baseline) == [(Action.ALLOW, (ALL,), None)]


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("localhost", Grade.INVALID),
        ("*", Grade.INVALID),
        ("*.com", Grade.INVALID),
        ("a.*.com", Grade.INVALID),
        ("a..com", Grade.INVALID),
        ("a-.com", Grade.INVALID),
        ("a.com..", Grade.INVALID),
        ("é.com", Grade.INVALID),
        ("", Grade.INVALID),
        ("[.com", Grade.UNENFORCED),
        ("a.^b", Grade.UNENFORCED),
        (".".join(["a"] * 200), Grade.UNENFORCED),
    ],
)
def test_a_name_that_is_none_matches_nothing(text, grade):
    parsed = egress({"domainNames": [text]}, action="Accept", context=Context("east", dns_proxy=True))

    assert [(problem.field, problem.grade) for problem in parsed.problems] == [
        ("spec.egress[0].to[0].domainNames[0]", grade)
    ]
    assert rules(parsed) == []


@pytest.mark.parametrize("text", ["_dmarc.example.com", "a_b.c", "*.A1.example", "a.b."])
def test_names_that_dns_has_are_taken(text):
    parsed = egress({"domainNames": [text]}, action="Accept", context=Context("east", dns_proxy=True))

    assert parsed.problems == ()


NAMED = [{"destinationNamedPort": "web"}, {"tcp": {"destinationPort": {"number": 80}}}]
BOTH_PORTS = (PortName(0, "web"), PortRange(6, 80, 80))


def test_a_denial_of_names_is_of_every_port_if_one_of_them_has_a_name():
    where = {"domainNames": ["example.com"]}
    for protocols, ports in ((NAMED, None), (NAMED[1:], (PortRange(6, 80, 80),))):
        found = rules(egress(where, action="Deny", protocols=protocols))
        assert found == [(Action.DENY, WORLD, ports)]


def test_a_named_port_means_nothing_on_a_network_and_a_denial_is_then_of_all_its_ports():
    network = CidrPeer(ip_network("10.0.0.0/8"))
    peers = ({"namespaces": {}}, {"networks": ["10.0.0.0/8"]})

    accepted, denied = (egress(*peers, action=action, protocols=NAMED) for action in ("Accept", "Deny"))
    assert not accepted.valid and not denied.valid
    assert rules(accepted) == [(Action.ALLOW, (ALL,), BOTH_PORTS), (Action.ALLOW, (network,), BOTH_PORTS[1:])]
    assert rules(denied) == [(Action.DENY, (ALL,), BOTH_PORTS), (Action.DENY, (network,), None)]
    # The standard channel lets it pass: there it is sound, and matches nothing.
    standard = egress(peers[1], protocols=NAMED[:1], channel=Channel.STANDARD)
    assert standard.valid and rules(standard) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.0", "is not a CIDR"),
        ("fe80::1%eth0/64", "is not a CIDR"),
        ("::ffff:10.0.0.0/104", "is an IPv4 network in IPv6"),
        ("2001:0db8:0000:0000:0000:0000:0000:0000/0000128", "Too long"),
        (7, "must be a string"),
    ],
)
def test_a_network_that_is_none_is_named(text, message):
    parsed = egress({"networks": [text]})

    assert parsed.problems[0].field == "spec.egress[0].to[0].networks[0]"
    assert message in parsed.problems[0].message
    assert rules(parsed) == [(Action.DENY, None, None)]


def test_networks_of_a_peer_are_bounded_and_a_duplicate_is_refused():
    assert said(egress({"networks": [f"10.{n}.0.0/16" for n in range(26)]})) == [
        "spec.egress[0].to[0].networks: Too many: 26: must have at most 25 items"
    ]
    assert said(egress({"networks": []})) == [
        "spec.egress[0].to[0].networks: Invalid value: 0: should have at least 1 items"
    ]


@pytest.mark.parametrize(
    ("peer", "named"),
    [
        ({"namespaces": {}}, False),
        ({"pods": {"podSelector": {"matchLabels": {"app": "a"}}}}, False),
        ({"namespaces": {"matchLabels": {CLUSTERSET_CLUSTER: "west"}}}, True),
        ({"namespaces": {"matchExpressions": [{"key": "property.isthmus.dev/region", "operator": "Exists"}]}}, True),
        ({"pods": {"podSelector": {"matchLabels": {"io.cilium.k8s.policy.cluster": "west"}}}}, True),
    ],
)
def test_local_scope_narrows_what_lets_by_and_names_no_cluster_and_no_denial(peer, named):
    context = Context("east", Scope.LOCAL)
    for direction, key in (("ingress", "from"), ("egress", "to")):
        for action, narrow in (("Accept", not named), ("Deny", False), ("Pass", not named)):
            (one,) = policy({direction: [{"action": action, key: [peer]}]}, context=context).policies
            (found,) = one.rules[0].peers
            assert found.cluster == ("east" if narrow else "")


def test_under_local_scope_nobody_of_another_cluster_gets_round_a_denial_by_a_pass_that_names_no_cluster():
    world = World("east")
    for number, cluster in ((0x10101, "east"), (0x20101, "west")):
        world.identities[number] = Identity(number, cluster, "shop", {}, {})
    world.endpoints = {
        ip: Endpoint(cluster, ip, number, "shop", "client")
        for ip, cluster, number in (("10.1.0.9", "east", 0x10101), ("10.2.0.9", "west", 0x20101))
    }
    world.pods["shop/a"] = LocalPod("shop", "a", "", {}, ("10.1.0.1",))
    rules = [{"action": action, "from": [{"namespaces": {}}]} for action in ("Pass", "Deny")]
    for scope, let_in in ((Scope.LOCAL, ["10.1.0.9"]), (Scope.CLUSTERSET, ["10.1.0.9", "10.2.0.9"])):
        (one,) = policy({"ingress": rules}, context=Context("east", scope)).policies
        world.policies = {one.ref: one}
        assert [ip for ip in world.endpoints if evaluate(world, Flow(ip, "10.1.0.1", 6, 80)).allowed] == let_in
