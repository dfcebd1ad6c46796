"""What policy commands say in unusual cases: status of many nodes, changes that are deletions, sets by name."""

from typing import Any

from isthmus.cli.policy import answering, standing
from isthmus.cli.policy.pairs import Names
from isthmus.model.identity import THE_WORLD, Identity
from isthmus.policy.explaining.answers import explain
from isthmus.policy.explaining.facts import NodeSeen, PodSeen
from isthmus.policy.explaining.groups import Group
from isthmus.policy.explaining.targets import parse, resolve
from tests.support.pictures import scene_of


def entry(**more: Any) -> dict[str, Any]:
    plain = {
        "cluster": "koornacht",
        "kind": "NetworkPolicy",
        "namespace": "shop",
        "name": "web",
        "generation": 1,
        "enforced": 5,
        "nodes": 6,
        "everywhere": False,
        "since": "2024-11-21T12:03:04.123+00:00",
        "sinceIsExact": True,
        "lagging": [],
        "conditions": [],
        "problems": [],
    }
    return {**plain, **more}


def lagging(*names: str, state: str = "Pending", message: str = "not in its kernel yet") -> list[dict[str, str]]:
    return [{"node": name, "state": state, "message": message} for name in names]


def test_a_policy_is_told_with_the_nodes_that_lag() -> None:
    lines = standing._detail(entry(lagging=lagging("worker6")))
    assert lines == [
        "⚠️  NetworkPolicy shop/web: enforced on 5/6 nodes of koornacht since 2024-11-21T12:03:04Z",
        "   worker6: Pending: not in its kernel yet",
    ]


def test_nodes_that_say_the_same_are_one_line() -> None:
    names = [f"n{number}" for number in range(8)]
    lines = standing._detail(entry(enforced=0, since="", lagging=lagging(*names)))
    assert lines[0] == "❌ NetworkPolicy shop/web: enforced on 0/6 nodes of koornacht"
    assert lines[1] == "   n0, n1, n2, n3, n4 and 3 more: Pending: not in its kernel yet"


def test_what_nodes_and_the_object_both_say_is_said_once() -> None:
    problem = {"field": "spec.x", "grade": "NotEnforced", "message": "no proxy"}
    other = {"field": "spec.y", "grade": "Invalid", "message": "is bad"}
    said = lagging("a", state="PartiallyEnforced", message="spec.x: no proxy")
    condition = {"type": "Valid", "status": "False", "reason": "Bad", "message": "spec.y: is bad"}
    lines = standing._detail(entry(lagging=said, problems=[problem, other], conditions=[condition], sinceIsExact=False))
    assert lines[0].endswith("at the latest")
    assert lines[1:] == [
        "   a: PartiallyEnforced: spec.x: no proxy",
        "   invalid: spec.y: is bad",
        "   Valid=False (Bad): spec.y: is bad",
    ]


def test_the_table_has_the_worst_state() -> None:
    problems = [{"field": "f", "grade": "NotEnforced", "message": "m"}]
    rows = standing._table(
        [
            entry(everywhere=True),
            entry(lagging=lagging("a", "b")),
            entry(problems=problems),
            entry(problems=[{**problems[0], "grade": "Invalid"}]),
        ],
        namespace=None,
    )
    assert [row.split()[-1] for row in rows[1:]] == ["Enforced", "Pending", "PartiallyEnforced", "Invalid"]
    assert standing._table([], namespace=None) == ["There are no policies."]


def test_the_table_says_where_a_time_is_only_the_latest_that_it_can_have_been() -> None:
    rows = standing._table([entry(), entry(sinceIsExact=False), entry(since="", sinceIsExact=False)], namespace=None)
    assert [row.split()[5] for row in rows[1:]] == ["2024-11-21T12:03:04Z", "≤2024-11-21T12:03:04Z", "<none>"]


def test_an_empty_status_of_one_namespace_does_not_speak_for_the_others() -> None:
    said = "There are no policies in namespace default; -A shows those of all namespaces."
    assert standing._table([], namespace="default") == [said]


def group(name: str, cluster: str = "", namespace: str = "", *, pods: bool = True) -> Group:
    identity = Identity(0, cluster, namespace, {}, {}) if cluster else THE_WORLD
    return Group(name=name, identity=identity, cluster=cluster, pods=(PodSeen(namespace=namespace, name=name),) * pods)


def test_sets_are_spoken_of_as_the_widest_name_that_fits() -> None:
    groups = [group("e:x/a", "e", "x"), group("e:x/b", "e", "x"), group("e:y/a", "e", "y"), group("w:x/a", "w", "x")]
    names = Names([*groups, group("e:node/n", "e", pods=False), group("outside", pods=False)])
    assert names.spoken(frozenset({"e:x/a", "e:x/b"})) == ("e:x/*",)
    assert names.spoken(frozenset({"e:x/a", "e:x/b", "e:y/a", "w:x/a"})) == ("e: all pods", "w:x/a")
    assert names.spoken(frozenset({"e:node/n", "outside"})) == ("e: all nodes", "outside")
    everyone = frozenset({"e:x/a", "e:x/b", "e:y/a", "w:x/a", "e:node/n", "outside"})
    assert names.spoken(everyone) == ("anyone",)


def test_a_policy_that_can_only_go_is_told_with_the_command() -> None:
    denying = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "no", "namespace": "default"},
        "spec": {"endpointSelector": {}, "ingressDeny": [{"fromEntities": ["all"]}]},
    }
    pods = tuple(
        PodSeen(namespace="default", name=name, labels={"app": name}, ips=(ip,), node="n")
        for name, ip in (("a", "10.0.0.1"), ("b", "10.0.0.2"))
    )
    scene = scene_of(here={"pods": pods, "policies": (denying,), "nodes": (NodeSeen(name="n"),)})
    ends = [resolve(scene, parse(name), cluster="here", port=None)[0] for name in "ab"]
    text = answering.text(explain(scene, ends[0], ends[1], (6, 80)), [], {"here": "kind-here"})
    assert "delete CiliumNetworkPolicy no, of which nothing is left without spec.ingressDeny[0], in here" in text
    assert "      kubectl --context kind-here delete -n default ciliumnetworkpolicy no\n" in text


def test_programs_are_told_that_nodes_may_go_on_with_an_earlier_version_than_the_invalid_one_that_was_judged() -> None:
    spec = {"podSelector": {}, "ingress": [{"ports": [{"port": -1}]}]}
    policies = (
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "bad"}, "spec": spec},
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "partly"},
            "spec": {
                "endpointSelector": {},
                "ingress": [{"fromEntities": ["all"], "authentication": {"mode": "required"}}],
            },
        },
    )
    for policy in policies:
        policy["metadata"]["namespace"] = "default"
    pods = tuple(
        PodSeen(namespace="default", name=name, labels={}, ips=(ip,), node="n")
        for name, ip in (("a", "10.0.0.1"), ("b", "10.0.0.2"))
    )
    scene = scene_of(here={"pods": pods, "policies": policies, "nodes": (NodeSeen(name="n"),)})
    ends = [resolve(scene, parse(name), cluster="here", port=None)[0] for name in "ab"]
    (answer,) = answering.as_data(explain(scene, ends[0], ends[1], (6, 80)), [])["answers"]
    told = {
        one["policy"]["name"]: (one["grade"], one["earlierVersionMayApply"]) for one in answer["ingress"]["problems"]
    }
    assert told == {"bad": ("Invalid", True), "partly": ("NotEnforced", False)}


def test_an_answer_says_where_an_earlier_version_of_a_policy_makes_it_uncertain() -> None:
    spec = {"podSelector": {}, "ingress": [{"ports": [{"port": -1}]}]}
    meta = {"name": "bad", "namespace": "default"}
    invalid = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}
    # As it is now it is about nobody; nodes may have it about these pods.
    elsewhere = {
        **invalid,
        "metadata": {**meta, "name": "other"},
        "spec": {**spec, "podSelector": {"matchLabels": {"x": "y"}}},
    }
    pods = tuple(
        PodSeen(namespace="default", name=name, labels={}, ips=(ip,), node="n")
        for name, ip in (("a", "10.0.0.1"), ("b", "10.0.0.2"))
    )
    kept = {("NetworkPolicy", "default", name): tuple(f"n{i}" for i in range(6)) for name in ("bad", "other")}
    scene = scene_of(
        here={"pods": pods, "policies": (invalid, elsewhere), "nodes": (NodeSeen(name="n"),), "kept": kept}
    )
    ends = [resolve(scene, parse(name), cluster="here", port=None)[0] for name in "ab"]
    answers = explain(scene, ends[0], ends[1], (6, 80))
    text = " ".join(answering.text(answers, []).split())
    assert "n0, n1, n2, n3 and 2 more may do otherwise: an earlier version of NetworkPolicy default/bad" in text
    assert "(an earlier version is in force on n0, n1, n2, n3 and 2 more)" in text
    (answer,) = answering.as_data(answers, [])["answers"]
    assert {one["policy"]["name"]: one["earlierVersionOn"] for one in answer["ingress"]["problems"]} == {
        "bad": ["n0", "n1", "n2", "n3", "n4", "n5"],
        "other": ["n0", "n1", "n2", "n3", "n4", "n5"],
    }
