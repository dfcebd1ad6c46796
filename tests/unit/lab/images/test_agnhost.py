"""agnhost's arguments, and what netexec answers."""

import json
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from isthmus.lab.images.programs.agnhost import connect, dialing, main, serving, telling
from isthmus.lab.images.programs.agnhost.command import UsageError, commands, parse
from isthmus.lab.images.programs.agnhost.netexec import Netexec, command
from isthmus.lab.images.programs.loop import Loop
from isthmus.lab.images.programs.messages import Request, Response
from isthmus.model.durations import seconds

HOST = os.uname().nodename


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bogus"], 'Error: unknown command "bogus" for "app"\n'),
        (["netexec", "--bogus"], "Error: unknown flag: --bogus\n"),
        (["netexec", "--http-port", "x"], 'invalid argument "x" for "--http-port" flag: strconv.ParseInt: parsing "x"'),
        (["netexec", "--http-port"], "flag needs an argument: --http-port"),
        (["netexec", "more"], "accepts at most 0 arg(s), received 1"),
        (["connect"], "accepts 1 arg(s), received 0"),
        (["connect", "a:1", "--timeout", "soon"], 'time: invalid duration "soon"'),
        (["serve-hostname", "--tcp=maybe"], "strconv.ParseBool"),
        (["netexec", "--tls-cert-file=x"], "has no TLS"),
    ],
)
def test_bad_arguments_end_with_cobras_words(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main(argv) == 1
    assert message in capsys.readouterr().err


def test_flags_are_read_as_cobra_reads_them() -> None:
    netexec = commands()["netexec"]
    assert parse(["--http-port", "80", "--udp-port=-1"], netexec)[1]["udp-port"] == "-1"
    assert parse(["-http-port=80"], netexec)[1]["http-port"] == "80"
    words, values = parse(["h:1", "--timeout=2s"], commands()["connect"])
    assert (words, values["timeout"], values["udp-data"]) == (["h:1"], "2s", "hostname")
    with pytest.raises(UsageError):
        parse(["--", "a", "b"], commands()["connect"])


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in commands())


class Asker:
    """Asks a netexec without a socket of its own."""

    def __init__(self, server: Netexec) -> None:
        self.server = server

    def __call__(self, target: str, *, method: str = "GET", body: bytes = b"", **headers: str) -> Response:
        fields = {"host": "x", **{name.replace("_", "-"): value for name, value in headers.items()}}
        request = Request(f"{method} {target} HTTP/1.1", fields, peer=("10.0.0.9", 4), local=("10.0.0.1", 80))
        request.body = body
        answered = threading.Event()
        found: list[Response] = []
        self.server.serve(request, lambda response: (found.append(response), answered.set())[0])
        assert answered.wait(10)
        return found[0]


@pytest.fixture
def ask() -> Iterator[Asker]:
    server = Netexec()
    yield Asker(server)
    server.loop.close()


def test_netexec_answers(ask: Asker) -> None:
    assert ask("/hostname").body == ask("/hostName").body == HOST.encode()
    assert ask("/clientip").body == b"10.0.0.9:4"
    assert ask("/serverport").body == b"80"
    assert ask("/anything").body.startswith(b"NOW: ")
    assert ask("/healthz").status == 412
    echo = ask("/echo?msg=a%20b&code=201")
    assert (echo.status, echo.body) == (201, b"a b")
    assert (
        ask("/echo", method="POST", body=b"msg=form", content_type="application/x-www-form-urlencoded").body == b"form"
    )
    assert b"must be an integer" in ask("/echo?code=x").body
    assert ask("/header?key=X-One", x_one="1").body == b"1"
    moved = ask("/redirect?location=/echo%3Fmsg=foobar&code=307")
    assert (moved.status, dict(moved.headers)["Location"]) == (307, "/echo?msg=foobar")
    assert json.loads(ask("/shell?cmd=echo+hi").body) == {"output": "hi\n"}
    assert json.loads(ask("/shell?shellCommand=exit+3").body) == {"error": "exit status 3"}
    assert b"golang duration" in ask("/exit?wait=soon").body


def test_netexec_dials(ask: Asker) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

        def answer() -> None:
            for _ in range(2):
                data, peer = server.recvfrom(100)
                server.sendto(data.upper(), peer)

        thread = threading.Thread(target=answer)
        thread.start()
        dialled = ask(f"/dial?host=127.0.0.1&port={port}&protocol=udp&request=hostname&tries=2")
        thread.join(10)
    assert json.loads(dialled.body) == {"responses": ["HOSTNAME", "HOSTNAME"]}
    refused = ask(f"/dial?host=127.0.0.1&port={port}&request=hostname")
    assert "refused" in json.loads(refused.body)["errors"][0]
    for query in ("", "?request=x&tries=y", "?request=x&protocol=icmp", "?request=x&host=127.0.0.1&port=none"):
        assert ask(f"/dial{query}").status == 400


def test_one_answer_for_every_request(capsys: pytest.CaptureFixture[str]) -> None:
    server = Netexec("/echo?msg=always")
    assert Asker(server)("/hostname").body == b"always"
    server.loop.close()


def test_datagrams() -> None:
    peer = ("fd00::1", 7)
    assert command(b"hostName\n", peer) == HOST.encode()
    assert command(b"echo Some", peer) == b"some"
    assert command(b"clientip", peer) == b"[fd00::1]:7"
    assert command(b"", peer) is None and command(b"\xff", peer) is None


def test_a_server_that_breaks_the_protocol_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(dialing.DialError, match="malformed"):
            dialing.dial("http", "127.0.0.1", str(server.getsockname()[1]), "hostname")
        thread.join(10)


@pytest.mark.parametrize("target", ["nothing", "a:b:c", "::1:80"])
def test_connect_tells_bad_arguments_from_failures(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"protocol": "tcp", "timeout": "1s"}
    assert connect.connect([target], values) == 1
    assert capsys.readouterr().err.startswith("UNKNOWN: address ")


def test_hostname_is_served_one_way_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "end_on_signals", lambda: None)
    values = {"port": "1", "http": "true", "tcp": "true", "udp": "false", "close": "false"}
    assert serving.serve_hostname([], values) == 1


def test_what_the_telling_ones_tell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = "search a b\nnameserver 10.0.0.1\nnameserver ::1\n"
    monkeypatch.setattr(telling, "_read", lambda _path: text)
    for run in (telling.dns_suffix, telling.dns_server_list, telling.etc_hosts):
        assert run([], {}) == 0
    assert telling.entrypoint_tester(["foo"], {}) == 0
    assert capsys.readouterr().out == f"a,b\n10.0.0.1,::1\n{text}[/agnhost entrypoint-tester foo]\n"
    assert telling.logs_generator([], {"log-lines-total": "3", "run-duration": "1ms"}) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["0", "1", "2"]


@pytest.mark.parametrize("text", ["", "s", "1", "1x", "1s2", "-1s", "1h 2m", "9" * 200 + "s"])
def test_what_is_no_duration(text: str) -> None:
    assert seconds(text) is None


def test_the_loop_outlives_callbacks_that_raise(capfd: pytest.CaptureFixture[str]) -> None:
    loop = Loop()
    done = threading.Event()
    thread = threading.Thread(target=loop.run)
    thread.start()
    loop.call(lambda: 1 // 0)
    loop.call(done.set)
    assert done.wait(10)
    loop.call(loop.stop)
    thread.join(10)
    loop.close()
    assert "ZeroDivisionError" in capfd.readouterr().err
