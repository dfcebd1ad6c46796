"""The byte pump under a watch: chunks in, whole lines out, and no line longer than allowed.

Invariants: every line is given exactly once and whole; a piece without its newline at the end of a stream is dropped
(a cut, to be resumed, never an event); silence is timed from the last byte, anew after each chunk. Rejected:
`StreamReader.readline`, which fails on lines longer than its buffer, and an object of 1.5 MiB is a legal one.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable

import aiohttp

from isthmus.kube.errors import BadAnswer, ConnectionFailed

MAX_LINE = 32 << 20
"""Bytes of one watch event: etcd takes 1.5 MiB of protobuf by default, JSON multiplies it, operators raise it."""


class Silence(ConnectionFailed):
    """Nothing came for the time allowed."""


class LineSplitter:
    """Splits a stream of chunks into lines without their newline; empty lines are left out."""

    def __init__(self, *, max_line: int | None = None) -> None:
        self._max_line = MAX_LINE if max_line is None else max_line
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Returns the lines that `chunk` completes. Raises BadAnswer for a line above the limit."""
        first, newline, rest = chunk.partition(b"\n")
        self._pieces.append(first)
        self._size += len(first)
        if self._size > self._max_line:
            raise BadAnswer(f"an event is longer than {self._max_line} bytes")
        if not newline:
            return []
        lines = [b"".join(self._pieces)]
        *whole, tail = rest.split(b"\n")
        lines += whole
        self._pieces, self._size = [tail], len(tail)
        if any(len(line) > self._max_line for line in whole) or self._size > self._max_line:
            raise BadAnswer(f"an event is longer than {self._max_line} bytes")
        return [line for line in lines if line and not line.isspace()]


async def read_lines(
    content: aiohttp.StreamReader, *, silence: Callable[[], float], max_line: int | None = None
) -> AsyncGenerator[list[bytes], None]:
    """Yields the lines of `content` as they come, in batches, until the server ends the stream.

    Raises Silence after `silence()` seconds (asked anew before each read) without a byte, ConnectionFailed when the
    connection breaks, BadAnswer for a line longer than `max_line` bytes (MAX_LINE unless given).
    """
    splitter = LineSplitter(max_line=max_line)
    while True:
        limit = silence()
        try:
            # Only around the read: a consumer that takes its time between batches is not the server's silence.
            async with asyncio.timeout(limit):
                chunk = await content.readany()
        except TimeoutError as error:
            raise Silence(f"nothing was heard for {limit:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionFailed(f"the connection broke: {error}") from error
        if not chunk:
            return
        if lines := splitter.feed(chunk):
            yield lines
