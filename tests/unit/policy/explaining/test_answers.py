"""Why, in the steps of securing traffic between two clusters, and for every reason that there is."""

import json
from pathlib import Path
from typing import Any

import pytest

from isthmus.model.endpoint import NamedPort
from isthmus.model.flow import Flow
from isthmus.policy.evaluate import Reason
from isthmus.policy.explaining.facts import (
    Change,
    changed,
)
from isthmus.policy.explaining.halves import halves, party_at
from isthmus.policy.explaining.remedies import RemedyKind
from isthmus.policy.explaining.scene import Scene
from isthmus.policy.scoping import under_scopes
from tests.support.pictures import of_case, scene_of
from tests.support.scenes import ANYONE, DENY_ALL, ask, cilium_policy, cluster_policy, network_policy, one, pod, scene

VECTORS = Path(__file__).parents[3] / "vectors" / "cilium-policy.json"
CASES = {case["id"]: case for case in json.loads(VECTORS.read_text())["vectors"]}
STEPS = [CASES[f"mc-seed-{number}"] for number in range(1, 6)]
PROTOCOLS = {"TCP": 6, "UDP": 17}
WHY = {"default-deny": Reason.DEFAULT_DENY, "explicit": Reason.DENIED}


def full(case: dict[str, Any], name: str) -> str:
    pod = next(pod for pod in case["pods"] if pod["id"] == name)
    return f"{pod['cluster']}:{pod['ns']}/{name}"


@pytest.mark.parametrize("case", STEPS, ids=lambda case: str(case["id"]))
def test_every_step_is_answered_with_the_half_that_refuses(case: dict[str, Any]) -> None:
    scene = Scene(of_case(case))
    for flow in case["flows"]:
        port = (PROTOCOLS[flow["proto"]], flow["port"])
        answer = one(scene, full(case, flow["from"]), full(case, flow["to"]), port)
        assert answer.allowed == (flow["expect"] == "allow"), flow
        if flow.get("why"):
            side, _, reason = flow["why"].partition("/")
            half = answer.egress if side == "egress" else answer.ingress
            assert (half.allowed, half.reason) == (False, WHY[reason])
            assert half.isolating[0].policy.name == "default-deny"


@pytest.mark.parametrize("case", STEPS, ids=lambda case: str(case["id"]))
def test_what_every_step_lacks_is_suggested_and_suffices(case: dict[str, Any]) -> None:
    scene = Scene(of_case(case))
    for flow in case["flows"]:
        answer = one(scene, full(case, flow["from"]), full(case, flow["to"]), (PROTOCOLS[flow["proto"]], flow["port"]))
        if answer.allowed:
            assert answer.remedies is None
            continue
        assert answer.remedies is not None
        assert answer.remedies.sufficient
        changes = [Change(cluster=step.cluster, object=step.object) for step in answer.remedies.steps]
        after = Scene(changed(scene.picture, *changes))
        again = one(after, full(case, flow["from"]), full(case, flow["to"]), (PROTOCOLS[flow["proto"]], flow["port"]))
        assert again.allowed


def test_the_policy_that_is_missing_in_the_other_cluster_is_found_in_the_first() -> None:
    scene = Scene(of_case(CASES["mc-seed-3"]))
    answer = one(scene, "koornacht:xwing-k", "tion:rebel-t")
    assert answer.egress.allowed
    assert answer.remedies is not None
    (step,) = answer.remedies.steps
    assert (step.kind, step.cluster, step.model) == (RemedyKind.COPY, "tion", "koornacht")
    assert not step.also
    there = next(obj for obj in scene.clusters["koornacht"].policies if obj["metadata"]["name"] == step.policy.name)
    assert step.object["spec"] == there["spec"]


def test_a_rule_that_sees_one_cluster_because_of_the_scope_is_said_to_come_close() -> None:
    answer = one(Scene(of_case(CASES["mc-seed-5"])), "koornacht:xwing-k", "tion:rebel-t")
    assert answer.egress.reason is Reason.DEFAULT_DENY
    (close,) = answer.egress.close
    assert close.why == "selects the peer, but names no cluster: with scope local it sees koornacht alone"


# -- a small cluster -----------------------------------------------------------------------------------------------


def test_without_policies_nothing_isolates() -> None:
    answer = one(scene(), "a", "b")
    assert (answer.allowed, answer.egress.reason, answer.ingress.reason) == (True, Reason.OPEN, Reason.OPEN)


def test_a_rule_that_allows_is_named_by_its_place_in_the_object() -> None:
    rules = [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}]
    allowing = network_policy("allow", {"podSelector": {}, "ingress": rules})
    half = one(scene(allowing), "a", "b").ingress
    assert half.reason is Reason.RULE
    assert half.decider is not None
    assert (str(half.decider.policy), half.decider.field) == ("NetworkPolicy default/allow", "spec.ingress[0]")


def test_a_rule_that_denies_is_narrowed_by_an_exception_for_the_address() -> None:
    denying = cilium_policy(
        "no-net",
        {"endpointSelector": {}, "egressDeny": [{"toCIDR": ["198.51.100.0/24"]}], "egress": [{"toEntities": ["all"]}]},
    )
    answer = one(scene(denying), "a", "198.51.100.9")
    assert answer.egress.reason is Reason.DENIED
    assert answer.remedies is not None
    (step,) = answer.remedies.steps
    assert step.kind is RemedyKind.CHANGE
    assert step.object["spec"]["egressDeny"] == [
        {"toCIDRSet": [{"cidr": "198.51.100.0/24", "except": ["198.51.100.9/32"]}]}
    ]


def test_the_last_rule_of_a_policy_that_denies_can_only_be_taken_out_with_the_policy() -> None:
    denying = cilium_policy("no-b", {"endpointSelector": {}, "ingressDeny": [{"fromEntities": ["all"]}]})
    answer = one(scene(denying), "a", "b")
    assert answer.remedies is not None
    (step,) = answer.remedies.steps
    assert (step.kind, step.policy.name) == (RemedyKind.DELETE, "no-b")
    assert answer.remedies.sufficient


def test_an_admin_denial_is_passed_by_a_rule_before_it_for_these_pods_alone() -> None:
    rule = {"name": "no-talk", "action": "Deny", "from": ANYONE}
    answer = one(scene(cluster_policy("quiet", "Admin", 20, ingress=[rule])), "a", "b")
    half = answer.ingress
    assert (half.reason, half.decider and half.decider.name) == (Reason.DENIED, "no-talk")
    assert answer.remedies is not None
    (step,) = answer.remedies.steps
    assert (step.object["spec"]["tier"], step.object["spec"]["priority"]) == ("Admin", 19)
    assert step.object["spec"]["ingress"][0]["action"] == "Pass"
    assert not step.also


def test_where_nothing_can_come_before_a_policy_a_rule_comes_before_its_rule() -> None:
    denying = {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": "AdminNetworkPolicy",
        "metadata": {"name": "a-first"},
        "spec": {"priority": 0, "subject": {"namespaces": {}}, "ingress": [{"action": "Deny", "from": ANYONE}]},
    }
    answer = one(scene(denying), "a", "b")
    assert answer.remedies is not None
    (step,) = answer.remedies.steps
    assert (step.kind, step.policy.name) == (RemedyKind.CHANGE, "a-first")
    assert [rule["action"] for rule in step.object["spec"]["ingress"]] == ["Pass", "Deny"]
    assert step.object["spec"]["ingress"][0]["ports"] == [{"portNumber": {"protocol": "TCP", "port": 80}}]


def test_several_reasons_are_taken_away_one_after_the_other() -> None:
    rule = {"action": "Deny", "from": ANYONE}
    answer = one(scene(cluster_policy("quiet", "Admin", 20, ingress=[rule]), DENY_ALL), "a", "b")
    assert answer.remedies is not None
    assert [step.policy.kind for step in answer.remedies.steps] == [
        "NetworkPolicy",
        "ClusterNetworkPolicy",
        "NetworkPolicy",
    ]
    assert answer.remedies.sufficient


def test_two_rules_that_deny_are_narrowed_one_after_the_other() -> None:
    to_a = {"fromEndpoints": [{"matchLabels": {"app": "a"}}, {"matchLabels": {"app": "other"}}]}
    denials = [cilium_policy(name, {"endpointSelector": {}, "ingressDeny": [to_a]}) for name in ("d1", "d2")]
    answer = one(scene(*denials), "a", "b")
    assert answer.remedies is not None
    assert [step.policy.name for step in answer.remedies.steps[:2]] == ["d1", "d2"]
    assert answer.remedies.sufficient


def test_a_policy_of_another_cluster_that_opens_more_than_this_is_not_suggested() -> None:
    wide = network_policy("wide", {"podSelector": {}, "ingress": [{}]})
    here = {"pods": (pod("b", 2), pod("c", 3)), "policies": (DENY_ALL,), "namespaces": {"default": {}}}
    there = {"pods": (pod("a", 1, ips=("10.9.0.1",)),), "policies": (wide,), "namespaces": {"default": {}}}
    answer = one(scene_of(here=here, there=there), "there:a", "here:b")
    assert answer.remedies is not None
    (step,) = answer.remedies.steps
    assert (step.kind, step.also, step.cluster) == (RemedyKind.NEW, (), "here")


def test_a_policy_that_decides_because_of_its_name_is_said_to() -> None:
    first = cluster_policy("a", "Admin", 5, ingress=[{"action": "Accept", "from": ANYONE}])
    second = cluster_policy("b", "Admin", 5, ingress=[{"action": "Deny", "from": ANYONE}])
    half = one(scene(first, second), "a", "b").ingress
    assert half.allowed
    (trouble,) = half.troubles
    assert "have the same priority, 5, and may disagree; ClusterNetworkPolicy a is asked first" in str(trouble.problem)


def test_a_name_that_decides_is_said_to_among_many_that_disagree_about_other_pods() -> None:
    app = [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "other"}}}}]
    others = [
        cluster_policy(name, "Admin", 5, ingress=[{"action": action, "from": app}])
        for name, action in (*((f"a{n}", "Accept") for n in range(4)), *((f"b{n}", "Deny") for n in range(6)))
    ]
    decides = cluster_policy("y", "Admin", 5, ingress=[{"action": "Deny", "from": ANYONE}])
    second = cluster_policy("z", "Admin", 5, ingress=[{"action": "Accept", "from": ANYONE}])
    half = one(scene(*others, decides, second), "a", "b").ingress
    said = [str(trouble.problem) for trouble in half.troubles]
    assert half.decider is not None and half.decider.policy.name == "y"
    assert said and all("ClusterNetworkPolicy y" in text for text in said)


def test_rules_that_pass_on_are_told_with_what_decided_then() -> None:
    passing = cluster_policy("pass", "Admin", 1, ingress=[{"action": "Pass", "from": ANYONE}])
    base = cluster_policy("base", "Baseline", 1, ingress=[{"action": "Deny", "from": ANYONE}])
    half = one(scene(passing, base), "a", "b").ingress
    assert [passed.policy.name for passed in half.passed] == ["pass"]
    assert half.decider is not None
    assert half.decider.tier.value == "Baseline"


def test_a_pod_and_its_own_node_may_talk_and_another_node_may_not() -> None:
    here = scene(DENY_ALL)
    own, other = one(here, "node/n1", "a"), one(here, "node/n2", "a")
    assert (own.allowed, own.ingress.reason) == (True, Reason.OWN_NODE)
    assert own.egress.reason is None  # nobody judges nodes
    assert (other.allowed, other.ingress.reason) == (False, Reason.DEFAULT_DENY)
    assert other.remedies is not None
    assert other.remedies.sufficient


def test_pods_on_the_node_that_they_call_are_answered_apart() -> None:
    spread = tuple(pod(f"w-{n}", n, f"n{n}", labels={"app": "w"}, workload="Deployment/w") for n in (1, 2))
    isolating = cilium_policy("none", {"endpointSelector": {}, "egress": [{}]})
    answers = ask(scene(isolating, pods=spread), "w", "node/n1")
    entities = {}
    for answer in answers:
        assert answer.remedies is not None
        assert answer.remedies.sufficient
        entities[answer.source.members] = answer.remedies.steps[0].object["spec"]["egress"][0]["toEntities"]
    assert entities == {("w-1",): ["host"], ("w-2",): ["remote-node"]}


def test_a_pod_may_reach_itself() -> None:
    answer = one(scene(DENY_ALL), "a", "a")
    assert answer.egress.reason is Reason.ITSELF


def test_pods_of_one_workload_are_others_to_each_other() -> None:
    twins = tuple(pod(f"w-{number}", number, labels={"app": "w"}, workload="Deployment/w") for number in (1, 2))
    answer = one(scene(DENY_ALL, pods=twins), "w", "w")
    assert answer.egress.reason is Reason.DEFAULT_DENY
    assert answer.source.members == ("w-1", "w-2")


def test_an_address_of_a_nodes_pods_that_nobody_has_is_not_let_through() -> None:
    answer = one(scene(DENY_ALL), "10.0.1.99", "b")
    assert answer.egress.reason is Reason.UNKNOWN
    assert answer.remedies is not None
    assert not answer.remedies.sufficient
    assert "no pod is known" in answer.remedies.missing


def test_ping_is_allowed_by_a_policy_that_has_a_word_for_it() -> None:
    answer = one(scene(DENY_ALL), "outside", "b", (1, 8))
    assert answer.remedies is not None
    (step,) = answer.remedies.steps
    assert step.object["spec"]["ingress"][0]["icmps"] == [{"fields": [{"family": "IPv4", "type": 8}]}]


def test_a_name_that_a_policy_allows_is_said_not_to_be_learned() -> None:
    names = cilium_policy(
        "names", {"endpointSelector": {}, "egress": [{"toFQDNs": [{"matchName": "www.example.com"}]}]}
    )
    half = one(scene(names), "a", "www.example.com", (6, 443)).egress
    assert not half.allowed
    assert "not learned" in half.close[0].why
    assert not half.troubles  # that says the same
    found = one(scene(names), "a", "www.example.com", (6, 443)).remedies
    assert found is not None
    assert (found.steps, "names are not learned" in found.missing) == ((), True)


def test_whatever_is_outside_is_allowed_as_such_in_both_families() -> None:
    both = (pod("a", 1, ips=("10.0.1.1", "fd00::1")),)
    plain = one(scene(DENY_ALL, pods=both), "a", "outside", (6, 443))
    assert plain.families == (4, 6)
    assert plain.remedies is not None
    assert plain.remedies.steps[0].object["spec"]["egress"][0]["to"] == [
        {"ipBlock": {"cidr": "0.0.0.0/0"}},
        {"ipBlock": {"cidr": "::/0"}},
    ]
    world = one(scene(cilium_policy("none", {"endpointSelector": {}, "egress": [{}]}), pods=both), "a", "outside")
    assert world.remedies is not None
    assert world.remedies.steps[0].object["spec"]["egress"][0]["toEntities"] == ["world"]


def test_faults_are_told_where_they_may_be_the_reason() -> None:
    def troubles(policy: dict[str, Any]) -> list[str]:
        return [trouble.problem.field for trouble in one(scene(policy), "a", "b").ingress.troubles]

    invalid = network_policy("bad", {"podSelector": {}, "ingress": [], "egress": [{"ports": [{"port": -1}]}]})
    assert troubles(invalid) == ["spec.egress[0].ports[0].port"], "the object as a whole is refused"
    unenforced = {
        "toEndpoints": [{}],
        "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{}]}}],
    }
    elsewhere = cilium_policy("http", {"endpointSelector": {}, "ingress": [{}], "egress": [unenforced]})
    assert not troubles(elsewhere)
    missing = {"fromCIDRSet": [{"cidrGroupRef": "missing"}]}
    assert troubles(cilium_policy("group", {"endpointSelector": {}, "ingress": [missing]}))
    assert not troubles(cilium_policy("group", {"endpointSelector": {}, "ingress": [missing, {"fromEndpoints": [{}]}]}))


def test_a_port_that_differs_is_said_to_come_close() -> None:
    rules = [{"ports": [{"port": 443}]}]
    half = one(scene(network_policy("tls", {"podSelector": {}, "ingress": rules})), "a", "b").ingress
    assert half.close[0].why == "allows this peer, but only 443/TCP"


def test_a_namespace_that_differs_is_said_to_come_close() -> None:
    rules = [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}]
    elsewhere = pod("a", 1, namespace="other")
    policy = network_policy("same-space", {"podSelector": {}, "ingress": rules})
    half = one(scene(policy, pods=(elsewhere, pod("b", 2))), "other/a", "b").ingress
    assert half.close[0].why == "selects the peer, but not in namespace other"


def test_ports_by_name_are_those_of_the_pod_that_is_called_where_a_rule_comes_close() -> None:
    called = pod("b", 2, namespace="other", named_ports=(NamedPort("web", 80, "TCP"),))
    pods = (pod("a", 1, named_ports=(NamedPort("web", 81, "TCP"),)), called)
    ports = [{"port": "web"}]
    spec = {"podSelector": {}, "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "b"}}}], "ports": ports}]}
    out = network_policy("out", {**spec, "policyTypes": ["Egress"]})
    half = one(scene(out, pods=pods), "a", "other/b").egress
    assert [close.why for close in half.close] == ["selects the peer, but not in namespace other"]
    rules = [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}], "ports": ports}]
    into = network_policy("into", {"podSelector": {}, "ingress": rules}, namespace="other")
    half = one(scene(into, pods=pods), "a", "other/b").ingress
    assert [close.why for close in half.close] == ["selects the peer, but not in namespace default"]


def test_a_policy_of_many_rules_is_read_under_both_scopes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(obj: Any, context: Any) -> Any:
        read.append(obj["metadata"]["name"])
        return under_scopes(obj, context)

    monkeypatch.setattr("isthmus.policy.explaining.halves.under_scopes", counted)
    apps = [{"from": [{"podSelector": {"matchLabels": {"app": f"x{number}"}}}]} for number in range(20)]
    many = network_policy("many", {"podSelector": {}, "ingress": apps})
    many["metadata"]["annotations"] = {"isthmus.dev/policy-scope": "local"}
    found = scene(many)
    source, destination = party_at(found, "10.0.1.1"), party_at(found, "10.0.1.2")
    assert not halves(found, Flow("10.0.1.1", "10.0.1.2", 6, 80), source, destination)[1].allowed
    assert read == ["many"]


# -- dual stack ----------------------------------------------------------------------------------------------------


def test_families_that_differ_are_answered_one_by_one() -> None:
    both = (pod("a", 1, ips=("10.0.1.1", "fd00::1")), pod("b", 2, ips=("10.0.1.2", "fd00::2")))
    rules = [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]
    answers = ask(scene(network_policy("v4", {"podSelector": {}, "ingress": rules}), pods=both), "a", "b")
    assert {answer.families: answer.allowed for answer in answers} == {(4,): True, (6,): False}
    same = ask(scene(pods=both), "a", "b")
    assert [answer.families for answer in same] == [(4, 6)]
