"""The port of an API server on this machine."""

import socket

import pytest

from isthmus.lab.life.listening import ListenError, listen


def test_a_free_port_is_below_those_of_outgoing_connections() -> None:
    with listen("127.0.0.1", 0, origin="--api-port") as found:
        assert 20000 <= found.port < 32000


def test_a_port_that_is_taken_is_named_with_where_it_came_from() -> None:
    with (
        listen("127.0.0.1", 0, origin="") as taken,
        pytest.raises(
            ListenError, match=rf"^--api-port {taken.port}: .*127.0.0.1:{taken.port}: Address already in use"
        ),
    ):
        listen("127.0.0.1", taken.port, origin="--api-port")


def test_an_address_that_is_not_of_this_machine_is_refused() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0, origin="--api-port")


def test_a_port_is_free_again_when_its_listener_is_closed() -> None:
    with listen("127.0.0.1", 0, origin="") as found:
        port = found.port
    with socket.create_server(("127.0.0.1", port)):
        pass
