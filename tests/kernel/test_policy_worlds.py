"""Random worlds in the kernel: what gets through is what the evaluator allows, also after changes.

Each world follows from its seed, which is in the name of the test. ISTHMUS_RANDOM_WORLDS=2000 plays more of them.
"""

import os
from collections.abc import Callable
from random import Random

import pytest

from isthmus.model.flow import Flow
from isthmus.model.identity import HOST
from isthmus.policy.evaluate import evaluate
from isthmus.policy.world import World
from isthmus.ruleset.compiler import Compiler
from tests.support import worlds as w
from tests.support.fabric import Fabric

SEEDS = range(int(os.environ.get("ISTHMUS_RANDOM_WORLDS", "50")))
FLOWS = 40
ROUNDS = 3
NODE = "east/n1"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernel_lets_through_what_the_evaluator_allows(fabric: Fabric, seed: int):
    rng = Random(seed)
    compiler = Compiler(w.world(rng), keep_live=seed % 5 == 0)  # every flow here is a new one
    flows = [w.flow(rng) for _ in range(FLOWS)]
    fabric.play({NODE: compiler.world}, _judged(compiler.world, flows), compiler=lambda _: compiler)
    for _ in range(ROUNDS):
        for change in rng.choices(CHANGES, k=rng.randint(1, 5)):
            change(compiler, rng)
        fabric.nodes[NODE].push(compiler.table)
        fabric.expect(_judged(compiler.world, flows))


def _judged(world: World, flows: list[Flow]) -> dict[Flow, bool]:
    return {flow: evaluate(world, flow).allowed for flow in flows}


PLACES = (*w.LOCAL_IPS, *w.REMOTE_IPS, *w.OUTSIDE_IPS)
CHANGES: list[Callable[[Compiler, Random], None]] = [
    lambda compiler, rng: compiler.change_policies(put=w.objects(rng)),
    lambda compiler, rng: compiler.change_policies(put=w.objects(rng), drop=[w.policy(rng).ref]),
    lambda compiler, rng: compiler.change_policies(drop=[rng.choice([w.policy(rng).ref, *compiler.world.policies])]),
    lambda compiler, rng: compiler.put_pod(w.local_pod(rng, rng.randrange(3))),
    lambda compiler, rng: compiler.drop_pod(w.local_pod(rng, rng.randrange(3)).key),
    lambda compiler, rng: compiler.put_identity(w.identity(rng, rng.choice(w.NUMBERS))),
    lambda compiler, rng: compiler.put_identity(w.node(rng, rng.choice((HOST, *w.NODE_NUMBERS)))),
    lambda compiler, rng: compiler.drop_identity(rng.choice((*w.NUMBERS, *w.NODE_NUMBERS, HOST))),
    lambda compiler, rng: compiler.put_endpoint(w.endpoint(rng, rng.choice((*w.LOCAL_IPS, *w.REMOTE_IPS)))),
    lambda compiler, rng: compiler.drop_endpoint(rng.choice(PLACES)),
    lambda compiler, rng: compiler.put_node_address(rng.choice(w.OUTSIDE_IPS), w.node_number(rng)),
    lambda compiler, rng: compiler.drop_node_address(rng.choice(PLACES)),
    lambda compiler, rng: compiler.learn(rng.choice(PLACES), w.names(rng)),
    lambda compiler, rng: compiler.learn(rng.choice(PLACES), ()),
]
