"""The HTTP server of the programs in pods, over real sockets."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.lab.images.programs.loop import Loop, listen
from isthmus.lab.images.programs.messages import BadRequest, Request, Response, parse_query, unchunk, unquote
from isthmus.lab.images.programs.web import Reply, Server

LIMIT = 10.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """The port of a server that says what it was asked, /slow from another thread and /file from a file."""
    loop = Loop()
    listener = listen(0, host="127.0.0.1")
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)

    def serve(request: Request, reply: Reply) -> None:
        if request.path == "/slow":
            threading.Thread(target=reply, args=(Response(200, b"slow"),)).start()
        elif request.path == "/file":
            reply(Response(200, file=os.open(tmp_path / "file", os.O_RDONLY), length=3_000_000))
        elif request.path == "/fail":
            raise RuntimeError("as asked")
        else:
            reply(Response(200, f"{request.method} {request.path} {request.query} ".encode() + request.body))

    running = Server(loop, listener, serve, max_body=1000)
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield listener.getsockname()[1]
    loop.call(running.close)
    loop.call(loop.stop)
    thread.join(LIMIT)
    assert not thread.is_alive()
    loop.close()


def talk(port: int, data: bytes, *, until: bytes | None = None) -> bytes:
    """Sends and returns what comes until the end, or until `until`."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as client:
        client.sendall(data)
        answer = b""
        while until is None or not answer.endswith(until):
            piece = client.recv(65536)
            if not piece:
                break
            answer += piece
        return answer


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def test_requests_are_answered_in_their_order(server: int) -> None:
    requests = get("/a") + get("/slow") + get("/b?q=1") + get("/c", "Connection: close")
    bodies = [part.partition(b"\r\n\r\n")[2] for part in talk(server, requests).split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"GET /a  ", b"slow", b"GET /b q=1 ", b"GET /c  "]


def test_a_request_may_come_in_pieces(server: int) -> None:
    with socket.create_connection(("127.0.0.1", server), timeout=LIMIT) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in get("/pieces", "Connection: close"):
            client.sendall(bytes((byte,)))
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.endswith(b"GET /pieces  ")


def test_bodies_of_both_kinds(server: int) -> None:
    plain = b"POST /p HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc"
    assert talk(server, plain).endswith(b"POST /p  abc")
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunked = head + b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\nT: 1\r\n\r\n"
    assert talk(server, chunked).endswith(b"POST /p  abc")
    waiting = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    assert talk(server, waiting, until=b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_a_head_has_no_body_and_a_large_file_is_whole(server: int) -> None:
    head = talk(server, b"HEAD /file HTTP/1.0\r\n\r\n")
    assert b"Content-Length: 3000000" in head and head.endswith(b"\r\n\r\n")
    assert len(talk(server, b"GET /file HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2]) == 3_000_000


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"G(T / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET relative HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n500\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
    ],
)
def test_what_breaks_the_protocol_is_told_and_ends_the_connection(server: int, data: bytes, status: int) -> None:
    assert talk(server, data).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_handler_that_fails_harms_nobody_else(server: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert talk(server, get("/fail")) == b""
    assert talk(server, get("/well", "Connection: close")).endswith(b"GET /well  ")
    assert "RuntimeError: as asked" in capfd.readouterr().err


def test_many_clients_at_once(server: int) -> None:
    clients = [socket.create_connection(("127.0.0.1", server), timeout=LIMIT) for _ in range(300)]
    try:
        for client in clients:
            client.sendall(get("/x"))
        assert all(client.recv(4096).startswith(b"HTTP/1.1 200 OK") for client in clients)
    finally:
        for client in clients:
            client.close()


def test_quoting() -> None:
    assert unquote("/a%20b%2F%zz%") == "/a b/%zz%"
    assert parse_query("a=1&a=2&b=x+y&c&=") == {"a": "1", "b": "x y", "c": "", "": ""}
    assert unchunk(bytearray(b"3\r\nab"), limit=10) is None
    with pytest.raises(BadRequest):
        unchunk(bytearray(b"3\r\nabcd\r\n"), limit=10)
