"""Every policy case of tests/vectors with packets: a namespace for each node and pod, and the table of each node in it.

Denied means silence: nothing arrives, and nothing (no RST, no ICMP error) comes back.
"""

import pytest

from isthmus.model.flow import Flow
from isthmus.policy.world import LocalPod, World
from tests.support import cilium_cases
from tests.support.cases import Case, load
from tests.support.fabric import Fabric

CASES = [*load("network-policy.json"), *load("kubernetes-e2e-netpol.json")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_packets_get_through_as_the_case_says(fabric: Fabric, case: Case):
    for step in case.steps():
        fabric.play(step.worlds, {probe.flow: probe.allowed for probe in step.probes})


@pytest.mark.parametrize("case", cilium_cases.cases("vectors", "quirkVectors"), ids=str)
def test_packets_get_through_as_ciliums_cases_say(fabric: Fabric, case: cilium_cases.Case):
    expected = {
        one.flow: cilium_cases.OURS.get((str(case), one.name), one.allowed)
        for family in (4, 6)
        for one in case.flows(family)
    }
    fabric.play(case.worlds(), expected)


def test_what_no_table_stops_is_seen_to_get_through(fabric: Fabric):
    world = World("east", pods={"x/a": LocalPod("x", "a", "", {}, ("10.9.0.1", "fd00:9::1"))})
    ends = {4: ("10.9.0.1", "203.0.113.1"), 6: ("fd00:9::1", "2001:db8::1")}
    flows = [
        Flow(*pair, protocol, port)
        for version, ends in ends.items()
        for pair in (ends, ends[::-1])
        for protocol, port in ((6, 80), (17, 53), (132, 80), (1, 8) if version == 4 else (58, 128), (47, 0))
    ]
    fabric.play({"east/n1": world}, dict.fromkeys(flows, True))
    with pytest.raises(AssertionError) as caught:
        fabric.expect(dict.fromkeys(flows, False))
    assert str(caught.value).count("should be denied") == len(flows)
