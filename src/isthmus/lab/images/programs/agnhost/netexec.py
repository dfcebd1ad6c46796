"""netexec: an HTTP server that tells who and what it is and talks to its like; the same over UDP and SCTP."""

import os
import signal
import threading
import time
from collections.abc import Callable

from isthmus.lab.images.programs.agnhost.command import UsageError, Values
from isthmus.lab.images.programs.agnhost.dialing import DialError, dial
from isthmus.lab.images.programs.agnhost.plumbing import SCTP, hostname, log, serve_datagrams, serve_once
from isthmus.lab.images.programs.loop import Loop, end_on_signals, listen
from isthmus.lab.images.programs.messages import Peer, Request, Response, http_date, join, parse_query
from isthmus.lab.images.programs.web import Reply, Server
from isthmus.model.durations import seconds

Task = Callable[[dict[str, str]], Response]

_TEXT = ("Content-Type", "text/plain; charset=utf-8")
MAX_WORKERS = 64
"""Requests that take their time (dial, shell, exit) at once; more are refused."""
MAX_TRIES = 1000
_SHELL_LIMIT = 60.0


def netexec(_words: list[str], values: Values) -> int:
    """Serves; returns the exit code."""
    end_on_signals()
    if values["tls-cert-file"]:
        raise UsageError("--tls-cert-file: the lab's agnhost has no TLS")
    delay = int(values["delay-shutdown"])
    if delay > 0:
        signal.signal(signal.SIGTERM, lambda *_: _end_later(delay))
    server = Netexec(values["http-override"])
    try:
        server.open(values)
    except OSError as error:
        log(f"Error occurred: failed to create listener: {error.strerror or error}")
        return 1
    server.loop.run()
    return 0


class Netexec:
    """The server."""

    def __init__(self, override: str = "") -> None:
        self.loop = Loop()
        self._override = override
        self._ready = False
        self._workers = threading.BoundedSemaphore(MAX_WORKERS)

    def open(self, values: Values) -> None:
        """Listens; raises OSError."""
        udp, sctp = int(values["udp-port"]), int(values["sctp-port"])
        if udp != -1:
            for host in values["udp-listen-addresses"].split(","):
                serve_datagrams(self.loop, udp, command, host=host.strip())
                log(f"Started UDP server on port {host} {udp}")
                self._ready = True
        if sctp != -1:
            serve_once(self.loop, sctp, lambda data, peer: command(data, peer) or b"", protocol=SCTP, reads=True)
            log("Started SCTP server")
            self._ready = True
        http = int(values["http-port"])
        if http > 0:
            Server(self.loop, listen(http), self.serve, common=lambda: [("Date", http_date(time.time()))])
            log(f"Started HTTP server on port {http}")

    def serve(self, request: Request, reply: Reply) -> None:
        """Answers one request."""
        path, query = request.path, parse_query(request.query)
        if self._override:
            path, _, text = self._override.partition("?")
            query = parse_query(text)
        elif request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            query = parse_query(request.body.decode("latin-1")) | query
        log(f"{request.method} {path}{'?' if request.query else ''}{request.query}")
        match path:
            case "/hostname" | "/hostName":
                reply(text_response(200, hostname()))
            case "/clientip":
                reply(text_response(200, join(request.peer).encode()))
            case "/serverport":
                reply(text_response(200, str(request.local[1]).encode()))
            case "/healthz":
                reply(Response(200 if self._ready else 412))
            case "/header":
                value = request.headers.get(query.get("key", "").lower(), "")
                reply(text_response(200, value.encode(errors="replace")))
            case "/echo":
                reply(echo(query))
            case "/redirect":
                reply(redirect(query))
            case "/shutdown":
                os._exit(0)
            case "/exit" | "/dial" | "/shell":
                self._work({"/exit": leave, "/dial": dialled, "/shell": shell}[path], query, reply)
            case _:
                reply(text_response(200, time.strftime("NOW: %Y-%m-%d %H:%M:%S %z UTC", time.gmtime()).encode()))

    def _work(self, task: Task, query: dict[str, str], reply: Reply) -> None:
        """Does what takes time in a thread of its own."""
        if not self._workers.acquire(blocking=False):
            reply(text_response(503, b"too many requests at once"))
            return

        def work() -> None:
            try:
                reply(task(query))
            except Exception as error:  # whatever a request provokes, the server goes on
                reply(text_response(500, f"{error}".encode(errors="replace")))
            finally:
                self._workers.release()

        threading.Thread(target=work, daemon=True).start()


def echo(query: dict[str, str]) -> Response:
    """Returns the message, with the code that is wished for."""
    code = query.get("code", "")
    if code and not _is_int(code):
        return text_response(200, f"argument 'code' must be an integer or empty, got \"{code}\"\n".encode())
    status = int(code or "200")
    if not 100 <= status < 1000:
        return text_response(500, f"invalid WriteHeader code {status}".encode())
    return text_response(status, query.get("msg", "").encode(errors="replace"))


def redirect(query: dict[str, str]) -> Response:
    """Sends the client elsewhere."""
    code = query.get("code", "") or "302"
    if not _is_int(code):
        return text_response(200, f"argument 'code' must be an integer or empty, got \"{code}\"\n".encode())
    location = query.get("location", "")
    return Response(int(code), headers=[("Location", location), ("Content-Type", "text/html; charset=utf-8")])


def leave(query: dict[str, str]) -> Response:
    """Ends the process, after a while and with the code that is wished for."""
    code = query.get("code", "") or "0"
    for name in ("timeout", "wait"):
        if query.get(name) and seconds(query[name]) is None:
            text = f"argument '{name}' must be a valid golang duration or empty, got \"{query[name]}\"\n"
            return text_response(200, text.encode())
    if not _is_int(code):
        return text_response(200, f"argument 'code' must be an integer [0-127] or empty, got \"{code}\"\n".encode())
    time.sleep(seconds(query.get("wait") or "0") or 0.0)
    log(f"Graceful shutdown completed, exiting with {code}")
    if seconds(query.get("timeout") or "0"):
        # The answer may still leave.
        threading.Timer(0.05, os._exit, [int(code) & 0xFF]).start()
        return Response(200)
    os._exit(int(code) & 0xFF)


def dialled(query: dict[str, str]) -> Response:
    """Asks another netexec, as often as is wished for, and returns what came back."""
    tries = query.get("tries", "") or "1"
    if not _is_int(tries):
        return text_response(
            400, f'tries parameter is invalid. strconv.Atoi: parsing "{tries}": invalid syntax\n'.encode()
        )
    if not query.get("request"):
        return text_response(400, b"request parameter not specified. <nil>\n")
    protocol = query.get("protocol", "").lower() or "http"
    if protocol not in ("http", "udp", "sctp"):
        return text_response(400, f"unsupported protocol. {protocol}\n".encode(errors="replace"))
    import json

    answers: list[str] = []
    errors: list[str] = []
    for _ in range(min(int(tries), MAX_TRIES)):
        try:
            answers.append(dial(protocol, query.get("host", ""), query.get("port", ""), query["request"]))
        except DialError as error:
            if error.is_usage:
                return text_response(400, f"host and/or port param are invalid. {error}\n".encode())
            errors.append(str(error))
    result = {}
    if answers:
        result["responses"] = answers
    if errors:
        result["errors"] = errors
    return text_response(200, json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode(errors="replace"))


def shell(query: dict[str, str]) -> Response:
    """Runs a command in the pod's shell."""
    import json
    import subprocess

    command = query.get("shellCommand") or query.get("cmd", "")
    result = {}
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=_SHELL_LIMIT, check=False,
        )  # fmt: skip
        if done.stdout:
            result["output"] = done.stdout.decode(errors="replace")
        if done.returncode:
            result["error"] = f"exit status {done.returncode}"
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        result["error"] = str(error)
    return text_response(200, json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode(errors="replace"))


def command(data: bytes, peer: Peer) -> bytes | None:
    """Returns the answer to a datagram, or None for none."""
    text = data.decode(errors="replace").strip().lower()
    if text == "hostname":
        return hostname()
    if text.startswith("echo "):
        return text[5:].encode()
    if text == "clientip":
        return join(peer).encode()
    if text:
        log(f"Unknown UDP command received from {join(peer)}: {text[:200]}")
    return None


def text_response(status: int, body: bytes) -> Response:
    """Returns a response of plain text."""
    return Response(status, body, [_TEXT])


def _is_int(text: str) -> bool:
    number = text.removeprefix("-")
    return number.isascii() and number.isdigit() and len(number) < 10


def _end_later(delay: int) -> None:
    timer = threading.Timer(delay, os._exit, [0])
    timer.daemon = True
    timer.start()
