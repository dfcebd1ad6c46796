"""grpc.health.v1.Health/Check, asked with a minimal HTTP/2 client.

One request on one connection needs four kinds of frames and no compression state (RFC 9113, RFC 7541: the request's
headers are literals that are never indexed, the answer's are skipped, because the message itself says all). Rejected:
grpcio, which costs every node 15 MB as soon as one pod has such a probe.
"""

import asyncio
import contextlib
import struct

SERVING = "SERVING"
_STATUS = {0: "UNKNOWN", 1: SERVING, 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_MAX_FRAME = 16384
_MAX_MESSAGE = 4096


class HealthError(Exception):
    """The server answered, but not with its health; the message is for an event."""


async def check(host: str, port: int, *, service: str) -> str:
    """Returns the status's name. Raises HealthError, OSError; the caller bounds the time."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _request(f"{host}:{port}", service))
        await writer.drain()
        return _parse(await _answer(reader, writer))
    except asyncio.IncompleteReadError as error:
        raise HealthError("error: the server closed the connection without an answer (is it a gRPC server?)") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Returns the stream's data."""
    body = b""
    answered = False
    while True:
        header = await reader.readexactly(9)
        length, kind, flags = int.from_bytes(header[:3], "big"), header[3], header[4]
        if length > _MAX_FRAME:
            raise HealthError("error: what the server says is not HTTP/2")
        payload = await reader.readexactly(length)
        if kind == _SETTINGS and not flags & _ACK:
            writer.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            writer.write(_frame(_PING, _ACK, 0, payload))
        elif kind in (_RST_STREAM, _GOAWAY):
            raise HealthError("error: health rpc failed: the server refused the stream")
        elif kind in (_DATA, _HEADERS):
            if kind == _DATA:
                body += payload[1 : len(payload) - payload[0]] if flags & _PADDED and payload else payload
            elif answered and not body:
                flags |= _END_STREAM  # trailers
            answered = True
            if len(body) > _MAX_MESSAGE:
                raise HealthError("error: health rpc failed: the answer is too long")
            if flags & _END_STREAM or _complete(body):
                return body


def _complete(body: bytes) -> bool:
    return len(body) >= 5 and len(body) >= 5 + int.from_bytes(body[1:5], "big")


def _parse(body: bytes) -> str:
    if len(body) < 5:
        raise HealthError(
            "error: health rpc failed: the server gave no health status (does it implement the gRPC health protocol, "
            "grpc.health.v1.Health, and know the service?)"
        )
    message = body[5 : 5 + int.from_bytes(body[1:5], "big")]
    if body[0] != 0:
        raise HealthError("error: health rpc failed: the answer is compressed")
    # HealthCheckResponse: field 1, a varint; a missing one is 0.
    number = message[1] if len(message) >= 2 and message[0] == 0x08 else 0
    return _STATUS.get(number, str(number))


def _request(authority: str, service: str) -> bytes:
    headers = b"".join(
        _literal(name, value)
        for name, value in (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/grpc.health.v1.Health/Check"),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("user-agent", "kube-probe/1.33"),
            ("te", "trailers"),
        )
    )
    name = service.encode()[:1024]
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    data = b"\0" + struct.pack(">I", len(message)) + message
    return _frame(_HEADERS, _END_HEADERS, 1, headers) + _frame(_DATA, _END_STREAM, 1, data)


def _literal(name: str, value: str) -> bytes:
    """A header field that is never indexed, in plain text (RFC 7541, 6.2.3)."""
    return b"\x10" + _length(name) + name.encode() + _length(value) + value.encode()


def _length(text: str) -> bytes:
    size = len(text.encode())
    return bytes([size]) if size < 127 else b"\x7f" + _varint(size - 127)


def _varint(number: int) -> bytes:
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes([*result, number])


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload
