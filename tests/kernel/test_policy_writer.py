"""What the agent's writer does with gates: hooks that come and go, and gates of thousands of elements."""

from collections.abc import Iterator

import pytest

from isthmus.kernel.elements import ElementWriter
from isthmus.model.identity import Identity
from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.rules import Action, Direction, EndpointPeer, ObjectRef, PodPeer, Policy, PortRange, Rule
from isthmus.policy.world import LocalPod
from isthmus.policy.world import World as PolicyWorld
from isthmus.ruleset.compiler import Compiler
from tests.support.netns import World
from tests.support.probes import Attempt
from tests.support.service_node import writer_in

A, B = "10.244.0.10", "10.244.0.11"
NODE = EndpointPeer(Selector.of(Term("reserved:host", Operator.EXISTS)))


@pytest.fixture
def world() -> Iterator[World]:
    with World({"a": (A,), "b": (B,)}) as world:
        yield world


def _compiler(identities: int = 0) -> Compiler:
    policies = PolicyWorld("east", pods={"x/a": LocalPod("x", "a", "", {}, (A,))})
    for number in range(0x10100, 0x10100 + identities):
        policies.identities[number] = Identity(number, "east", "x", {"app": f"a{number % 10}"}, {})
    return Compiler(policies)


def _policy(*rules: Rule, isolates: tuple[Direction, ...] = (), name: str = "p") -> Policy:
    return Policy(ObjectRef("CiliumNetworkPolicy", "x", name), "x", PodPeer(), frozenset(isolates), rules)


async def test_the_input_hook_is_there_while_some_gate_judges_the_node_and_is_watched(world: World):
    compiler = _compiler()
    to_node = Attempt("a", "router")
    deny = Rule(Direction.EGRESS, 0, (NODE,), None, Action.DENY)
    async with writer_in(world) as writer:
        await writer.replace(compiler.table.whole())
        compiler.table.forget_journal()
        assert "hook input" not in world.nft("list table inet isthmus\n")
        world.expect({to_node: True})

        for _ in range(2):
            compiler.put_policy(_policy(deny))
            await writer.apply(compiler.table.take_delta())
            world.expect({to_node: False, Attempt("a", "b"): True, Attempt("router", "a"): True})
            assert await writer.intact()
            compiler.drop_policy(_policy().ref)
            await writer.apply(compiler.table.take_delta())
            assert "hook input" not in world.nft("list table inet isthmus\n")
            assert await writer.intact()

        compiler.put_policy(_policy(deny))
        await writer.apply(compiler.table.take_delta())
        world.nft("flush chain inet isthmus input\n")
        assert not await writer.intact()
        await writer.replace(compiler.table.whole())
        assert await writer.intact()
        world.expect({to_node: False})


async def test_a_gate_of_thousands_of_elements_is_filled_before_anything_leads_there(world: World):
    compiler = _compiler(identities=2000)
    async with writer_in(world) as writer:
        await writer.replace(compiler.table.whole())
        compiler.table.forget_journal()
        ports = tuple(PortRange(6, port, port) for port in range(80, 84))
        rule = Rule(Direction.INGRESS, 0, (PodPeer(),), ports)
        compiler.put_policy(_policy(rule, isolates=(Direction.INGRESS,)))
        delta = compiler.table.take_delta()
        await writer.apply(delta)

        (change,) = [change for change in delta.changes if change.spec.name.endswith("_port")]
        assert len(change.add) == 8000
        elements: ElementWriter = world.elements
        assert elements.read(change.spec) == dict(change.add)
        assert world.reach([Attempt("b", "a")]) == [False]
        assert await writer.intact()
