"""Every policy case of the collected vectors, by the compiled ruleset."""

import pytest

from isthmus.model.flow import Flow
from isthmus.policy.world import World
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, passes
from isthmus.ruleset.table import Table
from tests.support.cases import Case, load

CASES = [*load("network-policy.json"), *load("kubernetes-e2e-netpol.json")]


def gets_through(table: Table, world: World, flow: Flow, *, reply: bool) -> bool:
    """Tells whether a node lets a packet of the connection pass; replies that come to it itself are not judged."""
    opened, reached = (ip in world.node_addresses for ip in (flow.source, flow.destination))
    if opened and reply:
        return True
    return passes(
        table, Packet(flow, reply=reply, from_node=reached if reply else opened, to_node=reached and not reply)
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled_ruleset_says_what_the_case_expects_in_both_directions(case: Case):
    for step in case.steps():
        nodes = {node: (Compiler(world).table, world) for node, world in step.worlds.items()}
        for probe in step.probes:
            for reply in (False, True):
                seen = {
                    node: gets_through(table, world, probe.flow, reply=reply) for node, (table, world) in nodes.items()
                }

                assert all(seen.values()) is probe.allowed, (probe.name, reply, seen)
