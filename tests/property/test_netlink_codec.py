"""Netlink codecs: what is encoded comes back, and no bytes lead anywhere but to NetlinkDecodeError."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from isthmus.kernel.elements import decode_key, encode_key
from isthmus.ruleset.sets import Field, SetSpec
from isthmus.wire import netlink, nftables
from isthmus.wire.netlink import Answer, Attribute, Message, NetlinkDecodeError

u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
payloads = st.binary(max_size=100)
sent = st.builds(Message, u16, u16, u32, u32, payloads)
attributes = st.builds(Attribute, st.integers(0, netlink.NLA_TYPE_MASK), payloads, st.booleans())


@given(st.lists(sent, max_size=5))
def test_messages_come_back(wanted: list[Message]) -> None:
    assert list(netlink.decode_messages(b"".join(map(netlink.encode_message, wanted)))) == wanted


@given(st.lists(attributes, max_size=5))
def test_attributes_come_back(wanted: list[Attribute]) -> None:
    flags = [attribute.type | (netlink.NLA_F_NESTED if attribute.nested else 0) for attribute in wanted]
    data = b"".join(netlink.encode_attribute(kind, a.payload) for kind, a in zip(flags, wanted, strict=True))
    assert list(netlink.decode_attributes(data)) == wanted


names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=40)
elements = st.one_of(
    st.builds(nftables.Element, st.binary(min_size=1, max_size=64)),
    st.builds(nftables.Element, st.binary(min_size=1, max_size=64), st.binary(min_size=1, max_size=16)),
    st.builds(nftables.Element, st.binary(min_size=1, max_size=64), st.none(), names),
)


@given(
    st.lists(st.tuples(names, st.booleans(), st.lists(elements, min_size=1, max_size=20)), min_size=1, max_size=4), u32
)
def test_batches_come_back(wanted: list[tuple[str, bool, list[nftables.Element]]], sequence: int) -> None:
    operations = [
        nftables.Operation(name, add, [nftables.encode_element(e.key, data=e.data, chain=e.chain) for e in group])
        for name, add, group in wanted
    ]

    batch = nftables.encode_batch(operations, table="isthmus", sequence=sequence)

    bodies = list(netlink.decode_messages(batch.data))[1:-1]
    found = [list(nftables.decode_elements(Message(nftables.NEW_ELEMENTS, 0, 0, 0, body.payload))) for body in bodies]
    assert found == [group for _, _, group in wanted]
    for index, body in enumerate(bodies):
        assert nftables.locate(batch, Answer(body.sequence, 1)) == batch.places[index]


values: dict[Field, st.SearchStrategy[str | int]] = {
    Field.IPV4: st.ip_addresses(v=4).map(str),
    Field.IPV6: st.ip_addresses(v=6).map(str),
    Field.IDENTITY: u32,
    Field.PROTOCOL: st.integers(0, 255),
    Field.PORT: u16,
}


@st.composite
def keys(draw: st.DrawFn) -> tuple[SetSpec, tuple[str | int, ...]]:
    fields = draw(st.lists(st.sampled_from(list(Field)), min_size=1, max_size=4))
    return SetSpec("s", tuple(fields)), tuple(draw(values[field]) for field in fields)


@given(keys())
def test_keys_come_back(pair: tuple[SetSpec, tuple[str | int, ...]]) -> None:
    spec, key = pair
    assert decode_key(spec, encode_key(spec, key)) == key


def read_messages(data: bytes) -> None:
    for message in netlink.decode_messages(data):
        for read in (netlink.decode_answer, lambda m: list(nftables.decode_elements(m))):
            try:
                read(message)
            except NetlinkDecodeError:
                pass


def read_attributes(data: bytes) -> None:
    for attribute in netlink.decode_attributes(data):
        netlink.decode_text(attribute)
        list(netlink.decode_attributes(attribute.payload))


def read_elements(data: bytes) -> None:
    list(nftables.decode_elements(Message(nftables.NEW_ELEMENTS, 0, 0, 0, data)))


def read_answer(data: bytes) -> None:
    netlink.decode_answer(Message(netlink.NLMSG_ERROR, netlink.NLM_F_ACK_TLVS, 0, 0, data))


readers = st.sampled_from([read_messages, read_attributes, read_elements, read_answer])


@given(readers, st.binary(max_size=300))
def test_random_bytes_raise_nothing_else(read: Callable[[bytes], None], data: bytes) -> None:
    try:
        read(data)
    except NetlinkDecodeError:
        pass


@given(readers, elements, st.data())
def test_damaged_batches_raise_nothing_else(
    read: Callable[[bytes], None], element: nftables.Element, data: st.DataObject
) -> None:
    encoded = nftables.encode_element(element.key, data=element.data, chain=element.chain)
    batch = bytearray(nftables.encode_batch([nftables.Operation("s", True, [encoded])], table="t", sequence=0).data)
    for _ in range(data.draw(st.integers(0, 4))):
        batch[data.draw(st.integers(0, len(batch) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(batch)))
    start = data.draw(st.sampled_from([0, 20, 36, 40]))
    try:
        read(bytes(batch[start:cut]))
    except NetlinkDecodeError:
        pass
