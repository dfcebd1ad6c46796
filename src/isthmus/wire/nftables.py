"""nf_tables elements as netlink: one atomic batch of NEWSETELEM and DELSETELEM messages, and the way back.

This is the short way into the kernel for the common event, a pod IP that appears or goes: about 0.01 ms an element,
where text through libnftables costs milliseconds because it refreshes its cache of the whole table first. Structure
(tables, chains, rules, sets) never passes through here.

What must stay true: a nested attribute never grows past 64 KiB (nla_len has 16 bits), so elements are spread over
messages; a batch is one transaction, however many messages it has; ADD means add (NLM_F_EXCL), so a duplicate is an
error instead of a silent disagreement; and any message the kernel refuses can be traced to the element (`locate`).

Rejected: rules through netlink. The kernel takes register programs that nft cannot print, and then `nft list` aborts
for everyone on the node.

Reference: Linux `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h`.
"""

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

import msgspec

from isthmus.wire import netlink
from isthmus.wire.netlink import NetlinkDecodeError

SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
BATCH_BEGIN = 0x10
BATCH_END = 0x11
NEW_ELEMENTS = SUBSYSTEM << 8 | 12
GET_ELEMENTS = SUBSYSTEM << 8 | 13
DELETE_ELEMENTS = SUBSYSTEM << 8 | 14
GET_CHAIN = SUBSYSTEM << 8 | 4
GET_RULES = SUBSYSTEM << 8 | 7
NEW_GENERATION = SUBSYSTEM << 8 | 15
GET_GENERATION = SUBSYSTEM << 8 | 16
GENERATION_ID = 1  # NFTA_GEN_ID

LIST_TABLE = 1  # NFTA_SET_ELEM_LIST_TABLE
LIST_SET = 2
LIST_ELEMENTS = 3
LIST_ELEMENT = 1  # NFTA_LIST_ELEM
ELEMENT_KEY = 1
ELEMENT_DATA = 2
ELEMENT_TIMEOUT = 4
ELEMENT_EXPIRATION = 5
DATA_VALUE = 1
DATA_VERDICT = 2
VERDICT_CODE = 1
VERDICT_CHAIN = 2

JUMP = -3 & 0xFFFFFFFF
MAX_NAME = 255  # NFT_NAME_MAXLEN counts the terminating zero, so 255 characters are left
MAX_KEY = 64  # NFT_DATA_VALUE_MAXLEN
SEQUENCES = 1 << 32


class Family(IntEnum):
    """Table families (NFPROTO_*) as far as they are used."""

    INET = 1
    IPV4 = 2
    IPV6 = 10


class Element(msgspec.Struct, frozen=True, gc=False):
    """One element as the kernel shows it: `chain` in a verdict map, `data` in another map, neither in a set.

    `timeout` and what is left of it, `expires`, are in milliseconds, 0 for elements that stay.
    """

    key: bytes
    data: bytes | None = None
    chain: str | None = None
    timeout: int = 0
    expires: int = 0


class Operation(msgspec.Struct, frozen=True):
    """Elements (as made by `encode_element`) to add to or remove from the set `name`."""

    name: str
    add: bool
    elements: Sequence[bytes]


class Place(msgspec.Struct, frozen=True):
    """Where a refused message came from: the operation, and the element in it if the kernel pointed at one.

    `first` and `count` bound the elements of the message for kernels that do not point.
    """

    operation: int
    first: int
    count: int
    element: int | None = None


class Batch(msgspec.Struct, frozen=True):
    """One transaction. `places[i]` belongs to the message with sequence number `begin + 1 + i`."""

    data: bytes
    begin: int
    last: int  # the message that asks for an acknowledgement
    places: tuple[Place, ...]
    offsets: tuple[int, ...]  # of the messages in `data`


def encode_element(key: bytes, *, data: bytes | None = None, chain: str | None = None) -> bytes:
    """Returns one NFTA_LIST_ELEM: a key, and for a map its `data` or the `chain` to jump to.

    Raises ValueError for a key outside 1-64 bytes, for both kinds of data at once, and for a chain name nf_tables
    cannot hold.
    """
    if not 0 < len(key) <= MAX_KEY:
        raise ValueError(f"a key of {len(key)} bytes: nf_tables takes 1 to {MAX_KEY}")
    body = _HEADERS[ELEMENT_KEY, len(key)] + key + _PADDING[-len(key) % 4]
    if chain is not None:
        if data is not None:
            raise ValueError("an element holds data or a chain to jump to, not both")
        body += _encode_jump(chain)
    elif data is not None:
        if not 0 < len(data) <= MAX_KEY:
            raise ValueError(f"data of {len(data)} bytes: nf_tables takes 1 to {MAX_KEY}")
        body += _HEADERS[ELEMENT_DATA, len(data)] + data + _PADDING[-len(data) % 4]
    return _LIST_ELEMENT(4 + len(body), LIST_ELEMENT | netlink.NLA_F_NESTED) + body


def encode_batch(operations: Sequence[Operation], *, table: str, sequence: int) -> Batch:
    """Returns one transaction on the table `inet TABLE`, its messages numbered from `sequence` (mod 2**32).

    Order is kept. Raises ValueError for a bad name or when there is nothing to do: a batch without a message would
    have nobody to acknowledge it.
    """
    parts: list[bytes] = []
    places: list[Place] = []
    offsets: list[int] = []
    position = 0

    def number() -> int:
        return (sequence + 1 + len(places)) % SEQUENCES

    begin = _encode_edge(BATCH_BEGIN, sequence % SEQUENCES)
    parts.append(begin)
    position += len(begin)
    total = sum(1 for operation in operations for _ in _split(operation.elements))
    for index, operation in enumerate(operations):
        kind = NEW_ELEMENTS if operation.add else DELETE_ELEMENTS
        flags = netlink.NLM_F_REQUEST
        if operation.add:
            flags |= netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
        head = netlink.encode_nfgenmsg(netlink.GenericHeader(Family.INET)) + _encode_target(table, operation.name)
        for first, count in _split(operation.elements):
            chunk = operation.elements[first : first + count]
            ack = netlink.NLM_F_ACK if len(places) + 1 == total else 0
            payload = head + netlink.encode_nested(LIST_ELEMENTS, *chunk)
            message = netlink.encode_message(netlink.Message(kind, flags | ack, number(), 0, payload))
            places.append(Place(index, first, count))
            offsets.append(position)
            parts.append(message)
            position += len(message)
    if not places:
        raise ValueError("a batch without elements")
    last = (number() - 1) % SEQUENCES
    parts.append(_encode_edge(BATCH_END, number()))
    return Batch(b"".join(parts), sequence % SEQUENCES, last, tuple(places), tuple(offsets))


def locate(batch: Batch, answer: netlink.Answer) -> Place | None:
    """Returns what in `batch` the kernel refused; None if it is not about one of its element messages.

    The kernel's offset points at the element, or at the attribute with the set's or the table's name; in that case,
    and without an offset, `element` is None.
    """
    index = (answer.sequence - batch.begin - 1) % SEQUENCES
    if index >= len(batch.places):
        return None
    place = batch.places[index]
    if answer.offset is None:
        return place
    end = batch.offsets[index + 1] if index + 1 < len(batch.offsets) else len(batch.data)
    message = next(netlink.decode_messages(batch.data[batch.offsets[index] : end]))
    _, attributes = netlink.split_nfgenmsg(message.payload)
    base = netlink.HEADER.size + netlink.GENERIC.size
    for position, length in netlink.attribute_positions(attributes):
        _, kind = netlink.ATTRIBUTE.unpack_from(attributes, position)
        if kind & netlink.NLA_TYPE_MASK != LIST_ELEMENTS:
            continue
        inside = position + netlink.ATTRIBUTE.size
        for number, (start, _) in enumerate(netlink.attribute_positions(attributes[inside : position + length])):
            if base + inside + start == answer.offset:
                return msgspec.structs.replace(place, element=place.first + number)
    return place


def encode_dump(*, table: str, name: str, sequence: int) -> bytes:
    """Returns the request that lists all elements of the set `name` of `inet TABLE`."""
    payload = netlink.encode_nfgenmsg(netlink.GenericHeader(Family.INET)) + _encode_target(table, name)
    flags = netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
    return netlink.encode_message(netlink.Message(GET_ELEMENTS, flags, sequence % SEQUENCES, 0, payload))


def encode_chain(*, table: str, name: str, sequence: int, rules: bool = False) -> bytes:
    """Returns the request for the base or plain chain `name` of `inet TABLE`, or for all its rules."""
    # Table and chain have the numbers 1 and 3 in a chain's attributes, 1 and 2 in a rule's.
    target = netlink.encode_text(1, _named(table)) + netlink.encode_text(2 if rules else 3, _named(name))
    payload = netlink.encode_nfgenmsg(netlink.GenericHeader(Family.INET)) + target
    flags = netlink.NLM_F_REQUEST | (netlink.NLM_F_DUMP if rules else netlink.NLM_F_ACK)
    kind = GET_RULES if rules else GET_CHAIN
    return netlink.encode_message(netlink.Message(kind, flags, sequence % SEQUENCES, 0, payload))


def encode_generation(*, sequence: int) -> bytes:
    """Returns the request for the number of the last commit in this network namespace, anyone's."""
    payload = netlink.encode_nfgenmsg(netlink.GenericHeader(0))
    flags = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK
    return netlink.encode_message(netlink.Message(GET_GENERATION, flags, sequence % SEQUENCES, 0, payload))


def decode_generation(message: netlink.Message) -> int:
    """Returns the number in the answer to `encode_generation`. Raises NetlinkDecodeError."""
    if message.type == NEW_GENERATION:
        _, attributes = netlink.split_nfgenmsg(message.payload)
        for attribute in netlink.decode_attributes(attributes):
            if attribute.type == GENERATION_ID and len(attribute.payload) == 4:
                return int.from_bytes(attribute.payload, "big")
    raise NetlinkDecodeError(f"message type {message.type:#x} does not carry a generation")


def decode_elements(message: netlink.Message) -> Iterator[Element]:
    """Yields the elements in one NEWSETELEM message. Raises NetlinkDecodeError."""
    if message.type != NEW_ELEMENTS:
        raise NetlinkDecodeError(f"message type {message.type:#x} does not carry set elements")
    _, attributes = netlink.split_nfgenmsg(message.payload)
    for attribute in netlink.decode_attributes(attributes):
        if attribute.type == LIST_ELEMENTS:
            for element in netlink.decode_attributes(attribute.payload):
                yield _decode_element(element.payload)


def _decode_element(payload: bytes) -> Element:
    key, data, chain = b"", None, None
    times = {ELEMENT_TIMEOUT: 0, ELEMENT_EXPIRATION: 0}
    for attribute in netlink.decode_attributes(payload):
        if attribute.type == ELEMENT_KEY:
            for value in netlink.decode_attributes(attribute.payload):
                if value.type == DATA_VALUE:
                    key = value.payload
        elif attribute.type == ELEMENT_DATA:
            for value in netlink.decode_attributes(attribute.payload):
                if value.type == DATA_VALUE:
                    data = value.payload
                elif value.type == DATA_VERDICT:
                    for part in netlink.decode_attributes(value.payload):
                        if part.type == VERDICT_CHAIN:
                            chain = netlink.decode_text(part)
        elif attribute.type in times:
            if len(attribute.payload) != 8:
                raise NetlinkDecodeError(f"a time of {len(attribute.payload)} bytes")
            times[attribute.type] = int.from_bytes(attribute.payload, "big")
    if not 0 < len(key) <= MAX_KEY:
        raise NetlinkDecodeError(f"an element with a key of {len(key)} bytes")
    return Element(key, data, chain, times[ELEMENT_TIMEOUT], times[ELEMENT_EXPIRATION])


def _split(elements: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Yields (first, count) of runs that fit one nested attribute."""
    first = size = 0
    for index, element in enumerate(elements):
        if size + len(element) > netlink.MAX_ATTRIBUTE_PAYLOAD and index > first:
            yield first, index - first
            first, size = index, 0
        size += len(element)
    if first < len(elements):
        yield first, len(elements) - first


def _encode_target(table: str, name: str) -> bytes:
    return netlink.encode_text(LIST_TABLE, _named(table)) + netlink.encode_text(LIST_SET, _named(name))


def _encode_edge(kind: int, sequence: int) -> bytes:
    payload = netlink.encode_nfgenmsg(netlink.GenericHeader(0, resource=SUBSYSTEM))
    return netlink.encode_message(netlink.Message(kind, netlink.NLM_F_REQUEST, sequence, 0, payload))


def _encode_jump(chain: str) -> bytes:
    verdict = netlink.encode_nested(
        DATA_VERDICT,
        netlink.encode_u32(VERDICT_CODE, JUMP),
        netlink.encode_text(VERDICT_CHAIN, _named(chain)),
    )
    return netlink.encode_nested(ELEMENT_DATA, verdict)


def _named(name: str) -> str:
    if not 0 < len(name.encode()) <= MAX_NAME:
        raise ValueError(f"a name of {len(name.encode())} bytes: nf_tables takes 1 to {MAX_NAME}")
    return name


def _value_header(kind: int, length: int) -> bytes:
    """Returns the two headers before a value of `length` bytes: they depend on nothing else."""
    whole = 4 + netlink.aligned(4 + length)
    return struct.pack("=HHHH", whole, kind | netlink.NLA_F_NESTED, 4 + length, DATA_VALUE)


_HEADERS = {
    (kind, length): _value_header(kind, length)
    for kind in (ELEMENT_KEY, ELEMENT_DATA)
    for length in range(1, MAX_KEY + 1)
}
_PADDING = (b"", b"\0", b"\0\0", b"\0\0\0")
_LIST_ELEMENT = netlink.ATTRIBUTE.pack
