"""The v1alpha1 kinds: the same rules as ClusterNetworkPolicy in other words, longer lists, one baseline."""

import json
from copy import deepcopy

import pytest

from isthmus.policy.context import Context
from isthmus.policy.ordered.adminnetworkpolicy import AFTER_ALL
from isthmus.policy.parsing import read
from isthmus.policy.rules import Action, PortName, PortRange, Scope, Tier
from tests.support.cases import VECTORS

GROUP = "policy.networking.k8s.io"
CONTEXT = Context("east", Scope.LOCAL, dns_proxy=True)


def parse(spec, kind="AdminNetworkPolicy", name="p"):
    obj = {"apiVersion": f"{GROUP}/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return read(obj, CONTEXT)


def admin(**spec):
    return parse({"priority": 5, "subject": {"namespaces": {}}} | spec)


def cases():
    """Returns the ClusterNetworkPolicies of the vectors that say nothing which the older kinds cannot."""
    content = json.loads((VECTORS / "network-policy.json").read_text())
    applied = [
        change["apply"]
        for case in content["cases"]
        for step in case["steps"]
        for change in step["do"]
        if "apply" in change
    ]
    found = [obj for obj in applied if obj["kind"] == "ClusterNetworkPolicy"]
    return [obj for obj in found if obj["spec"]["tier"] == "Admin" or '"Pass"' not in json.dumps(obj)]


def older(obj):
    """Returns the same policy in the words of v1alpha1."""
    old = deepcopy(obj)
    spec = old["spec"]
    tier = spec.pop("tier")
    old["apiVersion"] = f"{GROUP}/v1alpha1"
    old["kind"] = "AdminNetworkPolicy" if tier == "Admin" else "BaselineAdminNetworkPolicy"
    if tier == "Baseline":
        spec.pop("priority")
        old["metadata"]["name"] = "default"
    parts = [spec["subject"]]
    for direction, key in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(direction, []):
            parts += rule[key]
            rule["action"] = rule["action"].replace("Accept", "Allow")
            if "protocols" in rule:
                rule["ports"] = [port(one) for one in rule.pop("protocols")]
    for part in parts:
        if "pods" in part:
            part["pods"].setdefault("namespaceSelector", {})
    return old


def port(protocol):
    ((word, value),) = protocol.items()
    if word == "destinationNamedPort":
        return {"namedPort": value}
    destination = value["destinationPort"]
    if "number" in destination:
        return {"portNumber": {"protocol": word.upper(), "port": destination["number"]}}
    return {"portRange": {"protocol": word.upper(), **destination["range"]}}


@pytest.mark.parametrize("obj", cases(), ids=lambda obj: f"{obj['spec']['tier']}-{obj['metadata']['name']}")
def test_the_same_policy_in_older_words_is_the_same_rules(obj):
    (new,), (old,) = read(obj, CONTEXT).policies, read(older(obj), CONTEXT).policies

    assert (old.tier, old.subject, old.scope) == (new.tier, new.subject, new.scope)
    assert old.priority == (new.priority if old.tier is Tier.ADMIN else AFTER_ALL)
    assert old.rules == new.rules


def test_there_are_such_policies():
    assert len(cases()) >= 40


def test_lists_may_be_four_times_as_long():
    rule = {"action": "Deny", "from": [{"namespaces": {}}] * 100, "ports": [{"portNumber": {"port": 80}}] * 100}

    assert admin(ingress=[rule] * 100).valid
    assert [str(problem) for problem in admin(ingress=[rule] * 101).problems] == [
        "spec.ingress: Too many: 101: must have at most 100 items"
    ]


def test_ports_are_tcp_unless_they_say_otherwise():
    ports = [
        {"portNumber": {"port": 80}},
        {"portNumber": {"protocol": "UDP", "port": 53}},
        {"portRange": {"start": 80, "end": 80}},
        {"portRange": {"protocol": "SCTP", "start": 1, "end": 9}},
        {"namedPort": "web"},
    ]
    parsed = admin(ingress=[{"action": "Allow", "from": [{"namespaces": {}}], "ports": ports}])

    assert parsed.problems == ()
    assert parsed.policies[0].rules[0].ports == (
        PortRange(6, 80, 80),
        PortRange(17, 53, 53),
        PortRange(132, 1, 9),
        PortName(0, "web"),
    )


@pytest.mark.parametrize(
    ("port", "field"),
    [
        ({}, ""),
        ({"portNumber": {}}, ".portNumber.port"),
        ({"portNumber": {"protocol": "ICMP", "port": 8}}, ".portNumber.protocol"),
        ({"portNumber": {"protocol": 6, "port": 8}}, ".portNumber.protocol"),
        ({"portNumber": {"port": 80, "endPort": 81}}, ".portNumber.endPort"),
        ({"portRange": {"start": 81, "end": 80}}, ".portRange"),
        ({"namedPort": 80}, ".namedPort"),
        ({"tcp": {"destinationPort": {"number": 80}}}, ".tcp"),
        ({"portNumber": {"port": 80}, "namedPort": "web"}, ""),
    ],
)
def test_a_port_that_is_none_is_named_and_denies_more_not_less(port, field):
    for action, left in (("Deny", [(Action.DENY, None)]), ("Allow", [])):
        parsed = admin(ingress=[{"action": action, "from": [{"namespaces": {}}], "ports": [port]}])

        assert [problem.field for problem in parsed.problems] == [f"spec.ingress[0].ports[0]{field}"]
        assert [(rule.action, rule.ports) for rule in parsed.policies[0].rules] == left


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("sameLabels", "write a rule for each tenant"),
        ("notSameLabels", "write a rule for each tenant"),
        ("namespaceSelector", "the selector itself stands in its place"),
    ],
)
def test_peers_in_words_of_the_first_versions_are_refused_and_deny_all(word, instead):
    parsed = admin(ingress=[{"action": "Deny", "from": [{"namespaces": {word: {}}}]}])

    assert [str(problem) for problem in parsed.problems] == [
        f"spec.ingress[0].from[0].namespaces.{word}: was removed from the API; {instead}"
    ]
    assert [(rule.action, rule.peers) for rule in parsed.policies[0].rules] == [(Action.DENY, None)]


def test_the_newer_word_for_an_action_is_refused():
    parsed = admin(ingress=[{"action": "Accept", "from": [{"namespaces": {}}]}])

    assert [str(problem) for problem in parsed.problems] == [
        'spec.ingress[0].action: Unsupported value: "Accept": supported values: "Allow", "Deny", "Pass"'
    ]


BASELINE = {
    "subject": {"namespaces": {}},
    "ingress": [
        {"action": "Allow", "from": [{"namespaces": {"matchLabels": {"a": "b"}}}]},
        {"action": "Deny", "from": [{"namespaces": {}}]},
    ],
}


def test_the_one_baseline_comes_after_all_policies_of_its_tier():
    parsed = parse(BASELINE, "BaselineAdminNetworkPolicy", "default")

    assert parsed.problems == ()
    assert (parsed.policies[0].tier, parsed.policies[0].priority) == (Tier.BASELINE, 1001)


def test_another_baseline_is_refused_and_only_denies():
    parsed = parse(BASELINE, "BaselineAdminNetworkPolicy", "mine")

    assert [problem.field for problem in parsed.problems] == ["metadata.name"]
    assert "Only one baseline admin network policy" in parsed.problems[0].message
    assert [rule.action for rule in parsed.policies[0].rules] == [Action.DENY]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"priority": 5}, "spec.priority"),
        ({"ingress": [{"action": "Pass", "from": [{"namespaces": {}}]}]}, "spec.ingress[0].action"),
        (
            {"egress": [{"action": "Deny", "to": [{"domainNames": ["example.com"]}]}]},
            "spec.egress[0].to[0].domainNames",
        ),
    ],
)
def test_what_only_the_admin_kind_has_is_refused_in_the_baseline(spec, field):
    parsed = parse(BASELINE | spec, "BaselineAdminNetworkPolicy", "default")

    assert [problem.field for problem in parsed.problems] == [field]
