"""Random services and slices, small enough that they meet, and what must become of a connection: plainly, from scratch.

`expected` is the rule of kube-proxy and that of global services written down once more, slow and without state; the
table is held against it in tests/property/test_service_agreement.py.
"""

from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network
from random import Random

from isthmus.model.service import Backend, Port, Service, ServiceKey, Slice, Target
from isthmus.services.choice import REST, Choice
from isthmus.services.frontends import Frontend, Kind, frontends
from isthmus.services.pool import Reach

NODE = "n1"
CLUSTERS = ("east", "west", "south")
OWN = "east"
TIERS = (
    (REST,),
    (REST,),
    (frozenset({OWN}),),
    (frozenset({OWN}), REST),
    (REST, frozenset({OWN})),
    (frozenset({"south"}), frozenset({"west"}), REST),
    (frozenset({"nowhere"}), frozenset({OWN}), REST),
)
WEIGHTS = (100, 50, 25, 200, 0)
NODE_ADDRESSES = ("172.18.0.2", "fd00:18::2")
NAMES = ("a", "b", "c")
PORTS = (Port("", 6, 80, 30080), Port("", 17, 80), Port("web", 6, 81, 30081), Port("dns", 17, 53, 30053))
VIPS = {name: (f"172.20.0.{n}", f"fd00:20::{n}") for n, name in enumerate(NAMES, start=1)}
SHARED = ("198.51.100.1", "198.51.100.2", "172.20.0.1", "2001:db8::1")
PODS = ("10.1.0.1", "fd00:1::1")  # of the node
OUTSIDERS = ("192.0.2.7", "2001:db8:7::7")
SOURCES = (ip_network("192.0.2.0/24"), ip_network("fd00::/16"))
SLICES = (("x", "s"), ("x", "t"), ("x", "u"), ("west", "x", "s"), ("south", "x", "s"))
ADDRESSES = tuple(f"10.1.0.{n}" for n in range(1, 7)) + tuple(f"fd00:1::{n}" for n in range(1, 4))


def service(rng: Random) -> Service:
    name = rng.choice(NAMES)
    return Service(
        "x",
        name,
        ports=tuple(rng.sample(PORTS, rng.randint(1, 3))),
        cluster_ips=rng.choice([VIPS[name], VIPS[name][:1], VIPS[name][1:]]),
        external_ips=tuple(rng.sample(SHARED, rng.choice([0, 0, 1, 2]))),
        ingress_ips=tuple(rng.sample(SHARED[:2], rng.choice([0, 1]))),
        sources=rng.choice([None, None, None, (), SOURCES[:1], SOURCES]),
        local_internal=rng.random() < 0.2,
        local_external=rng.random() < 0.4,
        affinity=rng.choice([0, 0, 10, 20]),
    )


def slice_(rng: Random) -> Slice:
    members = set()
    for _ in range(rng.choice([0, 1, 3, 25])):
        port = rng.choice(PORTS)
        backend = Backend(
            rng.choice(CLUSTERS),
            Target(rng.choice(ADDRESSES), rng.choice([8080, 8080, 8081, 8082, 8083])),
            node=rng.choice([NODE, "n2"]),
            ready=rng.random() < 0.5,
            serving=rng.random() < 0.8,
            terminating=rng.random() < 0.5,
            reachable=rng.random() < 0.8,
        )
        members.add((port.key, backend))
    return Slice(rng.choice(SLICES), ("x", rng.choice(NAMES)), frozenset(members))


def choice(rng: Random) -> tuple[ServiceKey, Choice | None]:
    named = rng.sample(CLUSTERS, rng.choice([0, 1, 2, 3]))
    made = Choice(OWN, rng.choice(TIERS), {name: rng.choice(WEIGHTS) for name in named})
    return ("x", rng.choice(NAMES)), rng.choice([None, made, made, made])


def holders(services: Iterable[Service]) -> dict[tuple[str, int, int], Frontend]:
    """Returns whose each frontend is."""
    claims = [claim for one in services for claim in frontends(one, node_addresses=NODE_ADDRESSES)]
    return {key: min((c for c in claims if c.key == key), key=lambda c: c.rank) for key in {c.key for c in claims}}


def expected(
    frontend: Frontend, slices: Iterable[Slice], client: str, choice: Choice | None = None
) -> dict[Target, int] | str:
    """Returns the targets that a new connection may go to with what each counts for, or "refused" or "dropped"."""
    everyone = [
        backend
        for one in slices
        for key, backend in one.backends
        if one.service == frontend.service
        and key == frontend.port.key
        and (":" in backend.target.address) == (":" in frontend.address)
    ]
    local_only = Reach.NEAR in (
        frontend.outside if client not in PODS and frontend.kind is not Kind.CLUSTER_IP else None,
        frontend.inside,
    )
    if frontend.sources is not None and not any(ip_address(client) in network for network in frontend.sources):
        return "dropped"
    if local_only:
        chosen = _chosen([b for b in everyone if b.node == NODE and (choice is None or b.cluster == OWN)], None)
    else:
        chosen = _chosen(everyone, choice)
    if chosen:
        return chosen
    return "dropped" if _chosen(everyone, choice) else "refused"


def _chosen(told: list[Backend], choice: Choice | None) -> dict[Target, int]:
    plain = choice or Choice(OWN)
    named = frozenset().union(*(tier for tier in plain.tiers if tier is not REST))
    for wanted in _LEVELS:
        for drained in (False, True):
            for tier in plain.tiers:
                found: dict[Target, int] = {}
                for backend in told:
                    weight = plain.weights.get(backend.cluster, 100)
                    member = backend.cluster not in named if tier is REST else backend.cluster in tier
                    if member and wanted(backend) and drained == (weight == 0):
                        found[backend.target] = max(weight or 1, found.get(backend.target, 0))
                if found:
                    return found
    return {}


_LEVELS: tuple[Callable[[Backend], bool], ...] = (
    lambda b: b.ready and b.reachable,
    lambda b: b.serving and b.terminating and b.reachable,
    lambda b: b.ready,
    lambda b: b.serving and b.terminating,
)
