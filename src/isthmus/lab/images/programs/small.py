"""Three small servers that examples are written with: http-echo, whoami, and the Death Star of Cilium's demo.

Facts: hashicorp/http-echo (-listen, -text, $ECHO_TEXT), traefik/whoami (-port, $WHOAMI_PORT_NUMBER, -name), Cilium's
http-sw-app (/v1/request-landing, /v1/exhaust-port).
"""

import json
import os
import sys
import time

from isthmus.lab.images.programs.loop import Loop, end_on_signals, listen
from isthmus.lab.images.programs.messages import Request, Response, http_date, join, one_line, parse_query
from isthmus.lab.images.programs.web import Handler, Reply, Server

_TEXT = ("Content-Type", "text/plain; charset=utf-8")
_PANIC = """Panic: deathstar exploded

goroutine 1 [running]:
main.HandleGarbage(0x2080c3f50, 0x2, 0x4, 0x425c0, 0x5, 0xa)
        /code/src/github.com/empire/deathstar/
        temp/main.go:9 +0x64
main.main()
        /code/src/github.com/empire/deathstar/
        temp/main.go:5 +0x85
"""


class UsageError(Exception):
    """The arguments are wrong; the message says how."""


def flags(argv: list[str], known: dict[str, bool]) -> dict[str, str]:
    """Returns Go-style flags (`-name value`, `--name=value`); `known` tells which take a value. Raises UsageError."""
    found: dict[str, str] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            raise UsageError(f"unexpected argument: {word}")
        if name not in known:
            raise UsageError(f"flag provided but not defined: -{name}")
        if known[name] and not equals:
            if not words:
                raise UsageError(f"flag needs an argument: -{name}")
            value = words.pop(0)
        found[name] = value if known[name] or equals else "true"
    return found


def address(text: str) -> tuple[str, int]:
    """Returns host and port of `HOST:PORT`; an empty host is all addresses. Raises UsageError."""
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"listen tcp: address {text}: missing or bad port in address")
    return ("" if host in ("0.0.0.0", "::") else host), int(port)


def http_echo(argv: list[str]) -> int:
    """Runs http-echo; returns the exit code."""
    try:
        found = flags(argv, {"listen": True, "text": True, "status-code": True, "version": False})
        if "version" in found:
            sys.stderr.write("http-echo 1.0.0\n")
            return 0
        text = found.get("text", os.environ.get("ECHO_TEXT", ""))
        if not text:
            raise UsageError("Missing -text option!")
        status = found.get("status-code", "200")
        if not (status.isdigit() and 100 <= int(status) < 600):
            raise UsageError(f'invalid value "{status}" for flag -status-code')
        where = address(found.get("listen", ":5678"))
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 127
    body = f"{text}\n".encode()

    def answer(request: Request, reply: Reply) -> None:
        stamp = time.strftime("%Y/%m/%d %H:%M:%S", time.gmtime())
        host = one_line(request.headers.get("host", ""))
        sys.stdout.write(f'{stamp} {host} {join(request.peer)} "{one_line(request.line)}" {status} {len(body)}\n')
        sys.stdout.flush()
        headers = [("X-App-Name", "http-echo"), ("X-App-Version", "1.0.0"), ("Date", http_date(time.time())), _TEXT]
        reply(Response(int(status), body, headers))

    return serve(answer, where)


def whoami(argv: list[str]) -> int:
    """Runs whoami; returns the exit code."""
    try:
        found = flags(argv, {"port": True, "name": True, "verbose": False})
        name = found.get("name", os.environ.get("WHOAMI_NAME", ""))
        where = address(f":{found.get('port', os.environ.get('WHOAMI_PORT_NUMBER', '80'))}")
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2

    def answer(request: Request, reply: Reply) -> None:
        if request.path == "/health":
            reply(Response(200))
            return
        if request.path == "/api":
            data = {
                "hostname": os.uname().nodename,
                "ip": [request.local[0]],
                "headers": request.headers,
                "url": request.path,
                "host": request.headers.get("host", ""),
                "method": request.method,
                "name": name,
            }
            reply(Response(200, json.dumps(data).encode(), [("Content-Type", "application/json")]))
            return
        lines = [f"Name: {name}"] if name else []
        lines += [f"Hostname: {os.uname().nodename}", "IP: 127.0.0.1", f"IP: {request.local[0]}"]
        lines += [f"RemoteAddr: {join(request.peer)}", f"{request.line}", f"Host: {request.headers.get('host', '')}"]
        lines += [f"{header.title()}: {value}" for header, value in sorted(request.headers.items()) if header != "host"]
        wait = parse_query(request.query).get("wait", "")
        response = Response(200, "\n".join([*lines, ""]).encode(errors="replace"), [_TEXT])
        if wait:
            later(reply, response, wait)
        else:
            reply(response)

    return serve(answer, where)


def later(reply: Reply, response: Response, wait: str) -> None:
    """Answers after a Go duration, at most a minute."""
    import threading

    from isthmus.model.durations import seconds

    timer = threading.Timer(min(seconds(wait) or 0.0, 60.0), reply, [response])
    timer.daemon = True
    timer.start()


def deathstar(_argv: list[str]) -> int:
    """Runs Cilium's Death Star; returns the exit code."""

    def answer(request: Request, reply: Reply) -> None:
        path = request.path.rstrip("/")
        if path == "/v1/request-landing" and request.method == "POST":
            reply(Response(200, b"Ship landed\n", [_TEXT]))
        elif path == "/v1/exhaust-port" and request.method == "PUT":
            reply(Response(503, _PANIC.encode(), [_TEXT]))
        elif path in ("", "/v1") and request.method in ("GET", "HEAD"):
            about = {"name": "Death Star", "hostname": os.uname().nodename, "model": "DS-1 Orbital Battle Station"}
            reply(Response(200, json.dumps(about, indent=1).encode() + b"\n", [("Content-Type", "application/json")]))
        else:
            reply(Response(404, b"404 page not found\n", [_TEXT]))

    return serve(answer, ("", 80))


def serve(handler: Handler, where: tuple[str, int]) -> int:
    """Serves until a signal; returns the exit code."""
    end_on_signals()
    loop = Loop()
    try:
        Server(loop, listen(where[1], host=where[0]), handler)
    except OSError as error:
        sys.stderr.write(f"listen tcp {where[0]}:{where[1]}: {error.strerror}\n")
        return 1
    sys.stdout.write(f"Starting up on port {where[1]}\n")
    sys.stdout.flush()
    loop.run()
    return 0
