"""Random worlds in the kernel: what gets through is what the evaluator allows, also after changes.

Each world follows from its seed, which is in the name of the test. ISTHMUS_RANDOM_WORLDS=2000 plays more of them.
"""

import os
from random import Random

import msgspec
import pytest

from isthmus.model.flow import Flow, Protocol
from isthmus.policy.evaluate import evaluate
from isthmus.ruleset.compiler import Compiler
from tests.support import worlds as w
from tests.support.fabric import Fabric

SEEDS = range(int(os.environ.get("ISTHMUS_RANDOM_WORLDS", "60")))
FLOWS = 40
NODE = "east/n1"
OPENING = {Protocol.ICMP: (8, 13, 15, 17), Protocol.ICMPV6: (128, 139)}
"""The messages with which conntrack lets an exchange begin; others belong to one, or are none of its business."""


@pytest.fixture(scope="module")
def fabric():
    with Fabric() as fabric:
        yield fabric


def _flow(rng: Random) -> Flow:
    flow = w.flow(rng)
    types = OPENING.get(Protocol(flow.protocol), ())
    return msgspec.structs.replace(flow, port=rng.choice((types[0], *types))) if types else flow


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernel_lets_through_what_the_evaluator_allows(fabric: Fabric, seed: int):
    rng = Random(seed)
    compiler = Compiler(w.world(rng))
    world = compiler.world
    flows = list(dict.fromkeys(_flow(rng) for _ in range(FLOWS)))
    fabric.play({NODE: world}, {flow: evaluate(world, flow).allowed for flow in flows}, compiler=lambda _: compiler)

    for policy in (w.policy(rng) for _ in range(rng.randint(0, 2))):
        compiler.put_policy(policy)
    number = rng.choice(w.NUMBERS)
    compiler.put_identity(w.identity(rng, number))
    compiler.put_endpoint(w.endpoint(rng, rng.choice(w.REMOTE_IPS)))
    fabric.nodes[NODE].push(compiler.table)
    fabric.expect({flow: evaluate(world, flow).allowed for flow in flows})
