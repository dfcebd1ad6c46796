"""http-echo, whoami, the Death Star: arguments and answers."""

import json

import pytest

from isthmus.lab.images.programs import small
from isthmus.lab.images.programs.messages import Request, Response
from isthmus.lab.images.programs.web import Handler


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Handler, tuple[str, int]]]:
    """What the programs would serve, and where."""
    found: list[tuple[Handler, tuple[str, int]]] = []

    def serve(handler: Handler, where: tuple[str, int]) -> int:
        found.append((handler, where))
        return 0

    monkeypatch.setattr(small, "serve", serve)
    return found


def ask(handler: Handler, path: str, method: str = "GET") -> Response:
    answers: list[Response] = []
    handler(
        Request(f"{method} {path} HTTP/1.1", {"host": "x"}, peer=("10.0.0.9", 4), local=("10.0.0.1", 80)),
        answers.append,
    )
    return answers[0]


def test_http_echo(served: list[tuple[Handler, tuple[str, int]]]) -> None:
    assert small.http_echo(["-text=hello", "-listen", ":80", "-status-code=418"]) == 0
    handler, where = served[0]
    answer = ask(handler, "/x")
    assert (where, answer.status, answer.body) == (("", 80), 418, b"hello\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Missing -text option!"),
        (["-text"], "flag needs an argument: -text"),
        (["-nope"], "flag provided but not defined: -nope"),
        (["-text=x", "-listen=80"], "missing or bad port"),
        (["-text=x", "-status-code=1"], "invalid value"),
        (["x"], "unexpected argument: x"),
    ],
)
def test_http_echo_refuses_bad_arguments(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.http_echo(argv) == 127
    assert message in capsys.readouterr().err


def test_whoami(served: list[tuple[Handler, tuple[str, int]]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHOAMI_PORT_NUMBER", "8080")
    assert small.whoami(["--name=me"]) == 0
    handler, where = served[0]
    assert where == ("", 8080)
    text = ask(handler, "/a").body.decode()
    assert text.startswith("Name: me\nHostname: ") and "RemoteAddr: 10.0.0.9:4\nGET /a HTTP/1.1\nHost: x\n" in text
    assert json.loads(ask(handler, "/api").body)["name"] == "me"
    assert ask(handler, "/health").status == 200
    assert small.whoami(["--port=x"]) == 2


def test_the_death_star(served: list[tuple[Handler, tuple[str, int]]]) -> None:
    assert small.deathstar([]) == 0
    handler, _where = served[0]
    assert ask(handler, "/v1/request-landing", "POST").body == b"Ship landed\n"
    assert ask(handler, "/v1/request-landing").status == 404
    assert ask(handler, "/v1/exhaust-port", "PUT").status == 503
    assert json.loads(ask(handler, "/v1/").body)["name"] == "Death Star"
