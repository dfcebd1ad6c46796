"""What is added to selectors of peers and subjects, and what never is."""

from typing import Any

import pytest

from isthmus.policy.cilium.reading import Reading
from isthmus.policy.cilium.selectors import for_init, nodes, peer, subject
from isthmus.policy.context import Context
from isthmus.policy.rules import Grade, Scope

CLUSTER = "io.cilium.k8s.policy.cluster"
NAMESPACE = "io.kubernetes.pod.namespace"
OWN = f"{NAMESPACE}=ns"
HERE = f"{CLUSTER}=c1"


def reading(*, namespace: str = "ns", scope: Scope = Scope.LOCAL) -> Reading:
    return Reading([], Context("c1"), namespace, scope)


def term(key: str, operator: str = "Exists", *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def label(key: str, value: str) -> dict[str, Any]:
    return {"matchLabels": {key: value}}


@pytest.mark.parametrize(
    ("selector", "namespaced", "clusterwide"),
    [
        ({}, [HERE, OWN], [HERE, NAMESPACE]),
        (label("app", "b"), ["app=b", HERE, OWN], ["app=b", HERE, NAMESPACE]),
        (label("k8s:app", "b"), ["app=b", HERE, OWN], ["app=b", HERE, NAMESPACE]),
        (label("any:app", "b"), ["app=b", HERE, OWN], ["app=b", HERE, NAMESPACE]),
        (label(NAMESPACE, "x"), [HERE, f"{NAMESPACE}=x"], [HERE, f"{NAMESPACE}=x"]),
        (label(f"k8s:{NAMESPACE}", "x"), [HERE, f"{NAMESPACE}=x"], [HERE, f"{NAMESPACE}=x"]),
        (term(NAMESPACE), [HERE, NAMESPACE], [HERE, NAMESPACE]),
        (term(NAMESPACE, "DoesNotExist"), [HERE, f"!{NAMESPACE}"], [HERE, f"!{NAMESPACE}"]),
        (term(f"any:{NAMESPACE}", "NotIn", "x"), [HERE, f"{NAMESPACE} notin (x)"], [HERE, f"{NAMESPACE} notin (x)"]),
        (
            label("io.cilium.k8s.namespace.labels.env", "prod"),
            ["io.cilium.k8s.namespace.labels.env=prod", HERE],
            ["io.cilium.k8s.namespace.labels.env=prod", HERE, NAMESPACE],
        ),
        (
            term("k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", "DoesNotExist"),
            ["!io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", HERE],
            ["!io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", HERE, NAMESPACE],
        ),
        (label(CLUSTER, "c2"), [f"{CLUSTER}=c2", OWN], [f"{CLUSTER}=c2", NAMESPACE]),
        (term(f"k8s:{CLUSTER}"), [CLUSTER, OWN], [CLUSTER, NAMESPACE]),
        (term(CLUSTER, "NotIn", "c2"), [f"{CLUSTER} notin (c2)", OWN], [f"{CLUSTER} notin (c2)", NAMESPACE]),
        (
            label("cluster.clusterset.k8s.io", "c2"),
            ["cluster.clusterset.k8s.io=c2", OWN],
            ["cluster.clusterset.k8s.io=c2", NAMESPACE],
        ),
        (
            label("k8s:property.isthmus.dev/region", "eu"),
            [OWN, "property.isthmus.dev/region=eu"],
            [NAMESPACE, "property.isthmus.dev/region=eu"],
        ),
        (
            label("io.cilium.k8s.namespace.labels.cluster.clusterset.k8s.io", "c2"),
            ["io.cilium.k8s.namespace.labels.cluster.clusterset.k8s.io=c2", HERE],
            ["io.cilium.k8s.namespace.labels.cluster.clusterset.k8s.io=c2", HERE, NAMESPACE],
        ),
        (label("reserved:world", ""), ["reserved:world="], ["reserved:world="]),
        (
            {"matchLabels": {"app": "b"}, **term("reserved:host", "DoesNotExist")},
            ["app=b", "!reserved:host"],
            ["app=b", "!reserved:host"],
        ),
        (label("io.cilium.k8s.policy.serviceaccount", "luke"), None, None),
    ],
)
def test_a_peer_gets_the_namespace_and_cluster_that_it_does_not_mention(
    selector: dict[str, Any], namespaced: list[str] | None, clusterwide: list[str] | None
):
    account = "io.cilium.k8s.policy.serviceaccount=luke"
    for namespace, expected in (
        ("ns", namespaced or [HERE, account, OWN]),
        ("", clusterwide or [HERE, account, NAMESPACE]),
    ):
        for scope in Scope:
            place = reading(namespace=namespace, scope=scope)

            found = peer(selector, "f", place)

            assert found is not None
            kept = [one for one in expected if scope is Scope.LOCAL or one != HERE]
            assert sorted(map(str, found.selector.terms)) == sorted(kept)
            assert place.problems == []


def test_peers_of_pods_without_an_identity_need_no_namespace():
    place = reading(namespace="", scope=Scope.CLUSTERSET)
    mine = subject(label("reserved:init", ""), "f", place)

    found = peer({}, "f", place, init=for_init(mine))

    assert found is not None
    assert found.selector.terms == ()


@pytest.mark.parametrize("namespace", ["ns", ""])
def test_nothing_is_added_to_a_subject(namespace: str):
    found = subject(label("app", "a"), "f", reading(namespace=namespace))

    assert str(found) == "endpoints app=a"


def test_a_namespaced_subject_cannot_leave_its_namespace():
    place = reading()
    replaced = subject({"matchLabels": {f"k8s:{NAMESPACE}": "other", "app": "a"}}, "f", place)

    assert str(replaced) == "endpoints app=a"
    assert [problem.grade for problem in place.problems] == [Grade.WARNING]
    assert str(subject(label(f"k8s:{NAMESPACE}", "ns"), "f", place)) == "endpoints (all)"
    assert len(place.problems) == 1
    assert str(subject(label(NAMESPACE, "other"), "f", place)) == f"endpoints {NAMESPACE}=other"
    wide = subject(label(f"k8s:{NAMESPACE}", "other"), "f", reading(namespace=""))
    assert str(wide) == f"endpoints {NAMESPACE}=other"


@pytest.mark.parametrize(
    ("selector", "local", "clusterset"),
    [
        ({}, "nodes (all) in cluster c1", "nodes (all)"),
        (label("node:zone", "a"), "nodes zone=a in cluster c1", "nodes zone=a"),
        (label("any:zone", "a"), "nodes zone=a in cluster c1", "nodes zone=a"),
        (label(CLUSTER, "c2"), f"nodes {CLUSTER}=c2", f"nodes {CLUSTER}=c2"),
    ],
)
def test_nodes_are_of_the_own_cluster_unless_the_selector_says_otherwise(
    selector: dict[str, Any], local: str, clusterset: str
):
    found = [nodes(selector, "f", reading(scope=scope)) for scope in (Scope.LOCAL, Scope.CLUSTERSET)]

    assert list(map(str, found)) == [local, clusterset]
    assert not any(one is None or one.own for one in found)
