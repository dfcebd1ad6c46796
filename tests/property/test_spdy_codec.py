"""SPDY frames: what one end says, the other hears, however the bytes are cut; nothing breaks the reader."""

import itertools
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.wire import spdy
from isthmus.wire.spdy import Codec, Data, Event, Opened, Ping, Replied, Reset, SpdyError

TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
HEADERS = st.dictionaries(TEXT.map(str.lower).filter(bool), TEXT, max_size=6)


def heard(codec: Codec, sent: bytes, cuts: list[int]) -> list[Event]:
    places = sorted({min(cut, len(sent)) for cut in cuts} | {0, len(sent)})
    found = [event for start, end in itertools.pairwise(places) for event in codec.receive(sent[start:end])]
    joined: list[Event] = []
    for event in found:  # data comes as it is cut
        last = joined[-1] if joined else None
        if isinstance(event, Data) and isinstance(last, Data) and last.stream == event.stream and not last.fin:
            joined[-1] = Data(event.stream, last.data + event.data, event.fin)
        else:
            joined.append(event)
    return joined


@given(st.lists(HEADERS, max_size=5), st.binary(max_size=200), st.lists(st.integers(0, 400), max_size=8))
def test_what_is_said_is_heard_however_it_is_cut(blocks: list[dict[str, str]], payload: bytes, cuts: list[int]) -> None:
    client, server = Codec(server=False), Codec(server=True)
    sent, wanted = b"", []
    for headers in blocks:
        number, opening = client.open(headers)
        sent += opening + b"".join(spdy.data(number, payload, fin=True))
        wanted += [Opened(number, headers), Data(number, payload, True)]
    sent += spdy.ping(7) + spdy.reset(1, spdy.CANCEL)
    assert heard(server, sent, cuts) == [*wanted, Ping(7), Reset(1, spdy.CANCEL)]
    answers = b"".join(server.reply(2 * at + 1, headers) for at, headers in enumerate(blocks))
    assert heard(client, answers, cuts) == [Replied(2 * at + 1, headers) for at, headers in enumerate(blocks)]


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(sent: bytes) -> None:
    codec = Codec(server=True)
    try:
        codec.receive(sent)
    except SpdyError:
        pass


@given(st.integers(1, 12), st.binary(max_size=64))
def test_no_control_frame_breaks_the_reader(kind: int, body: bytes) -> None:
    codec = Codec(server=True)
    try:
        codec.receive(struct.pack(">II", 0x80030000 | kind, len(body)) + body)
    except SpdyError:
        pass


def test_big_data_is_handed_on_before_its_frame_has_ended() -> None:
    codec = Codec(server=True)
    assert codec.receive(struct.pack(">II", 1, 10_000_000) + b"abc") == [Data(1, b"abc")]


def test_headers_that_unpack_to_too_much_are_refused() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_DEFAULT_STRATEGY, spdy.DICTIONARY)
    packed = bomb.compress(b"\0" * 10_000_000) + bomb.flush(zlib.Z_SYNC_FLUSH)
    body = struct.pack(">IIxx", 1, 0) + packed
    with pytest.raises(SpdyError, match="too long"):
        Codec(server=True).receive(struct.pack(">II", 0x80030001, len(body)) + body)


def test_the_dictionary_is_that_of_the_specification() -> None:
    assert len(spdy.DICTIONARY) == 1423
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2
