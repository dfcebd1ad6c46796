"""agnhost's own SCTP: two sides that hear each other through a wire that loses, repeats and spoils packets."""

import errno
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.images.programs.agnhost import plumbing, sctp
from isthmus.lab.images.programs.agnhost.sctp import Callee, Caller
from isthmus.lab.images.programs.loop import Loop
from tests.support import messages

HOST = "10.0.0.9"
PORT = 9003


def hello(data: bytes, peer: tuple[str, int]) -> bytes:
    """Says who asked what."""
    return f"{peer[0]}: ".encode() + data


class Line:
    """A caller and a callee, and what the wire between them does to each packet: how often it arrives."""

    def __init__(self, callee: Callee, *, port: int = 40000, fates: tuple[int, ...] = ()) -> None:
        self.caller = Caller(port, PORT)
        self._callee = callee
        self._fates = list(fates)

    def _carry(self, packet: bytes) -> list[bytes]:
        return [packet] * (self._fates.pop(0) if self._fates else 1)

    def turn(self) -> None:
        """The caller says what it has to say, and hears what comes back, until nothing does."""
        waiting = [self.caller.output]
        while waiting:
            for packet in self._carry(waiting.pop()):
                reply = self._callee.received(packet, HOST)
                for heard in self._carry(reply) if reply else ():
                    if self.caller.received(heard):
                        waiting.append(self.caller.output)

    def talk(self, question: bytes) -> bytes | None:
        """Opens and asks; every turn with nothing new is a time-out, after which the caller says it again."""
        for _ in range(20):
            if self.caller.is_open:
                break
            self.turn()
        assert self.caller.is_open
        self.caller.ask(question)
        for _ in range(20):
            if self.caller.answer is not None:
                break
            self.turn()
        return self.caller.answer


@given(st.lists(st.integers(0, 3), max_size=14), st.booleans(), st.binary(min_size=1, max_size=50))
def test_an_answer_arrives_whatever_is_lost_or_repeated(fates: list[int], reads: bool, question: bytes) -> None:
    line = Line(Callee(PORT, hello, reads=reads), fates=tuple(fates))
    assert line.talk(question) == b"10.0.0.9: " + (question if reads else b"")


def test_nothing_to_answer_is_the_end() -> None:
    assert Line(Callee(PORT, lambda _data, _peer: b"", reads=True)).talk(b"?") == b""
    assert Line(Callee(PORT, lambda _data, _peer: b"", reads=False)).talk(b"?") == b""


def test_the_checksum_is_castagnolis_lowest_byte_first() -> None:
    assert sctp.crc32c(b"123456789") == 0xE3069283
    packet = Caller(40000, PORT).output
    tag = struct.unpack_from(">I", packet, 16)[0]
    again = messages.sctp(40000, PORT, 0, packet[12:])
    assert packet == again and tag and messages.is_sctp_init(packet)
    assert sctp.decode(messages.sctp_init(1, 2, 3)) is not None


@given(st.data())
def test_a_packet_that_was_spoiled_changes_nothing(data: st.DataObject) -> None:
    callee = Callee(PORT, hello, reads=True)
    line = Line(callee)
    opening = line.caller.output
    reply = callee.received(opening, HOST)
    assert reply is not None
    for packet, hears in ((opening, lambda spoiled: callee.received(spoiled, HOST)), (reply, line.caller.received)):
        at = data.draw(st.integers(0, len(packet) - 1))
        bit = data.draw(st.integers(0, 7))
        spoiled = bytearray(packet)
        spoiled[at] ^= 1 << bit
        assert not hears(bytes(spoiled))
        assert not hears(packet[:at])
    assert line.talk(b"x") == b"10.0.0.9: x"


@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=20))
def test_what_others_make_up_is_survived(tag: int, chunks: list[tuple[int, bytes]]) -> None:
    """The checksum is right, all the rest is anything: to a stranger, to somebody known, and to a caller."""
    callee = Callee(PORT, hello, reads=True)
    callee.received(sctp.encode(40000, PORT, tag, chunks), HOST)
    line = Line(callee)
    assert line.talk(b"x") == b"10.0.0.9: x"
    # The server's and the caller's own tags, as somebody who listens knows them.
    known = struct.unpack_from(">I", line.caller.output, 4)[0]
    callee.received(sctp.encode(40000, PORT, known, chunks), HOST)
    waiting = Caller(40001, PORT)
    own = struct.unpack_from(">I", waiting.output, 16)[0]
    waiting.received(sctp.encode(PORT, 40001, own, chunks))
    assert Line(callee, port=40002).talk(b"y") == b"10.0.0.9: y"


def test_other_ports_and_other_tags_are_not_for_it() -> None:
    callee = Callee(PORT, hello, reads=True)
    assert callee.received(Caller(40000, PORT + 1).output, HOST) is None
    line = Line(callee)
    line.turn()
    cookie = line.caller.output
    assert callee.received(messages.sctp(40000, PORT, 1, cookie[12:]), HOST) is None
    assert callee.received(line.caller.output, "10.0.0.10") is None
    assert line.talk(b"x") == b"10.0.0.9: x"
    abort = sctp.encode(PORT, 40000, 0, [(sctp.ABORT, b"")])
    line.caller.received(abort)
    assert not line.caller.is_refused


def test_an_abort_ends_either_side() -> None:
    callee = Callee(PORT, hello, reads=True)
    line = Line(callee)
    line.turn()
    question = line.caller
    question.ask(b"x")
    assert callee.received(question.farewell, HOST) is None
    assert callee.received(question.output, HOST) is None
    waiting = Caller(40001, PORT)
    own = struct.unpack_from(">I", waiting.output, 16)[0]
    waiting.received(sctp.encode(PORT, 40001, own, [(sctp.ABORT, b"")]))
    assert waiting.is_refused and not waiting.farewell


def test_the_oldest_of_too_many_callers_is_forgotten() -> None:
    callee = Callee(PORT, hello, reads=True)
    first = Line(callee, port=1)
    first.turn()
    first.caller.ask(b"x")
    for port in range(2, sctp.MAX_ASSOCIATIONS + 2):
        callee.received(Caller(port, PORT).output, HOST)
    assert callee.received(first.caller.output, HOST) is None
    assert Line(callee, port=1).talk(b"again") == b"10.0.0.9: again"


def test_without_the_right_to_raw_sockets_the_error_is_about_sctp(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_family: int, kind: int, _protocol: int = 0) -> socket.socket:
        number = errno.EPERM if kind == socket.SOCK_RAW else errno.EPROTONOSUPPORT
        raise OSError(number, os.strerror(number))

    loop = Loop()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", refuse)
        with pytest.raises(OSError, match="Protocol not supported"):
            plumbing.client(socket.AF_INET, "sctp")
        with pytest.raises(OSError, match="Protocol not supported"):
            plumbing.serve_once(loop, PORT, hello, protocol=plumbing.SCTP, reads=True)
    loop.close()
