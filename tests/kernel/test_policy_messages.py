"""What is no plain packet, with packets: ICMP types and errors, fragments, extension headers, what belongs nowhere."""

import socket

import pytest

from tests.support.conversation import Conversation
from tests.support.town import Town, address, cilium_policy, cluster_policy, flow, network_policy, pods
from tests.support.volley import one_cpu

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
both_families = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


@both_families
def test_icmp_is_let_through_by_type(town: Town, version):
    family, protocol, types = ("IPv4", ICMP, (8, 13)) if version == 4 else ("IPv6", ICMPV6, (128, 139))
    town.apply(
        cilium_policy(
            ingress=[{"fromEntities": ["all"], "icmps": [{"fields": [{"family": family, "type": types[0]}]}]}],
            egress=[{"toEntities": ["all"], "icmps": [{"fields": [{"family": family, "type": types[1]}]}]}],
        )
    )
    town.expect(
        {
            flow("b", "a", protocol, types[0], version=version): True,
            flow("b", "a", protocol, types[1], version=version): False,
            flow("a", "b", protocol, types[0], version=version): False,
            flow("a", "b", protocol, types[1], version=version): True,
            flow("b", "a", TCP, 80, version=version): False,
        }
    )


@both_families
@pytest.mark.parametrize("limit", ["ingress", "egress"])
def test_fragments_are_judged_like_the_whole(town: Town, limit, version):
    def policy(*apps: str):
        rule = {"from" if limit == "ingress" else "to": [pods(app) for app in apps]}
        return network_policy(**{limit: [{**rule, "ports": [{"port": 7000, "protocol": "UDP"}]}]})

    town.apply(policy("c"))
    ends = ("c", "a") if limit == "ingress" else ("a", "c")
    with Conversation(town.fabric, flow(*ends, UDP, 7000, version=version)) as talk:
        assert talk.hears("client", size=4000) and talk.hears("server", size=4000)
        town.apply(policy("b"))
        assert not talk.hears("client", size=4000) and not talk.hears("server", size=4000)
        town.apply(policy("b", "c"))
        assert talk.hears("client", size=4000) and talk.hears("server", size=4000)


@pytest.mark.parametrize("header", [54, 59], ids=["hop by hop", "destination options"])  # IPV6_*OPTS, linux/in6.h
def test_extension_headers_hide_nothing(town: Town, header):
    town.apply(network_policy(ingress=[{"ports": [{"port": 7000, "protocol": "UDP"}]}]))
    padding = bytes([0, 0, 1, 4, 0, 0, 0, 0])
    client, *servers = (
        town.fabric.holders[address(place, 6)].run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        for place in ("b", "a", "a")
    )
    client.setsockopt(socket.IPPROTO_IPV6, header, padding)
    with client, servers[0] as open_, servers[1] as closed, one_cpu():
        for server, port in ((open_, 7000), (closed, 7001)):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address("a", 6), port))
            server.setblocking(False)
            client.sendto(b"?", server.getsockname())
        town.fabric.volley.pass_fence()
        assert open_.recv(10) == b"?"
        with pytest.raises(BlockingIOError):
            closed.recv(10)


@both_families
@pytest.mark.parametrize("speaker", ["client", "server"])
def test_a_path_that_is_narrower_than_the_link_makes_itself_known_through_a_policy(town: Town, speaker, version):
    only_c = {"ports": [{"port": 7000, "protocol": "UDP"}]}
    town.apply(network_policy(ingress=[{"from": [pods("c")], **only_c}], egress=[{"to": [pods("c")], **only_c}]))
    ends = ("c", "a") if speaker == "server" else ("a", "c")  # pod a sends what is too large
    for family in ("-4", "-6"):
        town.fabric.holders[address("a")].command("ip", family, "route", "flush", "cache")
    link = town.fabric.nodes["n2"].link
    town.fabric.elsewhere.ip(f"link set {link} mtu 1300")
    try:
        with Conversation(town.fabric, flow(*ends, UDP, 7000, version=version)) as talk:
            assert talk.path_mtu(speaker) == 1500
            assert not talk.hears(speaker, size=1400)
            assert talk.path_mtu(speaker) == 1300
    finally:
        town.fabric.elsewhere.ip(f"link set {link} mtu 1500")


@both_families
def test_a_port_where_nobody_listens_is_said_to_be_closed(town: Town, version):
    town.apply(network_policy(egress=[{"to": [pods("c")], "ports": [{"port": 7001, "protocol": "UDP"}]}]))
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with town.fabric.holders[address("a", version)].run(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(10)
        sock.connect((address("c", version), 7001))
        sock.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(1)


@pytest.mark.parametrize(
    "policy",
    [
        network_policy(policyTypes=["Ingress", "Egress"], egress=[{"to": [pods("c")]}]),
        cilium_policy(ingress=[{}], egress=[{"toEndpoints": [{"matchLabels": {"app": "c"}}]}]),
    ],
    ids=["NetworkPolicy", "CiliumNetworkPolicy"],
)
def test_neighbours_are_found_through_a_closed_gate(town: Town, policy):
    town.apply(policy)
    for ends in (("a", "c"), ("n1", "a")):
        for place in ("a", "n1"):
            town.fabric.holders[address(place)].command("ip", "-6", "neigh", "flush", "all")
        town.expect_all_ways({ends: True, ("b", "a"): False}, 6)


@both_families
@pytest.mark.parametrize(
    "policy",
    [
        network_policy(ingress=[{"from": [pods("b")]}]),
        cilium_policy(
            ingress=[{"fromEntities": ["all"]}], ingressDeny=[{"fromEndpoints": [{"matchLabels": {"app": "c"}}]}]
        ),
        cluster_policy(ingress=[{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"none": "such"}}}]}]),
    ],
    ids=["isolation", "denial", "Admin"],
)
def test_a_packet_of_no_connection_passes_no_gate_that_denies_anybody(town: Town, policy, version):
    protocol, kind = (ICMP, 250) if version == 4 else (ICMPV6, 200)  # conntrack knows no such message
    strange = {flow(other, "a", protocol, kind, version=version) for other in "bc"}
    town.fabric.expect(dict.fromkeys(strange, True))
    town.apply(policy)
    town.fabric.expect(dict.fromkeys(strange, False))
