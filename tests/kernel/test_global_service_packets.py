"""Services of several clusters in the real kernel: even over all, by weight, tier by tier, and under way."""

import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from isthmus.kernel.conntrack import forget_stale
from isthmus.model.flow import Protocol
from isthmus.model.service import Port
from isthmus.services.choice import REST, Choice
from tests.support.netns import World
from tests.support.service_node import OWN, VIP4, VIP6, Answerers, ServiceNode, backends, service

B, C = "10.244.0.11", "10.244.0.12"
B6, C6 = "fd00:10:244::b", "fd00:10:244::c"
WEST = "west"
KEY = ("shop", "web")
ALIKE = Choice(OWN)
LOCAL_FIRST, REMOTE_FIRST = Choice(OWN, (frozenset({OWN}), REST)), Choice(OWN, (REST, frozenset({OWN})))
OWN_PORTS, WEST_PORTS = range(8100, 8106), range(8200, 8204)
CHI_SQUARE_9 = 33.7  # one time in 10,000 with nine degrees of freedom


@pytest.fixture
def answerers() -> Iterator[Answerers]:
    with Answerers() as answerers:
        yield answerers


@pytest.fixture
def node(world: World, answerers: Answerers) -> ServiceNode:
    """Pod b stands for the backends of the own cluster, c for those of another one."""
    answerers.add(world, "b", (8080, *OWN_PORTS))
    answerers.add(world, "c", (8080, *WEST_PORTS))
    return ServiceNode(world, outside="d")


def _choose(node: ServiceNode, choice: Choice) -> None:
    node.services.set_choice(KEY, choice)
    assert not node.push(), "elements alone"


def _many(node: ServiceNode) -> None:
    mine = backends("web", *((B, port) for port in OWN_PORTS))
    theirs = backends("web", *((C, port) for port in WEST_PORTS), cluster=WEST)
    node.put(service(), mine, theirs)


def _distance(found: Counter[str], weights: dict[str, int]) -> float:
    """Returns chi-square of what was found against shares of these weights; b and c are the two clusters."""
    ideal = {f"b:{port}": weights["b"] for port in OWN_PORTS} | {f"c:{port}": weights["c"] for port in WEST_PORTS}
    assert found.keys() <= ideal.keys()
    unit = found.total() / sum(ideal.values())
    return sum((found[name] - weight * unit) ** 2 / (weight * unit) for name, weight in ideal.items())


def test_connections_spread_evenly_over_the_backends_of_all_clusters(node: ServiceNode):
    node.services.set_choice(KEY, ALIKE)
    _many(node)
    assert _distance(node.ask_often("a", VIP4, 80, times=2000), {"b": 100, "c": 100}) < CHI_SQUARE_9


@pytest.mark.parametrize(("host", "vip"), [("a", VIP4), ("router", VIP4), ("a", VIP6)])
def test_connections_spread_by_weight(node: ServiceNode, host, vip):
    node.services.set_choice(KEY, Choice(OWN, (REST,), {WEST: 25}))
    _many(node)
    if vip == VIP6:
        mine = backends("web", *((B6, port) for port in OWN_PORTS), key="web6")
        node.put(mine, backends("web", *((C6, port) for port in WEST_PORTS), key="web6", cluster=WEST))
    assert _distance(node.ask_often(host, vip, 80, times=2000), {"b": 100, "c": 25}) < CHI_SQUARE_9


def test_weights_count_also_at_node_ports_and_with_session_affinity(node: ServiceNode):
    node.services.set_choice(KEY, Choice(OWN, (REST,), {WEST: 25}))
    _many(node)
    node.put(service("web", Port("", Protocol.TCP, 80, 30080)))
    assert _distance(node.ask_often("d", "10.0.0.1", 30080, times=1500), {"b": 100, "c": 25}) < CHI_SQUARE_9

    node.put(service("web", affinity=100))
    ((_, times),) = node.ask_often("a", VIP4, 80, times=40).items()
    assert times == 40


def test_a_drain_in_steps_ends_with_nobody_there_and_never_refuses(node: ServiceNode):
    node.services.set_choice(KEY, ALIKE)
    _many(node)
    shares = []
    for left in (80, 50, 20, 0):
        _choose(node, Choice(OWN, (REST,), {WEST: left}))
        found = node.ask_often("a", VIP4, 80, times=600)
        assert "refused" not in found and "silence" not in found
        shares.append(sum(n for name, n in found.items() if name.startswith("c:")))
    assert shares[-1] == 0 and shares[0] > shares[2] > 0


def test_new_connections_go_to_the_new_tier_and_those_that_there_are_stay(node: ServiceNode):
    node.services.set_choice(KEY, LOCAL_FIRST)
    node.put(service(), backends("web", (B, 8080)), backends("web", (C, 8080), cluster=WEST))

    def connect() -> socket.socket:
        return socket.create_connection((VIP4, 80), timeout=5)

    def answer(sock: socket.socket) -> bytes:
        sock.send(b"?")
        return sock.recv(100)

    with node.world["a"].run(connect) as first:
        for choice, new in (
            (REMOTE_FIRST, "c:8080"),
            (Choice(OWN, (REST,), {OWN: 0}), "c:8080"),
            (Choice(OWN, (frozenset({WEST}), REST)), "c:8080"),
            (LOCAL_FIRST, "b:8080"),
        ):
            _choose(node, choice)
            assert node.ask_often("a", VIP4, 80, times=20) == {new: 20}
            assert answer(first) == b"b:8080"
        node.put(backends("web", (B, 8080), ready=False, terminating=True))
        assert node.ask_often("a", VIP4, 80, times=20) == {"c:8080": 20}
        assert answer(first) == b"b:8080", "it is ending, and still serves"
        node.put(backends("web", (B, 8080)))
        assert node.ask_often("a", VIP4, 80, times=20) == {"b:8080": 20}
        node.put(backends("web"))
        assert node.ask_often("a", VIP4, 80, times=20) == {"c:8080": 20}


def test_a_cluster_that_does_not_answer_is_left_and_is_the_last_resort(node: ServiceNode):
    lost = backends("web", (C, 8080), cluster=WEST, reachable=False)
    node.services.set_choice(KEY, REMOTE_FIRST)
    node.put(service(), backends("web", (B, 8080)), lost)
    assert node.ask_often("a", VIP4, 80, times=20) == {"b:8080": 20}

    node.put(backends("web"))
    assert node.ask("a", VIP4, 80) == "c:8080", "the probe was wrong"


def test_udp_clients_that_send_on_leave_a_cluster_that_is_lost_and_stay_with_one_that_is_drained(node: ServiceNode):
    node.services.set_choice(KEY, REMOTE_FIRST)
    mine = backends("web", (B, 8080), protocol="UDP", port="dns")
    node.put(service("web", Port("dns", Protocol.UDP, 53)), mine)
    node.put(backends("web", (C, 8080), protocol="UDP", port="dns", cluster=WEST))
    node.stale()

    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(5)
        sock.connect((VIP4, 53))
        return sock

    def answer(sock: socket.socket) -> bytes:
        sock.send(b"?")
        return sock.recv(100)

    def forget() -> None:
        node.world.router.run(lambda: forget_stale(node.stale()))

    with node.world["a"].run(opened) as sock:
        assert answer(sock) == b"c:8080"
        _choose(node, Choice(OWN, (REST,), {WEST: 0}))
        forget()
        assert answer(sock) == b"c:8080"
        node.put(backends("web", (C, 8080), protocol="UDP", port="dns", cluster=WEST, reachable=False))
        forget()
        assert answer(sock) == b"b:8080"
