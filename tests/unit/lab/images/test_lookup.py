"""The resolver of pods, and what nslookup and dig print."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.lab.dns.data import Port, Service
from isthmus.lab.dns.directory import Directory
from isthmus.lab.dns.responder import Responder
from isthmus.lab.dns.zone import ServiceZone
from isthmus.lab.images.programs import lookup, resolving
from isthmus.lab.images.programs.resolving import Config, candidates, read_config, reverse_name
from isthmus.wire.dns import name_text

CONFIG = Config(servers=("127.0.0.1",), search=("shop.svc.cluster.local", "svc.cluster.local"), ndots=5, timeout=5.0)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a name server, which resolv.conf names."""
    directory = Directory()
    directory.put_service(Service((b"shop", b"web"), (b"\x0a\x60\x00\x07",), (Port(b"http", b"tcp", 80),)))
    responder = Responder([ServiceZone((b"cluster", b"local"), directory)])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, peer = server.recvfrom(4096)
                if data == b"end":
                    return
                server.sendto(responder.respond(data, stream=False) or b"", peer)

        thread = threading.Thread(target=serve)
        thread.start()
        monkeypatch.setattr(resolving, "read_config", lambda: CONFIG)
        monkeypatch.setattr(lookup, "read_config", lambda: CONFIG)
        yield server.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"end", server.getsockname())
        thread.join(10)


def test_nslookup_searches_the_domains_of_the_pod(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    server = f"Server:\t\t127.0.0.1\nAddress:\t127.0.0.1#{port}\n\n"
    for name in ("web", "web.shop", "web.shop.svc.cluster.local"):
        assert lookup.nslookup([f"-port={port}", name]) == 0
        assert capsys.readouterr().out == f"{server}Name:\tweb.shop.svc.cluster.local\nAddress: 10.96.0.7\n\n"
    assert lookup.nslookup([f"-port={port}", "nope"]) == 1
    assert "** server can't find nope: REFUSED" in capsys.readouterr().out
    assert lookup.nslookup([f"-port={port}", "nope.shop.svc.cluster.local."]) == 1
    assert "NXDOMAIN" in capsys.readouterr().out
    assert lookup.nslookup([f"-port={port}", "-type=srv", "_http._tcp.web"]) == 0
    assert "service = 0 100 80 web.shop.svc.cluster.local.\n" in capsys.readouterr().out


def test_dig_prints_what_it_is_asked_for(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert lookup.dig([f"-p{port}", "@127.0.0.1", "+search", "+short", "web", "A"]) == 0
    assert capsys.readouterr().out == "10.96.0.7\n"
    assert lookup.dig([f"-p{port}", "+noall", "+answer", "web.shop.svc.cluster.local"]) == 0
    assert capsys.readouterr().out == "web.shop.svc.cluster.local.\t5\tIN\tA\t10.96.0.7\n"
    assert lookup.dig([f"-p{port}", "nope.cluster.local", "SOA"]) == 0
    text = capsys.readouterr().out
    assert "status: NXDOMAIN" in text and ";; AUTHORITY SECTION:" in text and ";; flags: qr aa rd;" in text


@pytest.mark.parametrize(
    "argv", [["+nonsense"], ["-x", "1.2.3"], ["-t", "BOGUS", "a"], ["-z"], ["a..b"], ["@no.such.invalid", "a"]]
)
def test_dig_refuses_what_it_does_not_know(argv: list[str]) -> None:
    assert lookup.dig(argv) == 1


def test_a_server_that_does_not_listen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        free = silent.getsockname()[1]
    monkeypatch.setattr(lookup, "read_config", lambda: CONFIG)
    assert lookup.nslookup([f"-port={free}", "web", "127.0.0.1"]) == 1
    assert capsys.readouterr().out == f";; communications error to 127.0.0.1#{free}: connection refused\n\n"


def test_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "search a.b. c\nnameserver 10.0.0.1\nnameserver fd00::1\noptions ndots:5 timeout:3 attempts:9 ndots:x\n"
    )
    assert read_config(str(path)) == Config(("10.0.0.1", "fd00::1"), ("a.b", "c"), 5, 3.0, 5)
    assert read_config(str(tmp_path / "none")) == Config()


def test_names_are_tried_as_resolvers_do() -> None:
    texts = [name_text(name) for name in candidates("a.b", CONFIG)]
    assert texts == ["a.b.shop.svc.cluster.local.", "a.b.svc.cluster.local.", "a.b."]
    assert name_text(candidates("a.b", CONFIG._replace(ndots=1))[0]) == "a.b."
    assert len(candidates("a.b.", CONFIG)) == 1
    assert name_text(reverse_name("10.0.0.7") or ()) == "7.0.0.10.in-addr.arpa."
    assert reverse_name("fd00::1") is not None and reverse_name("web") is None
