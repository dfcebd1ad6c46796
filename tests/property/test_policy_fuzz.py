"""Spoiled policies of every kind: never an exception, never an open gate, bounded work.

What "never open" means, for a manifest with one thing wrong in it, so that its owner would refuse it: every connection
that the manifest drops is dropped still. So it is when the policy stands alone, beside policies that allow everything
(an allowance cannot make up for a denial that was lost), and before one that accepts what is left to it (what a policy
passes on does not go on to be accepted). A spec in which nothing can be read isolates, and that is all it can.
What is left out of a manifest is no fault in it: then it says less, and is another policy.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.model.flow import Flow
from isthmus.policy.context import Context, Parsed
from isthmus.policy.cost import MAX_COST, cost
from isthmus.policy.evaluate import evaluate
from isthmus.policy.parsing import KINDS, identify, read
from isthmus.policy.rules import Scope
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, passes
from isthmus.ruleset.text import replacement
from tests.support.corpus import BESIDE, CONTEXT, FLOWS, MANIFESTS, Place, at, beside, places, replaced, without, world

UNSOUND: tuple[object, ...] = (0, -1, 3.5, True, "no such thing!", ["x"], {"unknown": 1}, [None], "10.0.0.0/99", 10**40)
WHOLE = ("spec", "specs")
SECTIONS = ("ingress", "egress", "ingressDeny", "egressDeny")


def name(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


EACH = pytest.mark.parametrize("manifest", MANIFESTS, ids=name)


def inside(manifest: dict[str, Any]) -> list[Place]:
    """Returns every place in what a manifest says, but for the rules as a whole."""
    found = [place for place in places(manifest) if place and place[0] in WHOLE]
    return [place for place in found if len(place) > (2 if place[0] == "specs" else 1)]


def spoiled(manifest: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the manifest with one thing wrong, each way, and what that is."""
    return _spoiled(MANIFESTS.index(manifest))


@cache
def _spoiled(number: int) -> list[tuple[str, dict[str, Any]]]:
    manifest = MANIFESTS[number]
    made = []
    for place in inside(manifest):
        made += [(f"{place} is {value!r}", replaced(manifest, place, value)) for value in UNSOUND]
        if place[-1] not in SECTIONS:
            made += [(f"{place} is null", replaced(manifest, place, None))]
            made += [(f"{place} is missing", without(manifest, place))]
        if isinstance(at(manifest, place), dict):
            made += [(f"{place} has a field too many", replaced(manifest, (*place, "unknownField"), 1))]
    return made


def test_every_kind_is_among_the_manifests_and_sound():
    assert {manifest["kind"] for manifest in MANIFESTS} == KINDS.keys()
    assert all(read(manifest, CONTEXT).valid for manifest in MANIFESTS)


def assert_closed(sound: dict[str, Any], variants: list[tuple[str, Parsed]], *, key: str) -> None:
    """Asserts that each variant drops what `sound` drops; each is asked about a part of that, and all about all."""
    reference = world(read(sound, CONTEXT), *beside(key))
    dropped = [flow for flow in FLOWS if not evaluate(reference, flow).allowed]
    stride = max(1, len(dropped) // 10)
    for count, (what, parsed) in enumerate(variants):
        spoiled_world = world(parsed, *beside(key))
        opened = [flow for flow in dropped[count % stride :: stride] if evaluate(spoiled_world, flow).allowed]
        assert not opened, (what, list(map(str, parsed.problems)))


def assert_compiled(parsed: Parsed, flows: Iterable[Flow]) -> None:
    """Asserts that the kernel can be told of it, and would judge as the evaluator does."""
    where = world(parsed)
    table = Compiler(where).table
    assert replacement(table.whole()).isascii()
    for flow in flows:
        opened, reached = (ip in where.node_addresses for ip in (flow.source, flow.destination))
        packet = Packet(flow, from_node=opened, to_node=reached)
        assert passes(table, packet) is evaluate(where, flow).allowed, flow


@EACH
@pytest.mark.parametrize("key", BESIDE)
def test_one_thing_wrong_lets_through_nothing_that_the_manifest_drops(manifest, key):
    variants = [(what, read(obj, CONTEXT)) for what, obj in spoiled(manifest)]
    wrong = [(what, parsed) for what, parsed in variants if not parsed.valid]

    assert len(wrong) > len(variants) / 2
    assert_closed(manifest, wrong, key=key)


@EACH
def test_a_spec_in_which_nothing_can_be_read_isolates_whom_it_may_mean(manifest):
    (key,) = (key for key in WHOLE if key in manifest)
    whole: list[Place] = [(key,), *((key, index) for index in range(len(manifest[key])) if key == "specs")]
    variants = [
        (f"{place} is {value!r}", read(replaced(manifest, place, value), CONTEXT))
        for place in whole
        for value in (0, True, "x", ["x"], [None])
    ]

    assert not any(parsed.valid for _, parsed in variants)
    assert_closed(manifest, variants, key="alone")


NARROWER = {
    "rules": {"http": [{"path": "/public"}]},
    "terminatingTLS": {"secret": {"name": "server"}},
    "originatingTLS": {"secret": {"name": "client"}},
    "serverNames": ["example.com"],
    "listener": {"envoyConfig": {"kind": "CiliumEnvoyConfig", "name": "proxy"}, "name": "proxy"},
}


@EACH
@pytest.mark.parametrize("key", BESIDE)
def test_a_condition_that_is_not_enforced_lets_through_nothing_that_the_manifest_drops(manifest, key):
    variants = []
    for place in inside(manifest):
        added: dict[str, object] = {}
        if len(place) > 1 and place[-2] in SECTIONS and manifest["kind"].startswith("Cilium"):
            added = {"authentication": {"mode": "required"}}
        elif len(place) > 1 and place[-2] == "toPorts" and "rules" not in at(manifest, place):
            added = NARROWER
        variants += [
            (f"{place} with {field}", read(replaced(manifest, (*place, field), value), CONTEXT))
            for field, value in added.items()
        ]

    assert_closed(manifest, variants, key=key)


VOCABULARY = sorted(
    {key for manifest in MANIFESTS for place in places(manifest) for key in place if isinstance(key, str)}
)
SAID = [value for m in MANIFESTS for place in places(m) if isinstance(value := at(m, place), str | int)]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(SAID),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(VOCABULARY) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(KINDS)), anything, anything, st.sampled_from(list(Scope)), st.booleans())
def test_any_object_of_a_kind_is_read_and_compiled(kind, spec, annotations, scope, dns_proxy):
    known = KINDS[kind]
    metadata = {"name": "p", "namespace": "shop", "generation": spec, "annotations": annotations}
    obj = {"apiVersion": f"{known.group}/{known.versions[0]}", "kind": kind, "metadata": metadata, "spec": spec}
    parsed = read(obj, Context("east", scope, dns_proxy=dns_proxy))

    assert_compiled(parsed, FLOWS[::97])


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["apiVersion", "kind", "metadata", "spec", "specs"]), anything), anything)
def test_what_cannot_be_told_apart_is_refused_and_nothing_else_is(obj, metadata):
    obj = {**obj, "metadata": metadata} if len(obj) % 2 else obj
    for kind in ("", *KINDS):
        if identify(obj, kind) is None:
            with pytest.raises(ValueError, match=r"not a kind of policy|without metadata"):
                read(obj, CONTEXT, kind=kind)
        else:
            assert read(obj, CONTEXT, kind=kind).ref == identify(obj, kind)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(MANIFESTS), st.data())
def test_several_things_wrong_are_read_compiled_and_said_in_short_lines(manifest, data):
    obj: dict[str, Any] = manifest
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from(inside(obj) or [("spec",)]))
        obj = replaced(obj, place, data.draw(anything))
        where = at(obj, place)
        if isinstance(where, dict):
            where[data.draw(st.text(max_size=300))] = data.draw(anything)
    parsed = read(obj, CONTEXT)
    assert_compiled(parsed, FLOWS[data.draw(st.integers(0, 50)) :: 51])
    for problem in parsed.problems:
        assert str(problem).isprintable() and len(str(problem)) < 600


def calls(work: Callable[[], object]) -> int:
    """Returns how many functions `work` calls, whatever the clock says of it."""
    made = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return made


@EACH
def test_work_grows_as_the_object_does_and_no_policy_comes_out_too_large(manifest):
    lists = [place for place in places(manifest) if place and isinstance(at(manifest, place), list)]
    for place in lists:
        obj = replaced(manifest, place, at(manifest, place) * 300)
        size = sum(1 for _ in places(obj))
        parsed: list[Parsed] = []

        assert calls(lambda obj=obj, parsed=parsed: parsed.append(read(obj, CONTEXT))) < 200 * size, place
        assert sum(map(cost, parsed[0].policies)) <= MAX_COST
        assert len(parsed[0].problems) < 3 * size


@pytest.mark.parametrize("kind", KINDS)
def test_depth_and_breadth_beyond_reason_are_read(kind):
    known = KINDS[kind]
    deep: object = {}
    for _ in range(5000):
        deep = {"matchLabels": deep}
    for spec in (deep, [deep], {"podSelector": deep, "subject": deep, "ingress": [[deep]] * 20_000}, 10**5000):
        metadata = {"name": "p", "namespace": "shop"}
        obj = {"apiVersion": f"{known.group}/{known.versions[0]}", "kind": kind, "metadata": metadata, "spec": spec}

        assert not read(obj, CONTEXT).valid
