"""Keys and values to bytes, and changes cut into transactions; no kernel needed."""

import sys

import pytest

from isthmus.kernel.elements import decode_key, encode_key, in_transactions, show_key
from isthmus.ruleset.sets import ElementChange, Field, SetSpec
from isthmus.wire.netlink import NetlinkDecodeError

NAMED = SetSpec("named4", (Field.IPV4, Field.PROTOCOL, Field.PORT))
EXACT = SetSpec("exact", (Field.IDENTITY, Field.PROTOCOL, Field.PORT))
IPV6 = SetSpec("peers6", (Field.IPV6,))


def test_ports_are_in_network_order_and_identities_in_the_order_of_the_machine():
    assert encode_key(NAMED, ("10.0.0.1", 6, 443)) == b"\x0a\0\0\1\6\0\0\0\1\xbb\0\0"
    assert encode_key(EXACT, (0x10101, 6, 80)) == (0x10101).to_bytes(4, sys.byteorder) + b"\6\0\0\0\0\x50\0\0"


def test_a_single_field_is_not_padded():
    assert encode_key(SetSpec("ports", (Field.PORT,)), (80,)) == b"\0\x50"


@pytest.mark.parametrize("text", ["::ffff:a00:1", "::a00:1", "fd00::1", "::"])
def test_ipv6_addresses_come_back_in_the_form_the_program_uses(text):
    assert decode_key(IPV6, encode_key(IPV6, (text,))) == (text,)


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        (NAMED, ("10.0.0.1", 6)),
        (NAMED, ("10.0.0.256", 6, 1)),
        (NAMED, ("fd00::1", 6, 1)),
        (NAMED, (1, 6, 1)),
        (NAMED, ("10.0.0.1", 256, 1)),
        (NAMED, ("10.0.0.1", -1, 1)),
        (NAMED, ("10.0.0.1", 6, 65536)),
        (NAMED, ("10.0.0.1", 6, "http")),
        (NAMED, ("10.0.0.1\0", 6, 1)),
        (NAMED, ("10.0.0.\udc80", 6, 1)),
        (EXACT, (1 << 32, 6, 1)),
    ],
)
def test_a_key_that_does_not_fit_is_refused_with_set_and_key(spec, key):
    with pytest.raises(ValueError) as refused:
        encode_key(spec, key)
    assert str(refused.value).startswith(f"set {spec.name}: key {show_key(key)} ")


def test_a_key_of_the_wrong_length_is_not_read():
    for length in (0, 11, 13):
        with pytest.raises(NetlinkDecodeError, match="named4"):
            decode_key(NAMED, bytes(length))


PEERS = SetSpec("peers4", (Field.IPV4,))


def keys(first: int, last: int) -> tuple[tuple[str], ...]:
    return tuple((f"10.0.0.{n}",) for n in range(first, last))


def pairs(first: int, last: int) -> tuple[tuple[tuple[str], None], ...]:
    return tuple((key, None) for key in keys(first, last))


def test_changes_are_cut_in_order_and_never_beyond_the_limit():
    one = ElementChange(PEERS, keys(0, 3), pairs(3, 6))
    two = ElementChange(PEERS, add=pairs(6, 8))

    assert list(in_transactions([one, two], elements=4)) == [
        (ElementChange(PEERS, keys(0, 3), pairs(3, 4)),),
        (ElementChange(PEERS, (), pairs(4, 6)), ElementChange(PEERS, (), pairs(6, 8))),
    ]


def test_nothing_to_change_is_no_transaction():
    assert list(in_transactions([])) == []
    assert list(in_transactions([ElementChange(PEERS)])) == []
