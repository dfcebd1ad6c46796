"""Framing: alignment, bounds, and what the kernel's answers look like."""

import struct

import pytest

from isthmus.wire import netlink
from isthmus.wire.netlink import Answer, Attribute, GenericHeader, Message, NetlinkDecodeError


def test_messages_are_padded_to_four_bytes_and_read_back_one_after_the_other():
    first = Message(1, 2, 3, 4, b"abcde")
    second = Message(5, 6, 7, 8, b"")

    data = netlink.encode_message(first) + netlink.encode_message(second)

    assert len(data) == 24 + 16
    assert list(netlink.decode_messages(data)) == [first, second]


def test_the_last_message_may_lack_its_padding():
    data = netlink.encode_message(Message(1, 2, 3, 4, b"abcde"))[:21]
    assert list(netlink.decode_messages(data)) == [Message(1, 2, 3, 4, b"abcde")]


@pytest.mark.parametrize("length", [0, 15, 17, 0xFFFFFFFF])
def test_a_message_that_lies_about_its_length_is_refused(length):
    data = struct.pack("=IHHII", length, 1, 0, 0, 0)
    with pytest.raises(NetlinkDecodeError, match=f"says {length} bytes, 16 are there"):
        list(netlink.decode_messages(data))


def test_a_cut_header_is_refused():
    with pytest.raises(NetlinkDecodeError, match="3 bytes at offset 16"):
        list(netlink.decode_messages(netlink.encode_message(Message(1, 0, 0, 0, b"")) + b"abc"))


def test_attributes_nest_and_tell_so():
    inner = netlink.encode_u32(7, 513) + netlink.encode_text(8, "name")
    data = netlink.encode_nested(3, inner)

    (outer,) = netlink.decode_attributes(data)

    assert (outer.type, outer.nested) == (3, True)
    number, text = netlink.decode_attributes(outer.payload)
    assert netlink.decode_u32(number) == 513
    assert netlink.decode_text(text) == "name"


def test_the_byte_order_flag_is_not_part_of_the_type():
    assert list(netlink.decode_attributes(struct.pack("=HH", 4, 5 | 0x4000))) == [Attribute(5, b"")]


@pytest.mark.parametrize("length", [0, 3, 5, 0xFFFF])
def test_an_attribute_that_lies_about_its_length_is_refused(length):
    with pytest.raises(NetlinkDecodeError, match=f"says {length} bytes"):
        list(netlink.decode_attributes(struct.pack("=HH", length, 1)))


def test_an_attribute_holds_64_kib_with_its_header_and_not_a_byte_more():
    assert len(netlink.encode_attribute(1, bytes(netlink.MAX_ATTRIBUTE_PAYLOAD))) == 0x10000
    with pytest.raises(ValueError, match="16-bit"):
        netlink.encode_attribute(1, bytes(netlink.MAX_ATTRIBUTE_PAYLOAD + 1))


def test_text_with_a_zero_byte_is_refused_before_it_is_cut_short():
    with pytest.raises(ValueError, match="zero byte"):
        netlink.encode_text(1, "a\0b")


def test_a_number_of_the_wrong_size_is_refused():
    with pytest.raises(NetlinkDecodeError, match="u32"):
        netlink.decode_u32(Attribute(1, b"\0\0\0"))


def test_nfgenmsg_is_in_network_order():
    assert netlink.encode_nfgenmsg(GenericHeader(1, 0, 10)) == b"\x01\x00\x00\x0a"
    assert netlink.split_nfgenmsg(b"\x01\x00\x00\x0arest") == (GenericHeader(1, 0, 10), b"rest")
    with pytest.raises(NetlinkDecodeError):
        netlink.split_nfgenmsg(b"\x01\x00\x00")


def test_numbers_that_do_not_fit_the_header_are_refused():
    with pytest.raises(ValueError, match="netlink header"):
        netlink.encode_message(Message(1 << 16, 0, 0, 0, b""))
    with pytest.raises(ValueError, match="nfgenmsg"):
        netlink.encode_nfgenmsg(GenericHeader(256))


def answer(error: int, quoted: bytes, *, flags: int = 0, attributes: bytes = b"") -> Message:
    return Message(netlink.NLMSG_ERROR, flags, 9, 0, struct.pack("=i", error) + quoted + attributes)


REQUEST = struct.pack("=IHHII", 24, 12, 5, 42, 0)


def test_an_acknowledgement_has_no_error():
    assert netlink.decode_answer(answer(0, REQUEST)) == Answer(42, 0)


def test_a_refusal_says_why_and_where_with_or_without_the_request_quoted():
    attributes = netlink.encode_text(netlink.NLMSGERR_ATTR_MSG, "no such luck")
    attributes += netlink.encode_attribute(netlink.NLMSGERR_ATTR_OFFS, struct.pack("=I", 20))
    expected = Answer(42, 17, "no such luck", 20)

    capped = netlink.NLM_F_ACK_TLVS | netlink.NLM_F_CAPPED
    assert netlink.decode_answer(answer(-17, REQUEST, flags=capped, attributes=attributes)) == expected
    whole = answer(-17, REQUEST + b"12345678", flags=netlink.NLM_F_ACK_TLVS, attributes=attributes)
    assert netlink.decode_answer(whole) == expected


@pytest.mark.parametrize(
    "message",
    [
        Message(netlink.NLMSG_DONE, 0, 0, 0, b""),
        Message(netlink.NLMSG_ERROR, 0, 0, 0, b"\0\0\0\0"),
        answer(5, REQUEST),
        answer(
            -5,
            REQUEST,
            flags=netlink.NLM_F_ACK_TLVS | netlink.NLM_F_CAPPED,
            attributes=netlink.encode_attribute(netlink.NLMSGERR_ATTR_OFFS, b"\0"),
        ),
    ],
)
def test_answers_that_make_no_sense_are_refused(message):
    with pytest.raises(NetlinkDecodeError):
        netlink.decode_answer(message)
