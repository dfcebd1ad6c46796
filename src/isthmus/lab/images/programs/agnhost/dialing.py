"""Requests to other servers: what netexec's /dial does."""

import socket

from isthmus.lab.images.programs.agnhost.plumbing import client

LIMIT = 5.0
"""Seconds for one try."""
MAX_ANSWER = 1024 * 1024


class DialError(Exception):
    """No answer; `is_usage` if there never can be one."""

    def __init__(self, message: str, *, is_usage: bool = False) -> None:
        super().__init__(message)
        self.is_usage = is_usage


def dial(protocol: str, host: str, port: str, request: str) -> str:
    """Returns what `host` answers; raises DialError."""
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise DialError(f"address tcp/{port}: unknown port", is_usage=True)
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    try:
        family, *_, address = socket.getaddrinfo(host, int(port), type=kind)[0]
    except (OSError, UnicodeError) as error:
        raise DialError(f"lookup {host}: {error}", is_usage=True) from error
    try:
        if protocol == "http":
            with socket.socket(family, kind) as peer:
                peer.settimeout(LIMIT)
                peer.connect(address)
                return http(peer, host, port, request)
        with client(family, protocol) as other:
            other.settimeout(LIMIT)
            other.connect(address)
            other.send(request.encode(errors="replace"))
            answer = other.recv(2048)
            if not answer:
                raise DialError(f"reading from {protocol} connection failed. err:'EOF'")
            return answer.decode(errors="replace")
    except TimeoutError as error:
        name = "reading from udp connection" if protocol == "udp" else f"dial {address[0]}:{port}"
        raise DialError(f"{name} failed. err:'i/o timeout'") from error
    except OSError as error:
        raise DialError(f"dial {protocol} {address[0]}:{port}: {error.strerror or error}") from error


def http(peer: socket.socket, host: str, port: str, request: str) -> str:
    """Returns the body of a GET on a connected socket; raises DialError, OSError."""
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    path = "".join(letter if "!" <= letter <= "~" else "%20" for letter in request)
    peer.sendall(f"GET /{path} HTTP/1.0\r\nHost: {name}\r\nUser-Agent: Go-http-client/1.1\r\n\r\n".encode())
    data = bytearray()
    while chunk := peer.recv(65536):
        data += chunk
        if len(data) > MAX_ANSWER:
            raise DialError("the answer is too long")
        head, end, body = data.partition(b"\r\n\r\n")
        length = _length(head) if end else None
        if length is not None and len(body) >= length:
            return body[:length].decode(errors="replace")
    head, end, body = data.partition(b"\r\n\r\n")
    if not end or not head.startswith(b"HTTP/1."):
        raise DialError("malformed HTTP response")
    return body.decode(errors="replace")


def _length(head: bytearray) -> int | None:
    for line in bytes(head).lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name == b"content-length" and value.strip().isdigit():
            return int(value)
    return None
