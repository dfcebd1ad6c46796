"""Probes of nodes with real sockets: what counts as life, and that nothing stays open."""

import asyncio
import contextlib
import errno
import os
import select
import socket
from collections.abc import Iterator, Sequence

import pytest
from prometheus_client import CollectorRegistry

from isthmus.agent.across.liveness import Health, Place
from isthmus.agent.across.prober import Prober
from isthmus.agent.metrics import ProbeMetrics
from isthmus.kernel import connects
from isthmus.kernel.connects import Connects, Outcome

PLACES = {Place("west", "w1", 4): "127.0.0.1", Place("west", "w1", 6): "::1"}


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def _outcome(tries: Connects, address: str, port: int) -> Outcome:
    found = tries.start(7, address, port)
    if found is None:
        assert select.select([tries], [], [], 20)[0]
        ((number, found),) = tries.harvest()
        assert number == 7
    assert len(tries) == 0
    return found


@pytest.fixture
def tries() -> Iterator[Connects]:
    before = _descriptors()
    tries = Connects()
    yield tries
    tries.close()
    assert _descriptors() == before


@pytest.fixture
def port() -> int:
    """A port that nobody listens on, of either family."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_listener_and_a_refusal_are_answers_and_a_listener_reads_nothing(tries: Connects, port, address):
    assert _outcome(tries, address, port) is Outcome.ANSWERED
    with socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
        assert _outcome(tries, address, port) is Outcome.ANSWERED
        server.settimeout(20)
        connection, _ = server.accept()
        with connection, contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b"", "ended by a reset, without a byte"


def test_what_the_network_refuses_is_a_miss_and_what_fails_here_is_neither(tries: Connects, port, monkeypatch):
    cases = {
        errno.EHOSTUNREACH: Outcome.MISSED,
        errno.ENETUNREACH: Outcome.MISSED,
        errno.ETIMEDOUT: Outcome.MISSED,
        errno.ECONNREFUSED: Outcome.ANSWERED,
        errno.EADDRNOTAVAIL: Outcome.UNABLE,
        errno.EPERM: Outcome.UNABLE,
        errno.EAGAIN: Outcome.UNABLE,
    }
    for code, outcome in cases.items():
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "connect_ex", lambda _self, _place, code=code: code)
            assert tries.start(1, "127.0.0.1", port) is outcome, errno.errorcode[code]

    def full(*_args):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(connects.socket, "socket", full)
        assert tries.start(1, "127.0.0.1", port) is Outcome.UNABLE
    assert "Too many open files" in tries.error
    assert tries.start(1, "not an address", port) is Outcome.UNABLE


def test_tries_are_bounded_and_can_be_given_up(tries: Connects, monkeypatch):
    monkeypatch.setattr(connects, "MOST", 3)
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: errno.EINPROGRESS)
    assert [tries.start(number, "127.0.0.1", 1) for number in range(4)] == [None, None, None, Outcome.UNABLE]
    tries.drop(1)
    tries.drop(1)
    tries.drop(99)
    assert len(tries) == 2 and tries.start(5, "127.0.0.1", 1) is None


async def test_nodes_are_probed_in_both_families_while_they_are_watched_and_not_any_longer(port):
    told: asyncio.Queue[tuple[Place, Health]] = asyncio.Queue()
    registry = CollectorRegistry()

    def hear(changes: Sequence[tuple[Place, Health]]) -> None:
        for change in changes:
            told.put_nowait(change)

    prober = Prober(port=port, own="", on_changes=hear, metrics=ProbeMetrics(registry))
    before = _descriptors()
    task = asyncio.create_task(prober.serve())
    async with asyncio.timeout(30):
        prober.watch(PLACES, crowd=2)
        assert {await told.get(), await told.get()} == {(place, Health.REACHABLE) for place in PLACES}
        prober.watch({}, crowd=2)
        assert {await told.get(), await told.get()} == {(place, Health.UNKNOWN) for place in PLACES}
        count = registry.get_sample_value("isthmus_agent_probes_total", {"outcome": "answered"})
        assert count >= 2
        assert prober.liveness.next_tick is None

        prober.watch(PLACES, crowd=2)
        while (registry.get_sample_value("isthmus_agent_probes_total", {"outcome": "answered"}) or 0) < count + 20:
            await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert _descriptors() == before
