"""Conntrack entries as netlink: asking for those that were opened to one address, reading them, having one forgotten.

What must stay true: a request to forget names both the tuple and the entry's number, so that a connection that took the
same tuple meanwhile is not meant. Rejected: the text of /proc/net/nf_conntrack, which many kernels lack.

Reference: Linux `include/uapi/linux/netfilter/nfnetlink_conntrack.h`, `net/netfilter/nf_internals.h`.
"""

import struct
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

from isthmus.model.endpoint import family_of
from isthmus.wire import netlink
from isthmus.wire.netlink import Attribute, NetlinkDecodeError

SUBSYSTEM = 1  # NFNL_SUBSYS_CTNETLINK
NEW = SUBSYSTEM << 8 | 0
GET = SUBSYSTEM << 8 | 1
DELETE = SUBSYSTEM << 8 | 2

TUPLE_ORIGINAL = 1
TUPLE_REPLY = 2
STATUS = 3
STATE = 4
ID = 12
ZONE = 18
FILTER = 25
TUPLE_IP = 1
IPV4_DESTINATION = 2
TUPLE_PROTOCOL = 2
PROTOCOL_NUMBER = 1
SOURCE_PORT = 2
DESTINATION_PORT = 3
FILTER_ORIGINAL = 1
FILTER_REPLY = 2
BY_DESTINATION = 1 << 1
BY_PROTOCOL = 1 << 3
BY_DESTINATION_PORT = 1 << 5
SEEN_REPLY = 1 << 1
STATES = {6: 1, 132: 3}  # CTA_PROTOINFO_TCP, CTA_PROTOINFO_SCTP by protocol; the state is the first attribute in it
CLOSED = {6: 8, 132: 1}  # TCP_CONNTRACK_CLOSE, SCTP_CONNTRACK_CLOSED: broken off, and kept for ten seconds

FAMILIES = {4: 2, 6: 10}  # address families by IP version
_PORT = struct.Struct(">H")
_CLOSED_MARK = {protocol: netlink.encode_attribute(1, bytes([state])) for protocol, state in CLOSED.items()}


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One connection: where it was opened to, who answers, and `handle`, the attributes that name it.

    `live` tells whether it may go on: somebody has answered, and nobody broke it off. (TCP that both sides ended is not
    told apart: conntrack takes a new connection from the same port for what it is.)
    """

    destination: tuple[str, int]
    answers: tuple[str, int]
    handle: bytes
    live: bool = True


def encode_dump(
    version: int,
    protocol: int,
    *,
    sequence: int,
    destination: tuple[str, int] | None = None,
    narrow: bool = True,
) -> bytes:
    """Returns the request for all entries of one family and protocol, or only those opened to `destination`.

    Of IPv6, all those opened to the destination's port. Without `narrow` the kernel (before Linux 5.8) is not asked to
    choose, and gives entries of every protocol.
    """
    attributes = b""
    if narrow:
        flags = BY_PROTOCOL
        ports = [netlink.encode_attribute(PROTOCOL_NUMBER, bytes([protocol]))]
        address = b""
        if destination is not None:
            flags |= BY_DESTINATION_PORT
            if version == 4:  # of IPv6 addresses, kernels to this day choose all but the one that was asked for
                flags |= BY_DESTINATION
                packed = ip_address(destination[0]).packed
                address = netlink.encode_nested(TUPLE_IP, netlink.encode_attribute(IPV4_DESTINATION, packed))
            ports.append(netlink.encode_attribute(DESTINATION_PORT, _PORT.pack(destination[1])))
        attributes = netlink.encode_nested(TUPLE_ORIGINAL, address, netlink.encode_nested(TUPLE_PROTOCOL, *ports))
        # Unlike the rest of nfnetlink, the filter's numbers are in host order.
        sides = ((FILTER_ORIGINAL, flags), (FILTER_REPLY, 0))
        attributes += netlink.encode_nested(
            FILTER, *(netlink.encode_attribute(side, value.to_bytes(4, sys.byteorder)) for side, value in sides)
        )
    payload = netlink.encode_nfgenmsg(netlink.GenericHeader(FAMILIES[version])) + attributes
    return netlink.encode_message(
        netlink.Message(GET, netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP, sequence, 0, payload)
    )


def encode_forget(entry: Entry, *, sequence: int) -> bytes:
    """Returns the request to forget one entry, with an acknowledgement."""
    family = FAMILIES[family_of(entry.destination[0])]
    payload = netlink.encode_nfgenmsg(netlink.GenericHeader(family)) + entry.handle
    return netlink.encode_message(
        netlink.Message(DELETE, netlink.NLM_F_REQUEST | netlink.NLM_F_ACK, sequence, 0, payload)
    )


def decode_entry(message: netlink.Message, *, protocol: int, live: bool = True) -> Entry | None:
    """Returns the entry in one message of a dump. Raises NetlinkDecodeError.

    None if it is of another protocol; without `live` also if it is live, and then nothing more of it is read: of a busy
    node's connections most are.
    """
    if message.type != NEW:
        raise NetlinkDecodeError(f"message type {message.type:#x} does not carry a conntrack entry")
    _, attributes = netlink.split_nfgenmsg(message.payload)
    if not live and _plainly_live(attributes, protocol):
        return None
    found = {attribute.type: attribute.payload for attribute in netlink.decode_attributes(attributes)}
    alive = _answered(found.get(STATUS)) and not _closed(found.get(STATE, b""), protocol)
    if alive and not live:
        return None
    try:
        opened = _decode_tuple(found[TUPLE_ORIGINAL])
        replies = _decode_tuple(found[TUPLE_REPLY])
    except KeyError:
        raise NetlinkDecodeError("a conntrack entry without its tuples") from None
    if opened is None or replies is None or opened[0] != protocol or replies[0] != protocol:
        return None
    handle = netlink.encode_attribute(TUPLE_ORIGINAL | netlink.NLA_F_NESTED, found[TUPLE_ORIGINAL])
    handle += b"".join(netlink.encode_attribute(type, found[type]) for type in (ID, ZONE) if type in found)
    return Entry(opened[2], replies[1], handle, alive)


def _plainly_live(attributes: bytes, protocol: int) -> bool:
    """Tells of most live entries that they are, by a fraction of what it takes to read them."""
    if _CLOSED_MARK.get(protocol, b"") in attributes:
        return False
    for position, length in netlink.attribute_positions(attributes):
        if netlink.ATTRIBUTE.unpack_from(attributes, position)[1] == STATUS:
            return _answered(attributes[position + netlink.ATTRIBUTE.size : position + length])
    return False


def _answered(status: bytes | None) -> bool:
    return status is None or bool(int.from_bytes(status, "big") & SEEN_REPLY)


def _closed(state: bytes, protocol: int) -> bool:
    for part in netlink.decode_attributes(state):
        if part.type == STATES.get(protocol):
            return any(
                value.type == 1 and value.payload[:1] == bytes([CLOSED[protocol]])
                for value in netlink.decode_attributes(part.payload)
            )
    return False


def _decode_tuple(payload: bytes) -> tuple[int, tuple[str, int], tuple[str, int]] | None:
    """Returns protocol, source and destination; None for protocols without ports."""
    addresses = ["", ""]
    ports = [-1, -1]
    protocol = 0
    for part in netlink.decode_attributes(payload):
        for value in netlink.decode_attributes(part.payload) if part.type in (TUPLE_IP, TUPLE_PROTOCOL) else ():
            if part.type == TUPLE_IP and value.type in (1, 2, 3, 4):
                addresses[(value.type - 1) % 2] = _decode_address(value)
            elif part.type == TUPLE_PROTOCOL and value.type == PROTOCOL_NUMBER and value.payload:
                protocol = value.payload[0]
            elif part.type == TUPLE_PROTOCOL and value.type in (SOURCE_PORT, DESTINATION_PORT):
                if len(value.payload) != 2:
                    raise NetlinkDecodeError(f"a port of {len(value.payload)} bytes")
                ports[value.type - SOURCE_PORT] = _PORT.unpack(value.payload)[0]
    if -1 in ports:
        return None
    if "" in addresses:
        raise NetlinkDecodeError("a conntrack tuple without its addresses")
    return protocol, (addresses[0], ports[0]), (addresses[1], ports[1])


def _decode_address(attribute: Attribute) -> str:
    match len(attribute.payload):
        case 4:
            return str(IPv4Address(attribute.payload))
        case 16:
            return str(IPv6Address(attribute.payload))
        case length:
            raise NetlinkDecodeError(f"an address of {length} bytes")
