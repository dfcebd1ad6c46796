"""The parts of explanations: cells of ports, networks, narrowed objects, suggestions, what people write for an end."""

from ipaddress import ip_network
from typing import Any

import pytest

from isthmus.model.identity import THE_WORLD, Identity
from isthmus.policy.explaining.cells import Cells, port_text
from isthmus.policy.explaining.ends import TargetError
from isthmus.policy.explaining.manifests import applicable, name_for, selected
from isthmus.policy.explaining.narrowing import narrowed
from isthmus.policy.explaining.networks import Networks, representatives
from isthmus.policy.explaining.targets import Target, parse
from isthmus.policy.rules import Direction, IcmpType, PortRange

CELLS = Cells([PortRange(6, 80, 89), PortRange(6, 85), PortRange(17), IcmpType(1, 8), PortRange(47)], [(6, 443)])


def test_a_cell_is_no_finer_than_what_was_named() -> None:
    tcp = [(cell.first, cell.last) for cell in CELLS.all if cell.protocol == 6]
    assert tcp == [(0, 79), (80, 84), (85, 89), (90, 442), (443, 443), (444, 65535)]
    assert CELLS.mask(PortRange(6, 80, 89)) == CELLS.at(6, 80) | CELLS.at(6, 85)
    assert CELLS.at(99, 0) == CELLS.at(123, 7)  # protocols that nobody names are one


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (0, "none"),
        (CELLS.everything, "all"),
        (CELLS.mask(PortRange(6, 80, 89)), "80-89/TCP"),
        (CELLS.mask(PortRange(6)) | CELLS.at(17, 1), "TCP, UDP"),
        (CELLS.everything & ~CELLS.at(6, 443), "all but 443/TCP"),
        (CELLS.at(1, 8), "ICMP type 8"),
        (CELLS.at(47, 0), "protocol 47"),
        (CELLS.everything & ~CELLS.at(200, 0), "all but other protocols"),
    ],
)
def test_cells_are_told_in_the_shorter_way(mask: int, text: str) -> None:
    assert CELLS.spoken(mask) == text


def test_icmp_belongs_to_its_family() -> None:
    ipv4 = CELLS.family(4)
    assert CELLS.spoken(ipv4, within=ipv4) == "all"
    assert not ipv4 & CELLS.at(58, 128)
    assert CELLS.family(6) & CELLS.at(58, 128)
    assert [port_text(58, 128), port_text(6, 80), port_text(47, 0)] == ["ICMPv6 type 128", "80/TCP", "protocol 47"]


def test_an_address_is_in_every_network_that_holds_it() -> None:
    texts = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "fd00::/8")
    networks = Networks(map(ip_network, texts))
    held = [str(networks.all[number]) for number in networks.holding("10.1.2.3")]
    assert held == ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"]
    assert [str(networks.all[number]) for number in networks.holding("fd00::1")] == ["fd00::/8"]


def test_a_network_is_represented_by_an_address_of_no_narrower_one() -> None:
    networks = Networks(map(ip_network, ("10.0.0.0/30", "10.0.0.0/31", "10.0.0.2/31", "192.0.2.0/24", "192.0.2.1/32")))
    found = {str(network): ip for ip, network in representatives(networks, lambda ip: ip != "192.0.2.254")}
    assert "10.0.0.0/30" not in found  # the narrower ones cover it
    assert found["10.0.0.0/31"] in ("10.0.0.0", "10.0.0.1")
    assert found["192.0.2.1/32"] == "192.0.2.1"
    assert found["192.0.2.0/24"] not in ("192.0.2.1", "192.0.2.254")


def cilium(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}, "spec": spec}


def steps(obj: dict[str, Any], field: str, address: str = "198.51.100.7") -> list[tuple[Any, str]]:
    return list(narrowed(obj, field, address=address, identity=THE_WORLD))


def test_a_denial_is_narrowed_from_the_smallest_change_to_the_widest() -> None:
    deny = {"toCIDRSet": [{"cidr": "198.51.100.0/24", "except": ["198.51.100.1/32"]}, {"cidr": "192.0.2.0/24"}]}
    obj = cilium(egressDeny=[deny, {"toEntities": ["all"]}])
    texts = [text for _, text in steps(obj, "spec.egressDeny[0]")]
    assert texts == [
        "except 198.51.100.7 from 198.51.100.0/24 in spec.egressDeny[0] of CiliumNetworkPolicy p",
        "take spec.egressDeny[0].toCIDRSet[0] out of CiliumNetworkPolicy p",
        "take spec.egressDeny[0].toCIDRSet[1] out of CiliumNetworkPolicy p",
        "take spec.egressDeny[0] out of CiliumNetworkPolicy p",
    ]
    first = steps(obj, "spec.egressDeny[0]")[0][0]
    assert first["spec"]["egressDeny"][0]["toCIDRSet"][0]["except"] == ["198.51.100.1/32", "198.51.100.7/32"]
    assert obj["spec"]["egressDeny"][0] is deny
    assert deny["toCIDRSet"][0]["except"] == ["198.51.100.1/32"]  # the original is as it was


def test_the_last_rule_takes_its_object_along() -> None:
    obj = cilium(ingressDeny=[{"fromEntities": ["world"]}])
    assert [(new, text.split(",")[0]) for new, text in steps(obj, "spec.ingressDeny[0]")] == [
        (None, "delete CiliumNetworkPolicy p")
    ]
    specs = [{"ingress": [{}]}, {"ingress": [{}], "ingressDeny": [{}, {}]}]
    nested = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}, "specs": specs}
    ((new, _),) = steps(nested, "specs[1].ingressDeny[1]")
    assert new["specs"][1]["ingressDeny"] == [{}]


@pytest.mark.parametrize("field", ["", "spec", "spec.egress", "spec.egress[7]", "spec.what[0]", "spec..x", "spec[0]"])
def test_a_place_that_is_not_there_narrows_nothing(field: str) -> None:
    assert steps(cilium(egress=[{}]), field) == []


def test_a_rule_that_is_no_rule_breaks_nothing() -> None:
    for rule in ({"toCIDR": 5}, {"toCIDRSet": [7, {"cidr": 8}]}, {"toCIDRSet": [{"cidr": "0.0.0.0/0", "except": 3}]}):
        for new, _ in steps(cilium(egressDeny=[rule], egress=[{}]), "spec.egressDeny[0]"):
            assert new is not None


def identity(*pairs: str, namespace: str = "x", cluster: str = "east") -> Identity:
    return Identity(0, cluster, namespace, dict(pair.split("=") for pair in pairs), {})


def test_pods_with_more_labels_are_told_apart_by_those() -> None:
    mine = identity("app=a")
    others = [mine, identity("app=a", "tier=p"), identity("app=b", "x=y"), identity("app=a", "z=1", namespace="y")]
    found = selected(mine, others)
    assert found.without == ("tier",)
    assert found.selector == {
        "matchLabels": {"app": "a"},
        "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}],
    }


def test_names_are_free_and_can_be_names_of_objects() -> None:
    assert name_for("web", "db", Direction.EGRESS, ["web-to-db"]) == "web-to-db-2"
    assert name_for("Web_1", "10.0.0.1", Direction.INGRESS, []) == "web-1-from-10-0-0-1"
    long = name_for("a" * 80, "b" * 80, Direction.INGRESS, [])
    assert len(long) <= 63


def test_what_a_server_added_is_not_suggested() -> None:
    meta = {"name": "p", "namespace": "x", "uid": "u", "resourceVersion": "7", "managedFields": [], "generation": 2}
    notes = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "isthmus.dev/policy-scope": "local"}
    found = applicable({**cilium(ingress=[{}]), "metadata": {**meta, "annotations": notes}, "status": {}})
    assert found["metadata"] == {
        "name": "p",
        "namespace": "x",
        "annotations": {"isthmus.dev/policy-scope": "local"},
    }
    assert "status" not in found


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("a", Target(text="a", namespace="n", name="a")),
        ("c:a", Target(text="c:a", cluster="c", namespace="n", name="a")),
        ("c:s/a", Target(text="c:s/a", cluster="c", namespace="s", name="a")),
        ("deploy/a", Target(text="deploy/a", kind="Deployment", namespace="n", name="a")),
        ("c:s/sts/a", Target(text="c:s/sts/a", cluster="c", kind="StatefulSet", namespace="s", name="a")),
        ("svc/s/a", Target(text="svc/s/a", kind="Service", namespace="s", name="a")),
        ("c:node/a.b", Target(text="c:node/a.b", cluster="c", kind="Node", namespace="n", name="a.b")),
        ("s/app=a,b=c", Target(text="s/app=a,b=c", kind="Labels", namespace="s", labels=(("app", "a"), ("b", "c")))),
        (
            "app.kubernetes.io/name==a",
            Target(
                text="app.kubernetes.io/name==a",
                kind="Labels",
                namespace="n",
                labels=(("app.kubernetes.io/name", "a"),),
            ),
        ),
        ("10.0.0.1", Target(text="10.0.0.1", kind="Address", name="10.0.0.1")),
        ("[FD00::1]", Target(text="[FD00::1]", kind="Address", name="fd00::1")),
        ("World", Target(text="World", kind="Outside")),
        ("WWW.example.com.", Target(text="WWW.example.com.", kind="Name", name="www.example.com")),
        ("web.shop.svc", Target(text="web.shop.svc", kind="Service", namespace="shop", name="web")),
        (
            "web.shop.svc.clusterset.local",
            Target(text="web.shop.svc.clusterset.local", kind="Imported", namespace="shop", name="web"),
        ),
    ],
)
def test_ends_are_written_as_kubectl_users_write_them(text: str, target: Target) -> None:
    assert parse(text, namespace="n") == target


@pytest.mark.parametrize("text", ["", " ", ":a", "c:", "a//b", "a/b/c/d", "c:what/ever/x", "app=a,b", "a/b:c"])
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(TargetError):
        parse(text)
