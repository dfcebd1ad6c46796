"""The server's sockets: one client that asks for much does not keep the others waiting, or fill the memory."""

import socket
import threading
from collections.abc import Iterator

import pytest

from isthmus.lab.dns.server import DnsServer
from isthmus.lab.images.programs.loop import Loop

LARGE = b"a" * 60_000
QUERIES = 3000


class Serving:
    """A server in a thread, that answers every query with `LARGE`, or over UDP with the query."""

    def __init__(self) -> None:
        self.answered = 0
        self.loop = Loop()
        self.server = DnsServer(self.loop, self._respond)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", 0))
        for sock in (self.listener, self.datagrams):
            sock.setblocking(False)
        self.server.open_streams(self.listener)
        self.server.open_datagrams(self.datagrams)
        self.thread = threading.Thread(target=self.loop.run)

    def _respond(self, data: bytes, proto: str) -> bytes | None:
        if data == b"no query":
            return None
        self.answered += proto == "tcp"
        return LARGE if proto == "tcp" else data

    def connect(self) -> socket.socket:
        return socket.create_connection(self.listener.getsockname(), timeout=10)


@pytest.fixture
def serving() -> Iterator[Serving]:
    serving = Serving()
    serving.thread.start()
    yield serving
    serving.loop.call(serving.loop.stop)
    serving.thread.join()
    for stream in list(serving.server._streams):
        stream.close()
    serving.loop.close()
    serving.listener.close()
    serving.datagrams.close()


def _framed(query: bytes) -> bytes:
    return len(query).to_bytes(2, "big") + query


def test_a_client_that_asks_and_does_not_read_is_not_answered_without_end(serving: Serving):
    with serving.connect() as client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        client.sendall(_framed(b"query") * QUERIES)
        other.settimeout(10)
        other.connect(serving.datagrams.getsockname())
        for _ in range(100):
            other.send(b"hello")
            assert other.recv(100) == b"hello"
        assert 0 < serving.answered < QUERIES / 10, "what the sockets hold, and one more"


def test_all_queries_that_came_at_once_are_answered_in_the_end(serving: Serving):
    with serving.connect() as client:
        client.sendall(_framed(b"query") * QUERIES + b"\0")
        left = QUERIES * len(_framed(LARGE))
        while left:
            left -= len(client.recv(min(left, 1 << 20)))
        client.sendall(b"\5query")
        assert client.recv(1, socket.MSG_WAITALL)
        assert serving.answered == QUERIES + 1


def test_what_is_no_query_ends_the_stream(serving: Serving):
    with serving.connect() as client:
        client.sendall(_framed(b"no query"))
        assert client.recv(100) == b""
