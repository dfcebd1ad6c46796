"""Every case of the collected vectors, by the evaluator; ruleset and kernel have tests of their own for them."""

import json

import pytest

from isthmus.policy.evaluate import evaluate
from tests.support.cases import OURS, VECTORS, Case, load

CASES = [*load("network-policy.json"), *load("kubernetes-e2e-netpol.json")]


def test_the_vectors_are_all_there():
    assert len({case.id for case in CASES}) == 78 + 48
    assert sum(len(step.probes) for case in CASES for step in case.steps()) == 250 + 4680


def test_what_we_answer_differently_is_a_probe_whose_answer_is_open():
    content = json.loads((VECTORS / "network-policy.json").read_text())
    open_ones = {case["id"] for case in content["cases"] if case["status"] in ("contested", "undefined")}
    names = {(str(case), probe.name) for case in CASES for step in case.steps() for probe in step.probes}

    assert {case.rsplit("-", 1)[0] for case, _ in OURS} <= open_ones
    assert OURS.keys() <= names


@pytest.mark.parametrize("case", CASES, ids=str)
def test_evaluator_says_what_the_case_expects(case: Case):
    for step in case.steps():
        for probe in step.probes:
            verdicts = {node: evaluate(world, probe.flow) for node, world in step.worlds.items()}

            assert all(v.allowed for v in verdicts.values()) is probe.allowed, (probe.name, verdicts)
