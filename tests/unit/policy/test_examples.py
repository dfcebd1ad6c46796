"""The policies among the examples are valid, and nothing of them is left unenforced."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from isthmus.policy.context import Context
from isthmus.policy.parsing import kind_of, read

EXAMPLES = Path(__file__).parents[3] / "examples"


def _policies() -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(EXAMPLES.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and kind_of(document):
                found[str(path.relative_to(EXAMPLES))] = document
    return found


POLICIES = _policies()


def test_there_are_policies_of_every_api() -> None:
    assert {document["kind"] for document in POLICIES.values()} == {
        "CiliumNetworkPolicy", "ClusterNetworkPolicy", "NetworkPolicy"
    }  # fmt: skip


@pytest.mark.parametrize("path", POLICIES)
def test_an_example_is_valid_and_wholly_enforced(path: str) -> None:
    document = POLICIES[path]
    document["metadata"].setdefault("namespace", "default")

    parsed = read(document, Context("koornacht"))

    assert parsed.problems == ()
    assert len(parsed.policies) == 1
