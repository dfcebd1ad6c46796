"""Every case of the collected Cilium vectors, by the evaluator, with the reason."""

import pytest

from tests.support.cilium_cases import OURS, Case, cases, halves

CASES = cases("vectors", "quirkVectors")


def test_the_vectors_are_all_there():
    assert len({str(case) for case in CASES}) == 43
    assert sum(len(case.data["flows"]) for case in CASES) == 140


def test_what_we_do_differently_is_what_upstream_allows():
    stated = {(str(case), one.name): one.allowed for case in CASES for one in case.flows()}

    assert all(stated[key] for key in OURS)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_evaluator_says_what_the_case_expects_and_why(case: Case, family: int):
    worlds = case.worlds()
    for expected in case.flows(family):
        found = halves(worlds, expected.flow)
        allowed = OURS.get((str(case), expected.name), expected.allowed)

        assert all(half.allowed for half in found) is allowed, (expected.name, found)
        if expected.why is not None:
            refused = next(half for half in found if not half.allowed)
            assert (refused.direction, refused.reason) == expected.why, (expected.name, refused)
