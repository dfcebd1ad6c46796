"""Any policy object by one door: told by group, version and kind, or by what was asked for."""

import pytest

from isthmus.policy.context import Context
from isthmus.policy.metadata import SCOPE_ANNOTATION
from isthmus.policy.parsing import KINDS, identify, kind_of, read
from isthmus.policy.rules import Action, Direction, Grade, ObjectRef, Scope

CONTEXT = Context("east")
HEAD = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
NAMED = {"metadata": {"name": "p", "namespace": "shop", "uid": "u"}}
REF = ObjectRef("NetworkPolicy", "shop", "p", "u")


def test_an_object_is_told_by_its_group_version_and_kind():
    assert identify(HEAD | NAMED) == REF
    assert read(HEAD | NAMED | {"spec": {"podSelector": {}}}, CONTEXT).ref == REF


def test_an_item_of_a_list_is_told_by_what_was_asked_for():
    assert identify(NAMED) is None
    assert identify(NAMED, "NetworkPolicy") == REF
    assert read(NAMED | {"spec": {"podSelector": {}}}, CONTEXT, kind="NetworkPolicy").ref == REF


@pytest.mark.parametrize(
    "obj",
    [
        {},
        HEAD,
        HEAD | {"metadata": {"name": "p"}},
        HEAD | {"metadata": {"name": "", "namespace": "x"}},
        HEAD | {"metadata": {"name": 1, "namespace": "x"}},
        HEAD | {"metadata": []},
        NAMED | {"kind": "NetworkPolicy"},
        NAMED | {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress"},
        NAMED | {"apiVersion": "networking.k8s.io/v2", "kind": "NetworkPolicy"},
        NAMED | {"apiVersion": "crd.projectcalico.org/v1", "kind": "NetworkPolicy"},
        NAMED | {"apiVersion": ["networking.k8s.io/v1"], "kind": ["NetworkPolicy"]},
    ],
)
def test_what_cannot_be_told_is_refused(obj):
    assert identify(obj) is None
    with pytest.raises(ValueError, match=r"not a kind of policy that is known|NetworkPolicy without metadata"):
        read(obj, CONTEXT)


def test_an_object_that_says_to_be_another_kind_than_was_asked_for_is_refused():
    assert kind_of(HEAD | NAMED, "ClusterNetworkPolicy") is None


def test_cluster_scoped_kinds_have_no_namespace_whatever_an_object_says():
    for name, kind in KINDS.items():
        ref = identify(NAMED, name)
        assert ref is not None and ref.namespace == ("shop" if kind.namespaced else "")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_generation_scope_and_its_annotation(kind):
    metadata = {"name": "default", "namespace": "shop", "generation": 7}
    spec: dict[str, object] = {
        "NetworkPolicy": {"podSelector": {}},
        "ClusterNetworkPolicy": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}},
        "AdminNetworkPolicy": {"priority": 1, "subject": {"namespaces": {}}},
        "BaselineAdminNetworkPolicy": {"subject": {"namespaces": {}}},
    }.get(kind, {"endpointSelector": {}, "ingress": [{}]})

    plain = read({"metadata": metadata, "spec": spec}, Context("east", Scope.LOCAL), kind=kind)
    assert plain.valid and plain.problems == ()
    assert [(policy.scope, policy.generation) for policy in plain.policies] == [(Scope.LOCAL, 7)]
    assert plain.generation == 7
    for word, scope, grades in (
        ("clusterset", Scope.CLUSTERSET, []),
        ("local", Scope.LOCAL, []),
        ("galaxy", Scope.LOCAL, [Grade.WARNING]),
        (["clusterset"], Scope.LOCAL, [Grade.WARNING]),
    ):
        annotated = {"metadata": metadata | {"annotations": {SCOPE_ANNOTATION: word}}, "spec": spec}
        parsed = read(annotated, Context("east"), kind=kind)
        assert parsed.valid
        assert [policy.scope for policy in parsed.policies] == [scope]
        assert [problem.grade for problem in parsed.problems] == grades


@pytest.mark.parametrize("generation", [-1, True, "7", None, 2**70, [7]])
def test_a_generation_that_is_none_is_none(generation):
    metadata = {"name": "p", "namespace": "shop", "generation": generation}

    assert read(HEAD | {"metadata": metadata, "spec": {"podSelector": {}}}, CONTEXT).generation == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_of_too_many_values_is_not_read_and_is_closed_even_if_it_is_short_in_yaml(kind):
    peers = [{"podSelector": {}}] * 1000
    rule = {"action": "Accept", "from": peers, "fromEndpoints": peers}
    spec = {"podSelector": {}, "endpointSelector": {}, "ingress": [rule] * 1000}
    parsed = read({"metadata": {"name": "default", "namespace": "shop"}, "spec": spec}, CONTEXT, kind=kind)

    assert [str(problem) for problem in parsed.problems] == [
        "spec: has more than 250000 values; a policy may have at most so many"
    ]
    assert not parsed.valid
    (policy,) = parsed.policies
    assert policy.problems == parsed.problems
    assert policy.directions == set(Direction)
    assert not any(rule.action is Action.ALLOW for rule in policy.rules)
