"""Netlink framing: messages, attributes, and the kernel's answers, as bytes in and plain values out.

Everything that talks to nf_tables, conntrack or NFLOG shares this one framing (reference: Linux
`include/uapi/linux/netlink.h`, RFC 3549). What must stay true: no read ever goes past the buffer it was given, and
whatever is wrong with the bytes ends in `NetlinkDecodeError` and nothing else; the kernel is trusted, but a datagram
cut short by a small receive buffer looks exactly like a malformed one.

Rejected: pyroute2's generic encoder. It is driven by per-class tables at run time and costs fifty times as much per
attribute, and the element of a set is the thing this program sends most.
"""

import struct
from collections.abc import Iterator

import msgspec

ALIGNMENT = 4
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
GENERIC = struct.Struct(">BBH")  # nfgenmsg: family, version, res_id (network order, unlike the headers)
ERROR = struct.Struct("=i")

NLM_F_REQUEST = 0x001
NLM_F_MULTI = 0x002
NLM_F_ACK = 0x004
NLM_F_CAPPED = 0x100  # on an error: the payload of the message it is about was left out
NLM_F_ACK_TLVS = 0x200  # on an error: attributes follow
NLM_F_DUMP = 0x300  # on a request
NLM_F_EXCL = 0x200  # on a NEW request
NLM_F_CREATE = 0x400  # on a NEW request

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

NLMSGERR_ATTR_MSG = 1
NLMSGERR_ATTR_OFFS = 2

MAX_ATTRIBUTE = 0xFFFF  # nla_len is a u16 and counts its own header
MAX_ATTRIBUTE_PAYLOAD = MAX_ATTRIBUTE - ATTRIBUTE.size
MAX_MESSAGE = 0xFFFFFFFF


class NetlinkDecodeError(ValueError):
    """Bytes that are not the netlink they were said to be."""


class Message(msgspec.Struct, frozen=True):
    """One message without its framing; `payload` starts after the nlmsghdr."""

    type: int
    flags: int
    sequence: int
    port: int
    payload: bytes


class Attribute(msgspec.Struct, frozen=True):
    """One attribute; `type` is without the two flag bits, `nested` tells NLA_F_NESTED."""

    type: int
    payload: bytes
    nested: bool = False


class Answer(msgspec.Struct, frozen=True):
    """What the kernel says about one message of ours.

    `errno` is 0 for an acknowledgement and positive for a failure. `offset` counts bytes from the start of *our*
    message (its nlmsghdr included) to the attribute that was refused; None if the kernel does not say.
    """

    sequence: int
    errno: int
    text: str = ""
    offset: int | None = None


class GenericHeader(msgspec.Struct, frozen=True):
    """The nfgenmsg that opens every nfnetlink payload."""

    family: int
    version: int = 0
    resource: int = 0


def aligned(length: int) -> int:
    """Returns `length` rounded up to the netlink alignment of 4 bytes."""
    return (length + ALIGNMENT - 1) & ~(ALIGNMENT - 1)


def padded(data: bytes) -> bytes:
    """Returns `data` with zero bytes up to the alignment."""
    return data + bytes(-len(data) % ALIGNMENT)


def encode_message(message: Message) -> bytes:
    """Returns the message with its header, padded. Raises ValueError for a number that does not fit its field."""
    length = HEADER.size + len(message.payload)
    if length > MAX_MESSAGE:
        raise ValueError(f"a netlink message of {length} bytes does not fit its 32-bit length")
    try:
        header = HEADER.pack(length, message.type, message.flags, message.sequence, message.port)
    except struct.error as error:
        raise ValueError(f"netlink header: {error}") from error
    return header + padded(message.payload)


def encode_attribute(kind: int, payload: bytes) -> bytes:
    """Returns one padded attribute. Raises ValueError beyond 64 KiB: the length field has 16 bits."""
    length = ATTRIBUTE.size + len(payload)
    if length > MAX_ATTRIBUTE:
        raise ValueError(f"a netlink attribute of {length} bytes does not fit its 16-bit length")
    return ATTRIBUTE.pack(length, kind) + padded(payload)


def encode_nested(kind: int, *attributes: bytes) -> bytes:
    """Returns one attribute that holds `attributes` (each already encoded). Raises ValueError beyond 64 KiB."""
    return encode_attribute(kind | NLA_F_NESTED, b"".join(attributes))


def encode_text(kind: int, text: str) -> bytes:
    """Returns one attribute with `text` as a zero-terminated string. Raises ValueError for a zero inside."""
    if "\0" in text:
        raise ValueError(f"text for netlink holds a zero byte: {text!r}")
    return encode_attribute(kind, text.encode() + b"\0")


def encode_u32(kind: int, value: int) -> bytes:
    """Returns one attribute with a u32 in network order, as nfnetlink wants its numbers."""
    return encode_attribute(kind, value.to_bytes(4, "big"))


def encode_nfgenmsg(header: GenericHeader) -> bytes:
    """Returns the encoded nfgenmsg. Raises ValueError for a number that does not fit its field."""
    try:
        return GENERIC.pack(header.family, header.version, header.resource)
    except struct.error as error:
        raise ValueError(f"nfgenmsg: {error}") from error


def split_nfgenmsg(payload: bytes) -> tuple[GenericHeader, bytes]:
    """Returns the nfgenmsg at the head of `payload` and what follows it (attributes)."""
    if len(payload) < GENERIC.size:
        raise NetlinkDecodeError(f"{len(payload)} bytes are too few for an nfgenmsg")
    return GenericHeader(*GENERIC.unpack_from(payload)), payload[GENERIC.size :]


def decode_messages(data: bytes) -> Iterator[Message]:
    """Yields the messages of one datagram.

    The last one may lack its padding, as the kernel sends it. Raises NetlinkDecodeError for a length that is shorter
    than a header or reaches past the end.
    """
    position = 0
    while position < len(data):
        if len(data) - position < HEADER.size:
            raise NetlinkDecodeError(f"{len(data) - position} bytes at offset {position} are too few for a header")
        length, kind, flags, sequence, port = HEADER.unpack_from(data, position)
        if not HEADER.size <= length <= len(data) - position:
            raise NetlinkDecodeError(
                f"message at offset {position} says {length} bytes, {len(data) - position} are there"
            )
        yield Message(kind, flags, sequence, port, data[position + HEADER.size : position + length])
        position += aligned(length)


def decode_attributes(data: bytes) -> Iterator[Attribute]:
    """Yields the attributes of one level; the last may lack its padding. Raises NetlinkDecodeError."""
    for position, length in attribute_positions(data):
        _, kind = ATTRIBUTE.unpack_from(data, position)
        payload = data[position + ATTRIBUTE.size : position + length]
        yield Attribute(kind & NLA_TYPE_MASK, payload, bool(kind & NLA_F_NESTED))


def attribute_positions(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields (offset, length with header, without padding) of each attribute of one level."""
    position = 0
    while position < len(data):
        if len(data) - position < ATTRIBUTE.size:
            raise NetlinkDecodeError(f"{len(data) - position} bytes at offset {position} are too few for an attribute")
        length, _ = ATTRIBUTE.unpack_from(data, position)
        if not ATTRIBUTE.size <= length <= len(data) - position:
            raise NetlinkDecodeError(
                f"attribute at offset {position} says {length} bytes, {len(data) - position} are there"
            )
        yield position, length
        position += aligned(length)


def decode_u32(attribute: Attribute) -> int:
    """Returns the number in network order; the payload must be exactly 4 bytes."""
    if len(attribute.payload) != 4:
        raise NetlinkDecodeError(f"attribute {attribute.type}: {len(attribute.payload)} bytes where a u32 was expected")
    return int.from_bytes(attribute.payload, "big")


def decode_text(attribute: Attribute) -> str:
    """Returns the text up to the first zero byte; bytes that are not UTF-8 are shown escaped."""
    return attribute.payload.split(b"\0", 1)[0].decode(errors="backslashreplace")


def decode_answer(message: Message) -> Answer:
    """Returns what an NLMSG_ERROR message says (an errno of 0 is an acknowledgement). Raises NetlinkDecodeError."""
    if message.type != NLMSG_ERROR:
        raise NetlinkDecodeError(f"message type {message.type} is not an answer")
    payload = message.payload
    if len(payload) < ERROR.size + HEADER.size:
        raise NetlinkDecodeError(f"{len(payload)} bytes are too few for an answer")
    (error,) = ERROR.unpack_from(payload)
    if error > 0:
        raise NetlinkDecodeError(f"an answer holds the positive error {error}")
    length, _, _, sequence, _ = HEADER.unpack_from(payload, ERROR.size)
    text, offset = "", None
    if message.flags & NLM_F_ACK_TLVS:
        quoted = HEADER.size if message.flags & NLM_F_CAPPED or error == 0 else aligned(max(length, HEADER.size))
        for attribute in decode_attributes(payload[ERROR.size + quoted :]):
            if attribute.type == NLMSGERR_ATTR_MSG:
                text = decode_text(attribute)
            elif attribute.type == NLMSGERR_ATTR_OFFS:
                if len(attribute.payload) != 4:
                    raise NetlinkDecodeError(f"the offset of an answer has {len(attribute.payload)} bytes, not 4")
                (offset,) = struct.unpack("=I", attribute.payload)
    return Answer(sequence, -error, text, offset)
