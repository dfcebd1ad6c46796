"""What HTTP/1.1 requests and responses are made of; no sockets.

Invariant: what is not exactly a request is refused, with the status that says why: a server that guesses is a server
that two readers understand differently (RFC 9112 section 11.2). Rejected: `email.parser`, with which the standard
library reads headers, for its size and its leniency.
"""

import time
from collections.abc import Iterable

MAX_HEAD = 32 * 1024
"""Bytes of a request line with its headers (nginx: 4 buffers of 8 KiB)."""

REASONS = {
    100: "Continue", 101: "Switching Protocols", 200: "OK", 201: "Created", 202: "Accepted", 204: "No Content",
    206: "Partial Content", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
    307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 411: "Length Required",
    412: "Precondition Failed", 413: "Request Entity Too Large", 414: "Request-URI Too Large",
    415: "Unsupported Media Type", 417: "Expectation Failed", 418: "I'm a teapot", 422: "Unprocessable Entity",
    429: "Too Many Requests", 431: "Request Header Fields Too Large", 500: "Internal Server Error",
    501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}  # fmt: skip

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NO_BODY = (204, 304)

Peer = tuple[str, int]


class BadRequest(Exception):
    """The client broke the protocol."""

    def __init__(self, status: int) -> None:
        super().__init__(REASONS[status])
        self.status = status


class Request:
    """One request; header names are in lower case."""

    __slots__ = ("body", "headers", "line", "local", "method", "path", "peer", "query", "version")

    def __init__(self, line: str, headers: dict[str, str], *, peer: Peer, local: Peer) -> None:
        self.line = line
        self.headers = headers
        self.peer = peer
        self.local = local
        self.body = b""
        words = line.split(" ")
        if len(words) != 3 or not words[0] or not set(words[0]) <= _TOKEN:
            raise BadRequest(400)
        self.method, target, self.version = words
        if self.version not in ("HTTP/1.1", "HTTP/1.0"):
            raise BadRequest(505 if self.version.startswith("HTTP/") else 400)
        if target.startswith(("http://", "https://")):
            target = "/" + target.partition("://")[2].partition("/")[2]
        if not target.startswith("/") and (target != "*" or self.method != "OPTIONS"):
            raise BadRequest(400)
        if self.version == "HTTP/1.1" and "host" not in headers:
            raise BadRequest(400)
        path, _, self.query = target.partition("?")
        self.path = unquote(path)
        if "\0" in self.path:
            raise BadRequest(400)

    @property
    def keeps_alive(self) -> bool:
        """Whether the client wants to go on with this connection."""
        wish = self.headers.get("connection", "").lower()
        return wish != "close" if self.version == "HTTP/1.1" else wish == "keep-alive"


class Response:
    """One response; `file` is an open descriptor, whose `length` bytes are the body."""

    __slots__ = ("body", "close", "file", "headers", "length", "status")

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        headers: Iterable[tuple[str, str]] = (),
        *,
        file: int = -1,
        length: int = 0,
        close: bool = False,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = list(headers)
        self.file = file
        self.length = length if file >= 0 else len(body)
        self.close = close


def parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """Returns the request line and the headers; raises BadRequest."""
    lines = head.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    if len(lines) > 128:
        raise BadRequest(431)
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or not set(name) <= _TOKEN or "\n" in value or "\r" in value:
            raise BadRequest(400)
        name, value = name.lower(), value.strip(" \t")
        if name in headers:
            if name in ("host", "content-length", "transfer-encoding"):
                raise BadRequest(400)
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return lines[0], headers


def unchunk(data: bytearray, *, limit: int) -> tuple[bytes, int] | None:
    """Returns a chunked body and how many bytes it took; None if it is not whole. Raises BadRequest."""
    body = bytearray()
    at = 0
    while True:
        end = data.find(b"\r\n", at, at + 1024)
        if end < 0:
            if len(data) - at > 1024:
                raise BadRequest(400)
            return None
        text = bytes(data[at:end]).partition(b";")[0].strip()
        if not text or len(text) > 8 or not set(text) <= set(b"0123456789abcdefABCDEF"):
            raise BadRequest(400)
        size = int(text, 16)
        if len(body) + size > limit:
            raise BadRequest(413)
        at = end + 2
        if size == 0:
            # Trailers, then an empty line.
            while True:
                end = data.find(b"\r\n", at)
                if end < 0:
                    if len(data) - at > MAX_HEAD:
                        raise BadRequest(431)
                    return None
                if end == at:
                    return bytes(body), end + 2
                at = end + 2
        if len(data) < at + size + 2:
            return None
        if data[at + size : at + size + 2] != b"\r\n":
            raise BadRequest(400)
        body += data[at : at + size]
        at += size + 2


def unquote(text: str) -> str:
    """Undoes URL quoting; what is not UTF-8 becomes replacement characters."""
    if "%" not in text:
        return text
    pieces = text.encode("latin-1", "replace").split(b"%")
    result = bytearray(pieces[0])
    for piece in pieces[1:]:
        try:
            if len(piece) < 2 or not piece[:2].isalnum():
                raise ValueError
            result.append(int(piece[:2], 16))
            result += piece[2:]
        except ValueError:
            result += b"%" + piece
    return result.decode(errors="replace")


def parse_query(text: str) -> dict[str, str]:
    """Returns the parameters of a query string; the first one of a name wins, as with Go's FormValue."""
    result: dict[str, str] = {}
    for part in text.split("&"):
        name, _, value = part.partition("=")
        if part:
            result.setdefault(unquote(name.replace("+", " ")), unquote(value.replace("+", " ")))
    return result


def place(address: tuple[str, int] | tuple[str, int, int, int]) -> Peer:
    """Returns address and port; IPv4 in its own form also on a socket for both families."""
    return address[0].removeprefix("::ffff:") if "." in address[0] else address[0], address[1]


def join(peer: Peer) -> str:
    """Returns ADDRESS:PORT, with brackets around IPv6."""
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


def one_line(text: str) -> str:
    """Takes line breaks out of what must be one line: a header, a log entry."""
    return text.replace("\r", " ").replace("\n", " ")


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(seconds: float) -> str:
    """Returns a date as HTTP writes it."""
    at = time.gmtime(seconds)
    return (
        f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {MONTHS[at.tm_mon - 1]} {at.tm_year} "
        f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT"
    )
