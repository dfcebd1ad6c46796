"""SCTP where the kernel has no sockets for it: as much of RFC 9260 as a question and its answer take.

Many small kernels can filter and track SCTP without speaking it. What leaves a pod is SCTP all the same, with ports,
tags and checksums, so that policies and conntrack judge it as ever. Pure: bytes in, bytes out; `sctpsockets` has the
sockets.

Invariants: whatever arrives is bounded and checked (ports, checksum, tag) before it changes anything; the callee does
the same again if it is told the same again, so repeating is the caller's work alone. Not there: long messages, several
addresses, and a refusal by a port that nobody serves, as no program knows what the others of its pod serve. Rejected:
SCTP in UDP (RFC 6951), to which policies would be those of UDP.
"""

import os
import struct
from collections.abc import Callable

from isthmus.lab.images.programs.messages import Peer

MAX_ASSOCIATIONS = 1024
"""Callers that a server knows at once; the one that came first goes."""
MAX_CHUNKS = 16
"""In a packet; the rest of it is not looked at."""

DATA, INIT, INIT_ACK, SACK, ABORT, SHUTDOWN, ERROR, COOKIE_ECHO, COOKIE_ACK = 0, 1, 2, 3, 6, 7, 9, 10, 11
_WHOLE = 3
"""Flags of a DATA chunk that begins and ends its message."""
_COOKIE = 7
"""The parameter State Cookie."""
_WINDOW = 65536
_HEADER = struct.Struct(">HHII")
_CHUNK = struct.Struct(">BBH")
_INIT = struct.Struct(">IIHHI")
_DATA = struct.Struct(">IHHI")
_SACK = struct.Struct(">IIHH")
_TABLE: list[int] = []

Chunk = tuple[int, bytes]
"""Type and value."""


class Packet:
    """A packet that is what it should be."""

    def __init__(self, source: int, target: int, tag: int, chunks: list[Chunk]) -> None:
        self.source = source
        self.target = target
        self.tag = tag
        self.chunks = chunks

    def first(self, kind: int) -> bytes | None:
        """Returns the value of the first chunk of a type."""
        return next((value for found, value in self.chunks if found == kind), None)


class Caller:
    """The side that asks. `output` is what to send, again and again, until there is what one waits for."""

    def __init__(self, port: int, server_port: int) -> None:
        self.is_open = False
        self.is_refused = False
        self.answer: bytes | None = None
        """What came back; empty if the other side ended without a word."""
        self._ports = (port, server_port)
        self._tag, self._first = _number() or 1, _number()
        self._server_tag = 0
        self.output = encode(port, server_port, 0, [(INIT, opening(self._tag, self._first))])

    def ask(self, question: bytes) -> None:
        """Makes `output` the question; the association is open."""
        self.output = self._say(DATA, _DATA.pack(self._first, 0, 0, 0) + question)

    @property
    def farewell(self) -> bytes:
        """What ends the association at once; empty if the other side does not know it."""
        return self._say(ABORT, b"") if self._server_tag else b""

    def received(self, data: bytes) -> bool:
        """Takes a packet; returns whether `output` is another one now."""
        packet = decode(data)
        if packet is None or (packet.target, packet.source) != self._ports or packet.tag != self._tag:
            return False
        if packet.first(ABORT) is not None:
            self.is_refused = True
            return False
        if not self._server_tag:
            return self._welcomed(packet.first(INIT_ACK))
        if packet.first(COOKIE_ACK) is not None and not self.is_open:
            self.is_open, self.output = True, b""
        if self.is_open and (said := packet.first(DATA)) is not None and len(said) > _DATA.size:
            self.answer = said[_DATA.size :]
            self.output = self._say(SACK, _SACK.pack(_DATA.unpack_from(said)[0], _WINDOW, 0, 0))
            return True
        if self.is_open and packet.first(SHUTDOWN) is not None:
            self.answer = b""
        return False

    def _welcomed(self, value: bytes | None) -> bool:
        if value is None or len(value) < _INIT.size or (cookie := _cookie(value)) is None:
            return False
        self._server_tag = _INIT.unpack_from(value)[0]
        self.output = self._say(COOKIE_ECHO, cookie)
        return True

    def _say(self, kind: int, value: bytes) -> bytes:
        return encode(*self._ports, self._server_tag, [(kind, value)])


class Callee:
    """The side that answers on a port: at once, or what it is asked if `reads`."""

    def __init__(self, port: int, answer: Callable[[bytes, Peer], bytes], *, reads: bool) -> None:
        self._port = port
        self._answer = answer
        self._reads = reads
        self._known: dict[Peer, _Association] = {}

    def received(self, data: bytes, host: str) -> bytes | None:
        """Takes a packet from the address `host`; returns what to answer, if anything."""
        packet = decode(data)
        if packet is None or packet.target != self._port:
            return None
        peer = (host, packet.source)
        opened = packet.first(INIT)
        if opened is not None:
            return self._invite(peer, opened) if packet.tag == 0 and len(packet.chunks) == 1 else None
        known = self._known.get(peer)
        if known is None or packet.tag != known.tag:
            return None
        if packet.first(ABORT) is not None:
            del self._known[peer]
            return None
        chunks: list[Chunk] = []
        if (cookie := packet.first(COOKIE_ECHO)) is not None:
            if cookie != known.cookie:
                return None
            known.is_open = True
            chunks.append((COOKIE_ACK, b""))
            if not self._reads:
                chunks.append(_answering(known, self._answer(b"", peer)))
        asked = packet.first(DATA)
        if known.is_open and asked is not None and len(asked) > _DATA.size:
            chunks.append((SACK, _SACK.pack(_DATA.unpack_from(asked)[0], _WINDOW, 0, 0)))
            if self._reads:
                chunks.append(_answering(known, self._answer(asked[_DATA.size :], peer)))
        return encode(self._port, packet.source, known.peer_tag, chunks) if chunks else None

    def _invite(self, peer: Peer, value: bytes) -> bytes | None:
        if len(value) < _INIT.size:
            return None
        tag, _window, _out, _in, first = _INIT.unpack_from(value)
        known = self._known.get(peer)
        if known is None or known.peer_tag != tag:
            self._known.pop(peer, None)
            while len(self._known) >= MAX_ASSOCIATIONS:
                del self._known[next(iter(self._known))]
            known = self._known[peer] = _Association(tag, first)
        parameter = struct.pack(">HH", _COOKIE, 4 + len(known.cookie)) + known.cookie
        return encode(self._port, peer[1], tag, [(INIT_ACK, opening(known.tag, known.first) + parameter)])


class _Association:
    def __init__(self, peer_tag: int, peer_first: int) -> None:
        self.tag, self.first, self.cookie = _number() or 1, _number(), os.urandom(16)
        self.peer_tag, self.peer_first = peer_tag, peer_first
        self.is_open = False


def encode(source: int, target: int, tag: int, chunks: list[Chunk]) -> bytes:
    """Returns a packet."""
    body = b""
    for kind, value in chunks:
        body += _CHUNK.pack(kind, _WHOLE if kind == DATA else 0, 4 + len(value)) + value + bytes(-len(value) % 4)
    checksum = crc32c(_HEADER.pack(source, target, tag, 0) + body)
    # The one number of the header that has its lowest byte first (RFC 9260, appendix A).
    return _HEADER.pack(source, target, tag, int.from_bytes(checksum.to_bytes(4, "little"), "big")) + body


def decode(data: bytes) -> Packet | None:
    """Returns what a packet says; None if it is damaged."""
    if len(data) < _HEADER.size:
        return None
    source, target, tag, _checksum = _HEADER.unpack_from(data)
    if crc32c(data[:8] + bytes(4) + data[12:]).to_bytes(4, "little") != data[8:12]:
        return None
    chunks: list[Chunk] = []
    at = _HEADER.size
    while at + _CHUNK.size <= len(data) and len(chunks) < MAX_CHUNKS:
        kind, _flags, length = _CHUNK.unpack_from(data, at)
        if length < _CHUNK.size or at + length > len(data):
            return None
        chunks.append((kind, data[at + _CHUNK.size : at + length]))
        at += length + -length % 4
    return Packet(source, target, tag, chunks)


def opening(tag: int, first: int) -> bytes:
    """Returns the value of INIT and what INIT ACK begins with: one stream each way, `first` is the first TSN."""
    return _INIT.pack(tag, _WINDOW, 1, 1, first)


def crc32c(data: bytes) -> int:
    """Returns Castagnoli's checksum."""
    if not _TABLE:
        for value in range(256):
            for _ in range(8):
                value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
            _TABLE.append(value)
    found = 0xFFFFFFFF
    for byte in data:
        found = found >> 8 ^ _TABLE[(found ^ byte) & 0xFF]
    return found ^ 0xFFFFFFFF


def _answering(known: _Association, answer: bytes) -> Chunk:
    if answer:
        return DATA, _DATA.pack(known.first, 0, 0, 0) + answer
    return SHUTDOWN, known.peer_first.to_bytes(4, "big")


def _cookie(value: bytes) -> bytes | None:
    at = _INIT.size
    while at + 4 <= len(value):
        kind, length = struct.unpack_from(">HH", value, at)
        if length < 4:
            return None
        if kind == _COOKIE:
            return value[at + 4 : at + length]
        at += length + -length % 4
    return None


def _number() -> int:
    return int.from_bytes(os.urandom(4), "big")
