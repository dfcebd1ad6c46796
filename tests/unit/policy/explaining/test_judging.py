"""What is judged once for many pods holds for each of them."""

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
