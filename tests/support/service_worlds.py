"""Random services and slices, small enough that they meet, and what must become of a connection: plainly, from scratch.

`expected` is the rule of kube-proxy written down once more, slow and without state; the table is held against it in
tests/property/test_service_agreement.py.
"""

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from random import Random

from isthmus.model.service import Backend, Port, Service, Slice, Target
from isthmus.services.frontends import Frontend, Kind, frontends
from isthmus.services.pool import Reach

NODE = "n1"
NODE_ADDRESSES = ("172.18.0.2", "fd00:18::2")
NAMES = ("a", "b", "c")
PORTS = (Port("", 6, 80, 30080), Port("", 17, 80), Port("web", 6, 81, 30081), Port("dns", 17, 53, 30053))
VIPS = {name: (f"172.20.0.{n}", f"fd00:20::{n}") for n, name in enumerate(NAMES, start=1)}
SHARED = ("198.51.100.1", "198.51.100.2", "172.20.0.1", "2001:db8::1")
PODS = ("10.1.0.1", "fd00:1::1")  # of the node
OUTSIDERS = ("192.0.2.7", "2001:db8:7::7")
SOURCES = (ip_network("192.0.2.0/24"), ip_network("fd00::/16"))
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
            rng.choice(["east", "west"]),
            Target(rng.choice(ADDRESSES), rng.choice([8080, 8080, 8081, 8082, 8083])),
            node=rng.choice([NODE, "n2"]),
            ready=rng.random() < 0.5,
            serving=rng.random() < 0.8,
            terminating=rng.random() < 0.5,
        )
        members.add((port.key, backend))
    return Slice(("x", rng.choice("stuv")), ("x", rng.choice(NAMES)), frozenset(members))


def holders(services: Iterable[Service]) -> dict[tuple[str, int, int], Frontend]:
    """Returns whose each frontend is."""
    claims = [claim for one in services for claim in frontends(one, node_addresses=NODE_ADDRESSES)]
    return {key: min((c for c in claims if c.key == key), key=lambda c: c.rank) for key in {c.key for c in claims}}


def expected(frontend: Frontend, slices: Iterable[Slice], client: str) -> set[Target] | str:
    """Returns the targets that a new connection may go to, or "refused" or "dropped"."""
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
    chosen = _chosen(b for b in everyone if b.node == NODE or not local_only)
    if chosen:
        return chosen
    return "dropped" if _chosen(everyone) else "refused"


def _chosen(backends: Iterable[Backend]) -> set[Target]:
    told = list(backends)
    ready = {backend.target for backend in told if backend.ready}
    return ready or {backend.target for backend in told if backend.serving and backend.terminating}
