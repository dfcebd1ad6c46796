"""Messages between commands and the supervisor."""

import msgspec
import pytest

from isthmus.lab.control import (
    MAX_MESSAGE,
    Commit,
    ControlError,
    Create,
    Delete,
    Describe,
    Halt,
    Heal,
    Health,
    Partition,
    Start,
    StartNode,
    StartUnits,
    StopNode,
    StopUnits,
    UnitSpec,
    decode_request,
    encode,
)
from isthmus.lab.plan import plan_cluster

PLAN = plan_cluster("a", existing=[], nodes=100)


@pytest.mark.parametrize(
    "request_",
    [
        Create(PLAN),
        Start("a", (UnitSpec(name="apiserver", argv=("x", "--y"), node="n", listener=True),)),
        Commit("a"),
        Delete("a"),
        Describe(),
        Create(PLAN, keep=True),
        Halt(),
        StopUnits("a", ("tracker", "apiserver")),
        StartUnits("a", ()),
        StopNode("a", "a-worker"),
        StartNode("a", "a-worker"),
        Partition("a", "b"),
        Heal(),
        Heal("a", "b"),
        Health("a"),
    ],
)
def test_a_request_survives_the_journey(request_: object) -> None:
    assert decode_request(encode(request_)) == request_


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"type":"nonsense"}', b'{"type":"create"}', b"\xff\xfe", b"null"])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_request(data)


def test_a_message_that_does_not_fit_a_packet_is_refused() -> None:
    with pytest.raises(ControlError, match="too long"):
        encode(Start("a", (UnitSpec(name="x", argv=("y" * MAX_MESSAGE,), node="n"),)))
