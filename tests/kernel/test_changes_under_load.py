"""What a change of the table means for packets that are under way in it: not one is lost, not one gets through."""

import random
import selectors
import socket
from collections import Counter
from collections.abc import Callable

import pytest

from isthmus.agent.writer import KernelWriter
from isthmus.kernel.namespaces import enter
from isthmus.policy.networkpolicy import parse
from isthmus.services.choice import REST, Choice
from tests.support.forks import repeatedly
from tests.support.netns import Host, World
from tests.support.probes import SO_LINGER_RESET
from tests.support.service_node import OWN, VIP4, ServiceNode, backends, service, writer_in

B, C = "10.244.0.11", "10.244.0.12"
TARGETS = [(ip, port) for ip in (B, C) for port in range(8000, 8004)]


def _server(host: Host, ip: str) -> list[socket.socket]:
    return host.run(lambda: [socket.create_server((ip, port), backlog=1024) for at, port in TARGETS if at == ip])


def _outcomes(node: ServiceNode, change: Callable[[], None], *, times: int) -> Counter[bytes]:
    """Returns what became of connections to the service that were opened one after the other all the while."""
    listening = _server(node.world["b"], B) + _server(node.world["c"], C)
    for sock in listening:
        sock.setblocking(False)
    accepting = selectors.DefaultSelector()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def accept() -> None:
        for key, _ in accepting.select():
            key.fileobj.accept()[0].close()

    def connect() -> None:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SO_LINGER_RESET)
            sock.settimeout(5)
            try:
                sock.connect((VIP4, 80))
                outcome = b"served"
            except OSError as error:
                outcome = type(error).__name__.encode()
        theirs.send(outcome)

    def client() -> None:
        enter(node.world["a"].descriptor)
        while True:
            connect()

    outcomes: Counter[bytes] = Counter()
    with ours, theirs, accepting:
        for sock in listening:
            accepting.register(sock, selectors.EVENT_READ)
        ours.setblocking(False)
        with repeatedly(accept), repeatedly(client):
            for _ in range(times):
                change()
                while True:
                    try:
                        outcomes[ours.recv(100)] += 1
                    except BlockingIOError:
                        break
    for sock in listening:
        sock.close()
    return outcomes


AFFINITIES = pytest.mark.parametrize("affinity", [0, 100], ids=["without affinity", "with affinity"])


@AFFINITIES
def test_no_connection_is_refused_while_backends_come_and_go(world: World, affinity):
    node = ServiceNode(world)
    rng = random.Random(1)
    node.put(service(affinity=affinity), backends("web", *TARGETS[:2]))

    def change() -> None:
        assert not node.put(backends("web", *rng.sample(TARGETS, rng.choice([1, 2, 3, 8]))))

    outcomes = _outcomes(node, change, times=2000)
    assert outcomes.keys() == {b"served"}, outcomes


@AFFINITIES
def test_no_connection_is_refused_while_tiers_and_weights_of_clusters_change(world: World, affinity):
    node = ServiceNode(world)
    rng = random.Random(2)
    mine, theirs = TARGETS[:4], TARGETS[4:]
    tiers = [(REST,), (frozenset({OWN}), REST), (REST, frozenset({OWN}))]
    node.put(service(affinity=affinity), backends("web", *mine), backends("web", *theirs, cluster="west"))

    def change() -> None:
        weights = {"west": rng.choice([0, 10, 25, 90, 100, 1000])}
        node.services.set_choice(("shop", "web"), Choice(OWN, rng.choice(tiers), weights))
        lost = rng.random() < 0.3
        assert not node.put(backends("web", *mine[: rng.randint(0, 4)]), backends(
            "web", *theirs[: rng.randint(1, 4)], cluster="west", reachable=not lost
        ))  # fmt: skip

    outcomes = _outcomes(node, change, times=1000)
    assert outcomes.keys() == {b"served"}, outcomes


async def test_nothing_gets_through_while_one_policy_takes_the_place_of_another(world: World):
    node = ServiceNode(world)
    selector = {"matchLabels": {"app": "b"}}

    async def isolate(writer: KernelWriter, number: int) -> None:
        spec = {"podSelector": selector, "ingress": [{"from": [{"ipBlock": {"cidr": f"192.0.2.{number}/32"}}]}]}
        node.compiler.put_policy(parse({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec}, cluster="east"))
        await writer.apply(node.compiler.table.take_delta())

    sink = world["b"].run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    source = world["a"].run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sink, source:
        sink.bind((B, 9999))
        sink.setblocking(False)
        source.connect((B, 9999))

        def flood() -> None:
            source.send(b"?")

        async with writer_in(world) as writer:
            await isolate(writer, 0)
            with repeatedly(flood):
                for number in range(1, 1000):
                    await isolate(writer, number % 200)
                with pytest.raises(BlockingIOError):
                    sink.recv(100)
                node.compiler.drop_pod("shop/b")
                await writer.apply(node.compiler.table.take_delta())
                sink.settimeout(5)
                assert sink.recv(100) == b"?", "the flood was there all the time"
