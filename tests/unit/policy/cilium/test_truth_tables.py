"""The truth tables of Cilium policy, by the evaluator, with the reason where they state one."""

import pytest

from tests.support.cilium_cases import Case, halves
from tests.support.cilium_truths import TRUTHS


def test_every_case_has_a_name_of_its_own():
    assert len({str(case) for case in TRUTHS}) == len(TRUTHS)


@pytest.mark.parametrize("case", TRUTHS, ids=str)
def test_evaluator_says_what_the_table_says_and_why(case: Case):
    worlds = case.worlds()
    for expected in case.flows():
        found = halves(worlds, expected.flow)

        assert all(half.allowed for half in found) is expected.allowed, (expected.name, found)
        if expected.why is not None:
            refused = next(half for half in found if not half.allowed)
            assert (refused.direction, refused.reason) == expected.why, (expected.name, refused)


@pytest.mark.parametrize("case", [case for case in TRUTHS if "t23" in str(case)], ids=str)
def test_without_a_dns_proxy_a_rule_by_name_allows_nothing(case: Case):
    worlds = case.worlds(dns_proxy=False)
    for world in worlds.values():
        world.names = {}

    assert not any(all(half.allowed for half in halves(worlds, one.flow)) for one in case.flows())
