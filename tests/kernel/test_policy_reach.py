"""Who gets through to whom, with packets: nodes, the API server, tiers, Services, port names, fragments, errors."""

import os
import socket
import struct

import msgspec
import pytest

from tests.support.town import (
    Town,
    address,
    cilium_policy,
    cluster_policy,
    flow,
    network_policy,
    pods,
)
from tests.support.volley import one_cpu

CLOSED = network_policy(policyTypes=["Ingress", "Egress"])
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
IPV6_HDRINCL = 36  # linux/in6.h
WORDS = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP"}
both_families = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
every_protocol = pytest.mark.parametrize("protocol", [TCP, UDP, SCTP], ids=["tcp", "udp", "sctp"])


def expect(town: Town, expected: dict[tuple[str, str], bool], *, protocol: int = TCP, port: int = 80, version: int = 4):
    town.expect({flow(*ends, protocol, port, version=version): allowed for ends, allowed in expected.items()})


# -- nodes ---------------------------------------------------------------------------------------------------------


@both_families
def test_networkpolicy_never_parts_a_pod_from_its_own_node(town: Town, version):
    town.apply(CLOSED)
    own, others = {("n1", "a"): True, ("a", "n1"): True}, [("n2", "a"), ("w1", "a"), ("a", "n2"), ("a", "w1")]
    town.expect_all_ways(own | dict.fromkeys([*others, ("b", "a"), ("a", "b")], False), version)


@both_families
def test_ciliums_policies_judge_what_a_pod_asks_of_its_own_node_and_not_what_the_node_asks_of_it(town: Town, version):
    town.apply(cilium_policy(ingress=[{}], egress=[{}]))
    town.expect_all_ways(
        {("n1", "a"): True, ("a", "n1"): False, ("a", "n2"): False, ("n2", "a"): False, ("b", "n1"): True},
        version,
    )
    town.apply(cilium_policy(ingress=[{}], egress=[{"toEntities": ["host"]}]))
    town.expect_all_ways({("n1", "a"): True, ("a", "n1"): True, ("a", "n2"): False, ("n2", "a"): False}, version)


@both_families
def test_a_denial_of_the_host_keeps_the_own_node_out(town: Town, version):
    town.apply(cilium_policy(ingress=[{"fromEntities": ["all"]}], ingressDeny=[{"fromEntities": ["host"]}]))
    town.expect_all_ways({("n1", "a"): False, ("n2", "a"): True, ("c", "a"): True, ("a", "n1"): True}, version)


@both_families
def test_admin_denials_apply_to_what_a_pod_asks_of_its_own_node_only(town: Town, version):
    everyone = [{"networks": ["0.0.0.0/0", "::/0"]}]
    town.apply(
        cluster_policy(
            ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}], egress=[{"action": "Deny", "to": everyone}]
        )
    )
    town.expect_all_ways(
        {
            ("n1", "a"): True,
            ("a", "n1"): False,
            ("a", "b"): False,
            ("b", "a"): False,
            ("n2", "a"): True,
            ("b", "c"): True,
        },
        version,
    )


@both_families
def test_nodes_of_every_cluster_are_remote_nodes(town: Town, version):
    town.apply(
        cilium_policy(ingress=[{"fromEntities": ["remote-node"]}], egress=[{"toEntities": ["remote-node"]}]),
    )
    outsiders = [("b", "a"), ("outside", "a"), ("a", "outside"), ("a", "n1"), ("d", "a")]
    nodes = [("n2", "a"), ("w1", "a"), ("a", "n2"), ("a", "w1"), ("n1", "a")]
    town.expect_all_ways(dict.fromkeys(nodes, True) | dict.fromkeys(outsiders, False), version)


@both_families
def test_a_pod_in_the_network_of_a_node_is_that_node(town: Town, version):
    everybody = network_policy(ingress=[{"from": [{"namespaceSelector": {}}]}])
    node = f"{address('n2', version)}/{32 if version == 4 else 128}"
    town.apply(everybody)
    town.expect_all_ways({("c", "a"): True, ("n2", "a"): False}, version)
    town.apply(network_policy(ingress=[{"from": [{"ipBlock": {"cidr": node}}]}]))
    town.expect_all_ways({("c", "a"): False, ("n2", "a"): True}, version)


@pytest.mark.parametrize("policy", [CLOSED, cilium_policy(ingress=[{}])], ids=["NetworkPolicy", "CiliumNetworkPolicy"])
def test_a_pod_that_speaks_in_the_name_of_the_node_is_not_the_node(town: Town, policy):
    ips = [socket.inet_pton(socket.AF_INET6, address(place, 6)) for place in ("n1", "a")]  # of IPv4 the kernel drops it

    def forge() -> None:
        token = os.urandom(8)
        datagram = struct.pack("!HHHH", 4444, 7000, 16, 0) + token
        header = struct.pack("!IHBB", 6 << 28, len(datagram), UDP, 64) + b"".join(ips)
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
            raw.sendto(header + datagram, (address("a", 6), 0))

    def arrived() -> int:
        listing = town.fabric.nodes["n1"].nft.run("list table inet watch")
        return int(listing.partition("counter packets ")[2].split()[0])

    town.fabric.nodes["n1"].nft.run(
        "add table inet watch\ndelete table inet watch\nadd table inet watch\n"
        "add chain inet watch c { type filter hook postrouting priority 300; }\n"
        f"add rule inet watch c ip6 saddr {address('n1', 6)} udp dport 7000 counter\n"
    )
    forger = town.fabric.holders[address("b")]
    with one_cpu():
        forger.run(forge)
        town.fabric.volley.pass_fence()
    assert arrived() == 1, "without a policy it arrives"
    town.apply(policy)
    with one_cpu():
        forger.run(forge)
        town.fabric.volley.pass_fence()
    assert arrived() == 1
    town.expect_all_ways({("n1", "a"): True, ("b", "a"): False}, 6)


# -- entities ------------------------------------------------------------------------------------------------------


@both_families
def test_the_api_server_is_an_entity_of_its_own_and_of_the_world(town: Town, version):
    town.apply(cilium_policy(egress=[{"toEntities": ["kube-apiserver"]}]))
    town.expect_all_ways({("a", "apiserver"): True, ("a", "outside"): False, ("a", "n2"): False}, version)
    town.apply(cilium_policy(egress=[{"toEntities": ["world"]}]))
    town.expect_all_ways(
        {("a", "apiserver"): True, ("a", "outside"): True, ("a", "n2"): False, ("a", "c"): False}, version
    )
    town.apply(
        cilium_policy(egress=[{"toEntities": ["all"]}], egressDeny=[{"toEntities": ["kube-apiserver"]}]),
    )
    town.expect_all_ways({("a", "apiserver"): False, ("a", "outside"): True, ("a", "d"): True}, version)


def test_cidrs_of_ciliums_kinds_mean_the_outside_only(town: Town):
    everywhere = ["0.0.0.0/0"]
    town.apply(cilium_policy(egress=[{"toCIDR": everywhere}], ingress=[{"fromCIDR": everywhere}]))
    inside = [("a", "b"), ("a", "c"), ("c", "a"), ("a", "n2"), ("n2", "a"), ("d", "a")]
    outside = [("a", "outside"), ("outside", "a"), ("a", "apiserver")]
    expect(town, dict.fromkeys(inside, False) | dict.fromkeys(outside, True))


# -- tiers ---------------------------------------------------------------------------------------------------------


@both_families
def test_tiers_are_asked_one_after_the_other(town: Town, version):
    def rule(action: str, *apps: str):
        peers = [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}}} for app in apps]
        return {"action": action, "from": peers}

    admin = cluster_policy(
        name="admin", ingress=[rule("Accept", "b"), rule("Deny", "c"), rule("Pass", "d")], priority=1
    )
    late = cluster_policy(name="late", ingress=[rule("Deny", "b", "d")], priority=2)
    baseline = cluster_policy(name="base", tier="Baseline", priority=1, ingress=[rule("Deny", "b", "c", "d")])
    town.apply(admin, late, baseline)
    town.expect_all_ways({("b", "a"): True, ("c", "a"): False, ("d", "a"): False, ("outside", "a"): True}, version)
    town.apply(network_policy(ingress=[{"from": [pods("c"), pods("d")]}]))
    town.expect_all_ways({("b", "a"): True, ("c", "a"): False, ("d", "a"): True, ("outside", "a"): False}, version)
    town.delete(admin, late)
    town.expect_all_ways({("b", "a"): False, ("c", "a"): True, ("d", "a"): True}, version)


@every_protocol
def test_a_denial_wins_over_what_others_allow(town: Town, protocol):
    peer = [{"matchLabels": {"app": "c"}}]
    ports = [{"ports": [{"port": "8000", "endPort": 8080, "protocol": WORDS[protocol]}]}]
    town.apply(
        network_policy(name="all", ingress=[{}]),
        cilium_policy(name="not c", ingressDeny=[{"fromEndpoints": peer, "toPorts": ports}]),
    )
    for port, allowed in ((7999, True), (8000, False), (8080, False), (8081, True)):
        expect(town, {("c", "a"): allowed, ("b", "a"): True}, protocol=protocol, port=port)


@both_families
@pytest.mark.parametrize("kind", ["NetworkPolicy", "CiliumNetworkPolicy"])
def test_a_gate_that_is_shut_lets_nobody_through_but_a_node_that_it_never_judged(town: Town, kind, version):
    b = [{"matchLabels": {"app": "b"}}]
    town.apply(
        network_policy(ingress=[{"from": [pods("b")]}], egress=[{"to": [pods("b")]}])
        if kind == "NetworkPolicy"
        else cilium_policy(ingress=[{"fromEndpoints": b}], egress=[{"toEndpoints": b}, {"toEntities": ["host"]}])
    )
    compiler = town.compilers["n1"]
    for change, open_ in ((compiler.shut_gate, False), (compiler.open_gate, True)):
        for name in list(compiler.gates):
            change(name)
        town.push("n1")
        judged = kind != "NetworkPolicy"
        ends = {("b", "a"): open_, ("a", "b"): open_, ("n1", "a"): True, ("a", "n1"): open_ or not judged}
        town.fabric.expect({flow(*pair, version=version): allowed for pair, allowed in ends.items()})


@both_families
def test_a_gate_that_outgrows_its_bound_lets_nobody_through_until_it_fits_and_no_other_gate_minds(fabric, version):
    town = Town(fabric, most_elements=2)
    ports = [{"port": 80}, {"port": 81}]
    town.apply(
        network_policy(ingress=[{"from": [pods("c")], "ports": ports}]),
        network_policy("b", name="q", ingress=[{"from": [pods("c")], "ports": ports[:1]}]),
    )
    compiler = town.compilers["n1"]
    another = next(one for one in compiler.world.identities.values() if one.labels.get("app") == "c")
    another = msgspec.structs.replace(another, number=another.number + 0x80)
    for change, fits in ((compiler.put_identity, True), (compiler.drop_identity, False), (None, True)):
        ends = {("c", "a"): fits, ("n1", "a"): True, ("c", "b"): True, ("w1", "b"): False}
        town.fabric.expect({flow(*pair, version=version): allowed for pair, allowed in ends.items()})
        if change is not None:
            change(another if fits else another.number)
            town.push("n1")


# -- Services, port names ------------------------------------------------------------------------------------------


@both_families
@every_protocol
def test_a_service_is_judged_by_its_backend(town: Town, protocol, version):
    town.apply(network_policy(egress=[{"to": [pods("c")], "ports": [{"port": 80, "protocol": WORDS[protocol]}]}]))
    town.expect(
        {
            flow("a", "c", protocol, 80, version=version, translated=True): True,
            flow("a", "c", protocol, 81, version=version, translated=True): False,
            flow("a", "b", protocol, 80, version=version, translated=True): False,
            flow("a", "outside", protocol, 80, version=version, translated=True): False,
            flow("b", "outside", protocol, 80, version=version, translated=True): True,
        }
    )


@both_families
@every_protocol
def test_a_pod_reaches_itself_through_a_service_unless_an_administrator_denies_it(town: Town, protocol, version):
    itself = {flow("a", "a", protocol, 80, version=version, translated=True): True}
    town.apply(CLOSED)
    town.expect(itself)
    denial = cluster_policy(ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}])
    town.apply(denial)
    town.expect(dict.fromkeys(itself, False))
    town.delete(denial)
    town.expect(itself)


@both_families
def test_what_the_normal_tier_denies_a_pod_of_itself_is_for_the_baseline_to_decide(town: Town, version):
    itself = flow("a", "a", TCP, 80, version=version, translated=True)
    deny = {"ingressDeny": [{"fromEntities": ["all"]}], "enableDefaultDeny": {"ingress": False}}
    town.apply(cilium_policy(**deny))
    town.expect({itself: True, flow("b", "a", version=version): False})
    baseline = cluster_policy(tier="Baseline", ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}])
    town.apply(baseline)
    town.expect({itself: False})


@pytest.mark.parametrize("kind", ["NetworkPolicy", "CiliumNetworkPolicy"])
def test_a_port_name_is_the_number_that_the_destination_gives_it(town: Town, kind):
    if kind == "NetworkPolicy":
        port = [{"ports": [{"port": "web"}]}]
        town.apply(network_policy(ingress=port, egress=[{"to": [pods("c")], **port[0]}]))
    else:
        port = {"toPorts": [{"ports": [{"port": "web", "protocol": "TCP"}]}]}
        town.apply(
            cilium_policy(
                ingress=[{"fromEntities": ["all"], **port}],
                egress=[{"toEndpoints": [{"matchLabels": {"app": "c"}}], **port}],
            )
        )
    for protocol, number, allowed in ((TCP, 8080, True), (TCP, 80, False), (UDP, 8080, False)):
        expect(town, {("c", "a"): allowed, ("a", "c"): allowed, ("a", "b"): False}, protocol=protocol, port=number)


RANGES = [(2048 * n + 7 * n, 2048 * n + 61 * n + 40) for n in range(1, 14)]


@both_families
@pytest.mark.parametrize("direction", ["ingress", "egress"])
@pytest.mark.parametrize("peers", ["pods", "blocks", "denied blocks"])
def test_many_ranges_of_ports_are_judged_to_their_ends(town: Town, peers, direction, version):
    c, outside = address("c", version), address("outside", version)
    prefix = 32 if version == 4 else 128
    blocks = [f"{ip}/{prefix}" for ip in (c, outside)]
    word = "from" if direction == "ingress" else "to"
    if peers == "denied blocks":  # Cilium's mean the outside
        policies = [
            cilium_policy(
                name=f"p{n}",
                enableDefaultDeny={direction: False},
                **{
                    f"{direction}Deny": [
                        {
                            f"{word}CIDR": [blocks[1]],
                            "toPorts": [{"ports": [{"port": str(a), "endPort": b, "protocol": "TCP"}]}],
                        }
                    ]
                },
            )
            for n, (a, b) in enumerate(RANGES)
        ]
    else:
        whom = [pods("c")] if peers == "pods" else [{"ipBlock": {"cidr": block}} for block in blocks]
        policies = [
            network_policy(name=f"p{n}", **{direction: [{word: [peer], "ports": [{"port": a, "endPort": b}]}]})
            for n, (a, b) in enumerate(RANGES)
            for peer in [whom[n % len(whom)]]
        ]
    town.apply(*policies)
    expected = {}
    for n, (a, b) in enumerate(RANGES):
        for port, inside in ((a - 1, False), (a, True), (b, True), (b + 1, False)):
            for other in ("b", "c", "outside"):
                mine = {"pods": "c", "blocks": ("c", "outside")[n % 2], "denied blocks": "outside"}[peers]
                hit = inside and other == mine
                ends = (other, "a") if direction == "ingress" else ("a", other)
                expected[flow(*ends, TCP, port, version=version)] = hit is (peers != "denied blocks")
                if hit and n == 5:
                    expected[flow(*ends, UDP, port, version=version)] = peers == "denied blocks"
    town.expect(expected)
