"""What is judged once for many pods holds for each of them."""

from isthmus.policy.explaining.effects import effects
from isthmus.policy.explaining.groups import Grouping
from isthmus.policy.explaining.judging import Judge, cells_of
from tests.unit.policy.explaining.test_answers import network_policy, pod, scene


def test_pods_of_one_family_each_are_judged_by_their_own_under_the_same_policies() -> None:
    ipv4_alone = network_policy("p", {"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]})
    for order in ((4, 6), (6, 4)):
        pods = (pod("a", 1), pod("a6", 2, labels={"app": "a"}, ips=("fd00::2",)))
        found = scene({**ipv4_alone, "spec": {**ipv4_alone["spec"], "policyTypes": ["Egress"]}}, pods=pods)
        grouping, cells = Grouping(found), cells_of(found)
        judge = Judge(found, cells)
        outside = next(group for group in grouping.outside() if group.name == "outside")
        sources = {min(group.families): group for group in grouping.pods(("here", one) for one in pods)}
        allowed = {family: judge.pair(sources[family], outside) for family in order}
        assert allowed == {4: judge.possible(sources[4], outside), 6: 0}


def test_what_opens_over_ipv6_alone_is_told_of_pods_that_have_both() -> None:
    pods = (pod("a", 1, ips=("10.0.1.1", "fd00::1")), pod("b", 2, ips=("10.0.1.2", "fd00::2")))
    only_ipv4 = {"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}
    both = {"from": [*only_ipv4["from"], {"ipBlock": {"cidr": "::/0"}}]}
    before, after = (
        scene(network_policy("p", {"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [rule]}), pods=pods)
        for rule in (only_ipv4, both)
    )
    told = {(one.source.name, one.destination.name): one for one in effects(before, after).effects}
    found = told["here:default/a", "here:default/b"]
    assert found.opened
    assert not found.shut
