from typing import Any

import pytest

from isthmus.kube.schema import ObjectMeta, Service, ServiceSpec
from isthmus.kube.watch import Gone, Put, Snapshot
from isthmus.mesh.source.selection import MAX_KEYS, PolicyKeys, SelectedKeys

NP, CNP = "NetworkPolicy", "CiliumNetworkPolicy"


def policy(name: str = "p", **spec: Any) -> dict[str, Any]:
    return {"kind": "NetworkPolicy", "metadata": {"namespace": "demo", "name": name}, "spec": spec}


def selecting(*keys: str, name: str = "p") -> dict[str, Any]:
    return policy(name, ingress=[{"from": [{"podSelector": {"matchLabels": dict.fromkeys(keys, "x")}}]}])


def test_keys_of_peers_count_and_keys_of_subjects_and_namespaces_do_not() -> None:
    keys = PolicyKeys()
    keys.put(
        NP,
        policy(
            podSelector={"matchLabels": {"subject": "x"}},
            ingress=[
                {
                    "from": [
                        {"podSelector": {"matchLabels": {"a": "1"}}, "namespaceSelector": {"matchLabels": {"ns": "1"}}}
                    ]
                }
            ],
            egress=[{"to": [{"podSelector": {"matchExpressions": [{"key": "b", "operator": "Exists"}]}}]}],
        ),
    )

    assert keys.keys == {"a", "b"}


def test_keys_are_counted_over_policies() -> None:
    keys = PolicyKeys()
    keys.put(NP, selecting("a", "b", name="p"))
    keys.put(NP, selecting("b", name="q"))
    keys.put(NP, selecting("b", name="p"))
    assert keys.keys == {"b"}
    keys.drop(NP, selecting(name="q"))
    assert keys.keys == {"b"}
    keys.reset(NP, [selecting("c")])
    assert keys.keys == {"c"}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"spec": 7},
        {"specs": [7, {"ingress": [{"fromEndpoints": "x", "toServices": []}]}, []]},
        policy(ingress=[{"from": [{"pods": "x"}, {"pods": {"podSelector": 7}}]}]),
        {"metadata": [], "spec": {"ingress": "x", "egress": [7, None]}},
        policy(ingress=[{"from": {"podSelector": {}}}]),
        policy(ingress=[{"from": [{"podSelector": []}, {"podSelector": {"matchLabels": ["a"]}}]}]),
        policy(ingress=[{"from": [{"podSelector": {"matchExpressions": [{"key": 7}, "x", {}]}}]}]),
    ],
)
def test_malformed_policies_have_no_keys(value: dict[str, Any]) -> None:
    keys = PolicyKeys()
    keys.put(NP, value)

    assert keys.keys == frozenset()


def labels(*keys: str) -> dict[str, Any]:
    return {"matchLabels": dict.fromkeys(keys, "x")}


@pytest.mark.parametrize("field", ["ingress", "ingressDeny"])
@pytest.mark.parametrize("peers", ["fromEndpoints", "fromRequires"])
def test_selectors_of_cilium_name_keys_with_and_without_their_source(field: str, peers: str) -> None:
    expression = {"key": "any:c", "operator": "Exists"}
    selector = {"matchLabels": {"k8s:a": "1", "b": "1", "k8s.io/d": "1"}, "matchExpressions": [expression]}
    spec = {"endpointSelector": labels("subject"), field: [{peers: [selector]}]}
    once, twice = PolicyKeys(), PolicyKeys()
    once.put(CNP, {"metadata": {"name": "p"}, "spec": spec})
    twice.put("CiliumClusterwideNetworkPolicy", {"metadata": {"name": "p"}, "specs": [{}, spec]})

    assert once.keys == twice.keys == {"a", "b", "c", "k8s.io/d"}


def test_egress_of_cilium_counts_as_well() -> None:
    keys = PolicyKeys()
    spec = {"egress": [{"toEndpoints": [labels("a")]}], "egressDeny": [{"toEndpoints": [labels("b")]}]}
    keys.put(CNP, {"metadata": {"name": "p"}, "spec": spec})

    assert keys.keys == {"a", "b"}


@pytest.mark.parametrize("kind", ["ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy"])
def test_kinds_with_tiers_have_their_pod_selectors_one_floor_down(kind: str) -> None:
    pods = {"namespaceSelector": labels("ns"), "podSelector": labels("a")}
    spec = {
        "subject": {"pods": {"podSelector": labels("subject")}},
        "ingress": [{"from": [{"pods": pods}, {"namespaces": labels("ns")}]}],
        "egress": [{"to": [{"pods": {"podSelector": labels("b")}}, {"networks": ["10.0.0.0/8"]}]}],
    }
    keys = PolicyKeys()
    keys.put(kind, {"metadata": {"name": "p"}, "spec": spec})

    assert keys.keys == {"a", "b"}


def test_policies_of_two_kinds_may_have_one_name() -> None:
    keys = PolicyKeys()
    keys.put(NP, selecting("a"))
    keys.put(CNP, {**policy(), "spec": {"ingress": [{"fromEndpoints": [labels("b")]}]}})
    assert keys.keys == {"a", "b"}
    keys.reset(CNP, [])
    assert keys.keys == {"a"}


def test_one_policy_names_only_so_many_keys() -> None:
    keys = PolicyKeys()
    keys.put(NP, selecting(*(f"k{i}" for i in range(MAX_KEYS + 10))))

    assert len(keys.keys) == MAX_KEYS


def test_selectors_of_services_count_while_a_policy_selects_services() -> None:
    def service(name: str, **selector: str) -> Service:
        return Service(metadata=ObjectMeta(name, "demo"), spec=ServiceSpec(selector=selector))

    own = "statefulset.kubernetes.io/pod-name"
    to_services = {**policy(), "spec": {"egress": [{"toServices": [{"k8sService": {"serviceName": "db-0"}}]}]}}
    keys = PolicyKeys()
    keys.services(Snapshot((service("db-0", **{own: "db-0"}), service("web", app="web"))))
    assert keys.keys == frozenset()

    keys.put(CNP, to_services)
    assert keys.keys == {own}, "app is kept anyway"
    keys.services(Put(service("db-0", app="db")))
    assert keys.keys == frozenset()
    keys.services(Put(service("db-0", **{own: "db-0"})))
    assert keys.keys == {own}
    keys.services(Gone(service("db-0")))
    assert keys.keys == frozenset()
    keys.services(Put(service("db-0", **{own: "db-0"})))
    keys.drop(CNP, to_services)
    assert keys.keys == frozenset()
    keys.put(CNP, to_services)
    keys.reset(NP, ())
    assert keys.keys == {own}
    keys.reset(CNP, ())
    assert keys.keys == frozenset()


def test_the_union_over_clusters_is_told_when_it_changes() -> None:
    selection = SelectedKeys()
    heard: list[frozenset[str]] = []
    stop = selection.listen(lambda: heard.append(selection.keys))

    selection.tell("c1", {"a"})
    selection.tell("c2", {"a"})
    selection.tell("c2", {"b"})
    selection.forget("c1")
    stop()
    selection.forget("c2")

    assert heard == [{"a"}, {"a", "b"}, {"b"}]
    assert selection.keys == frozenset()
