"""Gates as chains: what a packet runs through, stage by stage, and what stays flat however many policies there are."""

from ipaddress import ip_network
from random import Random
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.endpoint import Endpoint
from isthmus.model.flow import Flow
from isthmus.model.identity import Identity
from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.evaluate import evaluate
from isthmus.policy.gate import build, closed, piece
from isthmus.policy.names import NamePattern
from isthmus.policy.rules import (
    Action,
    CidrPeer,
    Direction,
    EndpointPeer,
    IcmpType,
    NamePeer,
    ObjectRef,
    PodPeer,
    Policy,
    PortRange,
    Rule,
    Tier,
)
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset import networks
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, passes
from isthmus.ruleset.stages import lay_out
from isthmus.ruleset.text import rule_text

IN, OUT = Direction.INGRESS, Direction.EGRESS
WEB = PodPeer(Selector.equals({"app": "web"}))
HTTP = PortRange(6, 80, 80)
KINDS = {Tier.ADMIN: "ClusterNetworkPolicy", Tier.NORMAL: "CiliumNetworkPolicy", Tier.BASELINE: "ClusterNetworkPolicy"}


def rule(action=Action.ALLOW, peers=None, ports=None, direction=IN):
    return Rule(direction, 0, peers, ports, action)


def policy(*rules, tier=Tier.NORMAL, isolates=(), name="p", priority=0, kind=""):
    ref = ObjectRef(kind or KINDS[tier], "x" if tier is Tier.NORMAL else "", name)
    return Policy(ref, ref.namespace, PodPeer(), frozenset(isolates), rules, tier=tier, priority=priority)


def gate(*policies, direction=IN):
    return build(direction, [piece(one, direction) for one in policies])


def text(of, *, direction=IN):
    """Returns the rules of a gate, chain by chain, with the name of the gate as `G`."""
    layout = lay_out(of)
    return {
        chain.name.replace(of.name, "G"): [rule_text(one).replace(of.name, "G") for one in chain.rules]
        for chain in layout.chains
    }


def test_a_gate_of_network_policies_alone_is_one_chain_that_knows_no_nodes():
    chains = text(gate(policy(rule(peers=(WEB,), ports=(HTTP,)), isolates=[IN], kind="NetworkPolicy")))

    assert list(chains) == ["G_rules", "G"]
    assert chains["G"] == ["jump peer_is_source", "jump G_rules", "meta priority set none"]
    assert chains["G_rules"] == [
        "ct direction original meta priority . meta l4proto . th dport @G_port return",
        "ct direction reply meta priority . meta l4proto . th sport @G_port return",
        "ct original ip saddr . ct reply ip saddr @self4 return",
        "ct original ip6 saddr . ct reply ip6 saddr @self6 return",
        "iif 0 fib saddr type local return",
        "ct state related meta l4proto { 1, 58 } return",
        'counter drop comment "x/p"',
    ]


def test_every_tier_is_a_chain_and_every_run_of_one_action_a_segment():
    admin = policy(
        rule(Action.DENY, (WEB,), (HTTP,)),
        rule(Action.DENY, (PodPeer(),), (PortRange(17),)),
        rule(Action.PASS, (WEB,)),
        tier=Tier.ADMIN,
    )
    baseline = policy(rule(Action.DENY), tier=Tier.BASELINE, name="b")
    chains = text(gate(admin, policy(rule(Action.DENY, (WEB,), (PortRange(6, 22, 22),))), baseline))

    assert list(chains) == ["G_admin", "G_rules", "G_baseline", "G_denied", "G_refused", "G"]
    assert chains["G"] == [
        "ct state invalid,untracked goto G_denied",
        "jump anyone_is_source",
        "jump G_admin",
        "meta priority set none",
    ]
    assert chains["G_admin"] == [
        "meta priority 0:1 goto G_rules",
        "ct direction original meta priority . meta l4proto . th dport @G_0_port goto G_denied",
        "ct direction reply meta priority . meta l4proto . th sport @G_0_port goto G_denied",
        "meta priority . meta l4proto @G_0_proto goto G_denied",
        "meta priority @G_1_any goto G_rules",
        "goto G_rules",
    ]
    assert chains["G_rules"][-1] == "goto G_baseline"
    assert chains["G_baseline"] == ["meta priority 0:1 return", "goto G_denied"]
    assert chains["G_denied"][1] == "ct original ip saddr . ct reply ip saddr @self4 ct status ! dnat return"
    assert chains["G_refused"][1] == "ct original ip saddr . ct reply ip saddr @self4 goto G_baseline"


def test_what_the_normal_tier_isolates_never_gets_to_baseline():
    baseline = policy(rule(Action.DENY), tier=Tier.BASELINE, name="b")
    made = gate(baseline, policy(rule(peers=(WEB,)), isolates=[IN]))

    assert made.baseline == ()
    assert not made.denies


def test_what_comes_after_a_match_of_everything_is_left_out():
    made = gate(policy(rule(), rule(Action.DENY, (WEB,)), tier=Tier.ADMIN))

    assert [segment.action for segment in made.admin] == [Action.ALLOW]
    assert made.open


@pytest.mark.parametrize(
    ("kind", "rules", "judged"),
    [
        ("NetworkPolicy", (rule(peers=(WEB,), direction=OUT),), False),
        ("CiliumNetworkPolicy", (rule(peers=(WEB,), direction=OUT),), True),
        ("NetworkPolicy", (rule(Action.DENY, (WEB,), direction=OUT),), True),
    ],
)
def test_only_gates_that_could_deny_the_own_node_have_a_way_in_from_the_input_hook(kind, rules, judged):
    made = gate(policy(*rules, isolates=[OUT], kind=kind), direction=OUT)

    assert made.judges_node is judged
    assert ("G_node" in text(made)) is judged
    assert ("G_node" in text(closed(made))) is judged


def test_types_of_icmp_names_and_the_world_are_rules_that_say_so():
    peers = (CidrPeer(ip_network("10.0.0.0/8"), outside=True), NamePeer((NamePattern("example.org"),)))
    echo = IcmpType(1, 8)
    made = gate(policy(rule(peers=peers, ports=(echo,), direction=OUT), isolates=[OUT]), direction=OUT)
    rules = text(made)["G_rules"]

    kind = "meta l4proto 1 ct original proto-dst 2048-2303 return"
    assert rules[0] == f"meta priority {{ 0:2, 0:7 }} ct reply ip saddr 10.0.0.0/8 {kind}"
    assert rules[1] == f"meta priority {{ 0:2, 0:7 }} ct reply ip saddr @G_dns0_4 {kind}"


def test_the_name_of_a_gate_follows_from_what_decides_and_not_from_remarks():
    one = policy(rule(peers=(WEB,)), isolates=[IN])
    same = policy(Rule(IN, 7, (WEB,), field="spec.ingress[7]", name="remark"), isolates=[IN])
    other = policy(rule(peers=(WEB,)), isolates=[IN, OUT])

    assert gate(one).name == gate(same).name == gate(other).name
    assert gate(one).name != gate(policy(rule(peers=(WEB,), ports=(HTTP,)), isolates=[IN])).name
    assert gate(one).name != gate(policy(rule(peers=(WEB,)))).name


# -- a thousand policies -----------------------------------------------------------------------------------------


def _blocks(count):
    for number in range(count):
        block = CidrPeer(ip_network(f"10.{number >> 8}.{number & 255}.0/{24 - number % 8}", strict=False))
        yield policy(
            rule(peers=(block,), ports=(PortRange(6, number + 1, number + 1),)), isolates=[IN], name=f"p{number}"
        )


def _ranges(count):
    for number in range(count):
        peer = PodPeer(Selector.equals({"app": f"a{number}"}))
        yield policy(
            rule(peers=(peer,), ports=(PortRange(6, 100 + number, 1100 + number),)), isolates=[IN], name=f"p{number}"
        )


@pytest.mark.parametrize("many", [_blocks, _ranges])
def test_the_rules_of_a_thousand_policies_are_as_few_as_those_of_a_hundred(many):
    sizes = [sum(len(chain.rules) for chain in lay_out(gate(*many(count))).chains) for count in (100, 1000)]

    assert sizes[1] == sizes[0] < 40


def test_blocks_with_too_many_ports_for_one_look_up_are_a_rule_for_each_group_of_them():
    ports = [tuple(PortRange(6, 1 + group + 100 * n, 1 + group + 100 * n) for n in range(200)) for group in range(10)]
    blocks = [CidrPeer(ip_network(f"10.0.{number}.0/24")) for number in range(200)]
    rules = [rule(peers=(block,), ports=ports[number % 10]) for number, block in enumerate(blocks)]
    made = lay_out(gate(*(policy(one, isolates=[IN], name=f"p{n}") for n, one in enumerate(rules))))

    assert 200 * 200 > networks.MOST_BOXES
    assert sum(len(chain.rules) for chain in made.chains) < 40


def _world(*policies, pods=0):
    world = World("east")
    world.pods["x/a"] = LocalPod("x", "a", "a", {}, ("10.1.0.1",))
    for number in range(pods):
        identity = Identity(0x10100 + number, "east", "x", {"app": f"a{number}"}, {})
        world.identities[identity.number] = identity
        ip = f"10.2.0.{number}"
        world.endpoints[ip] = Endpoint("east", ip, identity.number, "x", f"a{number}")
    world.policies = {one.ref: one for one in policies}
    return world


@given(st.integers(0, 2**32))
def test_many_blocks_and_ports_mean_what_each_of_them_does(seed):
    rng = Random(seed)
    policies = []
    for number in range(rng.randint(5, 12)):
        hole = ip_network(f"10.0.{rng.randrange(4)}.{rng.randrange(4)}/32")
        block = ip_network(f"10.0.{rng.randrange(4)}.0/{rng.choice((16, 22, 24, 30))}", strict=False)
        holes = (hole,) if hole.subnet_of(block) else ()
        first = rng.randrange(1, 20)
        ports = rng.choice([(PortRange(6, first, first + rng.randrange(9)), PortRange(17)), None, (IcmpType(1, 8),)])
        peer = CidrPeer(block, holes, outside=rng.random() < 0.5)
        policies.append(policy(rule(peers=(peer,), ports=ports), isolates=[IN], name=f"p{number}"))
    with mock.patch.object(networks, "MOST_BOXES", rng.choice((3, networks.MOST_BOXES))):
        _agree(_world(*policies), rng, lambda: f"10.0.{rng.randrange(5)}.{rng.randrange(5)}", lambda: rng.randrange(30))


@given(st.integers(0, 2**32))
def test_many_ranges_of_ports_mean_what_each_of_them_does(seed):
    rng = Random(seed)
    policies, edges = [], [1, 65535]
    for number in range(rng.randint(9, 14)):
        first = rng.randrange(0, 60_000)
        last = min(65535, first + rng.choice((16, 17, 63, 1000, 40_000)))
        edges += [max(0, first - 1), first, last, min(65535, last + 1)]
        peer = EndpointPeer(Selector.of(Term("app", Operator.IN, (f"a{number % 3}",))))
        action = Action.DENY if rng.random() < 0.2 else Action.ALLOW
        policies.append(policy(rule(action, (peer,), (PortRange(6, first, last),)), isolates=[IN], name=f"p{number}"))
    _agree(_world(*policies, pods=4), rng, lambda: f"10.2.0.{rng.randrange(4)}", lambda: rng.choice(edges))


def _agree(world, rng, source, port):
    table = Compiler(world).table
    for _ in range(30):
        flow = Flow(source(), "10.1.0.1", rng.choice((6, 6, 17, 1)), port())
        for reply in (False, True):
            allowed = evaluate(world, flow).allowed
            assert passes(table, Packet(flow, reply=reply, client_port=7)) is allowed, (flow, reply)
