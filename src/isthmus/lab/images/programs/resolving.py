"""A stub resolver: resolv.conf with its search list, questions over UDP, over TCP when the answer is cut.

Source: resolv.conf(5). Invariant: an answer counts only if its number and question are ours. Rejected: libc's
resolver, which gives addresses and hides everything that one wants to see when names do not resolve.
"""

import secrets
import socket
import time
from typing import NamedTuple

from isthmus.wire.dns import QR, RD, TC, DnsError, Edns, Message, Name, Question, lowered, parse_name, read, write

MAX_CONFIG = 64 * 1024
_MAX_SERVERS = 3


class Config(NamedTuple):
    """What resolv.conf says; `timeout` in seconds."""

    servers: tuple[str, ...] = ("127.0.0.1",)
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: float = 5.0
    attempts: int = 2


class NoAnswer(Exception):
    """No server answered; the message says why."""


class Answer(NamedTuple):
    """A response, with who gave it, how, how long it took (seconds) and its size in bytes."""

    message: Message
    server: str
    port: int
    tcp: bool
    seconds: float
    size: int


def read_config(path: str = "/etc/resolv.conf") -> Config:
    """Returns the configuration; what is missing or makes no sense has its default."""
    try:
        with open(path, errors="replace") as file:
            lines = [line.split() for line in file.read(MAX_CONFIG).splitlines()]
    except OSError:
        return Config()
    config = Config()
    servers = tuple(words[1] for words in lines if words[:1] == ["nameserver"] and len(words) > 1)
    if servers:
        config = config._replace(servers=servers[:_MAX_SERVERS])
    for words in lines:
        if words[:1] in (["search"], ["domain"]):
            config = config._replace(search=tuple(word.rstrip(".") for word in words[1:] if word != "."))
        elif words[:1] == ["options"]:
            for option in words[1:]:
                name, _, text = option.partition(":")
                if text.isascii() and text.isdigit() and len(text) < 4:
                    if name == "ndots":
                        config = config._replace(ndots=min(int(text), 15))
                    elif name == "timeout":
                        config = config._replace(timeout=float(min(max(int(text), 1), 30)))
                    elif name == "attempts":
                        config = config._replace(attempts=min(max(int(text), 1), 5))
    return config


def candidates(name: str, config: Config) -> list[Name]:
    """Returns the names that a name may mean, in the order in which they are tried; raises DnsError."""
    plain = parse_name(name)
    if name.endswith("."):
        return [plain]
    longer = []
    for domain in config.search:
        try:
            longer.append(parse_name(f"{name}.{domain}"))
        except DnsError:
            continue
    return [plain, *longer] if name.count(".") >= config.ndots else [*longer, plain]


def ask(
    question: Question, config: Config, *, port: int = 53, tcp: bool = False, edns: bool = True, recurse: bool = True
) -> Answer:
    """Returns the first answer of any server; raises NoAnswer."""
    problem = "connection timed out; no servers could be reached"
    for _ in range(config.attempts):
        for server in config.servers:
            number = secrets.randbelow(65536)
            query = Message(number, RD if recurse else 0, (question,), edns=Edns(1232) if edns else None)
            began = time.monotonic()
            try:
                data, message = _exchange(query, server, port=port, tcp=tcp, limit=config.timeout)
                used = tcp
                if message.flags & TC and not tcp:
                    used = True
                    data, message = _exchange(query, server, port=port, tcp=True, limit=config.timeout)
            except TimeoutError:
                continue
            except (OSError, DnsError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                problem = f"communications error to {server}#{port}: {reason.lower()}"
                continue
            return Answer(message, server, port, used, time.monotonic() - began, len(data))
    raise NoAnswer(problem)


def reverse_name(address: str) -> Name | None:
    """Returns the name under which an address's name is kept; None if it is no address."""
    try:
        labels = [str(byte).encode() for byte in socket.inet_pton(socket.AF_INET, address)]
        return (*reversed(labels), b"in-addr", b"arpa")
    except (OSError, ValueError):
        pass
    try:
        digits = socket.inet_pton(socket.AF_INET6, address).hex()
    except (OSError, ValueError):
        return None
    return (*(digit.encode() for digit in reversed(digits)), b"ip6", b"arpa")


def _exchange(query: Message, server: str, *, port: int, tcp: bool, limit: float) -> tuple[bytes, Message]:
    """Returns a response as it came and as it is read; raises OSError, TimeoutError, DnsError."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    data = write(query)
    deadline = time.monotonic() + limit
    with socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as peer:
        peer.settimeout(limit)
        peer.connect((server, port))
        peer.sendall(len(data).to_bytes(2, "big") + data if tcp else data)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            peer.settimeout(left)
            answer = _read_stream(peer) if tcp else peer.recv(65536)
            message = read(answer)
            if message.id == query.id and message.flags & QR and _same(message, query):
                return answer, message


def _same(message: Message, query: Message) -> bool:
    """Tells whether a response is for this question; one that could not even read it repeats none."""
    if not message.questions:
        return bool(message.rcode)
    asked, answered = query.questions[0], message.questions[0]
    return lowered(answered.name) == lowered(asked.name) and answered[1:] == asked[1:]


def _read_stream(peer: socket.socket) -> bytes:
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        piece = peer.recv(65536)
        if not piece:
            raise DnsError("the server ended the connection")
        data += piece
    return data[2 : 2 + int.from_bytes(data[:2], "big")]
