"""CIDR groups and Services: what they come to, what a reading depended on, and how much one policy may ask for."""

from typing import Any

import pytest

from isthmus.policy.cilium.groups import MAX_CIDRS, cidr_group
from isthmus.policy.cilium.objects import read
from isthmus.policy.context import CidrGroup, Context, Parsed, ServiceFacts, Use
from isthmus.policy.rules import Grade, Scope


def group(spec: Any, **metadata: Any) -> CidrGroup | None:
    return cidr_group({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": metadata, "spec": spec})


def test_a_group_is_its_name_labels_and_cidrs_as_they_were_written():
    found = group({"externalCIDRs": ["10.0.0.0/8", "nonsense"]}, name="g", labels={"a": "b", "c": 1})

    assert found == CidrGroup("g", {"a": "b"}, ("10.0.0.0/8", "nonsense"))


@pytest.mark.parametrize("metadata", [{}, {"name": ""}, {"name": 3}])
def test_a_group_without_a_name_is_none(metadata: Any):
    assert group({"externalCIDRs": []}, **metadata) is None


@pytest.mark.parametrize("spec", [None, {}, {"externalCIDRs": None}, {"externalCIDRs": []}])
def test_a_group_may_be_empty(spec: Any):
    assert group(spec, name="g") == CidrGroup("g", {}, ())


@pytest.mark.parametrize(
    "spec", ["x", {"externalCIDRs": "x"}, {"externalCIDRs": [3]}, {"externalCIDRs": ["::/0"] * (MAX_CIDRS + 1)}]
)
def test_what_cannot_be_read_of_a_group_is_not_lost(spec: Any):
    found = group(spec, name="bad")

    assert found is not None
    parsed = peers(found, [{"cidrGroupRef": "bad"}], "egressDeny")
    (rule,) = parsed.policies[0].rules
    assert rule.peers is None  # denied to everyone
    assert [problem.grade for problem in parsed.problems] == [Grade.UNENFORCED]


def obj(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"endpointSelector": {}, **spec},
    }


def peers(one: CidrGroup, sets: list[Any], section: str = "egress") -> Parsed:
    return read(obj({section: [{"toCIDRSet": sets}]}), Context("c1", cidr_groups={one.name: one}))


@pytest.mark.parametrize(
    ("excepts", "expected"),
    [
        ([], ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]),
        (["10.1.0.0/16"], ["10.0.0.0/8 except 10.1.0.0/16", "192.0.2.1/32", "2001:db8::/32"]),
        (["10.0.0.0/8"], ["192.0.2.1/32", "2001:db8::/32"]),
        (["0.0.0.0/0"], ["2001:db8::/32"]),
        (["192.0.2.0/24", "2001:db8:1::/48"], ["10.0.0.0/8", "2001:db8::/32 except 2001:db8:1::/48"]),
        (["::/0", "0.0.0.0/0"], []),
    ],
)
def test_an_exception_is_taken_from_every_cidr_of_a_group(excepts: list[str], expected: list[str]):
    one = CidrGroup("g", {}, ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32"))

    parsed = peers(one, [{"cidrGroupRef": "g", "except": excepts}])

    assert [str(peer) for rule in parsed.policies[0].rules for peer in rule.peers or ()] == expected
    assert parsed.problems == ()
    assert parsed.uses == {Use.CIDR_GROUPS}


SERVICES = {
    (space, name): ServiceFacts(space, name, labels, selector, addresses)
    for space, name, labels, selector, addresses in (
        ("ns", "web", {"tier": "front"}, {"app": "web"}, ()),
        ("other", "web", {"tier": "front"}, {"app": "web", "v": "2"}, ()),
        ("other", "out", {"tier": "back"}, None, ("192.0.2.7", "2001:db8::7", "nonsense")),
        ("other", "empty", {"tier": "none"}, {}, ()),
        ("other", "odd", {"tier": "none"}, {"reserved:world": ""}, ()),
    )
}
WEB = "endpoints app=web,io.kubernetes.pod.namespace=ns"
WEB_2 = "endpoints app=web,io.kubernetes.pod.namespace=other,v=2"


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ({"k8sService": {"serviceName": "web"}}, [WEB, WEB_2]),
        ({"k8sService": {"serviceName": "web", "namespace": ""}}, [WEB, WEB_2]),
        ({"k8sService": {"serviceName": "web", "namespace": "other"}}, [WEB_2]),
        ({"k8sService": {"serviceName": "out", "namespace": "other"}}, ["192.0.2.7/32", "2001:db8::7/128"]),
        ({"k8sService": {"serviceName": "web", "namespace": "gone"}}, []),
        ({"k8sService": {"serviceName": "empty"}}, []),
        ({"k8sService": {"serviceName": "odd"}}, []),
        ({"k8sServiceSelector": {"selector": {"matchLabels": {"tier": "front"}}}}, [WEB, WEB_2]),
        ({"k8sServiceSelector": {"selector": {}, "namespace": "ns"}}, [WEB]),
        ({}, []),
    ],
)
@pytest.mark.parametrize("section", ["egress", "egressDeny"])
def test_a_service_is_the_pods_or_the_addresses_behind_it(service: dict[str, Any], expected: list[str], section: str):
    """Cilium resolves these in `egress` only; a denial that silently denies nothing is not copied."""
    parsed = read(obj({section: [{"toServices": [service], "toPorts": None}]}), Context("c1", services=SERVICES))

    assert [str(peer) for rule in parsed.policies[0].rules for peer in rule.peers or ()] == expected
    assert [problem.grade for problem in parsed.problems] == [Grade.WARNING] * (not expected)
    assert parsed.uses == {Use.SERVICES}


def test_pods_of_a_service_are_of_the_own_cluster_under_local():
    wanted = {"k8sService": {"serviceName": "web", "namespace": "ns"}}
    parsed = read(obj({"egress": [{"toServices": [wanted]}]}), Context("c1", Scope.LOCAL, services=SERVICES))

    assert [str(peer) for rule in parsed.policies[0].rules for peer in rule.peers or ()] == [
        "endpoints app=web,io.cilium.k8s.policy.cluster=c1,io.kubernetes.pod.namespace=ns"
    ]


def test_a_reading_that_refers_to_nothing_uses_nothing():
    assert read(obj({"egress": [{"toCIDRSet": [{"cidr": "10.0.0.0/8"}]}]}), Context("c1")).uses == frozenset()


MANY = Context(
    "c1",
    cidr_groups={"g": CidrGroup("g", {}, tuple(f"10.{n >> 8}.{n & 255}.0/24" for n in range(5000)))},
    services={("ns", f"s{n}"): ServiceFacts("ns", f"s{n}", {}, {"app": f"s{n}"}) for n in range(2000)},
)


@pytest.mark.parametrize(
    "entry",
    [
        {"toCIDRSet": [{"cidrGroupRef": "g"}] * 1000},
        {"toCIDRSet": [{"cidrGroupSelector": {}}] * 1000},
        {"toCIDRSet": [{"cidrGroupRef": "g", "except": [f"10.0.{n}.0/25" for n in range(200)]}]},
        {"toServices": [{"k8sService": {"serviceName": "s7"}}] * 1000},
        {"toServices": [{"k8sServiceSelector": {"selector": {}}}] * 1000},
    ],
)
def test_what_refers_to_too_much_is_refused_once_and_denies_all(entry: dict[str, Any]):
    allowed, denied = (read(obj({section: [entry]}), MANY) for section in ("egress", "egressDeny"))

    for parsed in (allowed, denied):
        assert ["refers to too much" in problem.message for problem in parsed.problems] == [True]
        assert not parsed.valid
    assert all(rule.peers is not None for rule in allowed.policies[0].rules)
    assert [rule.peers for rule in denied.policies[0].rules] == [None]
