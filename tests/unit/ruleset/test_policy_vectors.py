"""Every policy case of the collected vectors, by the compiled ruleset."""

import pytest

from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, passes
from tests.support.cases import Case, load

CASES = [*load("network-policy.json"), *load("kubernetes-e2e-netpol.json")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled_ruleset_says_what_the_case_expects_in_both_directions(case: Case):
    for step in case.steps():
        nodes = {node: (Compiler(world).table, world) for node, world in step.worlds.items()}
        for probe in step.probes:
            for reply in (False, True):
                seen = {
                    node: passes(
                        table,
                        # What a node delivers to itself never meets the hook; what it sends comes from its own address.
                        Packet(
                            probe.flow,
                            reply=reply,
                            from_node=not world.node_addresses.isdisjoint((probe.flow.source, probe.flow.destination)),
                        ),
                    )
                    for node, (table, world) in nodes.items()
                }

                assert all(seen.values()) is probe.allowed, (probe.name, reply, seen)
