"""What a policy may cost: counted as a whole, refused as a whole, and closed when refused."""

import msgspec
import pytest

from isthmus.policy.context import Context
from isthmus.policy.cost import MAX_COST, MOST_PAIRS, bounded, cost
from isthmus.policy.parsing import read
from isthmus.policy.rules import Action, Direction, Grade
from isthmus.ruleset import networks

PORTS = [{"port": 1 + 2 * n} for n in range(3000)]


def policy(spec, kind="NetworkPolicy", version="networking.k8s.io/v1"):
    metadata = {"name": "p", "namespace": "shop"}
    return read({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}, Context("east"))


@pytest.mark.parametrize(
    ("peers", "elements"),
    [
        ([{"podSelector": {"matchLabels": {"app": f"a{n}"}}} for n in range(3000)], 32 * 3000 * 3000),
        (
            [{"ipBlock": {"cidr": "::/0", "except": [f"2001:db8:{n:x}::/128" for n in range(3000)]}}],
            1 + 3000 * 128 + 3000 + MOST_PAIRS,
        ),
    ],
    ids=["pods", "exceptions"],
)
def test_a_policy_that_would_be_millions_in_the_kernel_is_refused_as_a_whole_with_both_numbers(peers, elements):
    parsed = policy({"podSelector": {}, "ingress": [{"from": peers, "ports": PORTS}, {"ports": [{"port": 80}]}]})

    assert [str(problem) for problem in parsed.problems] == [
        f"spec: needs {elements + 1} set elements and rules; a policy may need at most {MAX_COST}"
    ]
    assert not parsed.valid
    (left,) = parsed.policies
    assert left.rules == () and left.isolates == {Direction.INGRESS}
    assert left.problems == parsed.problems


PODS = [{"podSelector": {"matchLabels": {"app": f"a{n}"}}} for n in range(3)]
NETWORKS = [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"ipBlock": {"cidr": "192.0.2.0/24"}}]


@pytest.mark.parametrize(
    ("rule", "elements"),
    [
        ({}, 1),
        ({"ports": PORTS[:7]}, 7),
        ({"from": PODS}, 3 * 32),
        ({"from": PODS, "ports": PORTS[:7]}, 3 * 32 * 7),
        ({"from": PODS, "ports": [{"port": 80, "endPort": 89}]}, 3 * 32 * 10),
        ({"from": PODS, "ports": [{"port": 80, "endPort": 95}]}, 3 * 32 * 16),
        ({"from": PODS, "ports": [{"port": 80, "endPort": 96}]}, 3 * 32 * 2),  # 80-95 and 96
        ({"from": PODS, "ports": [{"port": 1024, "endPort": 65535}]}, 3 * 32 * 9),
        ({"from": PODS, "ports": [{"port": 1, "endPort": 65534}]}, 3 * 32 * 44),
        ({"from": PODS, "ports": [{"protocol": "UDP"}]}, 3 * 32),
        ({"from": NETWORKS}, 10),
        ({"from": NETWORKS, "ports": PORTS[:7]}, 10 * 7),
        ({"from": NETWORKS + PODS, "ports": PORTS[:7]}, 10 * 7 + 3 * 32 * 7),
        ({"from": NETWORKS, "ports": PORTS}, 10 + 3000 + MOST_PAIRS),
    ],
)
def test_a_rule_needs_every_identity_with_every_port_and_networks_with_ports_up_to_a_bound(rule, elements):
    (one,) = policy({"podSelector": {}, "ingress": [rule]}).policies

    assert cost(one) == elements


def test_all_rules_of_a_policy_share_its_bound():
    many = {"from": PODS * 10, "ports": PORTS[:500]}

    assert policy({"podSelector": {}, "ingress": [many] * 2}).valid
    assert not policy({"podSelector": {}, "ingress": [many] * 3}).valid


def test_a_refused_policy_of_the_admin_tier_denies_all_where_it_denied_or_passed_and_allows_nothing():
    networks = [{"networks": [f"10.{n}.{m}.0/24" for m in range(25)]} for n in range(25)]
    ports = [{"tcp": {"destinationPort": {"number": 1 + n}}} for n in range(25)]
    accept = {"action": "Accept", "to": networks, "protocols": ports}
    spec = {
        "tier": "Admin",
        "priority": 5,
        "subject": {"namespaces": {}},
        "ingress": [{"action": "Accept", "from": [{"namespaces": {}}]}],
        "egress": [*[accept] * 20, {"action": "Pass", "to": [{"namespaces": {}}]}],
    }
    parsed = policy(spec, "ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2")

    (left,) = parsed.policies
    assert parsed.problems[0].grade is Grade.INVALID
    assert [(r.direction, r.action, r.peers, r.ports) for r in left.rules] == [
        (Direction.EGRESS, Action.DENY, None, None)
    ]
    assert (left.tier.value, left.priority) == ("Admin", 5)


def test_the_parts_of_an_object_share_its_bound():
    one = policy({"podSelector": {}, "ingress": [{"ports": [{"port": 1}, {"port": 2}]}]})
    two = msgspec.structs.replace(one, policies=one.policies * 2)

    assert bounded(one, 2) is one
    assert [p.rules for p in bounded(two, 3).policies] == [(), ()]


def test_the_compiler_writes_out_no_more_pairs_than_are_counted():
    assert networks.MOST_BOXES <= MOST_PAIRS
