"""Who may ask what of which DNS server."""

from typing import Any

import pytest

from isthmus.model.endpoint import NamedPort
from isthmus.model.flow import Protocol
from isthmus.model.identity import Identity
from isthmus.policy import networkpolicy
from isthmus.policy.cilium.dns import Server, may_ask, read_questions, without_names
from isthmus.policy.cilium.entries import Asking
from isthmus.policy.context import Context
from tests.support.cilium_cases import CONTENT

TABLE = CONTENT["dnsProxy"]
CONTEXT = Context("c1", dns_proxy=True)


def pod(name: str, namespace: str = "kube-system") -> Identity:
    return Identity(70000 + ord(name[-1]), "c1", namespace, {"app": name}, {})


def asking(*egress: dict[str, Any], **more: Any) -> list[Asking]:
    obj = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "p", "namespace": "kube-system"},
        "spec": {"endpointSelector": {}, "egress": list(egress), **more},
    }
    return [one for questions in read_questions(obj, CONTEXT) for one in questions.asking]


def rule(server: str, port: int | str, proto: str, names: list[str] | None) -> dict[str, Any]:
    ports: dict[str, Any] = {"ports": [{"port": str(port), "protocol": proto}]}
    if names is not None:
        ports["rules"] = {"dns": [{"matchPattern" if "*" in name else "matchName": name} for name in names]}
    peers = {} if server == "*" else {"toEndpoints": [{"matchLabels": {"app": server}}]}
    return {**peers, "toPorts": [ports]}


@pytest.mark.parametrize("query", TABLE["queries"], ids=lambda query: "-".join(map(str, query.values())))
def test_the_table_of_full_paths(query: dict[str, Any]):
    mine = [one for one in TABLE["rules"] if one["endpoint"] == query["endpoint"]]
    allowed = asking(*(rule(one["server"], one["port"], one["proto"], one["names"]) for one in mine))

    found = may_ask(
        allowed,
        Server("10.0.0.1", pod(query["server"])),
        protocol=Protocol[query["proto"]],
        port=query["port"],
        question=query["name"],
    )

    assert found is (query["expect"] == "allow")


def test_the_table_is_all_there():
    assert (len(TABLE["rules"]), len(TABLE["queries"])) == (8, 18)


ONLY_ME = rule("dns", 53, "UDP", ["only.me"])


@pytest.mark.parametrize(
    ("beside", "other"),
    [
        ({"toEndpoints": [{"matchLabels": {"app": "dns"}}]}, False),
        ({"toEntities": ["all"]}, False),
        ({"toEndpoints": [{"matchLabels": {"app": "dns"}}], "toPorts": [{"ports": [{"port": "0"}]}]}, False),
        ({"toEndpoints": [{}], "toPorts": [{"ports": [{"port": "50", "endPort": 60, "protocol": "UDP"}]}]}, False),
        (rule("dns", 53, "UDP", None), True),
        (rule("dns", 53, "ANY", None), True),
        (rule("*", 53, "UDP", None), True),
        (rule("*", 53, "UDP", ["other.me"]), True),
        (rule("else", 53, "UDP", None), False),
        (rule("dns", 53, "TCP", None), False),
        ({"toEndpoints": [{"matchLabels": {"app": "dns"}}], "toPorts": [{}]}, False),
    ],
)
def test_what_another_rule_for_the_same_port_adds(beside: dict[str, Any], other: bool):
    server = Server("10.0.0.1", pod("dns"))
    both = asking(ONLY_ME, beside)

    found = {name: may_ask(both, server, protocol=17, port=53, question=name) for name in ("Only.Me.", "other.me")}

    assert found == {"Only.Me.": True, "other.me": other}


def test_where_nothing_isolates_names_are_only_watched():
    server = Server("10.0.0.1", pod("dns"))

    assert may_ask(asking(ONLY_ME), server, protocol=17, port=53, question="a", isolated=False)


def test_a_server_by_named_port_and_by_address():
    by_name = asking(rule("dns", "dns", "UDP", ["a.io"]))
    server = Server("10.0.0.1", pod("dns"), (NamedPort("dns", 5353, "UDP"),))
    outside = asking({"toCIDR": ["8.8.8.0/24"], "toPorts": rule("*", 53, "UDP", ["a.io"])["toPorts"]})

    assert may_ask(by_name, server, protocol=17, port=5353, question="a.io")
    assert not may_ask(by_name, server, protocol=17, port=53, question="a.io")
    assert may_ask(outside, Server("8.8.8.8"), protocol=17, port=53, question="a.io")
    assert not may_ask(outside, Server("8.8.9.8"), protocol=17, port=53, question="a.io")


def test_kinds_without_names_let_everything_be_asked_where_packets_may_go():
    obj = {
        "metadata": {"name": "p", "namespace": "kube-system"},
        "spec": {
            "podSelector": {},
            "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}],
            "policyTypes": ["Egress"],
        },
    }
    questions = without_names(networkpolicy.read(obj, CONTEXT).policies[0])

    assert may_ask(questions.asking, Server("8.8.8.8"), protocol=17, port=53, question="a.io")
    assert not may_ask(questions.asking, Server("8.8.8.8"), protocol=6, port=53, question="a.io")
