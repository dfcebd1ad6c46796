from typing import Any

import pytest

from isthmus.mesh.source.selection import PolicyKeys, SelectedKeys


def policy(name: str = "p", **spec: Any) -> dict[str, Any]:
    return {"kind": "NetworkPolicy", "metadata": {"namespace": "demo", "name": name}, "spec": spec}


def selecting(*keys: str, name: str = "p") -> dict[str, Any]:
    return policy(name, ingress=[{"from": [{"podSelector": {"matchLabels": dict.fromkeys(keys, "x")}}]}])


def test_keys_of_peers_count_and_keys_of_subjects_and_namespaces_do_not() -> None:
    keys = PolicyKeys()
    keys.put(
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
        )
    )

    assert keys.keys == {"a", "b"}


def test_keys_are_counted_over_policies() -> None:
    keys = PolicyKeys()
    keys.put(selecting("a", "b", name="p"))
    keys.put(selecting("b", name="q"))
    keys.put(selecting("b", name="p"))
    assert keys.keys == {"b"}
    keys.drop(selecting(name="q"))
    assert keys.keys == {"b"}
    keys.reset([selecting("c")])
    assert keys.keys == {"c"}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"spec": 7},
        {"metadata": [], "spec": {"ingress": "x", "egress": [7, None]}},
        policy(ingress=[{"from": {"podSelector": {}}}]),
        policy(ingress=[{"from": [{"podSelector": []}, {"podSelector": {"matchLabels": ["a"]}}]}]),
        policy(ingress=[{"from": [{"podSelector": {"matchExpressions": [{"key": 7}, "x", {}]}}]}]),
    ],
)
def test_malformed_policies_have_no_keys(value: dict[str, Any]) -> None:
    keys = PolicyKeys()
    keys.put(value)

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
