"""Hundreds of policies on one pod, which become look-ups of ranges: the kernel judges them as the evaluator does."""

from ipaddress import ip_network

import pytest

from isthmus.model.endpoint import Endpoint
from isthmus.model.flow import Flow
from isthmus.model.identity import Identity
from isthmus.model.selector import Selector
from isthmus.policy.evaluate import evaluate
from isthmus.policy.rules import Action, CidrPeer, Direction, ObjectRef, PodPeer, Policy, PortRange, Rule
from isthmus.policy.world import LocalPod
from isthmus.policy.world import World as PolicyWorld
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.text import replacement
from tests.support.netns import World
from tests.support.probes import Attempt

COUNT = 300
PROTOCOLS = {"tcp": 6, "udp": 17}
PODS = {"a": ("10.1.0.1", "fd00:1::1"), "b": ("10.2.0.1", "fd00:2::1"), "c": ("10.2.0.130", "fd00:2::82")}


def _policy(number: int, peer: CidrPeer | PodPeer, ports: PortRange, action: Action = Action.ALLOW) -> Policy:
    ref = ObjectRef("CiliumNetworkPolicy", "x", f"p{number}")
    rule = Rule(Direction.INGRESS, 0, (peer,), (ports,), action)
    return Policy(ref, "x", PodPeer(), frozenset({Direction.INGRESS}), (rule,))


def _blocks(number: int) -> Policy:
    base = (ip_network("10.2.0.0/24"), ip_network("fd00:2::/64"))[number % 2]
    narrow = next(base.subnets(1)) if number % 3 else base
    return _policy(number, CidrPeer(narrow), PortRange((6, 17)[number % 5 == 0], 1000 + 7 * number, 1002 + 7 * number))


def _ranges(number: int) -> Policy:
    peer = PodPeer(Selector.equals({"app": "bc"[number % 2]}))
    action = Action.DENY if number % 11 == 0 else Action.ALLOW
    return _policy(number, peer, PortRange((6, 17)[number % 5 == 0], 1000 + 20 * number, 1075 + 20 * number), action)


@pytest.mark.parametrize("make", [_blocks, _ranges])
def test_kernel_agrees_with_the_evaluator_about_hundreds_of_ranges(make):
    policies = PolicyWorld("east", pods={"x/a": LocalPod("x", "a", "", {}, PODS["a"])})
    for number, name in enumerate("bc"):
        policies.identities[0x20100 + number] = Identity(0x20100 + number, "west", "x", {"app": name}, {})
        for ip in PODS[name]:
            policies.endpoints[ip] = Endpoint("west", ip, 0x20100 + number, "x", name)
    policies.policies = {one.ref: one for one in map(make, range(COUNT))}
    expected = {}
    for name in "bc":
        for version in (4, 6):
            for protocol, number in PROTOCOLS.items():
                for port in (999, 1000, 1002, 1007, 1020, 1021, 1036, 1037, 1064, 1300, 2404, 3092, 3093, 3095):
                    source, target = (PODS[one][version == 6] for one in (name, "a"))
                    allowed = evaluate(policies, Flow(source, target, number, port)).allowed
                    expected[Attempt(name, "a", protocol, port, version)] = allowed
    assert 10 < sum(expected.values()) < len(expected) - 10
    with World(PODS) as world:
        world.nft(replacement(Compiler(policies).table.whole()))
        world.expect(expected)
