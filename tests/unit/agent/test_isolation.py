"""Gates in stages that the kernel refuses are shut whole: every tier, and the way to the node."""

import pytest

from isthmus.agent.isolation import Isolation
from isthmus.kernel.errors import KernelError, NftError
from isthmus.model.flow import Flow
from isthmus.policy.rules import Action, Direction, ObjectRef, PodPeer, Policy, PortRange, Rule, Tier
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, passes
from isthmus.ruleset.text import replacement, script
from tests.support.agent_writer import FakeWriter

A, B, OUTSIDE, NODE = "10.1.0.1", "10.1.0.2", "198.51.100.7", "172.18.0.2"
POISON = 6666


class Picky(FakeWriter):
    """Refuses rules about the port POISON, as nft does: it names the line."""

    async def replace(self, whole):
        self._look(replacement(whole))
        await super().replace(whole)

    async def apply(self, delta):
        for step in delta.steps:
            self._look(script(step))
        await super().apply(delta)

    def _look(self, text: str) -> None:
        for line in text.splitlines():
            if f"dport {POISON}" in line:
                raise NftError(f"nft: Could not process rule: Operation not supported: {line}", source=line)


def _policy(name: str, tier: Tier, *rules: Rule, isolates: tuple[Direction, ...] = ()) -> Policy:
    kind, namespace = ("CiliumNetworkPolicy", "x") if tier is Tier.NORMAL else ("ClusterNetworkPolicy", "")
    return Policy(ObjectRef(kind, namespace, name), namespace, PodPeer(), frozenset(isolates), rules, tier=tier)


def _egress(action: Action, port: int) -> Rule:
    return Rule(Direction.EGRESS, 0, None, (PortRange(6, port, port),), action)


@pytest.fixture
def compiler() -> Compiler:
    pods = [LocalPod(namespace, "pod", namespace, {}, (ip,)) for namespace, ip in (("x", A), ("y", B))]
    made = Compiler(World("east", pods={pod.key: pod for pod in pods}, node_addresses=frozenset({NODE})))
    made.put_policy(_policy("p", Tier.NORMAL, _egress(Action.ALLOW, 80), isolates=(Direction.EGRESS,)))
    return made


def _reaches(compiler: Compiler, source: str, destination: str, port: int) -> bool:
    return passes(compiler.table, Packet(Flow(source, destination, 6, port), to_node=destination == NODE))


@pytest.mark.parametrize("tier", [Tier.ADMIN, Tier.NORMAL])
async def test_a_refused_tier_shuts_all_of_its_gate_and_no_other(compiler: Compiler, tier: Tier):
    writer = Picky()
    isolation = Isolation(compiler, writer)
    poison = _policy("poison", tier, _egress(Action.DENY, POISON))
    compiler.put_policy(poison)

    with pytest.raises(KernelError) as refused:
        await writer.replace(compiler.table.whole())
    await isolation.replace(refused.value, everything=False)

    assert _reaches(compiler, B, OUTSIDE, 81) is (tier is Tier.NORMAL), "an admin's policy is in every gate"
    assert not _reaches(compiler, A, OUTSIDE, 80)
    assert not _reaches(compiler, A, NODE, 80)
    assert _reaches(compiler, OUTSIDE, A, 80)
    assert {gate.direction for gate in compiler.shut.values()} == {Direction.EGRESS}
    assert all("not supported" in reason for reason in isolation.reasons.values())
    assert writer.kernel.elements["egress4"].keys() == compiler.table.elements["egress4"].keys()

    compiler.drop_policy(poison.ref)
    await writer.apply(compiler.table.take_delta())
    assert compiler.shut == {}
    assert _reaches(compiler, A, OUTSIDE, 80)
    assert not _reaches(compiler, A, OUTSIDE, 81)
    assert not _reaches(compiler, A, NODE, 81)
