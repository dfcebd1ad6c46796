"""SPDY/3.1 frames: several streams over one connection, as kubectl and kubelets have them for exec and port-forward.

Invariants: bytes of any kind give events or SpdyError, in time linear in their length; a header block never unpacks
to more than MAX_HEADERS bytes; data is handed on as it comes, so no frame is held whole. Flow control is neither
asked for nor heeded, as in the implementations of the field (spdystream): back-pressure is that of the connection.
Source: SPDY Protocol, draft 3.1. Rejected: HTTP/2, which nothing of Kubernetes speaks here.
"""

import struct
import zlib
from collections.abc import Iterable, Mapping

import msgspec

MAX_HEADERS = 64 * 1024
"""Bytes of an unpacked header block."""
MAX_CONTROL = 64 * 1024
"""Bytes of a control frame; a longer one ends the session."""
MAX_DATA = 32 * 1024
"""Bytes of a data frame that is written."""
MAX_ID = 2**31 - 1

CANCEL, INTERNAL_ERROR, REFUSED_STREAM, PROTOCOL_ERROR = 5, 6, 3, 1
"""Reasons of a reset."""

_VERSION = 3
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _HEADERS, _WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
_FIN = 0x01
_CONTROL = 0x80000000
_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_REST = (
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    b"403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    b"Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    b"chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    b"text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    words = [word.replace("_", " ").encode() for word in _WORDS.split()]
    return b"".join(struct.pack(">I", len(word)) + word for word in words) + _REST


DICTIONARY = _dictionary()
"""What header blocks are compressed with (SPDY 3.1, section 2.6.10.1)."""


class SpdyError(Exception):
    """The other side broke the protocol; the session cannot go on."""


class Opened(msgspec.Struct, frozen=True):
    """The other side opened a stream; `headers` has lower-case names. It waits for a reply."""

    stream: int
    headers: dict[str, str]
    fin: bool = False


class Replied(msgspec.Struct, frozen=True):
    """The other side took a stream, or sent further headers on it."""

    stream: int
    headers: dict[str, str]
    fin: bool = False


class Data(msgspec.Struct, frozen=True):
    """Bytes of a stream; `fin` says that they are the last."""

    stream: int
    data: bytes
    fin: bool = False


class Reset(msgspec.Struct, frozen=True):
    """The other side gave up a stream."""

    stream: int
    reason: int


class Ping(msgspec.Struct, frozen=True):
    """A sign of life, to be sent back if it is not the answer to one of ours."""

    number: int


class Closing(msgspec.Struct, frozen=True):
    """The other side will open and take no more streams."""

    last: int


Event = Opened | Replied | Data | Reset | Ping | Closing


class Codec:
    """One end of a session: bytes into events, calls into bytes."""

    def __init__(self, *, server: bool) -> None:
        """`server` is the end that was connected to; its streams have even numbers."""
        self._next = 2 if server else 1
        self._buffer = bytearray()
        self._stream = 0  # whose data is being read
        self._left = 0  # bytes of data still to come
        self._fin = False
        self._pack = zlib.compressobj(6, zlib.DEFLATED, 15, 8, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
        self._unpack = zlib.decompressobj(15, DICTIONARY)

    def receive(self, data: bytes) -> list[Event]:
        """Returns what `data` adds up to with the bytes before it; raises SpdyError."""
        self._buffer += data
        events: list[Event] = []
        buffer, at = self._buffer, 0
        while True:
            if self._left:
                piece = bytes(buffer[at : at + self._left])
                if not piece:
                    break
                at += len(piece)
                self._left -= len(piece)
                events.append(Data(self._stream, piece, self._fin and not self._left))
                continue
            if len(buffer) - at < 8:
                break
            first, second = struct.unpack_from(">II", buffer, at)
            length, flags = second & 0xFFFFFF, second >> 24
            if not first & _CONTROL:
                at += 8
                self._stream, self._left, self._fin = first, length, bool(flags & _FIN)
                if not length and self._fin:
                    events.append(Data(first, b"", True))
                continue
            if first >> 16 & 0x7FFF != _VERSION:
                raise SpdyError(f"version {first >> 16 & 0x7FFF} is not spoken")
            if length > MAX_CONTROL:
                raise SpdyError(f"a control frame of {length} bytes is too long")
            if len(buffer) - at < 8 + length:
                break
            body = bytes(buffer[at + 8 : at + 8 + length])
            at += 8 + length
            found = self._control(first & 0xFFFF, flags, body)
            if found is not None:
                events.append(found)
        del buffer[:at]
        return events

    def _control(self, kind: int, flags: int, body: bytes) -> Event | None:
        fin = bool(flags & _FIN)
        if kind == _SYN_STREAM:
            return Opened(_number(body, 10), self._read_headers(body[10:]), fin)
        if kind in (_SYN_REPLY, _HEADERS):
            return Replied(_number(body, 4), self._read_headers(body[4:]), fin)
        if kind == _RST_STREAM:
            return Reset(_number(body, 8), struct.unpack_from(">I", body, 4)[0])
        if kind == _PING:
            _number(body, 4)
            return Ping(struct.unpack(">I", body[:4])[0])
        if kind == _GOAWAY:
            return Closing(_number(body, 4))
        if kind in (_SETTINGS, _WINDOW_UPDATE):
            return None
        raise SpdyError(f"a control frame of unknown type {kind}")

    def _read_headers(self, packed: bytes) -> dict[str, str]:
        try:
            block = self._unpack.decompress(packed, MAX_HEADERS)
        except zlib.error as failure:
            raise SpdyError(f"headers cannot be unpacked: {failure}") from failure
        if self._unpack.unconsumed_tail:
            raise SpdyError("headers are too long")
        headers: dict[str, str] = {}
        try:
            (count,) = struct.unpack_from(">I", block)
            at = 4
            for _ in range(count):
                pair = []
                for _ in range(2):
                    (length,) = struct.unpack_from(">I", block, at)
                    if at + 4 + length > len(block):
                        raise SpdyError("headers are cut off")
                    pair.append(block[at + 4 : at + 4 + length].decode("latin-1"))
                    at += 4 + length
                headers[pair[0].lower()] = pair[1]
        except struct.error as failure:
            raise SpdyError("headers are cut off") from failure
        return headers

    def _write_headers(self, headers: Mapping[str, str]) -> bytes:
        words = [word.encode("latin-1") for name, value in headers.items() for word in (name.lower(), value)]
        block = struct.pack(">I", len(headers)) + b"".join(struct.pack(">I", len(word)) + word for word in words)
        return self._pack.compress(block) + self._pack.flush(zlib.Z_SYNC_FLUSH)

    def open(self, headers: Mapping[str, str], *, fin: bool = False) -> tuple[int, bytes]:
        """Returns the number of a new stream, and the bytes that open it; raises SpdyError when there are no more."""
        stream = self._next
        if stream > MAX_ID:
            raise SpdyError("no stream numbers are left")
        self._next += 2
        return stream, _frame(_SYN_STREAM, struct.pack(">IIxx", stream, 0) + self._write_headers(headers), fin)

    def reply(self, stream: int, headers: Mapping[str, str] | None = None, *, fin: bool = False) -> bytes:
        """Returns the bytes that take a stream."""
        return _frame(_SYN_REPLY, struct.pack(">I", stream) + self._write_headers(headers or {}), fin)


def _number(body: bytes, least: int) -> int:
    """Returns the stream number at the beginning of a control frame of at least `least` bytes."""
    if len(body) < least:
        raise SpdyError("a control frame is too short")
    number: int = struct.unpack_from(">I", body)[0] & MAX_ID
    return number


def _frame(kind: int, body: bytes, fin: bool = False) -> bytes:
    return struct.pack(">II", _CONTROL | _VERSION << 16 | kind, (_FIN if fin else 0) << 24 | len(body)) + body


def data(stream: int, payload: bytes, *, fin: bool = False) -> Iterable[bytes]:
    """Yields the frames of `payload`; one empty frame for the mere end of a stream."""
    pieces = [payload[at : at + MAX_DATA] for at in range(0, len(payload), MAX_DATA)] or [b""]
    for index, piece in enumerate(pieces):
        last = fin and index == len(pieces) - 1
        yield struct.pack(">II", stream, (_FIN if last else 0) << 24 | len(piece)) + piece


def reset(stream: int, reason: int = CANCEL) -> bytes:
    """Returns the bytes that give up a stream."""
    return _frame(_RST_STREAM, struct.pack(">II", stream, reason))


def ping(number: int) -> bytes:
    """Returns a sign of life; the other side sends it back."""
    return _frame(_PING, struct.pack(">I", number))


def closing(last: int, reason: int = 0) -> bytes:
    """Returns the bytes that say that no stream after `last` was taken and no more will be."""
    return _frame(_GOAWAY, struct.pack(">II", last, reason))
