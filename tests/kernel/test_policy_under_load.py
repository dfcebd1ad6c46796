"""While policies change: not one new connection that is allowed is lost, not one that is denied gets in."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count

import pytest

from isthmus.kernel.namespaces import enter
from tests.support.fabric import Fabric
from tests.support.town import Town, address, cilium_policy, cluster_policy, network_policy, pods

ROOM = 32 << 20  # bytes: what arrives while a table is written
CHANGES = 100


@pytest.fixture(scope="module")
def fabric():
    with Fabric() as fabric:
        yield fabric


@contextmanager
def flood(fabric: Fabric, source: str, target: tuple[str, int]) -> Iterator[None]:
    """Sends numbered datagrams, each from a new socket, so each a new connection; in a process of its own."""
    pid = os.fork()
    if not pid:
        try:
            enter(fabric.holders[address(source)].descriptor)
            for number in count():
                with socket.socket(type=socket.SOCK_DGRAM) as sock:
                    sock.sendto(number.to_bytes(4, "big"), target)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def sink(fabric: Fabric, place: str, port: int) -> Iterator[Callable[[], set[int]]]:
    """Listens, and gives a function that returns the numbers that came since it was called last."""
    sock = fabric.holders[address(place)].run(lambda: socket.socket(type=socket.SOCK_DGRAM))
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, 33, ROOM)  # SO_RCVBUFFORCE
        sock.bind((address(place), port))
        sock.setblocking(False)

        def numbers() -> set[int]:
            found = set()
            with suppress(BlockingIOError):
                while True:
                    found.add(int.from_bytes(sock.recv(4), "big"))
            return found

        yield numbers


def networkpolicies(town: Town, number: int) -> None:
    other = {"ipBlock": {"cidr": f"192.0.2.{number}/32"}}
    town.apply(network_policy(ingress=[{"from": [pods("c"), other]}]))


def the_same_again(town: Town, number: int) -> None:
    policy = network_policy(ingress=[{"from": [pods("c")]}])
    town.apply(policy)
    town.apply({**policy, "metadata": {**policy["metadata"], "uid": f"{number}"}})
    town.apply(network_policy(name="twin", ingress=[{"from": [pods("c")]}]))
    town.delete(policy)
    town.apply(policy)
    town.delete(network_policy(name="twin"))


def ciliums_policies(town: Town, number: int) -> None:
    town.apply(
        cilium_policy(
            ingress=[{"fromEndpoints": [{"matchLabels": {"app": "c"}}]}, {"fromCIDR": [f"192.0.2.{number}/32"]}],
            ingressDeny=[{"fromCIDR": [f"198.18.0.{number}/32"]}, {"fromEntities": ["remote-node"]}],
        )
    )


def cluster_policies(town: Town, number: int) -> None:
    def rule(action: str, app: str):
        peer = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}}}
        return {"action": action, "from": [peer]}

    town.apply(cluster_policy(ingress=[rule("Accept", "c"), rule("Deny", f"x{number}"), rule("Deny", "b")]))


def ciliums_policies_of_egress(town: Town, number: int) -> None:
    """Pod a may not speak to its node, pod b only now and then: the hook for that stays."""
    town.apply(
        cilium_policy(
            egress=[{"toEntities": ["remote-node"]}, {"toCIDR": [f"192.0.2.{number}/32"]}],
            egressDeny=[{"toCIDR": [f"198.18.0.{number}/32"]}],
        )
    )
    (town.apply if number % 2 else town.delete)(cilium_policy("b", name="b", egress=[{}]))


@pytest.mark.parametrize(
    ("change", "denied_way", "allowed_way"),
    [
        (networkpolicies, "ba", "ca"),
        (the_same_again, "ba", "ca"),
        (ciliums_policies, "ba", "ca"),
        (cluster_policies, "ba", "ca"),
        (ciliums_policies_of_egress, ("a", "n1"), ("a", "n2")),
    ],
)
def test_no_moment_is_more_open_or_more_closed_than_before_and_after(fabric: Fabric, change, denied_way, allowed_way):
    town = Town(fabric)
    change(town, 0)
    with sink(fabric, denied_way[1], 9001) as denied, sink(fabric, allowed_way[1], 9002) as allowed:
        arrived: set[int] = set()
        with flood(fabric, denied_way[0], (address(denied_way[1]), 9001)):
            with flood(fabric, allowed_way[0], (address(allowed_way[1]), 9002)):
                for number in range(1, CHANGES):
                    change(town, number)
                    arrived |= allowed()
            arrived |= allowed()
            assert not denied()
            assert arrived == set(range(len(arrived))), "some were lost"
            assert len(arrived) > CHANGES
            town.compilers["n1"].drop_pod("shop/a")
            town.push("n1")
            while not denied():  # the flood was there all the time
                pass
