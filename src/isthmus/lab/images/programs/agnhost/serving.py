"""serve-hostname, porter, test-webserver, liveness: the smaller servers."""

import os
import stat
import time
from collections.abc import Callable

from isthmus.lab.images.programs.agnhost.command import Values, is_true
from isthmus.lab.images.programs.agnhost.plumbing import SCTP, hostname, log, serve_datagrams, serve_once
from isthmus.lab.images.programs.loop import Loop, end_on_signals, listen
from isthmus.lab.images.programs.messages import Peer, Request, Response, http_date, join, parse_query
from isthmus.lab.images.programs.web import Handler, Reply, Server

_TEXT = ("Content-Type", "text/plain; charset=utf-8")
ALIVE = 10.0
"""Seconds after which `liveness` falls ill."""


def serve_hostname(_words: list[str], values: Values) -> int:
    """Answers everything with the host name; returns the exit code."""
    end_on_signals()
    port, over_http = int(values["port"]), is_true(values["http"])
    tcp, udp = is_true(values["tcp"]), is_true(values["udp"])
    if over_http and (tcp or udp):
        log("Can't server TCP/UDP mode and HTTP mode at the same time")
        return 1
    name, close = hostname(), is_true(values["close"])
    loop = Loop()

    def answer(request: Request, reply: Reply) -> None:
        log(f"HTTP request from {join(request.peer)}")
        reply(Response(200, name, [_TEXT], close=close))

    try:
        if tcp:
            serve_once(loop, port, lambda _data, _peer: name, reads=False)
        if udp:
            serve_datagrams(loop, port, lambda _data, _peer: name)
        if over_http:
            serve_http(loop, port, answer)
    except OSError as error:
        log(f"Error from net.Listen(): listen :{port}: {error.strerror}")
        return 1
    log(f"Serving on port {port}.")
    loop.run()
    return 0


def porter(_words: list[str], values: Values) -> int:
    """Serves the value of each variable SERVE_[TCP_|UDP_|SCTP_]PORT_N on port N; returns the exit code."""
    end_on_signals()
    loop = Loop()
    as_json = is_true(values["json-response"])
    for name, value in sorted(os.environ.items()):
        kind, mark, text = name.removeprefix("SERVE_").rpartition("PORT_")
        if not name.startswith("SERVE_") or not mark or kind not in ("", "TCP_", "UDP_", "SCTP_", "TLS_"):
            continue
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
            log(f'server on port "{text}" failed: invalid port')
            continue
        port = int(text)
        try:
            if kind == "UDP_":
                serve_datagrams(loop, port, _always(value))
                log(f"Started UDP server on port {port}")
            elif kind == "SCTP_":
                serve_once(loop, port, _always(value), protocol=SCTP, reads=False)
                log("Started SCTP server")
            elif kind == "TLS_":
                log(f'tls server on port "{port}" failed: the lab\'s agnhost has no TLS')
            else:
                serve_http(loop, port, _page(value, as_json=as_json))
        except OSError as error:
            log(f'server on port "{port}" failed: {error.strerror}')
            if kind in ("UDP_", "SCTP_"):
                return 1
    loop.run()
    return 0


def test_webserver(_words: list[str], values: Values) -> int:
    """Serves the files of the pod; returns the exit code."""
    end_on_signals()
    loop = Loop()
    try:
        serve_http(loop, int(values["port"]), files)
    except OSError as error:
        log(f"listen tcp :{values['port']}: {error.strerror}")
        return 1
    loop.run()
    return 0


def liveness(_words: list[str], _values: Values) -> int:
    """Is well for ten seconds and ill from then on; returns the exit code."""
    end_on_signals()
    loop = Loop()
    started = time.monotonic()

    def answer(request: Request, reply: Reply) -> None:
        age = time.monotonic() - started
        match request.path:
            case "/started":
                reply(Response(200, f"{age:.6f}s".encode(), [_TEXT]))
            case "/healthz" if age > ALIVE:
                reply(Response(500, f"error: {age:.6f}".encode(), [_TEXT]))
            case "/healthz":
                reply(Response(200, b"ok", [_TEXT]))
            case "/redirect":
                reply(Response(302, headers=[("Location", parse_query(request.query).get("loc", ""))]))
            case _:
                reply(Response(404, b"404 page not found\n", [_TEXT]))

    try:
        serve_http(loop, 8080, answer)
    except OSError as error:
        log(f"listen tcp :8080: {error.strerror}")
        return 1
    loop.run()
    return 0


def serve_http(loop: Loop, port: int, handler: Handler) -> None:
    """Serves HTTP; raises OSError."""
    Server(loop, listen(port), handler, common=lambda: [("Date", http_date(time.time()))])


def files(request: Request, reply: Reply) -> None:
    """Answers with a file, or the names in a directory."""
    path = os.path.normpath("/" + request.path)
    headers = [("Cache-Control", "private"), ("Access-Control-Allow-Origin", "*")]
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        status = 403 if isinstance(error, PermissionError) else 404
        reply(Response(status, b"404 page not found\n" if status == 404 else b"403 Forbidden\n", [_TEXT, *headers]))
        return
    about = os.fstat(file)
    if stat.S_ISREG(about.st_mode):
        kind = "text/html; charset=utf-8" if path.endswith(".html") else "text/plain; charset=utf-8"
        reply(Response(200, headers=[("Content-Type", kind), *headers], file=file, length=about.st_size))
        return
    os.close(file)
    try:
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in os.scandir(path))
    except OSError:
        names = []
    body = "<pre>\n" + "".join(f'<a href="{name}">{name}</a>\n' for name in map(_escaped, names)) + "</pre>\n"
    html = ("Content-Type", "text/html; charset=utf-8")
    reply(Response(200, body.encode(errors="replace"), [html, *headers]))


def _always(value: str) -> Callable[[bytes, Peer], bytes]:
    def answer(_data: bytes, _peer: Peer) -> bytes:
        return value.encode(errors="surrogateescape")

    return answer


def _page(value: str, *, as_json: bool) -> Handler:
    def answer(request: Request, reply: Reply) -> None:
        if as_json:
            import json

            body = json.dumps({"Method": request.method, "Body": value}, separators=(",", ":"))
            reply(Response(200, body.encode(), [("Content-Type", "application/json")]))
        else:
            reply(Response(200, value.encode(errors="surrogateescape"), [_TEXT]))

    return answer


def _escaped(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&#34;")
