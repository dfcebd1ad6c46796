"""agnhost's SCTP on a real wire, with or without sockets of the kernel: conntrack follows it, nftables judges it."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from isthmus.lab.images.programs.agnhost import plumbing
from tests.support.netns import World

PORT = 9003
COUNT = """
table inet watch {
    chain forward {
        type filter hook forward priority 0
        ct state invalid counter
        ct state established sctp dport 9003 counter
    }
}
"""
DROP = "table inet watch { chain denied { type filter hook forward priority 1; sctp dport 9003 drop; }; }"


NETEXEC = """
import sys
from isthmus.lab.images.programs.agnhost import main
sys.exit(main(["netexec", "--http-port=-1", "--udp-port=-1", "--sctp-port=9003"]))
"""


@pytest.fixture
def town(world: World) -> Iterator[World]:
    command = [sys.executable, "-c", NETEXEC]
    with world["b"].run(lambda: subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) as server:
        try:
            assert server.stderr is not None
            assert "Started SCTP server" in server.stderr.readline()
            yield world
        finally:
            server.kill()


def ask(world: World, source: str, ip: str, *, limit: float = 5.0) -> bytes:
    """Returns what the server says to a pod; raises as sockets do."""

    def work() -> bytes:
        with plumbing.client(socket.AF_INET6 if ":" in ip else socket.AF_INET, "sctp") as peer:
            peer.settimeout(limit)
            peer.connect((ip, PORT))
            peer.send(b"echo Hello")
            return peer.recv(100)

    return world[source].run(work)


def test_a_question_is_answered_and_tracked(town: World) -> None:
    town.nft(COUNT)
    for ip in town["b"].ips:
        assert ask(town, "a", ip) == b"hello"
    counted = town.router.command("nft", "list", "table", "inet", "watch")
    assert "ct state invalid counter packets 0 " in counted
    assert "dport 9003 counter packets 0" not in counted


def test_what_is_dropped_times_out_and_a_host_without_sctp_refuses(town: World) -> None:
    for ip in town["c"].ips:
        with pytest.raises(ConnectionRefusedError):
            ask(town, "a", ip)
    town.nft(DROP)
    for ip in town["b"].ips:
        with pytest.raises(TimeoutError):
            ask(town, "a", ip, limit=0.3)
