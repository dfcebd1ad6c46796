"""Ties among policies of one priority, as policies come and go."""

from isthmus.mesh.control.policies.contests import MOST, Contests
from isthmus.policy.context import Context
from isthmus.policy.ordered.clusternetworkpolicy import read
from isthmus.policy.rules import ObjectRef, PodPeer, Policy


def policy(name: str, action: str = "Deny", priority: int = 10) -> Policy:
    spec = {
        "tier": "Admin",
        "priority": priority,
        "subject": {"namespaces": {}},
        "ingress": [{"action": action, "from": [{"namespaces": {}}]}],
    }
    obj = {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
    (found,) = read(obj, Context("here")).policies
    return found


def place(name: str) -> tuple[str, str, str]:
    return "ClusterNetworkPolicy", "", name


def test_only_those_that_differ_at_one_priority_are_named() -> None:
    contests = Contests()
    assert contests.put(place("a"), [policy("a")]) == set()
    assert contests.put(place("b"), [policy("b")]) == set()
    assert contests.put(place("c"), [policy("c", "Accept", 11)]) == set()
    assert {contests.of(place(name)) for name in "abc"} == {""}
    assert contests.put(place("c"), [policy("c", "Accept")]) == {place("a"), place("b")}
    assert "(and 1 more)" in contests.of(place("c"))
    assert contests.put(place("a"), [policy("a", "Accept")]) == {place("b"), place("c")}
    assert contests.of(place("b"))
    assert contests.drop(place("b")) == {place("a"), place("c")}
    assert contests.of(place("a")) == contests.of(place("c")) == contests.of(place("b")) == ""


def test_a_crowd_is_called_one_and_is_compared_when_it_is_none_any_more() -> None:
    contests = Contests()
    names = [f"p{i:02}" for i in range(MOST + 1)]
    for name in names[:-1]:
        contests.put(place(name), [policy(name)])
    last = names[-1]
    assert contests.put(place(last), [policy(last, "Accept")]) == {place(name) for name in names[:-1]}
    assert {contests.of(place(name)) for name in names} == {contests.of(place(last))}
    assert f"more than {MOST}" in contests.of(place(last))
    assert contests.put(place("one-more"), [policy("one-more")]) == set()
    contests.drop(place("one-more"))
    assert contests.drop(place(names[0])) == {place(name) for name in names[1:]}
    assert all(contests.of(place(name)) for name in names[1:])


def test_policies_without_a_tier_are_no_crowd() -> None:
    contests = Contests()
    for number in range(MOST + 10):
        normal = Policy(ObjectRef("CiliumNetworkPolicy", "demo", f"p{number}"), "demo", PodPeer(), frozenset())
        assert contests.put(("CiliumNetworkPolicy", "demo", f"p{number}"), [normal]) == set()
    assert contests.of(("CiliumNetworkPolicy", "demo", "p0")) == ""
