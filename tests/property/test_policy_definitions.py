"""Whatever the definitions of an API refuse, its reader calls invalid: spoiled manifests are shown to both.

The definitions are those that the lab ships, with the embedded API server's checks of them and strict field validation;
for NetworkPolicy, what that server checks itself. What the reader refuses besides is nothing that definitions can say
(what a label, a port name or a protocol looks like), or null, where a server reads nothing or zero.
"""

import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import isthmus.lab.addons
from isthmus.lab.apiserver.errors import ApiError
from isthmus.lab.apiserver.extensions import pruning, values
from isthmus.lab.apiserver.extensions.celrules import Rules
from isthmus.lab.apiserver.schema.kinds import RESOURCES
from isthmus.lab.apiserver.strategies.base import Settings
from isthmus.lab.apiserver.strategies.netpol import NetworkPolicyHooks
from isthmus.policy.parsing import read
from isthmus.policy.rules import Grade
from tests.property.test_policy_fuzz import name, spoiled
from tests.support.corpus import CONTEXT, MANIFESTS

EXACT = [manifest for manifest in MANIFESTS if not manifest["kind"].startswith("Cilium")]
(NETWORK_POLICIES,) = (resource for resource in RESOURCES if resource.plural == "networkpolicies")
BEYOND = re.compile(r"matchLabels|matchExpressions|[nN]amedPort|\.protocol$")


@cache
def definition(kind: str) -> tuple[dict[str, Any], str, Rules]:
    for path in (Path(isthmus.lab.addons.__file__).parent / "crds").glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())["spec"]
        if spec["names"]["kind"] == kind:
            (version,) = spec["versions"]
            schema = version["schema"]["openAPIV3Schema"]
            return schema, version["name"], Rules(schema)
    raise KeyError(kind)


def refusals(obj: dict[str, Any]) -> list[str]:
    """Returns why the API server would refuse the object."""
    if obj["kind"] == "NetworkPolicy":
        return built_in(obj)
    schema, version, rules = definition(obj["kind"])
    pruned, unknown = pruning.prune(deepcopy(obj), schema, kind=obj["kind"], version=version)
    pruning.fill(pruned, schema)
    errors = values.check(pruned, schema) + values.check_lists(pruned, schema)
    errors = errors or rules.check(pruned, deadline=lambda: False)
    return [*unknown, *map(str, errors)]


def built_in(obj: dict[str, Any]) -> list[str]:
    try:
        kept, unknown = NETWORK_POLICIES.conform(deepcopy(obj))
    except ApiError as error:
        return [error.message]
    hooks = NetworkPolicyHooks(NETWORK_POLICIES, Settings())
    hooks.default(kept)
    return [*unknown, *map(str, hooks.validate(kept))]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name)
def test_what_the_definitions_refuse_is_invalid(manifest):
    assert refusals(manifest) == []
    refused = [(what, obj, why) for what, obj in spoiled(manifest) if (why := refusals(obj))]

    assert len(refused) > 15
    assert [(what, why) for what, obj, why in refused if read(obj, CONTEXT).valid] == []


@pytest.mark.parametrize("manifest", EXACT, ids=name)
def test_what_the_definitions_take_is_valid_unless_they_cannot_say_what_is_wrong(manifest):
    taken = [(what, obj) for what, obj in spoiled(manifest) if not refusals(obj)]
    wrong = [
        (what, str(problem))
        for what, obj in taken
        for problem in read(obj, CONTEXT).problems
        if problem.grade is Grade.INVALID and not BEYOND.search(problem.field) and "null" not in problem.message
    ]

    assert taken
    assert wrong == []
