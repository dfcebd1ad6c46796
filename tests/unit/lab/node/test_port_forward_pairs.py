"""Which streams of a port-forward session belong together."""

from isthmus.lab.node.sessions.portforward import MAX_WAITING, StreamPairs


class Half:
    """A stream as far as its headers go."""

    def __init__(self, number: int, kind: str, port: str = "80", request: str = "") -> None:
        self.number = number
        self.headers = {"streamtype": kind, "port": port} | ({"requestid": request} if request else {})


def test_an_error_and_a_data_stream_of_one_request_are_a_pair() -> None:
    pairs = StreamPairs()
    error, other, data = Half(1, "error", request="0"), Half(3, "error", request="1"), Half(5, "data", request="0")
    assert pairs.add(error) is None
    assert pairs.add(other) is None
    assert pairs.add(data) == (error, data, 80)
    late = Half(7, "data", request="1")
    assert pairs.add(late) == (other, late, 80)


def test_without_request_numbers_the_data_stream_follows_its_error_stream() -> None:
    pairs = StreamPairs()
    error, data = Half(1, "error"), Half(3, "data")
    assert pairs.add(error) is None
    assert pairs.add(data) == (error, data, 80)


def test_nonsense_makes_no_pair_and_does_not_pile_up() -> None:
    pairs = StreamPairs()
    for port in ("", "x", "0", "65536", "-1", "\u0661"):
        assert pairs.add(Half(1, "error", port)) is None
        assert pairs.add(Half(3, "data", port)) is None
    for number in range(1, 1001, 2):
        assert pairs.add(Half(number * 2 + 1, "error", request=str(number))) is None
    assert pairs.add(Half(9999, "data", request="1")) is None
    kept = [n for n in range(1, 1001, 2) if pairs.add(Half(n + 5000, "data", request=str(n))) is not None]
    assert len(kept) <= MAX_WAITING
