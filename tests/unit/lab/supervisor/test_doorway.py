"""A listening socket whose process was stopped refuses callers, and lets them in again on the same port."""

import os
import socket

import pytest

from isthmus.lab.supervisor.doorway import Doorway


def test_a_shut_doorway_refuses_and_an_open_one_lets_in() -> None:
    port = free_port()
    listener = socket.create_server(("127.0.0.1", port))
    doorway = Doorway(os.dup(listener.fileno()))
    listener.close()
    socket.create_connection(("127.0.0.1", port), timeout=2).close()
    doorway.shut()
    doorway.shut()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    doorway.open()
    socket.create_connection(("127.0.0.1", port), timeout=2).close()
    doorway.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
