"""Reading a container's log for `kubectl logs`: the last lines, since when, with times, and following.

A pure part picks and formats lines; the shell reads files in chunks, so that a large log is never in memory as a whole
(except its last `tail` lines).
"""

import datetime
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import msgspec

from isthmus.lab.node.containers.output import Output

_CHUNK = 64 * 1024


class OptionError(Exception):
    """An option of the request makes no sense; the message names it."""


class LogOptions(msgspec.Struct, frozen=True):
    """core/v1 PodLogOptions; `since` is an RFC 3339 text in UTC that compares with a log's own."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: str = ""
    limit: int | None = None


def parse_options(query: Mapping[str, str], *, now: datetime.datetime) -> LogOptions:
    """Returns the options in a query; raises OptionError."""
    since = ""
    if seconds := query.get("sinceSeconds"):
        since = _log_time(now - datetime.timedelta(seconds=_count(seconds, "sinceSeconds")))
    elif moment := query.get("sinceTime"):
        try:
            since = _log_time(datetime.datetime.fromisoformat(moment))
        except ValueError as error:
            raise OptionError(f"sinceTime: {error}") from error
    return LogOptions(
        follow=query.get("follow") in ("true", "1"),
        previous=query.get("previous") in ("true", "1"),
        timestamps=query.get("timestamps") in ("true", "1"),
        tail=_count(query["tailLines"], "tailLines") if query.get("tailLines") else None,
        since=since,
        limit=_count(query["limitBytes"], "limitBytes") if query.get("limitBytes") else None,
    )


def format_line(line: bytes, options: LogOptions) -> bytes | None:
    """Returns what the reader sees of a log line; None if it is left out, or damaged."""
    parts = line.split(b" ", 3)
    if len(parts) != 4:
        return None
    moment, _stream, tag, text = parts
    if options.since and moment < options.since.encode():
        return None
    text = text.removesuffix(b"\n")
    end = b"" if tag == b"P" else b"\n"
    return b"%s %s%s" % (moment, text, end) if options.timestamps else text + end


async def read_log(log: Path, options: LogOptions, *, output: Output | None) -> AsyncIterator[bytes]:
    """Yields the log in pieces; with `follow`, goes on as `output` grows until it is closed."""
    left = options.limit
    follow = options.follow and output is not None and not output.closed
    position = _size(log)
    for piece in _existing(log, options, end=position):
        data, left = _cut(piece, left)
        yield data
        if left == 0:
            return
    if not follow or output is None:
        return
    rest = b""
    while True:
        # Looked at before reading: what is written after this makes another round.
        closed, generation = output.closed, output.generation
        size = _size(log)
        if size < position:
            position, rest = 0, b""  # rotated
        for chunk in _chunks(log, position):
            position += len(chunk)
            lines = (rest + chunk).splitlines(keepends=True)
            rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
            shown = b"".join(text for line in lines if (text := format_line(line, options)) is not None)
            data, left = _cut(shown, left)
            if data:
                yield data
            if left == 0:
                return
        if closed:
            return
        # Silent for as long as the container is; the client ends it by going away.
        await output.grown_since(generation)


def _existing(log: Path, options: LogOptions, *, end: int) -> Iterator[bytes]:
    lines: Iterator[bytes] = (
        shown for line in _lines(log, end=end) if (shown := format_line(line, options)) is not None
    )
    if options.tail is not None:
        lines = iter(deque(lines, maxlen=options.tail))
    batch, size = [], 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if size >= _CHUNK:
            yield b"".join(batch)
            batch, size = [], 0
    if batch:
        yield b"".join(batch)


def _lines(log: Path, *, end: int) -> Iterator[bytes]:
    older = log.with_name(f"{log.name}.1")
    if older.exists():
        with older.open("rb") as file:
            yield from file
    if log.exists():
        with log.open("rb") as file:
            read = 0
            for line in file:
                read += len(line)
                if read > end:
                    return
                yield line


def _chunks(log: Path, position: int) -> Iterator[bytes]:
    try:
        with log.open("rb") as file:
            file.seek(position)
            while chunk := file.read(_CHUNK):
                yield chunk
    except FileNotFoundError:
        return  # nothing was written yet


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0


def _cut(data: bytes, left: int | None) -> tuple[bytes, int | None]:
    if left is None:
        return data, None
    return data[:left], max(left - len(data), 0)


def _count(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise OptionError(f"{name}: {text!r} is not a number")
    return int(text)


def _log_time(moment: datetime.datetime) -> str:
    utc = moment.astimezone(datetime.UTC)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
