"""Batches of elements: how they are split, numbered, and traced back."""

import struct

import pytest

from isthmus.wire import netlink, nftables
from isthmus.wire.netlink import Answer
from isthmus.wire.nftables import Operation


def elements(count: int) -> list[bytes]:
    return [nftables.encode_element(n.to_bytes(4, "big"), data=bytes(4)) for n in range(count)]


def messages(batch: nftables.Batch) -> list[netlink.Message]:
    return list(netlink.decode_messages(batch.data))


def test_an_element_is_laid_out_as_nf_tables_wants_it():
    assert (
        nftables.encode_element(b"\x0a\0\0\1") == struct.pack("=HHHHHH", 16, 0x8001, 12, 0x8001, 8, 1) + b"\x0a\0\0\1"
    )


def test_a_batch_is_framed_and_only_its_last_change_asks_for_an_answer():
    batch = nftables.encode_batch(
        [Operation("s", False, elements(1)), Operation("t", True, elements(2))], table="isthmus", sequence=100
    )

    begin, remove, add, end = messages(batch)

    assert [m.type for m in (begin, end)] == [nftables.BATCH_BEGIN, nftables.BATCH_END]
    assert begin.payload == end.payload == b"\0\0\0\x0a"
    assert [m.sequence for m in (begin, remove, add, end)] == [100, 101, 102, 103]
    assert (remove.type, remove.flags) == (nftables.DELETE_ELEMENTS, netlink.NLM_F_REQUEST)
    wanted = netlink.NLM_F_REQUEST | netlink.NLM_F_CREATE | netlink.NLM_F_EXCL | netlink.NLM_F_ACK
    assert (add.type, add.flags) == (nftables.NEW_ELEMENTS, wanted)
    assert (batch.begin, batch.last) == (100, 102)


def test_elements_beyond_64_kib_go_into_further_messages_of_the_same_batch():
    batch = nftables.encode_batch([Operation("peers4", True, elements(10_000))], table="isthmus", sequence=0)

    bodies = messages(batch)[1:-1]

    assert len(bodies) == 5  # 28 bytes each, 2,340 to a message
    found = [element.key for body in bodies for element in nftables.decode_elements(body)]
    assert found == [n.to_bytes(4, "big") for n in range(10_000)]
    assert [bool(body.flags & netlink.NLM_F_ACK) for body in bodies] == [False] * 4 + [True]
    assert sum(place.count for place in batch.places) == 10_000


def test_a_refused_element_is_found_by_the_offset_the_kernel_gives():
    batch = nftables.encode_batch(
        [Operation("first", True, elements(1)), Operation("peers4", True, elements(5_000))], table="isthmus", sequence=0
    )
    third = messages(batch)[3]
    head = 16 + 4 + len(netlink.encode_text(1, "isthmus") + netlink.encode_text(2, "peers4")) + 4

    place = nftables.locate(batch, Answer(third.sequence, 17, "", head + 28 * 7))

    assert place is not None
    assert (place.operation, place.element) == (1, batch.places[2].first + 7)


def test_a_refusal_that_points_elsewhere_names_the_message_only():
    batch = nftables.encode_batch([Operation("peers4", True, elements(3))], table="isthmus", sequence=7)

    for offset in (None, 20, 9999):
        place = nftables.locate(batch, Answer(8, 2, "", offset))
        assert place is not None
        assert (place.operation, place.first, place.count, place.element) == (0, 0, 3, None)


def test_a_refusal_of_the_frame_belongs_to_no_element():
    batch = nftables.encode_batch([Operation("peers4", True, elements(3))], table="isthmus", sequence=7)
    assert nftables.locate(batch, Answer(7, 1)) is None
    assert nftables.locate(batch, Answer(9, 1)) is None


def test_sequence_numbers_wrap_at_32_bits():
    batch = nftables.encode_batch([Operation("s", True, elements(1))], table="t", sequence=0xFFFFFFFF)
    assert [m.sequence for m in messages(batch)] == [0xFFFFFFFF, 0, 1]
    assert nftables.locate(batch, Answer(0, 17)) == batch.places[0]


def test_jumps_and_data_are_read_back():
    encoded = [
        nftables.encode_element(b"\1\0\0\0", chain="in_1"),
        nftables.encode_element(b"\2\0\0\0", data=b"\1\1\1\0"),
        nftables.encode_element(b"\3\0\0\0"),
    ]
    batch = nftables.encode_batch([Operation("m", True, encoded)], table="t", sequence=0)
    assert list(nftables.decode_elements(messages(batch)[1])) == [
        nftables.Element(b"\1\0\0\0", chain="in_1"),
        nftables.Element(b"\2\0\0\0", data=b"\1\1\1\0"),
        nftables.Element(b"\3\0\0\0"),
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nftables.encode_element(b""),
        lambda: nftables.encode_element(bytes(65)),
        lambda: nftables.encode_element(b"k", data=b"d", chain="c"),
        lambda: nftables.encode_element(b"k", chain=""),
        lambda: nftables.encode_element(b"k", chain="c" * 256),
        lambda: nftables.encode_batch([], table="t", sequence=0),
        lambda: nftables.encode_batch([Operation("s", True, [])], table="t", sequence=0),
        lambda: nftables.encode_batch([Operation("", True, elements(1))], table="t", sequence=0),
        lambda: nftables.encode_batch([Operation("a\0b", True, elements(1))], table="t", sequence=0),
    ],
)
def test_what_nf_tables_could_not_hold_is_refused_here(make):
    with pytest.raises(ValueError):
        make()


def test_a_message_of_another_kind_has_no_elements():
    with pytest.raises(netlink.NetlinkDecodeError, match="0x10"):
        list(nftables.decode_elements(netlink.Message(nftables.BATCH_BEGIN, 0, 0, 0, b"")))
