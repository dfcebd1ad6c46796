"""Gates that would hold too much: shut by counting, told with whose share is the largest, and opened when they fit."""

import pytest

from isthmus.model.endpoint import Endpoint, NamedPort
from isthmus.model.flow import Flow
from isthmus.model.identity import Identity
from isthmus.model.selector import Selector
from isthmus.policy.evaluate import evaluate
from isthmus.policy.rules import Direction, ObjectRef, PodPeer, Policy, PortName, PortRange, Rule
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, passes
from isthmus.ruleset.table import Table
from tests.support.fake_table import apply

MINE, OTHERS, PEER = "10.1.0.1", "10.1.0.2", "10.2.0.0"


def policy(name, *ports, app="web", of="a", direction=Direction.INGRESS):
    rule = Rule(direction, 0, (PodPeer(Selector.equals({"app": app})),), ports)
    subject = PodPeer(Selector.equals({"of": of}))
    return Policy(ObjectRef("NetworkPolicy", "x", name), "x", subject, frozenset([direction]), (rule,))


def tcp(*numbers):
    return tuple(PortRange(6, number, number) for number in numbers)


def peer(number, *ports):
    named = tuple(NamedPort(f"p{port}", port, "TCP") for port in ports)
    identity = Identity(0x20100 + number, "east", "x", {"app": "web"}, {})
    return identity, Endpoint("east", f"10.2.0.{number}", identity.number, "x", f"w{number}", named_ports=named)


def put(compiler, number, *ports):
    identity, endpoint = peer(number, *ports)
    compiler.put_identity(identity)
    compiler.put_endpoint(endpoint)


@pytest.fixture
def compiler() -> Compiler:
    """A node with a pod of two policies, and another of one; each gate may hold ten elements."""
    world = World("east")
    for name, ip in (("a", MINE), ("b", OTHERS)):
        world.pods[f"x/{name}"] = LocalPod("x", name, name, {"of": name}, (ip,))
    compiler = Compiler(world, most_elements=10)
    made = policy("few", *tcp(80)), policy("many", *tcp(1, 2, 3, 4)), policy("other", *tcp(80), of="b")
    compiler.change_policies(put=made)
    for number in range(2):
        put(compiler, number)
    return compiler


def passed(compiler, target, port=80):
    flow = Flow(PEER, target, 6, port)
    allowed = passes(compiler.table, Packet(flow))
    assert allowed <= evaluate(compiler.world, flow).allowed
    return allowed


def test_a_gate_that_grows_past_the_bound_is_shut_and_no_other_until_it_fits_again(compiler):
    kernel = Table()
    assert passed(compiler, MINE) and compiler.too_large == {}
    apply(kernel, compiler.table.take_delta())

    put(compiler, 2)
    assert (passed(compiler, MINE), passed(compiler, OTHERS)) == (False, True)
    assert list(compiler.too_large.values()) == [15]
    apply(kernel, compiler.table.take_delta())
    assert kernel == compiler.table

    compiler.drop_identity(0x20102)
    assert passed(compiler, MINE) and compiler.too_large == {}
    apply(kernel, compiler.table.take_delta())
    assert kernel == compiler.table


def test_a_gate_opens_when_its_policies_need_less(compiler):
    put(compiler, 2)
    compiler.put_policy(policy("many", *tcp(1, 2)))

    assert passed(compiler, MINE, 2) and compiler.too_large == {}


def test_what_is_too_large_is_told_with_both_numbers_and_the_largest_share_first(compiler):
    for number in range(2, 5):
        put(compiler, number)
    (gate,) = compiler.too_large
    oversize = compiler.oversize(gate)

    assert [(ref.name, share) for ref, share in oversize.shares] == [("many", 20), ("few", 5)]
    assert str(oversize) == (
        "needs 25 set elements with the other policies of its pods; "
        "a node holds at most 10 of a set of policies (NetworkPolicy x/many: 20, NetworkPolicy x/few: 5)"
    )


def test_ports_by_name_count_as_what_addresses_call_them(compiler):
    compiler.put_policy(policy("names", *(PortName(6, f"p{n}") for n in range(12)), of="b", direction=Direction.EGRESS))
    flow = Flow(OTHERS, PEER, 6, 3)
    put(compiler, 0, 3)
    assert passes(compiler.table, Packet(flow))

    put(compiler, 1, *range(10))
    assert not passes(compiler.table, Packet(flow))
    assert list(compiler.too_large.values()) == [11]

    compiler.drop_endpoint("10.2.0.1")
    assert passes(compiler.table, Packet(flow))


def test_opening_a_refused_gate_does_not_open_one_that_is_too_large(compiler):
    put(compiler, 2)
    (gate,) = compiler.too_large
    compiler.shut_gate(gate)
    compiler.open_gate(gate)
    assert not passed(compiler, MINE)

    compiler.shut_gate(gate)
    compiler.drop_identity(0x20102)
    assert not passed(compiler, MINE)
    compiler.open_gate(gate)
    assert passed(compiler, MINE)


def test_a_gate_that_is_too_large_is_not_filled(monkeypatch):
    filled = []
    fill = Table.fill
    monkeypatch.setattr(Table, "fill", lambda table, name, keys: (filled.append(name), fill(table, name, keys)))
    world = World("east", pods={"x/a": LocalPod("x", "a", "a", {"of": "a"}, (MINE,))})
    for number in range(100):
        identity = peer(number)[0]
        world.identities[identity.number] = identity
    made = policy("large", *tcp(*range(1, 3001, 2)))
    world.policies = {made.ref: made}

    assert list(Compiler(world, most_elements=100_000).too_large.values()) == [150_000]
    assert filled == []
    assert Compiler(world, most_elements=150_000).too_large == {}
    assert len(filled) == 1500


def test_sets_that_are_new_for_a_chain_that_was_there_are_a_transaction_before_it(compiler):
    put(compiler, 2)
    compiler.table.take_delta()
    compiler.drop_identity(0x20102)
    first, rest = compiler.table.take_delta().steps

    assert {spec.name for spec in first.new_sets} and first.changes and not first.changed_chains
    assert rest.changed_chains and not rest.new_sets
