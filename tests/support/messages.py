"""SCTP and ICMP messages that probes are made of, as bytes; many kernels come without SCTP, so it is spoken raw.

Every message carries a token of its sender, by which it and its answer are known again.
"""

import struct

from isthmus.model.flow import Protocol

ECHO = {Protocol.ICMP: (8, 0), Protocol.ICMPV6: (128, 129)}
"""Type of an echo request, and of its reply."""
TOKEN = 8
"""Bytes in a token; of an SCTP message it is the initiate tag, the first 4 of them."""


INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK, DATA = 1, 2, 10, 11, 0
"""Types of SCTP chunks."""


def sctp(source: int, destination: int, verification: int, chunk: bytes) -> bytes:
    """Returns an SCTP packet of one chunk (RFC 9260), between two ports."""
    head = struct.pack(">HHI", source, destination, verification)
    return head + struct.pack("<I", _crc32c(head + bytes(4) + chunk)) + chunk


def sctp_chunk(kind: int, value: bytes = b"", *, flags: int = 0) -> bytes:
    """Returns a chunk; the length of `value` is a multiple of 4."""
    return struct.pack(">BBH", kind, flags, 4 + len(value)) + value


def sctp_opening(kind: int, tag: int) -> bytes:
    """Returns an INIT or INIT ACK chunk; `tag`, the sender's own, is not 0."""
    return sctp_chunk(kind, struct.pack(">IIHHI", tag, 65536, 1, 1, tag))


def sctp_data(data: bytes) -> bytes:
    """Returns a DATA chunk that is a whole message."""
    return sctp_chunk(DATA, struct.pack(">IHHI", 1, 0, 0, 0) + data, flags=3)


def sctp_init(source: int, destination: int, tag: int) -> bytes:
    """Returns the packet that opens an association."""
    return sctp(source, destination, 0, sctp_opening(INIT, tag))


def sctp_init_ack(init: bytes) -> bytes:
    """Returns the answer to a packet with an INIT chunk, with the same tag."""
    source, destination = struct.unpack_from(">HH", init)
    tag = int.from_bytes(init[16:20], "big")
    return sctp(destination, source, tag, sctp_opening(INIT_ACK, tag))


def is_sctp_init(packet: bytes) -> bool:
    """Tells whether a packet opens an association."""
    return len(packet) >= 20 and packet[12] == INIT


def is_sctp_init_ack(packet: bytes) -> bool:
    """Tells whether a packet answers an INIT chunk; its verification tag is the tag of that one."""
    return len(packet) >= 20 and packet[12] == INIT_ACK


def icmp(protocol: int, kind: int, number: int, token: bytes) -> bytes:
    """Returns an ICMP message of any type; `number` is what an echo has for identifier and sequence number."""
    message = struct.pack(">BBHI", kind, 0, 0, number & 0xFFFFFFFF) + token
    # The kernel computes the checksum of ICMPv6 itself.
    return message if protocol == Protocol.ICMPV6 else message[:2] + _checksum(message) + message[4:]


def payload(packet: bytes, version: int) -> bytes:
    """Returns what follows the IP header in what a raw socket received; those for IPv6 do not show one."""
    return packet[(packet[0] & 15) * 4 :] if version == 4 and packet else packet


def _checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C = _table()


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC32C[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
