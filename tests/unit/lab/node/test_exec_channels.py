"""The streams of exec and attach."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.node.sessions.channels import EndOfInput, Input, Resize, decode, encode, exited, success


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        (b"\x00abc", Input(b"abc")),
        (b"\x00", None),
        (b"\xff\x00", EndOfInput()),
        (b"\xff\x01", None),
        (b"\xff", None),
        (b'\x04{"Width":80,"Height":24}\n', Resize(80, 24)),
        (b"\x04nonsense", None),
        (b"\x01out", None),
        (b"", None),
    ],
)
def test_what_a_client_says(message: bytes, meaning: object) -> None:
    assert decode(message) == meaning


@given(st.binary(max_size=200))
def test_no_message_is_too_strange(message: bytes) -> None:
    decode(message)


def test_exit_codes_are_told_as_kubectl_reads_them() -> None:
    body = msgspec.json.decode(exited(3))
    assert (body["status"], body["reason"]) == ("Failure", "NonZeroExitCode")
    assert body["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
    assert exited(0) == success()
    assert encode(1, b"x") == b"\x01x"
