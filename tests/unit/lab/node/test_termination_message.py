"""What a container says when it ends."""

from pathlib import Path

import pytest

from isthmus.lab.node.containers.message import LIMIT, LOG_LIMIT, termination_message
from isthmus.lab.node.containers.paths import RunFiles
from isthmus.lab.node.pods.container import Container

FALLBACK = Container(name="c", terminationMessagePolicy="FallbackToLogsOnError")


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    found = RunFiles(tmp_path, 1)
    found.log.write_bytes(b"2026-01-01T00:00:00.0Z stdout F one\n2026-01-01T00:00:00.0Z stderr F two\n")
    return found


def test_the_file_wins_and_is_cut(files: RunFiles) -> None:
    files.message.write_bytes(b"x" * (LIMIT + 1))
    assert termination_message(FALLBACK, files, exit_code=1) == "x" * LIMIT


def test_the_log_speaks_for_a_failed_container_that_wants_it(files: RunFiles) -> None:
    assert termination_message(FALLBACK, files, exit_code=1) == "one\ntwo\n"
    assert termination_message(FALLBACK, files, exit_code=0) == ""
    assert termination_message(Container(name="c"), files, exit_code=1) == ""


def test_only_the_end_of_a_long_log_is_told(files: RunFiles) -> None:
    files.log.write_bytes(b"".join(b"2026-01-01T00:00:00.0Z stdout F %04d\n" % number for number in range(10_000)))
    said = termination_message(FALLBACK, files, exit_code=1)
    assert said.endswith("9999\n")
    assert len(said.splitlines()) == 80
    files.log.write_bytes(b"2026-01-01T00:00:00.0Z stdout F " + b"y" * 10_000 + b"\n")
    assert len(termination_message(FALLBACK, files, exit_code=1)) == LOG_LIMIT


def test_what_is_no_text_is_told_as_well_as_it_can_be(files: RunFiles) -> None:
    files.message.write_bytes(b"\xff\xfe")
    assert termination_message(FALLBACK, files, exit_code=0) == "\ufffd\ufffd"
