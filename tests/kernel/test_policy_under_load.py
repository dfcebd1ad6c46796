"""While policies change: not one new connection that is allowed is lost, not one that is denied gets in."""

import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from itertools import count
from typing import Self

import pytest

from isthmus.kernel.namespaces import enter
from tests.support.fabric import Fabric
from tests.support.forks import repeatedly
from tests.support.town import Town, address, cilium_policy, cluster_policy, network_policy, pods

CHANGES = 150
WINDOW = 100  # datagrams that may be under way: they fit into any socket's buffer, so that no other loss is possible


def send_all(target: tuple[str, int]) -> None:
    """Sends datagrams as fast as can be; where they are dropped, each would have opened a connection."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(target)
        while True:
            sock.send(b"????")


def send_numbers(target: tuple[str, int], leave: socket.socket) -> None:
    """Sends numbered datagrams, each from a new socket: WINDOW of them, and one more for each byte of `leave`."""
    left = WINDOW
    for number in count():
        while not left:
            left = len(leave.recv(4096))
        left -= 1
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(number.to_bytes(4, "big"), target)


def flood(fabric: Fabric, source: str, work: Callable[[], None]) -> AbstractContextManager[None]:
    """Runs `work`, which does not end, in a namespace, in a process of its own."""

    def inside() -> None:
        enter(fabric.holders[address(source)].descriptor)
        work()

    return repeatedly(inside)


class Sink:
    """Takes in datagrams in a thread of its own: their numbers, and a byte to `leave` for each. A context manager."""

    def __init__(self, fabric: Fabric, place: str, port: int) -> None:
        self._socket = fabric.holders[address(place)].run(lambda: socket.socket(type=socket.SOCK_DGRAM))
        self._socket.bind((address(place), port))
        self._socket.settimeout(0.05)
        self.numbers: set[int] = set()
        self.arrived = threading.Event()
        self.leave, self._leave = socket.socketpair()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._take_in, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for sock in (self._socket, self.leave, self._leave):
            sock.close()

    def stop(self) -> None:
        """Returns when everything that has come is in `numbers`."""
        self._stopped.set()
        self._thread.join()

    def _take_in(self) -> None:
        while True:
            try:
                self.numbers.add(int.from_bytes(self._socket.recv(4), "big"))
            except TimeoutError:
                if self._stopped.is_set():
                    return
                continue
            self.arrived.set()
            with suppress(BlockingIOError):
                self._leave.send(b".", socket.MSG_DONTWAIT)


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
    source, target = denied_way
    with Sink(fabric, target, 9001) as denied, Sink(fabric, allowed_way[1], 9002) as allowed:
        with flood(fabric, source, lambda: send_all((address(target), 9001))):
            stream = partial(send_numbers, (address(allowed_way[1]), 9002), allowed.leave)
            with flood(fabric, allowed_way[0], stream):
                for number in range(1, CHANGES):
                    change(town, number)
            allowed.stop()
            assert allowed.numbers == set(range(len(allowed.numbers))), "some were lost"
            assert len(allowed.numbers) > CHANGES
            assert not denied.numbers
            town.compilers["n1"].drop_pod("shop/a")
            town.push("n1")
            assert denied.arrived.wait(60), "the flood was there all the time"
