"""Container logs: written, read, followed."""

import asyncio
import datetime
import os
from pathlib import Path

import pytest

from isthmus.lab.node.containers.logs import LogOptions, OptionError, format_line, parse_options, read_log
from isthmus.lab.node.containers.output import LINE_LIMIT, QUEUE_LIMIT, REPLAY_LIMIT, STDERR, STDOUT, Output

NOW = datetime.datetime(2026, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)
LINE = b"2026-01-01T11:59:50.000001000Z stdout F hello there\n"


async def text(log: Path, options: LogOptions, output: Output | None = None) -> bytes:
    return b"".join([piece async for piece in read_log(log, options, output=output)])


class Source:
    """A pipe into an Output."""

    def __init__(self, output: Output, stream: int = STDOUT) -> None:
        reader, self.writer = os.pipe()
        os.set_blocking(reader, False)
        output.read_from(reader, stream)

    def write(self, data: bytes) -> None:
        os.write(self.writer, data)

    def close(self) -> None:
        os.close(self.writer)


def test_a_line_is_shown_with_or_without_its_time() -> None:
    assert format_line(LINE, LogOptions()) == b"hello there\n"
    assert format_line(LINE, LogOptions(timestamps=True)) == b"2026-01-01T11:59:50.000001000Z hello there\n"
    assert format_line(LINE.replace(b" F ", b" P "), LogOptions()) == b"hello there"
    assert format_line(b"damaged\n", LogOptions()) is None


def test_lines_before_a_moment_are_left_out() -> None:
    for query, shown in [
        ({"sinceSeconds": "5"}, False),
        ({"sinceSeconds": "15"}, True),
        ({"sinceTime": "2026-01-01T12:59:50+01:00"}, True),
        ({"sinceTime": "2026-01-01T11:59:51Z"}, False),
    ]:
        assert (format_line(LINE, parse_options(query, now=NOW)) is not None) is shown


@pytest.mark.parametrize(
    "query", [{"tailLines": "-1"}, {"tailLines": "x"}, {"sinceTime": "x"}, {"limitBytes": "9" * 20}]
)
def test_a_bad_option_is_named(query: dict[str, str]) -> None:
    with pytest.raises(OptionError, match=next(iter(query))):
        parse_options(query, now=NOW)


async def test_what_a_program_writes_is_what_one_reads(tmp_path: Path) -> None:
    output = Output(tmp_path / "1.log")
    out, err = Source(output), Source(output, STDERR)
    out.write(b"one\ntwo\nunfin")
    err.write(b"oops\n")
    out.close(), err.close()
    output.finish()
    shown = await text(tmp_path / "1.log", LogOptions())
    assert sorted(shown.splitlines()) == [b"one", b"oops", b"two", b"unfin"]
    assert await text(tmp_path / "1.log", LogOptions(tail=1, limit=3)) == b"unf"


async def test_a_long_line_is_split_and_comes_out_whole(tmp_path: Path) -> None:
    output = Output(tmp_path / "1.log")
    source = Source(output)
    source.write(b"x" * (2 * LINE_LIMIT + 5) + b"\n")
    source.close()
    output.finish()
    assert await text(tmp_path / "1.log", LogOptions()) == b"x" * (2 * LINE_LIMIT + 5) + b"\n"


async def test_following_goes_on_until_the_container_ends(tmp_path: Path) -> None:
    output = Output(tmp_path / "1.log")
    source = Source(output)
    source.write(b"first\n")
    pieces = read_log(tmp_path / "1.log", LogOptions(follow=True), output=output)
    assert await anext(pieces) == b"first\n"
    source.write(b"second\n")
    assert await anext(pieces) == b"second\n"
    source.close()
    output.finish()
    assert [piece async for piece in pieces] == []


async def test_two_may_follow_the_same_log(tmp_path: Path) -> None:
    output = Output(tmp_path / "1.log")
    source = Source(output)

    async def follow() -> bytes:
        return await text(tmp_path / "1.log", LogOptions(follow=True), output)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow()) for _ in range(2)]
        for number in range(20):
            source.write(b"%d\n" % number)
            await asyncio.sleep(0)
        source.close()
        output.finish()
    assert [task.result() for task in tasks] == [b"".join(b"%d\n" % n for n in range(20))] * 2


async def test_the_first_to_attach_gets_the_beginning(tmp_path: Path) -> None:
    output = Output(tmp_path / "1.log")
    source = Source(output)
    source.write(b"early")
    source.close()
    output.finish()
    first, second = output.attach(), output.attach()
    assert await first.next() == (STDOUT, b"early")
    assert await first.next() is None
    assert await second.next() is None


async def test_the_kept_beginning_is_bounded(tmp_path: Path) -> None:
    output = Output(tmp_path / "1.log")
    output._take(STDOUT, b"x" * (REPLAY_LIMIT + 10))
    output._take(STDOUT, b"y")
    output.finish()
    subscriber = output.attach()
    kept = b""
    while (chunk := await subscriber.next()) is not None:
        kept += chunk[1]
    assert kept == b"x" * REPLAY_LIMIT


async def test_somebody_attached_who_does_not_read_is_dropped(tmp_path: Path) -> None:
    output = Output(tmp_path / "1.log")
    slow = output.attach()
    for _ in range(QUEUE_LIMIT // 60_000 + 2):
        output._take(STDOUT, b"x" * 60_000)
    size = 0
    while (chunk := await slow.next()) is not None:
        size += len(chunk[1])
    assert size <= QUEUE_LIMIT
    output.finish()
