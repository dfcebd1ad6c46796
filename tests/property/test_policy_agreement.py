"""Evaluator, interpreter of the compiled ruleset, and incremental compiler must agree on random worlds.

Every test draws a seed, which a failing example prints; `worlds.world(Random(seed))` is then the world.
"""

from collections import Counter
from random import Random

import msgspec
from hypothesis import given, note, settings
from hypothesis import strategies as st

from isthmus.model.identity import HOST
from isthmus.policy.evaluate import Reason, evaluate
from isthmus.policy.gate import build, piece
from isthmus.policy.rules import CidrPeer, Direction, EndpointPeer, IcmpType, PortName, Tier
from isthmus.policy.world import World
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, passes
from isthmus.ruleset.sets import Jump
from isthmus.ruleset.table import Table
from isthmus.ruleset.text import script
from tests.support import worlds as w
from tests.support.fake_table import apply

_seeds = st.integers(0, 2**48)


def test_every_kind_of_rule_decides_something_in_the_random_worlds():
    decided: Counter[str] = Counter()
    for seed in range(800):
        rng = Random(seed)
        world = w.world(rng)
        for flow in (w.flow(rng) for _ in range(30)):
            for half in evaluate(world, flow).halves:
                decided["allowed" if half.allowed else "denied"] += 1
                decided[half.reason.name] += 1
                decided["passed"] += bool(half.passed)
                if half.rule is None or half.policy is None:
                    continue
                decided[f"{half.policy.kind} {half.rule.action.value} {half.direction.value}"] += 1
                decided.update({_peer(peer) for peer in half.rule.peers or ()} or {"anyone"})
                decided.update({f"port {_port(port)}" for port in half.rule.ports or ()} or {"any port"})

    kinds = ["anyone", "any port", "passed", *(reason.name for reason in Reason)]
    kinds += [f"port {kind}" for kind in ("whole", "single", "range", "name", "type")]
    kinds += ["PodPeer", "NodePeer", "NamePeer", "CidrPeer", "CidrPeer outside", "EndpointPeer", "entity"]
    for direction in ("ingress", "egress"):
        kinds.append(f"NetworkPolicy Allow {direction}")
        for kind in ("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "BaselineAdminNetworkPolicy"):
            kinds += [f"{kind} Allow {direction}", f"{kind} Deny {direction}"]
        for kind in ("ClusterNetworkPolicy", "AdminNetworkPolicy"):
            kinds += [f"{kind} Allow {direction}", f"{kind} Deny {direction}"]
    assert {kind: decided[kind] for kind in kinds if decided[kind] < 20} == {}
    assert min(decided["allowed"], decided["denied"]) > 1000, decided


def _peer(peer):
    if isinstance(peer, CidrPeer) and peer.outside:
        return "CidrPeer outside"
    return "entity" if isinstance(peer, EndpointPeer) and peer.entity else type(peer).__name__


def _port(port):
    if isinstance(port, PortName):
        return "name"
    if isinstance(port, IcmpType):
        return "type"
    return "whole" if port.whole else "single" if port.first == port.last else "range"


@settings(max_examples=700, deadline=None)
@given(_seeds)
def test_interpreter_agrees_with_evaluator_for_packets_of_both_directions(seed: int):
    rng = Random(seed)
    world = w.world(rng)
    table = Compiler(world).table
    for flow in (w.flow(rng) for _ in range(30)):
        verdict = evaluate(world, flow)
        unknown = any(half.reason is Reason.UNKNOWN for half in verdict.halves)
        opening, reply = w.packets(flow)
        judged = [passes(table, packet) for packet in ((opening,) if unknown else (opening, reply))]
        note(f"{flow}: {verdict}")
        # What cannot be opened has no replies; what passes one hook only is judged there.
        assert judged[0] is verdict.allowed
        assert opening.to_node or reply.to_node or all(one is verdict.allowed for one in judged)


@settings(max_examples=100, deadline=None)
@given(_seeds)
def test_replies_of_the_own_node_are_judged_as_what_they_answer(seed: int):
    rng = Random(seed)
    world = w.world(rng)
    table = Compiler(world).table
    for _ in range(30):
        flow = msgspec.structs.replace(w.flow(rng), destination=rng.choice(sorted(w.NODE_ADDRESSES)))
        if (":" in flow.source) != (":" in flow.destination) or flow.source in w.NODE_ADDRESSES:
            continue
        allowed = evaluate(world, flow).allowed
        note(f"{flow}: {allowed}")
        assert [passes(table, packet) for packet in w.packets(flow)] == [allowed, allowed]


@settings(max_examples=100, deadline=None)
@given(_seeds)
def test_kept_connections_pass_unjudged_and_new_ones_are_judged(seed: int):
    rng = Random(seed)
    world = w.world(rng)
    table = Compiler(world, keep_live=True).table
    for flow in (w.flow(rng) for _ in range(20)):
        opening, reply = w.packets(flow)
        assert passes(table, opening) is evaluate(world, flow).allowed
        assert passes(table, reply)
        assert passes(table, msgspec.structs.replace(opening, later=True))


@settings(max_examples=80, deadline=None)
@given(_seeds)
def test_a_packet_of_no_connection_passes_no_gate_that_could_deny_it(seed: int):
    rng = Random(seed)
    world = w.world(rng)
    compiler = Compiler(world)
    for flow in (w.flow(rng) for _ in range(10)):
        passed = passes(compiler.table, Packet(flow, tracked=False))
        for direction, mine in ((Direction.EGRESS, flow.source), (Direction.INGRESS, flow.destination)):
            pod = world.pod_at(mine)
            policies = [one for tier in Tier for one in (world.concerning(pod, direction, tier) if pod else ())]
            gate = build(direction, [piece(one, direction, named_ports=pod.named_ports) for one in policies])
            anyone = any(_means_anyone(opening.peer) for one in gate.segments for opening in one.openings)
            if gate.denies or not (gate.open or anyone or flow.source in w.NODE_ADDRESSES):
                note(f"{flow} {gate}")
                assert not passed


def _means_anyone(peer):
    return peer is None or (isinstance(peer, CidrPeer) and peer.network.prefixlen == 0)


_rivals = st.builds(
    lambda pod, ips, standing: msgspec.structs.replace(pod, ips=ips, standing=standing),
    st.integers(0, 2).flatmap(w.local_pods),
    st.sampled_from([w.LOCAL_IPS[:2], w.LOCAL_IPS[1:4], w.LOCAL_IPS]),
    st.tuples(st.booleans(), st.booleans(), st.sampled_from(["1", "2"])),
)
_addresses = st.sampled_from((*w.LOCAL_IPS, *w.REMOTE_IPS, *w.OUTSIDE_IPS))
_numbers = st.sampled_from((*w.NUMBERS, *w.NODE_NUMBERS, HOST))

_steps = st.one_of(
    w.objects_of_policies().map(lambda made: ("change_policies", {"put": made})),
    w.objects_of_policies().map(lambda made: ("change_policies", {"put": made})),
    w.policies().map(lambda p: ("drop_policy", p.ref)),
    st.integers(0, 2).flatmap(w.local_pods).map(lambda p: ("put_pod", p)),
    _rivals.map(lambda p: ("put_pod", p)),
    st.integers(0, 2).flatmap(w.local_pods).map(lambda p: ("drop_pod", p.key)),
    st.sampled_from(w.NUMBERS).flatmap(w.identities).map(lambda i: ("put_identity", i)),
    st.sampled_from((*w.NODE_NUMBERS, HOST)).flatmap(w.nodes).map(lambda i: ("put_identity", i)),
    _numbers.map(lambda n: ("drop_identity", n)),
    st.sampled_from((*w.LOCAL_IPS, *w.REMOTE_IPS)).flatmap(w.endpoints).map(lambda e: ("put_endpoint", e)),
    _addresses.map(lambda ip: ("drop_endpoint", ip)),
    st.tuples(_addresses, w.seeded(w.node_number)).map(lambda pair: ("put_node_address", *pair)),
    _addresses.map(lambda ip: ("drop_node_address", ip)),
    st.tuples(_addresses, w.seeded(w.names)).map(lambda pair: ("learn", *pair)),
    _addresses.map(lambda ip: ("learn", ip, ())),
    st.sampled_from([w.NODE_ADDRESSES, frozenset({"172.18.0.3", "fd00:18::2", "10.2.0.10"})]).map(
        lambda ips: ("set_node", {"addresses": ips, "pod_cidrs": w.POD_CIDRS})
    ),
)


def _do(compiler: Compiler, step) -> None:
    name, *arguments = step
    if isinstance(arguments[-1], dict):
        getattr(compiler, name)(**arguments[-1])
    else:
        getattr(compiler, name)(*arguments)


@settings(max_examples=200, deadline=None)
@given(_seeds, st.lists(_steps, min_size=1, max_size=14), st.randoms(use_true_random=False))
def test_incremental_result_equals_full_recompute_and_deltas_lead_from_one_to_the_next(seed: int, steps, rng):
    compiler = Compiler(w.world(Random(seed)))
    kernel = Table()
    apply(kernel, compiler.table.take_delta())
    for step in steps:
        _do(compiler, step)
        if rng.random() < 0.6:  # otherwise several changes become one transaction
            delta = compiler.table.take_delta()
            script(delta)
            apply(kernel, delta)
            assert kernel == compiler.table
    apply(kernel, compiler.table.take_delta())

    assert kernel == compiler.table
    assert Compiler(compiler.world).table == compiler.table


def _size(compiler: Compiler, gate: str) -> int:
    """Returns how many elements the sets of a gate have in the table."""
    of_gate = [name for name in compiler.table.sets if name == gate or name.startswith(f"{gate}_")]
    return sum(len(compiler.table.elements[name]) for name in of_gate)


@settings(max_examples=200, deadline=None)
@given(_seeds, st.lists(_steps, min_size=1, max_size=14), st.sampled_from([0, 3, 10, 50]))
def test_gates_that_are_too_large_are_shut_while_they_are_by_whatever_way_they_became_so(seed: int, steps, most):
    compiler = Compiler(w.world(Random(seed)), most_elements=most)
    kernel = Table()
    for step in steps:
        _do(compiler, step)
        apply(kernel, compiler.table.take_delta())
        assert kernel == compiler.table
        assert all(_size(compiler, gate) <= (0 if gate in compiler.too_large else most) for gate in compiler.gates)
    anew = Compiler(compiler.world, most_elements=most)
    whole = Compiler(compiler.world)

    assert anew.table == compiler.table
    assert anew.too_large == compiler.too_large
    assert {gate for gate in whole.gates if _size(whole, gate) > most} <= compiler.too_large.keys()
    for gate in compiler.gates:  # a bound is about each gate alone
        mine, theirs = ({name: t.chains[name] for name in t.chains if gate in name} for t in (anew.table, whole.table))
        assert (mine == theirs) is (gate not in compiler.too_large)


def test_random_worlds_have_gates_on_both_sides_of_a_bound():
    sizes: Counter[bool] = Counter()
    for seed in range(200):
        compiler = Compiler(w.world(Random(seed)), most_elements=10)
        sizes.update(gate in compiler.too_large for gate in compiler.gates)
    assert min(sizes[True], sizes[False]) > 50, sizes


@settings(max_examples=100, deadline=None)
@given(_seeds, st.lists(_steps, max_size=8), st.randoms(use_true_random=False))
def test_a_shut_gate_lets_nobody_through_whatever_changes_meanwhile_and_leaves_no_trace(seed: int, steps, rng):
    compiler = Compiler(w.world(Random(seed)))
    flow = w.flow(Random(seed))
    kernel = Table()
    for step in [*steps, ("drop_endpoint", "192.0.2.1")]:
        for gate in list(compiler.gates):
            (compiler.shut_gate if rng.random() < 0.5 else compiler.open_gate)(gate)
        _do(compiler, step)
        apply(kernel, compiler.table.take_delta())
        assert kernel == compiler.table
    jumps = [
        compiler.table.elements[name].get((mine,))
        for mine, name in ((flow.destination, "ingress4"), (flow.source, "egress4"))
    ]
    if any(isinstance(jump, Jump) and jump.chain in compiler.shut for jump in jumps):
        itself = any({flow.source, flow.destination} <= set(pod.ips) for pod in compiler.world.pods.values())
        assert itself or not passes(compiler.table, Packet(flow))
    for gate in compiler.shut:
        compiler.open_gate(gate)

    assert Compiler(compiler.world).table == compiler.table
    for key in list(compiler.world.pods):
        compiler.drop_pod(key)
    for ref in list(compiler.world.policies):
        compiler.drop_policy(ref)
    for ip in [*compiler.world.endpoints, *compiler.world.nodes]:
        compiler.drop_endpoint(ip)
        compiler.drop_node_address(ip)
    for ip in list(compiler.world.names):
        compiler.learn(ip, ())
    for number in list(compiler.world.identities):
        compiler.drop_identity(number)
    assert not compiler.gates
    assert compiler.table == Compiler(World(w.CLUSTER, **_node(compiler.world))).table
    assert not any((compiler._gate_of, compiler._told, compiler._claims, compiler._holders, compiler._orphans))
    assert not compiler._matches
    assert not any(compiler._subjects.sizes)


def _node(world: World):
    return {"node_addresses": world.node_addresses, "pod_cidrs": world.pod_cidrs}
