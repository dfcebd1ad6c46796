"""What a change of policy means for connections that are open: what is forbidden now ends at once, the rest goes on."""

from contextlib import ExitStack

import pytest

from tests.support.conversation import Conversation
from tests.support.fabric import Fabric
from tests.support.town import Town, flow, network_policy, pods

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
SPEAKERS = ("client", "server")


@pytest.fixture(scope="module")
def fabric():
    with Fabric() as fabric:
        yield fabric


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
