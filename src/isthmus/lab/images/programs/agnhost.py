"""The `agnhost` of the lab: the test program of Kubernetes' own network tests, as far as policies need it.

Runs inside pods as a plain script (`python -IS`), so it imports the standard library's smallest modules only, and
nothing of ours. Subcommands: netexec, serve-hostname, porter, connect, pause. Flags and output follow agnhost 2.39.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

Peer = tuple[Any, ...]
Page = Callable[[str, dict[str, str], Peer], tuple[int, bytes]]
Handler = Callable[[socket.socket, Peer], object]

SCTP = 132
MAX_REQUEST = 64 * 1024
"""Bytes of a request head; more is refused."""


def main(argv: list[str]) -> int:
    """Runs the subcommand; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    commands = {
        "netexec": netexec,
        "serve-hostname": serve_hostname,
        "porter": porter,
        "connect": connect,
        "pause": pause,
    }
    if not argv or argv[0] not in commands:
        say(f"agnhost: unknown command; this one knows {', '.join(commands)}")
        return 1
    words, flags = parse(argv[1:])
    return commands[argv[0]](words, flags)


def parse(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Splits arguments into words and flags; `--flag value`, `--flag=value`, and a last or doubled flag is `true`."""
    words: list[str] = []
    flags: dict[str, str] = {}
    index = 0
    while index < len(argv):
        word = argv[index]
        index += 1
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not equals:
            takes = name not in ("udp", "tcp", "http", "close", "tls", "sctp")
            if takes and index < len(argv) and not argv[index].startswith("--"):
                value = argv[index]
                index += 1
            else:
                value = "true"
        flags[name] = value
    return words, flags


def pause(_words: list[str], _flags: dict[str, str]) -> int:
    """Waits for a signal."""
    while True:
        signal.pause()


def netexec(_words: list[str], flags: dict[str, str]) -> int:
    """An HTTP server and a UDP server that tell who and what they are."""
    udp_port = int(flags.get("udp-port", "8081"))
    if udp_port > 0:
        serve_datagrams(udp_port, netexec_datagram)
    sctp_port = int(flags.get("sctp-port", "-1"))
    if sctp_port > 0:
        serve_streams(open_listener(sctp_port, SCTP), netexec_line)
    serve_streams(open_listener(int(flags.get("http-port", "8080"))), lambda c, peer: http(c, peer, netexec_page))
    return pause([], {})


def serve_hostname(_words: list[str], flags: dict[str, str]) -> int:
    """Answers everything with the host name."""
    port = int(flags.get("port", "9376"))
    if flags.get("udp") == "true":
        serve_datagrams(port, lambda _data, _peer: hostname())
    if flags.get("tcp") == "true":
        serve_streams(open_listener(port), lambda c, _peer: c.sendall(hostname() + b"\n"))
    elif flags.get("http", "true") == "true":
        serve_streams(open_listener(port), lambda c, peer: http(c, peer, lambda *_: (200, hostname())))
    return pause([], {})


def porter(_words: list[str], _flags: dict[str, str]) -> int:
    """Serves the value of each variable SERVE_PORT_N or SERVE_SCTP_PORT_N on port N."""
    for name, value in os.environ.items():
        for prefix, protocol in (("SERVE_PORT_", 0), ("SERVE_SCTP_PORT_", SCTP)):
            if name.startswith(prefix) and name[len(prefix) :].isdigit():
                serve_value(int(name[len(prefix) :]), protocol, value.encode())
    return pause([], {})


def serve_value(port: int, protocol: int, value: bytes) -> None:
    """Serves the same bytes to everybody."""
    if protocol == SCTP:
        serve_streams(open_listener(port, protocol), lambda c, _peer: c.sendall(value))
    else:
        serve_streams(open_listener(port), lambda c, peer: http(c, peer, lambda *_: (200, value)))


def connect(words: list[str], flags: dict[str, str]) -> int:
    """Tries to connect; says TIMEOUT, REFUSED, DNS or OTHER on standard error and exits 1 if that fails."""
    if len(words) != 1 or ":" not in words[0]:
        say("usage: agnhost connect HOST:PORT [--timeout D] [--protocol tcp|udp|sctp]")
        return 1
    host, _, port = words[0].rpartition(":")
    protocol = "sctp" if flags.get("sctp") == "true" else flags.get("protocol", "tcp")
    limit = seconds(flags.get("timeout", "0"))
    kinds = {
        "tcp": (socket.SOCK_STREAM, 0),
        "udp": (socket.SOCK_DGRAM, 0),
        "sctp": (socket.SOCK_STREAM, SCTP),
    }
    if protocol not in kinds:
        say(f"OTHER: unknown protocol {protocol}")
        return 1
    kind, number = kinds[protocol]
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        say(f"DNS: {error}")
        return 1
    family, *_rest, address = found[0]
    try:
        with socket.socket(family, kind, number) as peer:
            peer.settimeout(limit or None)
            peer.connect(address)
            if protocol == "udp":
                peer.send(flags.get("udp-data", "hello").encode())
                peer.recv(2048)
    except TimeoutError:
        say("TIMEOUT")
    except ConnectionRefusedError:
        say("REFUSED")
    except OSError as error:
        say("TIMEOUT" if error.errno == 110 else f"OTHER: {error}")
    else:
        return 0
    return 1


def netexec_page(path: str, query: dict[str, str], peer: Peer) -> tuple[int, bytes]:
    """Returns (status, body) for a request to netexec."""
    match path:
        case "/hostname" | "/hostName":
            return 200, hostname()
        case "/clientip":
            return 200, endpoint(peer)
        case "/healthz":
            return 200, b""
        case "/echo":
            code = query.get("code", "")
            return int(code) if code.isdigit() else 200, query.get("msg", "").encode()
        case "/exit" | "/shutdown":
            code = query.get("code", "0")
            delay = seconds(query.get("timeout", query.get("wait", "0")))
            threading.Timer(max(delay, 0.05), os._exit, [int(code) if code.isdigit() else 0]).start()
            return 200, b""
        case "/dial":
            return 200, dial(query)
        case _:
            return 200, time.strftime("NOW: %Y-%m-%d %H:%M:%S %z UTC", time.gmtime()).encode()


def dial(query: dict[str, str]) -> bytes:
    """Sends requests to another netexec and returns what came back, as the JSON that agnhost gives."""
    import json

    answers: list[str] = []
    errors: list[str] = []
    target = (query.get("host", ""), int(query.get("port", "80")))
    request = query.get("request", "hostname")
    for _try in range(min(int(query.get("tries", "1")), 100)):
        try:
            if query.get("protocol", "http") == "udp":
                with socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_DGRAM) as peer:
                    peer.settimeout(5)
                    peer.sendto(request.encode(), target)
                    answers.append(peer.recv(2048).decode(errors="replace"))
            else:
                with socket.create_connection(target, timeout=5) as peer:
                    peer.sendall(f"GET /{request} HTTP/1.0\r\nHost: {target[0]}\r\n\r\n".encode())
                    data = b""
                    while chunk := peer.recv(65536):
                        data += chunk
                    answers.append(data.partition(b"\r\n\r\n")[2].decode(errors="replace"))
        except OSError as error:
            errors.append(str(error))
    result = {}
    if answers:
        result["responses"] = answers
    if errors:
        result["errors"] = errors
    return json.dumps(result).encode()


def netexec_datagram(data: bytes, peer: Peer) -> bytes | None:
    """Returns netexec's answer to a datagram, or None for none."""
    word, _, rest = data.decode(errors="replace").strip().partition(" ")
    match word.lower():
        case "hostname":
            return hostname()
        case "clientip":
            return endpoint(peer)
        case "echo":
            return rest.encode()
        case "":
            return None
        case _:
            return b"Unknown command: " + data if word != "hello" else hostname()


def netexec_line(connection: socket.socket, peer: Peer) -> None:
    """Answers one line on a stream."""
    data = connection.recv(2048)
    connection.sendall(netexec_datagram(data, peer) or b"")


def http(connection: socket.socket, peer: Peer, page: Page) -> None:
    """Serves requests on one connection until it closes."""
    connection.settimeout(60)
    pending = b""
    while True:
        while b"\r\n\r\n" not in pending:
            chunk = connection.recv(65536)
            if not chunk or len(pending) > MAX_REQUEST:
                return
            pending += chunk
        head, _, pending = pending.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        parts = lines[0].split(" ")
        if len(parts) != 3:
            return
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", "0") or 0)
        while len(pending) < length:
            chunk = connection.recv(65536)
            if not chunk:
                return
            pending += chunk
        pending = pending[length:]
        path, _, query = parts[1].partition("?")
        code, body = page(path, parse_query(query), peer)
        last = parts[2] == "HTTP/1.0" or headers.get("connection", "").lower() == "close"
        answer = (
            f"HTTP/1.1 {code} {'OK' if code == 200 else 'Status'}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: {'close' if last else 'keep-alive'}\r\n\r\n"
        ).encode()
        connection.sendall(answer if parts[0] == "HEAD" else answer + body)
        if last:
            return


def parse_query(text: str) -> dict[str, str]:
    """Returns the parameters of a query string; the last one of a name wins."""
    result = {}
    for part in text.split("&"):
        name, _, value = part.partition("=")
        result[unquote(name)] = unquote(value)
    return result


def unquote(text: str) -> str:
    """Undoes URL quoting."""
    data = text.replace("+", " ").encode()
    pieces = data.split(b"%")
    result = pieces[0]
    for piece in pieces[1:]:
        try:
            result += bytes([int(piece[:2], 16)]) + piece[2:]
        except ValueError:
            result += b"%" + piece
    return result.decode(errors="replace")


def open_listener(port: int, protocol: int = 0) -> socket.socket:
    """Returns a listening socket for both families where there is IPv6."""
    if socket.has_ipv6 and not protocol:
        try:
            listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            return bound(listener, ("::", port))
        except OSError as error:
            if error.errno == 98:
                raise
    return bound(socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol), ("0.0.0.0", port))


def bound(listener: socket.socket, address: tuple[str, int]) -> socket.socket:
    """Binds and listens."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(1024)
    return listener


def serve_streams(listener: socket.socket, handle: Handler) -> None:
    """Handles each connection in a thread of its own."""

    def one(connection: socket.socket, peer: Peer) -> None:
        with connection:
            try:
                handle(connection, peer)
            except (OSError, ValueError):
                pass

    def accept() -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                time.sleep(0.05)
                continue
            threading.Thread(target=one, args=(connection, peer), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def serve_datagrams(port: int, answer: Callable[[bytes, Peer], bytes | None]) -> None:
    """Answers datagrams on `port`, both families where there is IPv6."""
    try:
        server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", port))
    except OSError:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", port))

    def loop() -> None:
        while True:
            try:
                data, peer = server.recvfrom(65536)
                reply = answer(data, peer)
                if reply is not None:
                    server.sendto(reply, peer)
            except OSError:
                time.sleep(0.01)

    threading.Thread(target=loop, daemon=True).start()


def hostname() -> bytes:
    """The pod's name."""
    return socket.gethostname().encode()


def endpoint(peer: Peer) -> bytes:
    """Returns IP:PORT of a peer, IPv4 in its own form."""
    host = peer[0].removeprefix("::ffff:")
    return (f"[{host}]:{peer[1]}" if ":" in host else f"{host}:{peer[1]}").encode()


def seconds(text: str) -> float:
    """Returns the seconds in a Go duration such as 500ms, 2s, 1m30s, or a plain number."""
    units = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    total, number, unit = 0.0, "", ""
    for character in f"{text} ":
        if character.isdigit() or character == "." or character == " ":
            if unit:
                total += float(number or 0) * units.get(unit, 0.0)
                number, unit = "", ""
            number += character
        else:
            unit += character
    return total or float(number.strip() or 0)


def say(text: str) -> None:
    """Writes a line to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
