"""Conntrack messages: what is read is what the kernel wrote, and no bytes do worse than an error."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.wire import conntrack, netlink
from isthmus.wire.conntrack import Entry, decode_entry, encode_dump, encode_forget
from isthmus.wire.netlink import GenericHeader, Message, NetlinkDecodeError

_ports = st.integers(0, 65535)
_ends = st.one_of(
    st.tuples(st.ip_addresses(v=4).map(str), _ports, st.ip_addresses(v=4).map(str), _ports),
    st.tuples(st.ip_addresses(v=6).map(str), _ports, st.ip_addresses(v=6).map(str), _ports),
)


def _tuple(kind: int, source: str, sport: int, target: str, dport: int, *, protocol: int = 17) -> bytes:
    first = 3 if ":" in source else 1
    packed = (
        netlink.encode_attribute(first + n, conntrack.ip_address(ip).packed) for n, ip in enumerate((source, target))
    )
    ports = (netlink.encode_attribute(2 + n, port.to_bytes(2, "big")) for n, port in enumerate((sport, dport)))
    number = netlink.encode_attribute(1, bytes([protocol]))
    return netlink.encode_nested(kind, netlink.encode_nested(1, *packed), netlink.encode_nested(2, number, *ports))


def _message(*attributes: bytes) -> Message:
    return Message(conntrack.NEW, 0, 1, 0, netlink.encode_nfgenmsg(GenericHeader(2)) + b"".join(attributes))


@given(_ends, _ends, st.integers(0, 2**32 - 1))
def test_an_entry_is_where_it_was_opened_to_who_answers_and_what_names_it(original, reply, number):
    named = netlink.encode_u32(conntrack.ID, number) + netlink.encode_attribute(conntrack.ZONE, b"\0\7")
    first = _tuple(conntrack.TUPLE_ORIGINAL, *original)
    entry = decode_entry(
        _message(first, _tuple(conntrack.TUPLE_REPLY, *reply), netlink.encode_u32(3, 8), named), protocol=17
    )

    assert (entry.destination, entry.answers) == (original[2:], reply[:2])
    (message,) = netlink.decode_messages(encode_forget(entry, sequence=7))
    assert (message.type, message.sequence) == (conntrack.DELETE, 7)
    assert netlink.split_nfgenmsg(message.payload)[1] == first + named


@pytest.mark.parametrize(("protocol", "kind", "closed"), [(6, 1, 8), (132, 3, 1)], ids=["TCP", "SCTP"])
@pytest.mark.parametrize("status", [0, 2, 2 | 4 | 8])
def test_an_entry_is_live_if_it_was_answered_and_not_broken_off(protocol, kind, closed, status):
    ends = ("10.0.0.1", 1, "10.0.0.2", 2)
    both = [_tuple(which, *ends, protocol=protocol) for which in (conntrack.TUPLE_ORIGINAL, conntrack.TUPLE_REPLY)]
    said = netlink.encode_u32(conntrack.STATUS, status)
    for state in range(10):
        of_protocol = netlink.encode_nested(kind, netlink.encode_attribute(1, bytes([state])))
        message = _message(*both, said, netlink.encode_nested(conntrack.STATE, of_protocol))
        entry = decode_entry(message, protocol=protocol)
        assert entry.live == (status != 0 and state != closed)
        assert decode_entry(message, protocol=protocol, live=False) == (None if entry.live else entry)


def test_entries_of_other_protocols_are_none():
    ends = ("10.0.0.1", 1, "10.0.0.2", 2)
    both = [_tuple(kind, *ends, protocol=6) for kind in (conntrack.TUPLE_ORIGINAL, conntrack.TUPLE_REPLY)]
    assert decode_entry(_message(*both), protocol=17) is None


@given(st.binary(max_size=200), st.integers(0, 200))
def test_other_bytes_are_an_error_and_nothing_worse(noise, cut):
    ends = ("10.0.0.1", 1, "10.0.0.2", 2)
    well = _message(_tuple(1, *ends), _tuple(2, *ends)).payload
    for payload in (noise, well[:cut] + noise, well[: cut % len(well)]):
        with contextlib.suppress(NetlinkDecodeError):
            for protocol in (6, 17):
                assert isinstance(
                    decode_entry(Message(conntrack.NEW, 0, 1, 0, payload), protocol=protocol), Entry | None
                )
    with pytest.raises(NetlinkDecodeError):
        decode_entry(Message(conntrack.GET, 0, 1, 0, well), protocol=17)


@given(_ends)
def test_a_request_names_its_destination_only_where_the_kernel_can_choose(ends):
    version = 6 if ":" in ends[0] else 4
    place = ends[2:]
    narrow, wide = (encode_dump(version, 17, sequence=1, destination=place, narrow=way) for way in (True, False))
    # The kernel's choice among IPv6 addresses is the wrong way round: it gives all but the one asked for.
    packed = conntrack.ip_address(place[0]).packed
    assert version == 6 or packed in narrow
    assert netlink.encode_attribute(conntrack.DESTINATION_PORT, place[1].to_bytes(2, "big")) in narrow
    assert len(wide) == netlink.HEADER.size + netlink.GENERIC.size
