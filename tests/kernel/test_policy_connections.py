"""What a change of policy means for connections that are open: what is forbidden now ends at once, the rest goes on."""

import socket
from contextlib import ExitStack

import pytest

from tests.support.conversation import Conversation
from tests.support.fabric import Fabric
from tests.support.town import Town, address, cilium_policy, cluster_policy, flow, network_policy, pods
from tests.support.volley import one_cpu

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
SPEAKERS = ("client", "server")


def ingress(*apps: str):
    return network_policy(ingress=[{"from": [pods(app) for app in apps]}], policyTypes=["Ingress"])


def egress(*apps: str):
    return network_policy(egress=[{"to": [pods(app) for app in apps]}], policyTypes=["Egress"])


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("speaker", SPEAKERS)
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("limit", [ingress, egress])
def test_a_change_ends_what_it_forbids_and_nothing_else_whoever_speaks(
    fabric: Fabric, limit, protocol, speaker, version
):
    town = Town(fabric)
    town.apply(limit("b", "c", "d"))
    with ExitStack() as stack:
        talks = {}
        for other in "bcd":
            ends = (other, "a") if limit is ingress else ("a", other)
            talks[other] = stack.enter_context(Conversation(fabric, flow(*ends, protocol, 7000, version=version)))
        for allowed in ("bd", "b"):
            town.apply(limit(*allowed))
            assert {other for other, talk in talks.items() if talk.hears(speaker)} == set(allowed)
        town.apply(limit("b", "c", "d"))
        assert all(talk.hears(speaker, patience=10 if protocol == 6 else 0) for talk in talks.values())


def _cilium_denial(direction: str):
    peers = [{"matchLabels": {"app": "c"}}]
    spec = {"ingress": {"ingressDeny": [{"fromEndpoints": peers}]}, "egress": {"egressDeny": [{"toEndpoints": peers}]}}
    return cilium_policy(name="denial", enableDefaultDeny={direction: False}, **spec[direction])


def _tier_denial(tier: str):
    def denial(direction: str):
        peer = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "c"}}}}
        rule = {"action": "Deny", "from" if direction == "ingress" else "to": [peer]}
        return cluster_policy(name="denial", tier=tier, **{direction: [rule]})

    return denial


def _isolation(direction: str):
    return network_policy(name="denial", **{direction: [{"from" if direction == "ingress" else "to": [pods("b")]}]})


@pytest.mark.parametrize("direction", ["ingress", "egress"])
@pytest.mark.parametrize(
    "denial",
    [_isolation, _cilium_denial, _tier_denial("Admin"), _tier_denial("Baseline")],
    ids=["isolation", "denial", "Admin", "Baseline"],
)
def test_every_way_to_forbid_ends_what_is_open_and_gives_it_back(fabric: Fabric, denial, direction):
    town = Town(fabric)
    policy = denial(direction)
    with ExitStack() as stack:
        talks = {}
        for other in "bc":
            ends = (other, "a") if direction == "ingress" else ("a", other)
            talks[other] = stack.enter_context(Conversation(fabric, flow(*ends, 17, 7000)))
        for change, ended in ((town.apply, True), (town.delete, False), (town.apply, True)):
            change(policy)
            for speaker in SPEAKERS:
                assert talks["b"].hears(speaker)
                assert talks["c"].hears(speaker) is not ended


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("keep", [False, True], ids=["every packet judged", "live connections kept"])
def test_what_a_pod_has_open_to_its_own_node_ends_as_well_and_not_what_the_node_has_open(
    fabric: Fabric, keep, protocol, version
):
    town = Town(fabric, keep_live=keep)
    with (
        Conversation(fabric, flow("a", "n1", protocol, 7000, version=version)) as asked,
        Conversation(fabric, flow("n1", "a", protocol, 7000, version=version)) as asking,
    ):
        town.apply(cilium_policy(ingress=[{}], egress=[{}]))
        for speaker in SPEAKERS:
            assert asked.hears(speaker) is keep
            assert asking.hears(speaker)
        town.expect({flow("a", "n1", protocol, 7001, version=version): False})


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("limit", [ingress, egress])
def test_connections_that_are_kept_go_on_and_others_cannot_be_opened(fabric: Fabric, limit, protocol, version):
    town = Town(fabric, keep_live=True)
    town.apply(limit("b"))
    ends = ("b", "a") if limit is ingress else ("a", "b")
    with Conversation(fabric, flow(*ends, protocol, 7000, version=version)) as talk:
        for change in (limit("c"), limit("b"), limit("nobody")):
            town.apply(change)
            assert all(talk.hears(speaker) for speaker in SPEAKERS)
        for port in (7000, 7001):
            town.expect({flow(*ends, protocol, port, version=version): False})


@pytest.mark.parametrize("keep", [False, True], ids=["every packet judged", "live connections kept"])
def test_what_never_was_answered_is_no_live_connection(fabric: Fabric, keep):
    town = Town(fabric, **({"keep_live": True} if keep else {}))
    client, server = (fabric.holders[address(pod)].run(lambda: socket.socket(type=socket.SOCK_DGRAM)) for pod in "ba")
    with client, server:
        server.bind((address("a"), 7777))
        server.settimeout(5)
        client.connect((address("a"), 7777))
        client.send(b"?")
        assert server.recv(10) == b"?"
        town.apply(ingress("c"))
        with one_cpu():
            client.send(b"!")
            fabric.volley.pass_fence()
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(10)
