"""The fields that are read are those that the definitions of Cilium's kinds have, in every section.

An API server drops what a definition does not have; a condition that is dropped would no longer restrict anything.
"""

from importlib.resources import files
from typing import Any

import pytest
import yaml

from isthmus.policy.cilium.cidrs import SET_FIELDS
from isthmus.policy.cilium.entries import DENYING_PORT_FIELDS, SECTIONS, Section
from isthmus.policy.cilium.l7 import PORT_RULE_FIELDS, RULES_FIELDS
from isthmus.policy.cilium.objects import RULE_FIELDS
from isthmus.policy.cilium.ports import PORT_FIELDS
from isthmus.policy.rules import Action

KINDS = ("ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies")


def rule(kind: str) -> dict[str, Any]:
    text = (files("isthmus.lab.addons") / "crds" / f"{kind}.yaml").read_text()
    schema = yaml.safe_load(text)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert schema["properties"]["specs"]["items"] == schema["properties"]["spec"]
    found: dict[str, Any] = schema["properties"]["spec"]["properties"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_fields_of_a_rule(kind: str):
    assert set(rule(kind)) == RULE_FIELDS


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
@pytest.mark.parametrize("kind", KINDS)
def test_fields_of_an_entry(kind: str, section: Section):
    entry = rule(kind)[section.name]["items"]["properties"]
    port_rule = entry["toPorts"]["items"]["properties"]
    (cidr_set,) = (entry[name] for name in entry if name.endswith("CIDRSet"))

    assert set(entry) == section.fields
    assert set(port_rule) == (PORT_RULE_FIELDS if section.action is Action.ALLOW else DENYING_PORT_FIELDS)
    assert set(port_rule["ports"]["items"]["properties"]) == PORT_FIELDS
    assert set(port_rule.get("rules", {}).get("properties", RULES_FIELDS)) == RULES_FIELDS
    assert set(cidr_set["items"]["properties"]) == SET_FIELDS
