"""Every case of the collected Cilium vectors and truth tables, by the compiled ruleset: packets and replies."""

import pytest

from isthmus.model.flow import Flow
from isthmus.policy.world import World
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, passes
from tests.support.cilium_cases import OURS, Case, cases
from tests.support.cilium_truths import TRUTHS

CASES = [*cases("vectors", "quirkVectors"), *TRUTHS]


def packets(world: World, flow: Flow) -> list[Packet]:
    """Returns what a node sees of a connection: its packets, and the replies.

    Where the node itself opened it, the replies come back to the node and are not judged: what it sends is.
    """
    opened, reached = (ip in world.node_addresses for ip in (flow.source, flow.destination))
    forward = Packet(flow, from_node=opened, to_node=reached)
    return [forward] if opened else [forward, Packet(flow, reply=True, from_node=reached)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled_ruleset_agrees_in_both_directions(case: Case):
    nodes = [(Compiler(world).table, world) for world in case.worlds().values()]
    for family in (4, 6):
        for expected in case.flows(family):
            allowed = OURS.get((str(case), expected.name), expected.allowed)
            seen = [
                [passes(table, packet) for (table, _), packet in zip(nodes, each, strict=True)]
                for each in zip(*(packets(world, expected.flow) for _, world in nodes), strict=True)
            ]

            assert [all(found) for found in seen] == [allowed] * len(seen), (expected.name, seen)
