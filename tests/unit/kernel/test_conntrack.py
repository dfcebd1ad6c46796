"""Forgetting stale connections where the kernel answers otherwise than it mostly does."""

import errno
from ipaddress import ip_address

import pytest

from isthmus.kernel import conntrack
from isthmus.kernel.errors import KernelError
from isthmus.model.service import Target
from isthmus.wire import conntrack as wire
from isthmus.wire import netlink
from isthmus.wire.netlink import Answer, GenericHeader, Message

FRONTEND = ("172.20.0.1", 17, 53)
STALE = {FRONTEND: frozenset({Target("10.0.0.9", 53)})}


def _tuple(kind: int, source: str, target: str, *, protocol: int) -> bytes:
    ends = (netlink.encode_attribute(1 + n, ip_address(ip).packed) for n, ip in enumerate((source, target)))
    number = netlink.encode_attribute(1, bytes([protocol]))
    ports = (netlink.encode_attribute(2 + n, (53).to_bytes(2, "big")) for n in range(2))
    return netlink.encode_nested(kind, netlink.encode_nested(1, *ends), netlink.encode_nested(2, number, *ports))


def _entry(target: str, backend: str, *, protocol: int = 17, status: int = 2) -> Message:
    tuples = _tuple(1, "10.0.0.1", target, protocol=protocol) + _tuple(2, backend, "10.0.0.1", protocol=protocol)
    tuples += netlink.encode_attribute(wire.STATUS, status.to_bytes(4, "big"))
    return Message(wire.NEW, 0, 1, 0, netlink.encode_nfgenmsg(GenericHeader(2)) + tuples)


class Kernel:
    """Holds entries; `narrow` is the error number for a request that asks it to choose."""

    def __init__(self, *entries: Message, narrow: int = 0, refusals: tuple[Answer, ...] = ()) -> None:
        self.entries, self.narrow, self.refusals = entries, narrow, refusals
        self.dumps = self.forgotten = 0

    def __call__(self) -> "Kernel":
        return self

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def reserve(self, count: int) -> int:
        return 1

    def dump(self, request: bytes, *, sequence: int):
        self.dumps += 1
        if len(request) > netlink.HEADER.size + netlink.GENERIC.size and self.narrow:
            raise KernelError("refused", errno=self.narrow)
        yield from self.entries

    def transact(self, batch: bytes, *, last: int) -> list[Answer]:
        self.forgotten += len(list(netlink.decode_messages(batch)))
        return list(self.refusals)


@pytest.fixture
def serve(monkeypatch):
    def put(kernel: Kernel) -> Kernel:
        monkeypatch.setattr(conntrack, "NetfilterSocket", kernel)
        return kernel

    return put


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_kernel_that_cannot_choose_gives_everything_and_only_what_is_astray_is_forgotten(serve, number):
    kernel = serve(
        Kernel(
            _entry(FRONTEND[0], "10.0.0.8"),
            _entry(FRONTEND[0], "10.0.0.9"),
            _entry(FRONTEND[0], FRONTEND[0]),
            _entry("172.20.0.2", "10.0.0.8"),
            _entry(FRONTEND[0], "10.0.0.8", protocol=6),
            narrow=number,
        )
    )

    assert conntrack.forget_stale(STALE) == 2
    assert (kernel.dumps, kernel.forgotten) == (2, 2)


def test_a_connection_that_was_never_translated_stays_while_there_is_nobody_to_send_it_to(serve):
    kernel = serve(Kernel(_entry(FRONTEND[0], FRONTEND[0]), _entry(FRONTEND[0], "10.0.0.8")))

    assert conntrack.forget_stale({FRONTEND: frozenset()}) == 1
    assert kernel.forgotten == 1


def test_an_entry_that_ended_by_itself_is_no_error_and_any_other_refusal_is(serve):
    astray = _entry(FRONTEND[0], "10.0.0.8")
    serve(Kernel(astray, refusals=(Answer(1, errno.ENOENT, "", None),)))
    assert conntrack.forget_stale(STALE) == 0

    serve(Kernel(astray, refusals=(Answer(1, errno.EPERM, "", None),)))
    with pytest.raises(KernelError, match="cannot be forgotten"):
        conntrack.forget_stale(STALE)


def test_who_may_not_look_is_told_what_was_looked_for(serve):
    serve(Kernel(narrow=errno.EPERM))
    with pytest.raises(KernelError, match=r"^conntrack entries: refused$"):
        conntrack.forget_stale(STALE)

    serve(Kernel(Message(wire.GET, 0, 1, 0, b"")))
    with pytest.raises(KernelError, match=r"^conntrack entries: message type"):
        conntrack.forget_stale(STALE)


def test_many_frontends_are_one_look_for_each_family(serve):
    kernel = serve(Kernel(_entry(FRONTEND[0], "10.0.0.8")))
    many = {(f"172.20.0.{n}", 17, 53): frozenset() for n in range(20)} | STALE | {("fd00::1", 17, 53): frozenset()}

    conntrack.forget_stale(many)
    assert kernel.dumps == 2


def test_of_tcp_only_what_nobody_has_answered_is_forgotten_even_if_the_kernel_gives_more(serve):
    kernel = serve(
        Kernel(
            _entry(FRONTEND[0], "10.0.0.8", protocol=6, status=0),
            _entry(FRONTEND[0], "10.0.0.8", protocol=6, status=2),
            _entry(FRONTEND[0], "10.0.0.9", protocol=6, status=0),
            _entry(FRONTEND[0], "10.0.0.8", status=0),
        )
    )

    assert conntrack.forget_stale({(FRONTEND[0], 6, 53): frozenset({Target("10.0.0.9", 53)})}) == 1
    assert (kernel.dumps, kernel.forgotten) == (1, 1)
