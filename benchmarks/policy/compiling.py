"""What the compiler takes: a whole world at once, and one change of each kind in it.

The world is one node of a big mesh: 110 pods, policies of every API in the mix that clusters have (mostly
NetworkPolicy, some Cilium with denials and entities, a few of the Admin tier) that each select a pod of the node, and
identities of ten clusters, an address each. Times are CPU time of Python, until the transaction is there; the kernel's
share is in `elements`. The ratio is to the smallest world of the same run: how much the size of everything else costs.
"""

import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from random import Random

import msgspec

from benchmarks.table import Table, quantile
from isthmus.model.endpoint import Endpoint
from isthmus.model.identity import FIRST_NODE, Identity
from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.rules import (
    Action,
    CidrPeer,
    Direction,
    EndpointPeer,
    NodePeer,
    ObjectRef,
    PodPeer,
    Policy,
    PortRange,
    Rule,
    Tier,
)
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.compiler import Compiler

NAMESPACES = 50
APPS = 40
PODS = 110  # of the node: what a kubelet takes by default
CLUSTERS = 10
FULL = ((10, 1_000), (100, 1_000), (1_000, 1_000), (1_000, 10_000), (1_000, 100_000), (10_000, 10_000))


def run(*, quick: bool) -> Iterator[Table]:
    """Yields the tables one by one as they are measured."""
    sizes = ((10, 1_000), (1_000, 1_000), (1_000, 10_000)) if quick else FULL
    yield _changes(sizes, rounds=5 if quick else 21)
    yield _one_pod((10, 100, 1_000), identities=1_000 if quick else 10_000, rounds=3 if quick else 11)


def _changes(sizes: tuple[tuple[int, int], ...], *, rounds: int) -> Table:
    kinds = ("policy", "pod", "namespace label", "identity", "address", "node")
    table = Table(
        "Compiling: everything, and one change (p50, ms; in brackets, to the smallest world)",
        ("policies", "identities", "everything, s", "elements", *kinds),
    )
    smallest: dict[str, float] = {}
    for policies, identities in sizes:
        made = world(policies=policies, identities=identities)
        start = time.process_time()
        compiler = Compiler(made)
        seconds = time.process_time() - start
        elements = sum(map(len, compiler.table.elements.values()))
        compiler.table.forget_journal()
        spent = {kind: _spent(compiler, _CHANGES[kind], rounds) for kind in kinds}
        cells = [f"{ms:.3g} ({ms / smallest.setdefault(kind, ms):.1f})" for kind, ms in spent.items()]
        table.add(policies, identities, seconds, elements, *cells)
    table.notes.append(
        "A namespace label changes all identities of the namespace (a fiftieth), one after the other, and is one "
        "transaction; the others change one object."
    )
    return table


def _spent(compiler: Compiler, change: Callable[[Compiler, int], None], rounds: int) -> float:
    spent = []
    for number in range(rounds):
        start = time.process_time()
        change(compiler, number)
        compiler.table.take_delta()
        spent.append((time.process_time() - start) * 1000)
    return quantile(spent, 0.5)


def _one_pod(sizes: tuple[int, ...], *, identities: int, rounds: int) -> Table:
    table = Table(
        f"Many policies on one pod, {identities:,} identities: one of them changes",
        ("policies", "elements of the gate", "compile p50, ms", "to the smallest", "an identity changes, ms"),
    )
    smallest = 0.0
    for size in sizes:
        made = World("local")
        _identities(made, identities)
        made.pods["ns-0/a"] = LocalPod("ns-0", "a", "a", {"app": "a"}, ("10.244.0.2",))
        for number in range(size):
            one = _network_policy(number, "ns-0", {"app": "a"})
            made.policies[one.ref] = one
        compiler = Compiler(made)
        compiler.table.forget_journal()
        elements = sum(len(found) for name, found in compiler.table.elements.items() if name.startswith(("in_", "eg_")))

        def change(compiler: Compiler, number: int, size: int = size) -> None:
            compiler.put_policy(_network_policy(number % size, "ns-0", {"app": "a"}, extra=1 + number))

        ms = _spent(compiler, change, rounds)
        smallest = smallest or ms
        table.add(size, elements, ms, ms / smallest, _spent(compiler, _CHANGES["identity"], rounds))
    return table


# -- worlds ----------------------------------------------------------------------------------------------------


def world(*, policies: int, identities: int) -> World:
    """Returns the world of a node; equal arguments make equal worlds."""
    made = World("local", pod_cidrs=(ip_network("10.244.0.0/24"),))
    _identities(made, identities)
    for number in range(PODS):
        pod = _pod(number)
        made.pods[pod.key] = pod
    for number in range(policies):
        one = _policy(number)
        made.policies[one.ref] = one
    for number in range(100):
        made.identities[FIRST_NODE + number] = _node(number)
        made.nodes[f"172.18.{number >> 8}.{number & 255}"] = FIRST_NODE + number
    return made


def _identities(made: World, count: int) -> None:
    for number in range(count):
        one = identity(number)
        made.identities[one.number] = one
        ip = f"10.{number >> 16 & 63}.{number >> 8 & 255}.{number & 255}"
        made.endpoints[ip] = Endpoint(one.cluster, ip, one.number, one.namespace, f"pod-{number}")


def identity(number: int, *, revision: int = 0, team: str = "") -> Identity:
    cluster = 1 + number % CLUSTERS
    labels = {"app": f"app-{number % APPS}", "tier": f"tier-{number % 7}", "pod-template": f"{number}-{revision}"}
    namespace = number // APPS % NAMESPACES
    teams = {"team": team or f"team-{namespace % 10}"}
    return Identity((cluster << 16) + 256 + number // CLUSTERS, f"c{cluster}", f"ns-{namespace}", labels, teams)


def _pod(number: int, revision: int = 0) -> LocalPod:
    namespace = number % NAMESPACES
    labels = {"app": f"app-{number % APPS}", "tier": f"tier-{number % 7}", "revision": str(revision)}
    ip = f"10.244.0.{2 + number}"
    return LocalPod(
        f"ns-{namespace}",
        f"pod-{number}",
        f"{number}",
        labels,
        (ip,),
        namespace_labels={"team": f"team-{namespace % 10}"},
    )


def _node(number: int, revision: int = 0) -> Identity:
    labels = {"zone": f"zone-{number % 3}", "revision": str(revision)}
    return Identity(FIRST_NODE + number, "local", "", labels, {}, reserved=("remote-node",))


def _policy(number: int, *, extra: int = 0) -> Policy:
    """Returns one of the mix, for the pod `number % PODS`: of ten, two are Cilium's; of a hundred, one is Admin."""
    pod = number % PODS
    namespace, subject = f"ns-{pod % NAMESPACES}", {"app": f"app-{pod % APPS}"}
    match number % 10:
        case 8 | 9:
            return _cilium_policy(number, namespace, subject, extra)
        case 7 if number % 100 == 7:
            return _admin_policy(number, subject, extra)
        case _:
            return _network_policy(number, namespace, subject, extra=extra)


def _network_policy(number: int, namespace: str, subject: dict[str, str], *, extra: int = 0) -> Policy:
    peers = (
        PodPeer(Selector.equals({"app": f"app-{number % APPS}"}), Selector.equals({"team": f"team-{number % 10}"})),
        PodPeer(Selector.equals({"tier": f"tier-{number % 7}"}), namespace=f"ns-{number % NAMESPACES}"),
    )
    ports = (PortRange(6, 1 + number % 60_000, 1 + number % 60_000), PortRange(17, 53 + extra, 53 + extra))
    rules = (
        Rule(Direction.INGRESS, 0, peers, ports),
        Rule(Direction.EGRESS, 0, (CidrPeer(ip_network(f"192.{number >> 8 & 255}.{number & 255}.0/24")),), ports[:1]),
    )
    ref = ObjectRef("NetworkPolicy", namespace, f"policy-{number:05}")
    return Policy(ref, namespace, PodPeer(Selector.equals(subject)), frozenset(Direction), rules)


def _cilium_policy(number: int, namespace: str, subject: dict[str, str], extra: int) -> Policy:
    terms = (Term("app", Operator.IN, (f"app-{number % APPS}",)), Term("tier", Operator.EXISTS))
    world_peer = EndpointPeer(Selector.of(Term("reserved:world", Operator.EXISTS)), "world")
    rules = (
        Rule(Direction.INGRESS, 0, (EndpointPeer(Selector.of(*terms)),), (PortRange(6, 8000, 8100 + extra),)),
        Rule(Direction.EGRESS, 0, (world_peer,), (PortRange(6, 25, 25),), Action.DENY),
        Rule(Direction.EGRESS, 0, None),
    )
    ref = ObjectRef("CiliumNetworkPolicy", namespace, f"cilium-{number:05}")
    return Policy(ref, namespace, EndpointPeer(Selector.equals(subject)), frozenset(Direction), rules)


def _admin_policy(number: int, subject: dict[str, str], extra: int) -> Policy:
    teams = Selector.equals({"team": f"team-{number % 10}"})
    rules = (
        Rule(Direction.EGRESS, 0, (NodePeer(Selector.equals({"zone": "zone-1"})),), None, Action.DENY),
        Rule(Direction.INGRESS, 0, (PodPeer(namespaces=teams),), (PortRange(6, 9090, 9090 + extra),)),
        Rule(Direction.INGRESS, 1, (PodPeer(),), (PortRange(6, 22, 22),), Action.DENY),
    )
    ref = ObjectRef("ClusterNetworkPolicy", "", f"admin-{number:05}")
    return Policy(
        ref, "", PodPeer(Selector.equals(subject)), frozenset(), rules, tier=Tier.ADMIN, priority=number % 1000
    )


# -- changes ---------------------------------------------------------------------------------------------------


def _change_identity(compiler: Compiler, number: int) -> None:
    compiler.put_identity(identity(number, revision=1 + number))


def _change_label(compiler: Compiler, number: int) -> None:
    found = [one for one in compiler.world.identities.values() if one.namespace == "ns-1"]
    for one in found:
        compiler.put_identity(msgspec.structs.replace(one, namespace_labels={"team": f"team-{number % 9}"}))


def _change_address(compiler: Compiler, number: int) -> None:
    compiler.put_endpoint(Endpoint("c1", f"11.0.0.{number}", identity(number).number, "ns-0", "new"))


_CHANGES: dict[str, Callable[[Compiler, int], None]] = {
    "policy": lambda compiler, number: compiler.put_policy(_policy(number % 10, extra=1 + number)),
    "pod": lambda compiler, number: compiler.put_pod(_pod(number % PODS, revision=1 + number)),
    "namespace label": _change_label,
    "identity": _change_identity,
    "address": _change_address,
    "node": lambda compiler, number: compiler.put_identity(_node(Random(number).randrange(100), revision=1 + number)),
}
