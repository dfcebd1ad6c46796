"""Hundreds of probes at once, and what became of each, without waiting for those that are dropped.

All packets are sent, answered and looked for by one thread on one CPU, and over veth pairs a packet is handled by the
CPU that sent it, in turn: when a fence that was sent later has passed, everything before it is done. So a probe that
has not arrived by then was dropped, however slow the machine is. (That takes the kernel's default, which namespaces of
tests have: no steering of packets to other CPUs.) Sockets are made inside their namespaces and used from outside.

Rejected: a thread that answers, and a time-out for denied probes. Each look costs the time-out then, a busy machine
makes allowed probes late, and what arrives without an answer is not seen.
"""

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from itertools import cycle
from time import monotonic
from types import TracebackType
from typing import Self

from isthmus.model.flow import Flow, Protocol
from tests.support import messages
from tests.support.netns import Host
from tests.support.probes import SO_LINGER_RESET

CLIENT_PORTS = range(32768, 65536)  # nobody is asked to listen on one of these
HOPS = 32  # more than any packet takes here, the discovery of neighbours on the way included
PATIENCE = 5.0  # seconds for what should get through and has not: so much that it is no question of load
ROOM = 8 << 20  # bytes of a raw socket's buffer, which also gets what is not for it


class Outcome(Enum):
    """What became of a probe; the values end a sentence for people."""

    THROUGH = "it got through, and the answer came back"
    SILENCE = "it was met with silence"
    ARRIVED = "it arrived, but no answer came back"
    REFUSED = "it was refused"


class _Shot:
    """One probe; `client` is its own socket, or None where all of an address share a raw one.

    `port` is that of the client, or the identifier of its echo; not used before, so that conntrack knows nothing of it.
    """

    def __init__(self, flow: Flow, port: int) -> None:
        self.flow, self.port = flow, port
        self.token = b"!" + os.urandom(messages.TOKEN - 1)
        self.client: socket.socket | None = None
        self.arrived = False
        self.outcome = Outcome.SILENCE


class Volley:
    """Fires probes between the addresses of a fabric. A context manager; not for use from several threads."""

    def __init__(self, holder: Callable[[str], Host]) -> None:
        """`holder` returns the namespace that holds an address."""
        self._holder = holder
        self._servers: dict[tuple[str, int, int], socket.socket] = {}  # address, protocol, port
        self._raw: dict[tuple[str, int], socket.socket] = {}  # address, protocol
        self._shots: dict[bytes, _Shot] = {}
        self._ports = cycle(CLIENT_PORTS)
        self._fence = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        self._fence.bind(("127.0.0.1", 0))
        self._fence.connect(self._fence.getsockname())
        self._fence.settimeout(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (*self._servers.values(), *self._raw.values(), self._fence):
            sock.close()

    def fire(
        self, flows: Sequence[Flow], *, frontends: Mapping[Flow, str] | None = None, wanted: Iterable[Flow] = ()
    ) -> dict[Flow, Outcome]:
        """Probes all of `flows` at once and returns what became of them.

        `frontends` are addresses to speak to instead of the destination. `wanted` should get through: for them there is
        patience.
        """
        shots = [_Shot(flow, next(self._ports)) for flow in flows]
        self._shots = {shot.token: shot for shot in shots}
        awaited = set(wanted)
        try:
            self._prepare(shots)
            with one_cpu():
                for shot in shots:
                    self._start(shot, (frontends or {}).get(shot.flow, shot.flow.destination))
                end = monotonic() + PATIENCE
                self._look(shots)
                while monotonic() < end and any(
                    shot.outcome is Outcome.SILENCE for shot in shots if shot.flow in awaited
                ):
                    self._look(shots)
                self._look(shots)
        finally:
            for shot in shots:
                if shot.client is not None:
                    shot.client.close()
            self._forget_connections()
        return {shot.flow: self._outcome(shot) for shot in shots}

    def pass_fence(self) -> None:
        """Returns when every packet that the calling thread caused has come to its end; to be called on `one_cpu`."""
        for _ in range(HOPS):
            self._fence.send(b"|")
            assert self._fence.recv(1) == b"|"

    def _outcome(self, shot: _Shot) -> Outcome:
        return Outcome.ARRIVED if shot.arrived and shot.outcome is Outcome.SILENCE else shot.outcome

    # -- sockets -------------------------------------------------------------------------------------------------

    def _prepare(self, shots: Sequence[_Shot]) -> None:
        work: dict[int, tuple[Host, list[Callable[[], None]]]] = {}

        def at(ip: str, make: Callable[[], None]) -> None:
            host = self._holder(ip)
            work.setdefault(host.descriptor, (host, []))[1].append(make)

        asked: set[tuple[str, int, int]] = set()
        for shot in shots:
            flow = shot.flow
            if flow.protocol in (Protocol.TCP, Protocol.UDP):
                at(flow.source, lambda shot=shot: self._make_client(shot))
                server = (flow.destination, flow.protocol, flow.port)
                if server not in self._servers and server not in asked:
                    asked.add(server)
                    at(flow.destination, lambda server=server: self._make_server(*server))
                continue
            for ip in (flow.source, flow.destination):
                if (ip, flow.protocol) not in self._raw and (ip, flow.protocol, 0) not in asked:
                    asked.add((ip, flow.protocol, 0))
                    at(ip, lambda ip=ip, protocol=flow.protocol: self._make_raw(ip, protocol))
        for host, makes in work.values():
            host.run(lambda makes=makes: [make() for make in makes])

    def _make_client(self, shot: _Shot) -> None:
        kind = socket.SOCK_STREAM if shot.flow.protocol == Protocol.TCP else socket.SOCK_DGRAM
        shot.client = socket.socket(_family(shot.flow.source), kind | socket.SOCK_NONBLOCK)
        if kind == socket.SOCK_STREAM:
            shot.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SO_LINGER_RESET)
            shot.client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        shot.client.bind((shot.flow.source, shot.port))

    def _make_server(self, ip: str, protocol: int, port: int) -> None:
        kind = socket.SOCK_STREAM if protocol == Protocol.TCP else socket.SOCK_DGRAM
        sock = self._servers[ip, protocol, port] = socket.socket(_family(ip), kind | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((ip, port))
        if protocol == Protocol.TCP:
            sock.listen(4096)

    def _make_raw(self, ip: str, protocol: int) -> None:
        sock = self._raw[ip, protocol] = socket.socket(_family(ip), socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        with suppress(PermissionError):  # in a user namespace the default has to do
            sock.setsockopt(socket.SOL_SOCKET, 33, ROOM)  # SO_RCVBUFFORCE
        sock.bind((ip, 0))

    def _forget_connections(self) -> None:
        for (_, protocol, _), sock in self._servers.items():
            while protocol == Protocol.TCP:
                try:
                    sock.accept()[0].close()
                except BlockingIOError:
                    break

    # -- packets -------------------------------------------------------------------------------------------------

    def _start(self, shot: _Shot, address: str) -> None:
        flow = shot.flow
        with suppress(BlockingIOError, PermissionError):  # the latter is what the node itself gets for a drop
            if shot.client is not None:
                shot.client.connect((address, flow.port))
                if flow.protocol == Protocol.UDP:
                    shot.client.send(shot.token)
                return
            match flow.protocol:
                case Protocol.SCTP:
                    tag = int.from_bytes(shot.token[:4], "big")
                    message = messages.sctp_init(shot.port, flow.port, tag)
                case Protocol.ICMP | Protocol.ICMPV6:
                    message = messages.icmp(flow.protocol, flow.port, shot.port << 16, shot.token)
                case _:
                    message = shot.token
            self._raw[flow.source, flow.protocol].sendto(message, (address, 0))

    def _look(self, shots: Sequence[_Shot]) -> None:
        self.pass_fence()
        for (_, protocol, _), sock in self._servers.items():
            if protocol == Protocol.UDP:
                self._echo(sock)
        for (ip, protocol), sock in self._raw.items():
            self._read_raw(sock, ip, protocol)
        self.pass_fence()
        for (ip, protocol), sock in self._raw.items():
            self._read_raw(sock, ip, protocol)
        for shot in shots:
            if shot.client is not None and shot.outcome is Outcome.SILENCE:
                shot.outcome = _connected(shot) if shot.flow.protocol == Protocol.TCP else _answered(shot)

    def _echo(self, sock: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                data, sender = sock.recvfrom(100)
                if data in self._shots:
                    self._shots[data].arrived = True
                with suppress(OSError):
                    sock.sendto(data, sender)

    def _read_raw(self, sock: socket.socket, ip: str, protocol: int) -> None:
        with suppress(BlockingIOError):
            while True:
                packet, sender = sock.recvfrom(2048)
                content = messages.payload(packet, 6 if ":" in ip else 4)
                if protocol == Protocol.SCTP:
                    self._read_sctp(sock, content, sender[0])
                elif protocol in messages.ECHO:
                    self._read_icmp(content, protocol, ip)
                elif content in self._shots and self._shots[content].flow.destination == ip:
                    self._shots[content].outcome = Outcome.THROUGH  # nobody answers what is only bytes

    def _read_sctp(self, sock: socket.socket, content: bytes, sender: str) -> None:
        if messages.is_sctp_init(content):
            if (shot := self._shot(content[16:20])) is not None:
                shot.arrived = True
                with suppress(OSError):
                    sock.sendto(messages.sctp_init_ack(content), (sender, 0))
        elif messages.is_sctp_init_ack(content) and (shot := self._shot(content[4:8])) is not None:
            shot.outcome = Outcome.THROUGH

    def _shot(self, tag: bytes) -> _Shot | None:
        return next((shot for token, shot in self._shots.items() if token[:4] == tag), None)

    def _read_icmp(self, content: bytes, protocol: int, ip: str) -> None:
        shot = self._shots.get(content[8:])
        if shot is None or shot.flow.protocol != protocol:
            return
        request, reply = messages.ECHO[Protocol(protocol)]
        if ip == shot.flow.destination and content[0] == shot.flow.port:
            shot.arrived = True
        if (content[0] == reply and ip == shot.flow.source) or (shot.arrived and shot.flow.port != request):
            shot.outcome = Outcome.THROUGH  # only an echo is answered


def _connected(shot: _Shot) -> Outcome:
    assert shot.client is not None
    if shot.client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return Outcome.REFUSED
    try:
        shot.client.getpeername()
    except OSError:
        return Outcome.SILENCE
    return Outcome.THROUGH


def _answered(shot: _Shot) -> Outcome:
    assert shot.client is not None
    try:
        data = shot.client.recv(100)
    except BlockingIOError:
        return Outcome.SILENCE
    except ConnectionRefusedError:
        return Outcome.REFUSED
    return Outcome.THROUGH if data == shot.token else Outcome.SILENCE


@contextmanager
def one_cpu() -> Iterator[None]:
    """Keeps the calling thread on one CPU: what it sends is handled there, in turn."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET
