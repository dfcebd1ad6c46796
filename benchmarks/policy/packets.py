"""What policies cost packets: the more of them select a pod, and the more remote addresses there are, the same?

One pod under load, behind one node; its client is a pod of another cluster that the last of the policies allows, after
all the others. Each variant takes turns with a world of its own that has connection tracking and no policy, so a ratio
is of neighbours in time. The policies are objects of the APIs, read and compiled as the agent does. Goals: new
connections at least 0.90 of the baseline at 10 policies, and 0.85 at 1,000 policies and 100,000 addresses; bulk 0.97.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from benchmarks.dataplane import BASELINE, TRACKED
from benchmarks.load import Burst, Generator, without_offload
from benchmarks.meshes import FIRST_PORT, PORTS
from benchmarks.table import Table, ratio
from isthmus.kernel.elements import in_transactions
from isthmus.model.endpoint import Endpoint
from isthmus.model.identity import Identity
from isthmus.policy.context import Context
from isthmus.policy.parsing import read
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.sets import ElementChange
from isthmus.ruleset.text import replacement
from tests.support.netns import World as Namespaces

CLIENT, SERVER = "10.244.0.10", "10.244.0.11"
APPS, SPACES = 50, 20
FIRST = 2 << 16 | 256  # number of the first remote identity
SUBJECT = {"matchLabels": {"app": "server"}}

Objects = Callable[[int], list[dict[str, Any]]]


class Variant(NamedTuple):
    """Policies on the pod under load, and remote addresses."""

    kind: str
    objects: Objects
    policies: int
    addresses: int
    keep_live: bool = False


def run(*, quick: bool) -> Iterator[Table]:
    """Yields the tables one by one as they are measured."""
    rounds, seconds = (6, 0.15) if quick else (20, 0.25)
    most = 100_000 if quick else 1_000_000
    variants = [
        *(Variant("NetworkPolicy", networkpolicies, n, 1_000) for n in (1, 10, 100, 1_000)),
        *(Variant("NetworkPolicy", networkpolicies, 1_000, n) for n in (100_000, most) if n > 1_000),
        *(Variant("CiliumNetworkPolicy with denials", ciliums, n, 1_000) for n in (1, 10, 100, 1_000)),
        Variant("CiliumNetworkPolicy with denials", ciliums, 1_000, 100_000),
        Variant("CiliumNetworkPolicy with denials", ciliums, 1_000, 100_000, keep_live=True),
        *(Variant("ClusterNetworkPolicy", cluster_policies, n, 1_000) for n in (10, 100)),
        Variant("ClusterNetworkPolicy", cluster_policies, 100, 100_000),
        *(Variant("ClusterNetworkPolicy that overlap", overlapping, n, 1_000) for n in (10, 100)),
    ]
    connections = Table(
        "New TCP connections to a pod, by policies that select it",
        ("kind", "policies", "remote IPs", "rules", "conn/s", "CPU µs/conn", f"CPU: {BASELINE} / this"),
    )
    bulk = Table(
        "Bulk TCP to such a pod, one stream",
        ("kind", "policies", "remote IPs", "packets", "Gbit/s", "CPU s/GB", f"CPU: {BASELINE} / this"),
    )
    with ExitStack() as stack:
        baseline = _generator(stack, None)
        for variant in dict.fromkeys(variants):
            with ExitStack() as inner:
                compiler = compiled(variant)
                generator = _generator(inner, variant, compiler)
                bases, mine = _pairs(baseline, generator, Generator.connections, rounds, seconds)
                rate, cost = _middle([b.rate for b in mine]), _middle([b.cost for b in mine]) * 1e6
                connections.add(*_told(variant), _rules(compiler), rate, cost, _ratio(bases, mine))
    connections.notes.append(
        "`rules` are those of the pod's gate, all that a packet could meet. CPU is that of client and server process "
        "together and holds the whole path; the ratio is how many connections the same CPU makes, with quartiles."
    )
    yield connections
    for segmented in (False, True):
        with ExitStack() as stack:
            baseline = _generator(stack, None, segmented=segmented)
            denials = Variant("CiliumNetworkPolicy with denials", ciliums, 1_000, 100_000)
            for variant in (variants[1], denials, denials._replace(keep_live=True)):
                with ExitStack() as inner:
                    generator = _generator(inner, variant, compiled(variant), segmented=segmented)
                    bases, mine = _pairs(baseline, generator, Generator.bulk, rounds, seconds)
                    packets = "1,500 bytes" if segmented else "64 KiB (offload)"
                    rate, cost = _middle([b.rate for b in mine]) * 8 / 1e9, _middle([b.cost for b in mine]) * 1e9
                    bulk.add(*_told(variant), packets, rate, cost, _ratio(bases, mine))
    yield bulk


# -- policies ------------------------------------------------------------------------------------------------------


def networkpolicies(count: int) -> list[dict[str, Any]]:
    """Returns policies with peers and ports of their own: pods, networks, ranges; the last one allows the client."""
    return [
        _object("networking.k8s.io/v1", "NetworkPolicy", n, podSelector=SUBJECT, ingress=_rules_of(n, n == count - 1))
        for n in range(count)
    ]


def _rules_of(number: int, last: bool) -> list[dict[str, Any]]:
    if last:
        ports = [{"port": FIRST_PORT, "endPort": FIRST_PORT + PORTS - 1}]
        return [{"from": [_pods("client", "clients")], "ports": ports}]
    ports = [{"port": 80 + number}, {"port": 53, "protocol": "UDP"}]
    match number % 4:
        case 0:
            return [{"from": [_pods(_app(number), _space(number))], "ports": ports}]
        case 1:
            peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": _space(number)}}}
            return [{"from": [peer, _pods(_app(number), _space(number + 1))], "ports": ports}]
        case 2:
            return [{"from": [{"ipBlock": {"cidr": f"198.18.{number % 256}.0/24"}}], "ports": ports}]
        case _:
            wide = [{"port": 20_000 + number, "endPort": 21_000 + number}]
            return [{"from": [_pods(_app(number), _space(number))], "ports": wide}]


def ciliums(count: int) -> list[dict[str, Any]]:
    """Returns policies that each deny somebody something, and allow somebody; the last one allows the client."""
    objects = []
    for number in range(count):
        denied = [{"matchLabels": {"app": _app(number)}}]
        ports = [{"ports": [{"port": str(80 + number), "protocol": "TCP"}]}]
        deny = [{"fromEndpoints": denied, "toPorts": ports}]
        if number % 3 == 0:
            deny.append({"fromCIDR": [f"198.18.{number % 256}.0/24"], "toPorts": ports})
        allowed = "client" if number == count - 1 else _app(number + 7)
        who = {"app": allowed, "k8s:io.kubernetes.pod.namespace": "clients" if allowed == "client" else _space(number)}
        allow = [{"fromEndpoints": [{"matchLabels": who}]}]
        objects.append(
            _object(
                "cilium.io/v2", "CiliumNetworkPolicy", number, endpointSelector=SUBJECT, ingressDeny=deny, ingress=allow
            )
        )
    return objects


def cluster_policies(count: int) -> list[dict[str, Any]]:
    """Returns policies of the Admin tier, each with a denial and an exception after it; the last accepts the client."""
    objects = []
    for number in range(count):
        rules = [
            {"action": "Deny", "from": [_cluster_peer(_app(number))], "protocols": _tcp(80 + number)},
            {"action": "Accept", "from": [_cluster_peer(_app(number + 7))], "protocols": _tcp(9000 + number)},
        ]
        if number == count - 1:
            rules.append({"action": "Accept", "from": [_cluster_peer("client")]})
        objects.append(_cluster_policy(number, rules))
    return objects


def overlapping(count: int) -> list[dict[str, Any]]:
    """Returns what is worst for such policies: each denies an app, and lets in a namespace where that may be."""
    return [
        _cluster_policy(
            number,
            [
                {"action": "Deny", "from": [_cluster_peer(_app(number))]},
                {"action": "Accept", "from": [_pods_of("clients" if number == count - 1 else _space(number))]},
            ],
        )
        for number in range(count)
    ]


def _cluster_policy(number: int, rules: list[dict[str, Any]]) -> dict[str, Any]:
    subject = {"pods": {"namespaceSelector": {}, "podSelector": SUBJECT}}
    spec = {"tier": "Admin", "priority": number, "subject": subject, "ingress": rules}
    return _object("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", number, **spec)


def _pods_of(space: str) -> dict[str, Any]:
    return {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": space}}}


def _object(version: str, kind: str, number: int, **spec: Any) -> dict[str, Any]:
    metadata = {"name": f"policy-{number:04}"} | ({} if kind.startswith("Cluster") else {"namespace": "demo"})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _pods(app: str, space: str) -> dict[str, Any]:
    named = {"matchLabels": {"kubernetes.io/metadata.name": space}}
    return {"podSelector": {"matchLabels": {"app": app}}, "namespaceSelector": named}


def _cluster_peer(app: str) -> dict[str, Any]:
    return {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}}}


def _tcp(port: int) -> list[dict[str, Any]]:
    return [{"tcp": {"destinationPort": {"number": port}}}]


def _app(number: int) -> str:
    return f"app-{number % APPS}"


def _space(number: int) -> str:
    return f"ns-{number % SPACES}"


# -- worlds --------------------------------------------------------------------------------------------------------


def compiled(variant: Variant) -> Compiler:
    """Returns the compiler of the node, without the remote addresses, which are elements of one map and no more."""
    world = World("local")
    world.pods["demo/server"] = LocalPod("demo", "server", "1", {"app": "server"}, (SERVER,))
    for number in range(APPS * SPACES):
        world.identities[FIRST + number] = Identity(
            FIRST + number, "far", _space(number // APPS), {"app": _app(number)}, {}
        )
    client = FIRST + APPS * SPACES
    world.identities[client] = Identity(client, "far", "clients", {"app": "client"}, {})
    world.endpoints[CLIENT] = Endpoint("far", CLIENT, client, "clients", "client")
    for obj in variant.objects(variant.policies):
        parsed = read(obj, Context("local"))
        assert parsed.valid and not parsed.problems, parsed.problems
        world.policies |= {policy.ref: policy for policy in parsed.policies}
    return Compiler(world, keep_live=variant.keep_live)


def _generator(
    stack: ExitStack, variant: Variant | None, compiler: Compiler | None = None, *, segmented: bool = False
) -> Generator:
    world = stack.enter_context(Namespaces({"client": (CLIENT,), "server": (SERVER,)}))
    if variant is None or compiler is None:
        world.nft(TRACKED)
    else:
        world.nft(replacement(compiler.table.whole()))
        peers = compiler.table.sets["peers4"]
        remote = (
            (f"11.{n >> 16}.{n >> 8 & 255}.{n & 255}", FIRST + n % (APPS * SPACES)) for n in range(variant.addresses)
        )
        for group in in_transactions([ElementChange(peers, add=tuple(((ip,), number) for ip, number in remote))]):
            world.elements.apply(group)
    # Entries of reset connections would otherwise pile up to the limit of the table.
    world.router.sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")
    if segmented:
        for pod in ("client", "server"):
            world[pod].run(lambda: without_offload("eth0"))
        world.router.run(lambda: [without_offload(link) for link in ("pod0", "pod1")])
    ports = range(FIRST_PORT, FIRST_PORT + PORTS)
    return stack.enter_context(Generator(world["client"], world["server"], address=SERVER, ports=ports))


def _pairs(
    baseline: Generator,
    generator: Generator,
    burst: Callable[[Generator, float], Burst],
    rounds: int,
    seconds: float,
) -> tuple[list[Burst], list[Burst]]:
    """Returns bursts of both, which took turns."""
    both: tuple[list[Burst], list[Burst]] = ([], [])
    for warm in (baseline, generator):
        burst(warm, seconds)
    for number in range(rounds):
        order = ((baseline, both[0]), (generator, both[1]))
        for who, bursts in order if number % 2 else reversed(order):
            bursts.append(burst(who, seconds))
    return both


def _told(variant: Variant) -> tuple[str, int, int]:
    return variant.kind + ", live kept" * variant.keep_live, variant.policies, variant.addresses


def _rules(compiler: Compiler) -> int:
    gates = tuple(compiler.gates)
    return sum(len(chain.rules) for name, chain in compiler.table.chains.items() if name.startswith(gates))


def _ratio(bases: Sequence[Burst], mine: Sequence[Burst]) -> str:
    return ratio([burst.cost for burst in bases], [burst.cost for burst in mine])


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values)
