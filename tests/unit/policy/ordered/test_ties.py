"""Ties: found whenever a packet could show them, which chance is asked about, and not where labels or ports exclude."""

from random import Random

import pytest
from hypothesis import given, settings

from isthmus.policy.context import Context
from isthmus.policy.evaluate import evaluate
from isthmus.policy.ordered.ties import MAX_STEPS, tie_between, ties, with_ties
from isthmus.policy.parsing import read
from isthmus.policy.rules import Grade
from tests.support.corpus import FLOWS, world
from tests.support.worlds import seeded

CONTEXT = Context("east")


def policy(name, *rules, priority=5, tier="Admin", subject=None, direction="ingress"):
    spec = {"tier": tier, "priority": priority, "subject": subject or {"namespaces": {}}, direction: list(rules)}
    obj = {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
    return read(obj, CONTEXT)


def rule(action, labels=None, ports=None):
    made = {"action": action, "from": [{"namespaces": {"matchLabels": labels} if labels else {}}]}
    return made | ({"protocols": ports} if ports else {})


def tcp(*ends):
    return {
        "tcp": {
            "destinationPort": {"number": ends[0]}
            if len(ends) == 1
            else {"range": dict(zip(("start", "end"), ends, strict=True))}
        }
    }


def tied(one, other):
    return tie_between(one.policies[0], other.policies[0])


def test_two_policies_of_one_priority_that_disagree_are_a_tie_and_it_says_who_decides():
    a, b = policy("a", rule("Accept"), rule("Deny")), policy("b", rule("Deny"))

    assert str(tied(b, a)) == (
        "ClusterNetworkPolicy a (spec.ingress[0]) and ClusterNetworkPolicy b (spec.ingress[0]) have tier Admin, "
        "priority 5, and may match the same traffic with different actions; ClusterNetworkPolicy a is asked first, "
        "by its name"
    )
    assert tied(a, b) == tied(b, a)


SHOP, DATA = {"namespaces": {"matchLabels": {"team": "shop"}}}, {"namespaces": {"matchLabels": {"team": "data"}}}


@pytest.mark.parametrize(
    "other",
    [
        policy("b", rule("Deny"), priority=6),
        policy("b", rule("Deny"), tier="Baseline"),
        policy("b", rule("Accept", {"team": "x"}, [tcp(80)])),
        policy("b", rule("Deny", {"team": "y"}, [tcp(80)])),
        policy("b", rule("Deny", {"team": "x"}, [tcp(81, 90)])),
        policy("b", rule("Deny", {"team": "x"}, [{"udp": {"destinationPort": {"number": 80}}}])),
        policy("b", rule("Deny", {"team": "x"}), subject=DATA),
        policy("b", {"action": "Deny", "to": [{"namespaces": {}}]}, direction="egress"),
        policy("b"),
    ],
)
def test_policies_that_cannot_meet_or_do_not_disagree_are_none(other):
    assert tied(policy("a", rule("Accept", {"team": "x"}, [tcp(80)]), subject=SHOP), other) is None


@pytest.mark.parametrize(
    "other",
    [
        policy("b", rule("Deny", {"role": "y"})),
        policy("b", rule("Deny", {"team": "x"}, [tcp(1, 100)])),
        policy("b", rule("Deny", {"team": "x"}, [{"destinationNamedPort": "web"}])),
        policy("b", rule("Pass", {"team": "x"})),
        policy("b", {"action": "Deny", "from": [{}]}),
    ],
)
def test_what_no_label_and_no_port_tells_apart_is_a_tie(other):
    assert tied(policy("a", rule("Accept", {"team": "x"}, [tcp(80)]), subject=SHOP), other) is not None


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (("In", ["a"]), ("In", ["a", "b"]), False),
        (("In", ["a"]), ("NotIn", ["a"]), True),
        (("In", ["a", "b"]), ("NotIn", ["a"]), False),
        (("NotIn", ["a"]), ("NotIn", ["b"]), False),
        (("Exists", None), ("DoesNotExist", None), True),
        (("In", ["a"]), ("DoesNotExist", None), True),
        (("NotIn", ["a"]), ("DoesNotExist", None), False),
        (("Exists", None), ("In", ["a"]), False),
    ],
)
def test_labels_tell_apart_what_no_value_can_meet(one, other, apart):
    made = []
    for name, action, (operator, values) in (("a", "Accept", one), ("b", "Deny", other)):
        term = {"key": "team", "operator": operator} | ({"values": values} if values else {})
        made.append(policy(name, {"action": action, "from": [{"namespaces": {"matchExpressions": [term]}}]}))

    assert (tied(*made) is None) is apart and (tied(*made[::-1]) is None) is apart


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ("10.0.0.0/8", "10.1.0.0/16", False),
        ("10.1.0.0/16", "10.0.0.0/8", False),
        ("10.1.0.0/16", "10.2.0.0/16", True),
        ("0.0.0.0/0", "::/0", True),
    ],
)
def test_networks_meet_where_one_holds_the_other(one, other, apart):
    a, b = (
        policy(name, {"action": action, "to": [{"networks": [network]}]}, direction="egress")
        for name, action, network in (("a", "Accept", one), ("b", "Deny", other))
    )
    assert (tied(a, b) is None) is apart


def test_all_pairs_of_a_tier_and_priority_are_compared():
    made = [policy(f"p{n}", rule("Accept" if n % 2 else "Deny")) for n in range(4)]

    found = ties(policy for parsed in made for policy in parsed.policies)
    assert {(tie.first.name, tie.second.name) for tie in found} == {
        ("p0", "p1"),
        ("p0", "p3"),
        ("p1", "p2"),
        ("p2", "p3"),
    }


def test_both_objects_of_a_tie_are_told_and_no_other_is():
    a, b, c = policy("a", rule("Accept")), policy("b", rule("Deny")), policy("c", rule("Deny"), priority=6)
    remarked = with_ties([c, b, a])

    assert remarked[0] is c
    assert [[(one.field, one.grade, one.message) for one in parsed.problems] for parsed in remarked[1:]] == [
        [("spec.priority", Grade.WARNING, str(tied(a, b)))]
    ] * 2
    assert all(parsed.valid for parsed in remarked)


def test_policies_too_large_to_compare_are_taken_to_tie():
    def large(name, action, team):
        peers = [{"namespaces": {"matchLabels": {"team": f"{team}{n}"}}} for n in range(25)]
        return policy(name, *[{"action": action, "from": peers}] * 25)

    assert 25 * 25 * 25 * 25 > MAX_STEPS
    assert tied(large("a", "Accept", "x"), large("b", "Deny", "y")) is not None


def _rules(rng: Random):
    def peer():
        match rng.randrange(4):
            case 0:
                return {"namespaces": {"matchLabels": {"team": rng.choice(["shop", "data"])}}}
            case 1:
                return {"pods": {"podSelector": {"matchLabels": {"app": rng.choice(["web", "api", "db"])}}}}
            case 2:
                return {"networks": [rng.choice(["10.1.0.0/28", "10.0.0.0/8", "198.51.100.0/24", "172.18.0.3/32"])]}
            case _:
                return {"nodes": rng.choice([{}, {"matchLabels": {"role": "worker"}}])}

    def protocols():
        some = [tcp(80), tcp(22, 443), tcp(5432), {"destinationNamedPort": "pg"}]
        return rng.sample(some, 2)

    made = {"action": rng.choice(["Accept", "Deny"]), "to": [peer() for _ in range(rng.randint(1, 2))]}
    pods_only = all(one.keys() & {"namespaces", "pods"} for one in made["to"])
    ports = [one for one in protocols() if pods_only or "tcp" in one]
    return made | ({"protocols": ports} if ports and rng.random() < 0.6 else {})


def _pair(rng: Random):
    return [
        (
            _rules(rng),
            rng.choice([SHOP, DATA, {"pods": {"podSelector": {"matchLabels": {"app": rng.choice(["web", "db"])}}}}]),
        )
        for _ in range(2)
    ]


@settings(max_examples=200, deadline=None)
@given(seeded(_pair))
def test_where_the_order_of_names_matters_to_a_packet_there_is_a_tie(pair):
    (first, here), (second, there) = pair
    verdicts = []
    for names in (("a", "b"), ("b", "a")):
        made = [
            policy(name, made, subject=subject, direction="egress")
            for name, made, subject in zip(names, (first, second), (here, there), strict=True)
        ]
        where = world(*made)
        verdicts.append([evaluate(where, flow).allowed for flow in FLOWS[::5]])

    assert verdicts[0] == verdicts[1] or tied(*made) is not None
