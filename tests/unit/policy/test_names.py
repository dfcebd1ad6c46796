"""Patterns of domain names, in both grammars."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.policy.names import MAX_NAME, NamePattern
from tests.support.cilium_cases import CONTENT

CHECKS = [
    (one["pattern"], name, verdict)
    for one in CONTENT["fqdnPatterns"]
    for key, verdict in (("accept", True), ("reject", False))
    for name in one[key]
]


def test_the_checks_are_all_there():
    assert len(CHECKS) == 20


@pytest.mark.parametrize(("pattern", "name", "verdict"), CHECKS)
def test_names_as_collected(pattern: str, name: str, verdict: bool):
    assert NamePattern(pattern).covers(name) is verdict


@pytest.mark.parametrize(
    ("pattern", "name", "verdict"),
    [
        ("cilium.io", "Cilium.IO", True),
        ("CILIUM.io", "cilium.io.", True),
        ("*.cilium.io", "a.cilium.io", True),
        ("*.cilium.io", "cilium.io", False),
        ("*.cilium.io", "a.b.cilium.io", False),
        ("*cilium.io", "www.cilium.io", False),
        ("**.cilium.io", "a.cilium.io", True),
        ("**.cilium.io", "a.b.cilium.io", True),
        ("**.cilium.io", "cilium.io", False),
        ("**.cilium.io", ".cilium.io", False),
        ("**.cilium.io", "a..cilium.io", False),
        ("a.**.cilium.io", "a.b.c.cilium.io", False),
        ("a.**.cilium.io", "a.b.cilium.io", True),
        ("**cilium.io", "subcilium.io", True),
        ("**cilium.io", "a.subcilium.io", False),
        ("**.*.io", "a.b.io", True),
        ("**.*.io", "b.io", False),
        ("sub*.*.io", "sub.x.io", True),
        ("a*b*c.io", "axbxc.io", True),
        ("a*b*c.io", "acb.io", False),
        ("ab*ba.io", "aba.io", False),
        ("*", "a!b", False),
        ("*", ".", True),
        ("*.", "a.b", True),
        ("**", "a.b", True),
        ("***.", "a.b", True),
        ("*.*", "a", False),
        ("", "a", False),
        ("", ".", True),
    ],
)
def test_stars_stay_within_a_label(pattern: str, name: str, verdict: bool):
    assert NamePattern(pattern).matches(name) is verdict


@pytest.mark.parametrize(
    ("pattern", "name", "verdict"),
    [
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("example.com", "example.com", True),
        ("*", "a.b", False),
    ],
)
def test_whole_labels_for_a_leading_star(pattern: str, name: str, verdict: bool):
    assert NamePattern(pattern, whole_labels=True).matches(name) is verdict


def test_only_a_lone_star_is_everything():
    assert all(NamePattern(text).everything for text in ("*", "*.", "**", "**."))
    assert not any(NamePattern(text).everything for text in ("*.*", "a*", "", "."))
    assert not NamePattern("*", whole_labels=True).everything


def test_no_name_is_longer_than_names_can_be():
    assert NamePattern("*").covers("a" * (MAX_NAME - 1) + ".")
    assert not NamePattern("*").covers("a" * MAX_NAME + ".")


TEXT = st.text("ab*.", max_size=8)
NAMES = st.text("ab.", max_size=8)


@given(TEXT, NAMES)
def test_the_grammar_as_a_regular_expression_says_the_same(pattern: str, name: str):
    found = NamePattern(pattern)
    text = pattern if pattern.endswith(".") else pattern + "."
    head = "([ab]+[.])+" if text.startswith("**.") else ""
    rest = text.removeprefix("**.") if head else text
    grammar = head + re.sub(r"\*+", "[ab]*", rest.replace(".", "[.]"))
    if found.everything:
        grammar = r"([ab]+[.])+|[.]"

    assert found.matches(name) is (re.fullmatch(grammar, name if name.endswith(".") else name + ".") is not None)
