"""Policy in the real kernel: what the compiler writes lets through and drops what the evaluator says."""

import socket
import struct

import pytest

from isthmus.model.endpoint import Endpoint
from isthmus.model.identity import Identity
from isthmus.policy.networkpolicy import parse
from isthmus.policy.world import LocalPod
from isthmus.policy.world import World as PolicyWorld
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.text import replacement, script
from tests.support.netns import World
from tests.support.probes import Attempt

IPV6_HDRINCL = 36  # linux/in6.h; the socket module lacks it


def _write(world: World, compiler: Compiler) -> None:
    world.nft(replacement(compiler.table.whole()))
    compiler.table.forget_journal()


def _push(world: World, compiler: Compiler) -> None:
    """Writes as the agent does: structure as text, elements alone as netlink."""
    delta = compiler.table.take_delta()
    if delta.structural:
        for step in delta.steps:
            world.nft(script(step))
    elif delta:
        world.apply(*delta.changes)


def _one_policed_pod(**spec) -> Compiler:
    """Pod a (10.244.0.10) is policed; b and c are remote pods of one identity each; d is outside."""
    policies = PolicyWorld("east")
    for number, name, ip in ((0x20100, "b", "10.244.0.11"), (0x20101, "c", "10.244.0.12")):
        policies.identities[number] = Identity(number, "west", "shop", {"app": name}, {})
        policies.endpoints[ip] = Endpoint("west", ip, number, "shop", name)
    policies.pods["shop/a"] = LocalPod("shop", "a", "", {"app": "a"}, ("10.244.0.10", "fd00:10:244::a"))
    compiler = Compiler(policies)
    compiler.put_policy(_policy(**spec))
    return compiler


def _policy(**spec):
    return parse({"metadata": {"namespace": "shop", "name": "p"}, "spec": {"podSelector": {}, **spec}}, cluster="east")


FROM_B = {"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]}
TO_B = {"policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]}


@pytest.mark.parametrize(
    ("spec", "client", "server"), [(FROM_B, "b", "a"), (TO_B, "a", "b")], ids=["ingress", "egress"]
)
def test_a_policy_change_cuts_and_restores_live_connections(world: World, spec, client, server):
    compiler = _one_policed_pod(**spec)
    _write(world, compiler)
    stream = world.connect(client, server, 80)
    assert stream.alive(timeout=5)

    compiler.put_policy(_policy(policyTypes=["Ingress", "Egress"]))
    _push(world, compiler)
    assert not stream.alive()

    compiler.put_policy(_policy(**spec))
    _push(world, compiler)
    assert stream.alive(timeout=10)


def test_an_identity_that_changes_its_labels_takes_effect_on_live_connections_without_touching_rules(world: World):
    compiler = _one_policed_pod(**FROM_B)
    _write(world, compiler)
    stream = world.connect("b", "a", 80)
    assert stream.alive(timeout=5)

    compiler.put_identity(Identity(0x20100, "west", "shop", {"app": "other"}, {}))
    assert not compiler.table.take_delta().structural
    compiler.put_identity(Identity(0x20100, "west", "shop", {"app": "b"}, {}))
    compiler.table.take_delta()
    compiler.put_endpoint(Endpoint("west", "10.244.0.11", 0x20101, "shop", "b"))
    _push(world, compiler)

    assert not stream.alive()


def test_replies_are_never_judged_by_the_policy_of_the_other_direction(world: World):
    compiler = _one_policed_pod(policyTypes=["Ingress"])
    _write(world, compiler)

    world.expect({Attempt("a", "b"): True, Attempt("b", "a"): False, Attempt("a", "b", "udp", 53): True})


def test_a_client_gains_nothing_by_sending_from_a_port_that_policy_names(world: World):
    address = world.address("a", 4)
    world.listen("a", "tcp", 9000)

    def connect():
        with socket.create_connection((address, 9000), timeout=0.3, source_address=("", 80)):
            pass

    for ports in ([{"port": 80}], [{"port": 80, "endPort": 8000}]):
        _write(world, _one_policed_pod(ingress=[{"ports": ports}], policyTypes=["Ingress"]))
        with pytest.raises(TimeoutError):
            world["b"].run(connect)
        world.expect({Attempt("b", "a", "tcp", 80): True})


def test_a_service_is_judged_by_the_backend_that_was_chosen(world: World):
    world.nft(
        "add table ip nat\nadd chain ip nat pre { type nat hook prerouting priority dstnat; }\n"
        "add rule ip nat pre ip daddr 172.20.0.10 tcp dport 8080 dnat to 10.244.0.11:80\n"
        "add rule ip nat pre ip daddr 172.20.0.11 tcp dport 80 dnat to 10.244.0.12:80\n"
    )
    spec = {"policyTypes": ["Egress"], "egress": [{**TO_B["egress"][0], "ports": [{"port": 80}]}]}
    _write(world, _one_policed_pod(**spec))
    world.listen("b", "tcp", 80)
    world.listen("c", "tcp", 80)

    world.expect({Attempt("a", "172.20.0.10", "tcp", 8080): True, Attempt("a", "172.20.0.11", "tcp", 80): False})


def test_the_node_reaches_its_pods_whatever_policy_says(world: World):
    _write(world, _one_policed_pod(policyTypes=["Ingress", "Egress"]))

    world.expect({Attempt("router", "a"): True, Attempt("a", "router"): True, Attempt("a", "b"): False})


def test_neighbour_discovery_passes_a_closed_gate(world: World):
    _write(world, _one_policed_pod(policyTypes=["Ingress", "Egress"]))
    world.router.command("ip", "-6", "neigh", "flush", "all")

    world.expect({Attempt("router", "a", version=6): True, Attempt("b", "a", version=6): False})


def test_removing_the_table_opens_everything_and_can_be_done_twice(world: World):
    from isthmus.ruleset.text import removal

    _write(world, _one_policed_pod(policyTypes=["Ingress"]))
    world.nft(removal())
    world.nft(removal())

    world.expect({Attempt("b", "a"): True})
    assert world.nft("list tables") == ""


def test_the_packet_priority_leaves_as_none(world: World):
    _write(world, _one_policed_pod(**FROM_B))
    world.nft(
        "add table inet watch\nadd chain inet watch c { type filter hook postrouting priority 300; }\n"
        "add rule inet watch c ip daddr 10.244.0.10 meta priority != none counter\n"
    )
    world.expect({Attempt("b", "a"): True})

    assert "packets 0" in world.nft("list table inet watch")


def test_a_pod_that_claims_an_address_of_the_node_is_not_the_node(world: World):
    world.listen("a", "udp", 53)
    watch = (
        "add table inet watch\ndelete table inet watch\nadd table inet watch\n"
        "add chain inet watch c { type filter hook postrouting priority 300; }\n"
        "add rule inet watch c ip6 saddr fd00::1 ip6 daddr fd00:10:244::a udp dport 53 counter\n"
    )
    source, target = (socket.inet_pton(socket.AF_INET6, ip) for ip in ("fd00::1", "fd00:10:244::a"))
    datagram = struct.pack("!HHHH", 4444, 53, 9, 0) + b"x"
    header = struct.pack("!IHBB", 6 << 28, len(datagram), 17, 64) + source + target

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
            raw.sendto(header + datagram, ("fd00:10:244::a", 0))

    world.nft(watch)
    world["b"].run(send)
    world.expect({Attempt("b", "a", "udp", 53, 6): True})
    assert "packets 1" in world.nft("list table inet watch"), "without a policy it arrives"

    _write(world, _one_policed_pod(policyTypes=["Ingress"]))
    world.nft(watch)
    world["b"].run(send)
    world.expect({Attempt("b", "a", "udp", 53, 6): False})  # sent later, dropped: the other has been through by now
    assert "packets 0" in world.nft("list table inet watch")
    world.expect({Attempt("router", "a", "udp", 53, 6): True, Attempt("router", "a", "tcp", 80, 6): True})
