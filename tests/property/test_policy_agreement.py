"""Evaluator, interpreter of the compiled ruleset, and incremental compiler must agree on random worlds."""

from collections import Counter
from random import Random

import msgspec
from hypothesis import given, note, settings
from hypothesis import strategies as st

from isthmus.policy.evaluate import Reason, evaluate
from isthmus.policy.gate import build
from isthmus.policy.rules import Direction, PortName, Tier
from isthmus.policy.world import World
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, passes
from isthmus.ruleset.sets import Jump
from isthmus.ruleset.table import Table
from isthmus.ruleset.text import script
from tests.support import worlds as w
from tests.support.fake_table import apply


def test_every_kind_of_rule_decides_something_in_the_random_worlds():
    decided: Counter[str] = Counter()
    for seed in range(300):
        rng = Random(seed)
        world = w.world(rng)
        for flow in (w.flow(rng) for _ in range(30)):
            for half in evaluate(world, flow).halves:
                decided["allowed" if half.allowed else "denied"] += 1
                rule = half.rule
                if rule is None:
                    continue
                decided.update({f"peer {type(peer).__name__}" for peer in rule.peers or ()} or {"anyone"})
                decided.update({f"port {_kind(port)}" for port in rule.ports or ()} or {"any port"})

    kinds = ("anyone", "peer PodPeer", "peer CidrPeer", "any port")
    kinds += tuple(f"port {kind}" for kind in ("whole", "single", "range", "name"))
    assert all(decided[kind] >= 40 for kind in kinds), decided
    assert min(decided["allowed"], decided["denied"]) > 1000, decided


def _kind(port):
    if isinstance(port, PortName):
        return "name"
    return "whole" if port.whole else "single" if port.first == port.last else "range"


@settings(max_examples=200, deadline=None)
@given(w.worlds(), w.many_flows())
def test_interpreter_agrees_with_evaluator_for_packets_of_both_directions(world: World, flows):
    table = Compiler(world).table
    for flow in flows:
        verdict = evaluate(world, flow)
        own = not w.NODE_ADDRESSES.isdisjoint((flow.source, flow.destination))
        unknown = any(half.reason is Reason.UNKNOWN for half in verdict.halves)
        for reply in (False,) if unknown else (False, True):  # what cannot be opened has no replies
            packet = Packet(flow, reply=reply, from_node=own, client_port=w.PORTS[flow.port % len(w.PORTS)])
            note(f"{flow} reply={reply}: {verdict}")
            assert passes(table, packet) is verdict.allowed


@settings(max_examples=80, deadline=None)
@given(w.worlds(), w.flows())
def test_a_packet_of_no_connection_passes_a_gate_only_where_anyone_may(world: World, flow):
    compiler = Compiler(world)
    passed = passes(compiler.table, Packet(flow, tracked=False))
    for direction, mine in ((Direction.EGRESS, flow.source), (Direction.INGRESS, flow.destination)):
        pod = world.pod_at(mine)
        gate = pod and build(direction, world.concerning(pod, direction, Tier.NORMAL), named_ports=pod.named_ports)
        if gate and gate.policies and all(opening.peer is not None for opening in gate.openings):
            assert not passed


_rivals = st.builds(
    lambda pod, ips, standing: msgspec.structs.replace(pod, ips=ips, standing=standing),
    st.integers(0, 2).flatmap(w.local_pods),
    st.sampled_from([w.LOCAL_IPS[:2], w.LOCAL_IPS[1:4], w.LOCAL_IPS]),
    st.tuples(st.booleans(), st.booleans(), st.sampled_from(["1", "2"])),
)

_steps = st.one_of(
    w.policies().map(lambda p: ("put_policy", p)),
    w.policies().map(lambda p: ("drop_policy", p.ref)),
    st.integers(0, 2).flatmap(w.local_pods).map(lambda p: ("put_pod", p)),
    _rivals.map(lambda p: ("put_pod", p)),
    st.integers(0, 2).flatmap(w.local_pods).map(lambda p: ("drop_pod", p.key)),
    st.sampled_from(w.NUMBERS).flatmap(w.identities).map(lambda i: ("put_identity", i)),
    st.sampled_from(w.NUMBERS).map(lambda n: ("drop_identity", n)),
    st.sampled_from((*w.LOCAL_IPS, *w.REMOTE_IPS)).flatmap(w.endpoints).map(lambda e: ("put_endpoint", e)),
    st.sampled_from((*w.LOCAL_IPS, *w.REMOTE_IPS)).map(lambda ip: ("drop_endpoint", ip)),
)


@settings(max_examples=80, deadline=None)
@given(w.worlds(), st.lists(_steps, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_incremental_result_equals_full_recompute_and_deltas_lead_from_one_to_the_next(world: World, steps, rng):
    compiler = Compiler(world)
    kernel = Table()
    apply(kernel, compiler.table.take_delta())
    for name, argument in steps:
        getattr(compiler, name)(argument)
        if rng.random() < 0.6:  # otherwise several changes become one transaction
            delta = compiler.table.take_delta()
            script(delta)
            apply(kernel, delta)
            assert kernel == compiler.table
    apply(kernel, compiler.table.take_delta())

    assert kernel == compiler.table
    assert Compiler(compiler.world).table == compiler.table


@settings(max_examples=80, deadline=None)
@given(w.worlds(), st.lists(_steps, max_size=8), w.flows(), st.randoms(use_true_random=False))
def test_a_shut_gate_lets_nobody_through_whatever_changes_meanwhile_and_leaves_no_trace(world: World, steps, flow, rng):
    compiler = Compiler(world)
    kernel = Table()
    for name, argument in [*steps, ("drop_endpoint", "192.0.2.1")]:
        for gate in list(compiler.gates):
            (compiler.shut_gate if rng.random() < 0.5 else compiler.open_gate)(gate)
        getattr(compiler, name)(argument)
        apply(kernel, compiler.table.take_delta())
        assert kernel == compiler.table
    halves = {
        direction: compiler.table.elements[name].get((mine,))
        for direction, mine, name in (("in", flow.destination, "ingress4"), ("eg", flow.source, "egress4"))
    }
    if any(isinstance(jump, Jump) and jump.chain in compiler.shut for jump in halves.values()):
        assert flow.source == flow.destination or not passes(compiler.table, Packet(flow))
    for gate in compiler.shut:
        compiler.open_gate(gate)

    assert Compiler(compiler.world).table == compiler.table
    for key in list(compiler.world.pods):
        compiler.drop_pod(key)
    for number in list(compiler.world.identities):
        compiler.drop_identity(number)
    assert not compiler.gates
    assert not any((compiler._gate_of, compiler._matches, compiler._told, compiler._claims))
    assert not any((compiler._peers, compiler._identities))
