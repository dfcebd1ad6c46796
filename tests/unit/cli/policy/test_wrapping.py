"""How wide answers are: as the terminal, or as they come where there is none."""

import fcntl
import io
import os
import pty
import struct
import termios
from collections.abc import Iterator
from typing import TextIO

import pytest

from isthmus.cli.policy.wrapping import wrapped

TEXT = "isolated by CiliumNetworkPolicy default/default-deny; no rule allows this (scope clusterset) " * 3


@pytest.fixture
def screen() -> Iterator[TextIO]:
    """A terminal to write to."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as stream:
        yield stream


def widest(lines: list[str]) -> int:
    return max(map(len, lines))


@pytest.mark.parametrize(("columns", "least", "most"), [(80, 60, 79), (200, 160, 199), (20, 40, 60), (0, 80, 100)])
def test_lines_are_as_long_as_the_terminal_is_wide(
    monkeypatch: pytest.MonkeyPatch, screen: TextIO, columns: int, least: int, most: int
) -> None:
    monkeypatch.setattr("sys.stdout", screen)
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    lines = wrapped(TEXT, "   INGRESS  ")
    assert least < widest(lines) <= most
    assert all(line.startswith(" " * 12) for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == f"INGRESS {TEXT.strip()}"


def test_what_is_piped_or_captured_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (io.StringIO(), None):
        monkeypatch.setattr("sys.stdout", stream)
        assert wrapped(TEXT, "   ") == [f"   {TEXT.strip()}"]


def test_what_an_object_says_does_not_reach_the_terminal_as_commands() -> None:
    assert wrapped('spec.ingress[0] "a\x1b[31m\x9b2J\x07\r\nb é✅"') == [
        'spec.ingress[0] "a\\x1b[31m\\x9b2J\\x07  b é✅"'
    ]
