"""`wget` for pods where the machine's busybox was built without time-outs (Debian's is).

Options, messages and exit codes are busybox wget's. Runs as a plain script, like `agnhost`.
"""

import os
import signal
import socket
import sys
from collections.abc import Iterator

USAGE = (
    "Usage: wget [-cqS] [--spider] [-O FILE] [-T SEC] [--header STR] "
    "[--post-data STR] [-U AGENT] [-P DIR] [-Y on/off] URL"
)
MAX_REDIRECTS = 5
MAX_HEAD = 64 * 1024
"""Bytes of a response's head; a longer one is refused."""

WITH_VALUE = {
    "O": "output-document",
    "T": "timeout",
    "P": "directory-prefix",
    "U": "user-agent",
    "Y": "proxy",
    "o": "output-file",
    "t": "tries",
    "header": "header",
    "post-data": "post-data",
    "output-document": "output-document",
    "timeout": "timeout",
    "directory-prefix": "directory-prefix",
    "user-agent": "user-agent",
    "proxy": "proxy",
    "output-file": "output-file",
    "tries": "tries",
}
FLAGS = {"q": "quiet", "S": "server-response", "c": "continue", "quiet": "quiet", "spider": "spider",
         "server-response": "server-response", "continue": "continue", "no-check-certificate": "insecure"}  # fmt: skip


class Failure(Exception):
    """The download failed; the message is what busybox says."""


def main(argv: list[str]) -> int:
    """Downloads; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        urls, options, headers = parse(argv)
        if len(urls) != 1:
            raise Failure("missing URL")
    except Failure as failure:
        sys.stderr.write(f"wget: {failure}\n{USAGE}\n")
        return 1
    try:
        fetch(urls[0], options, headers)
    except TimeoutError:
        sys.stderr.write("wget: download timed out\n")
        return 1
    except Failure as failure:
        sys.stderr.write(f"wget: {failure}\n")
        return 1
    except BrokenPipeError:
        return 1
    return 0


def parse(argv: list[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Returns (URLs, options, headers); raises Failure."""
    urls: list[str] = []
    options: dict[str, str] = {}
    headers: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "-" or not word.startswith("-"):
            urls.append(word)
            continue
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name in FLAGS:
                options[FLAGS[name]] = "yes"
                continue
            if name not in WITH_VALUE:
                raise Failure(f"unrecognized option '{word}'")
            take(name, value if equals else None, rest, options, headers)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in FLAGS:
                options[FLAGS[letter]] = "yes"
            elif letter in WITH_VALUE:
                take(letter, letters or None, rest, options, headers)
                letters = ""
            else:
                raise Failure(f"invalid option -- '{letter}'")
    return urls, options, headers


def take(name: str, value: str | None, rest: list[str], options: dict[str, str], headers: list[str]) -> None:
    """Stores the value of an option, which may be the next word."""
    if value is None:
        if not rest:
            raise Failure(f"option requires an argument -- '{name}'")
        value = rest.pop(0)
    if name == "header":
        headers.append(value)
    else:
        options[WITH_VALUE[name]] = value


def fetch(url: str, options: dict[str, str], headers: list[str]) -> None:
    """Downloads `url`; raises Failure, TimeoutError."""
    for _hop in range(MAX_REDIRECTS):
        connection, host, head, body = request(url, options, headers)
        with connection:
            lines = head.split("\r\n")
            if "server-response" in options:
                sys.stderr.write("".join(f"  {line}\n" for line in lines))
            fields = {}
            for line in lines[1:]:
                name, _, value = line.partition(":")
                fields[name.strip().lower()] = value.strip()
            code = lines[0].split(" ")[1] if " " in lines[0] else ""
            if code in ("301", "302", "303", "307", "308") and "location" in fields:
                url = fields["location"] if "://" in fields["location"] else f"http://{host}{fields['location']}"
                continue
            if not code.startswith("2"):
                raise Failure(f"server returned error: {lines[0]}")
            if "spider" not in options:
                save(connection, body, fields, url, options)
            return
    raise Failure("too many redirections")


def request(url: str, options: dict[str, str], headers: list[str]) -> tuple[socket.socket, str, str, bytes]:
    """Sends a request; returns (connection, host with port, head, beginning of the body)."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "http", url
    if scheme != "http":
        raise Failure(f"not an http url: {url}")
    place, _, path = rest.partition("/")
    host, port = split_host(place.rpartition("@")[2])
    limit = float(options["timeout"]) if options.get("timeout", "").replace(".", "", 1).isdigit() else 900.0
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Failure(f"bad address '{host}'") from error
    if "quiet" not in options:
        sys.stderr.write(f"Connecting to {place} ({found[0][4][0]}:{port})\n")
    connection = socket.socket(found[0][0], socket.SOCK_STREAM)
    connection.settimeout(limit or None)
    try:
        connection.connect(found[0][4])
    except TimeoutError:
        raise
    except OSError as error:
        raise Failure(f"can't connect to remote host ({found[0][4][0]}): {error.strerror}") from error
    post = options.get("post-data")
    words = [f"{'GET' if post is None else 'POST'} /{path} HTTP/1.1", f"Host: {place}",
             f"User-Agent: {options.get('user-agent', 'Wget')}", "Connection: close", *headers]  # fmt: skip
    if post is not None:
        words += ["Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(post.encode())}"]
    data = b""
    try:
        connection.sendall("\r\n".join([*words, "", post or ""]).encode())
        while b"\r\n\r\n" not in data:
            chunk = connection.recv(65536)
            if not chunk or len(data) > MAX_HEAD:
                raise Failure("error getting response")
            data += chunk
    except TimeoutError:
        raise
    except OSError as error:
        raise Failure(f"error getting response: {error.strerror}") from error
    head, _, body = data.partition(b"\r\n\r\n")
    return connection, place, head.decode("latin-1"), body


def split_host(place: str) -> tuple[str, int]:
    """Returns host and port; raises Failure."""
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        port = rest.lstrip(":")
    else:
        host, _, port = place.partition(":")
    if port and not port.isdigit():
        raise Failure(f"bad port '{port}'")
    return host, int(port or "80")


def save(connection: socket.socket, body: bytes, fields: dict[str, str], url: str, options: dict[str, str]) -> None:
    """Writes the body to where it was asked for."""
    target = options.get("output-document") or url.partition("://")[2].rstrip("/").rpartition("/")[2] or "index.html"
    if target != "-" and "directory-prefix" in options:
        target = os.path.join(options["directory-prefix"], target)
    if fields.get("transfer-encoding") == "chunked":
        chunks = unchunked(connection, body)
    else:
        length = fields.get("content-length", "")
        chunks = plain(connection, body, int(length) if length.isdigit() else None)
    try:
        file = os.fdopen(os.dup(1), "wb") if target == "-" else open(target, "wb")
    except OSError as error:
        raise Failure(f"can't open '{target}': {error.strerror}") from error
    with file:
        for chunk in chunks:
            file.write(chunk)


def plain(connection: socket.socket, body: bytes, left: int | None) -> Iterator[bytes]:
    """Yields what comes, `left` bytes or until the end."""
    body = body or connection.recv(65536) if left != 0 else b""
    while body:
        yield body
        if left is not None:
            left -= len(body)
            if left <= 0:
                return
        body = connection.recv(65536)


def unchunked(connection: socket.socket, data: bytes) -> Iterator[bytes]:
    """Yields the contents of chunks."""
    while True:
        while b"\r\n" not in data:
            data += receive(connection)
        size, _, data = data.partition(b"\r\n")
        count = int(size.split(b";")[0], 16)
        while len(data) < count + 2:
            data += receive(connection)
        if not count:
            return
        yield data[:count]
        data = data[count + 2 :]


def receive(connection: socket.socket) -> bytes:
    """Returns more bytes; raises Failure at an early end."""
    data = connection.recv(65536)
    if not data:
        raise Failure("connection closed prematurely")
    return data


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
