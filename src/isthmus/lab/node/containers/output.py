"""What a container writes: into its log, and to those who are attached.

Log lines have the form that kubelets read and write (CRI): RFC 3339 time with nanoseconds, stream, `F` or `P` (a line
that goes on), text. Invariants: the log of one run takes at most two files of LOG_LIMIT bytes; what was written before
anybody was attached is kept, up to REPLAY_LIMIT bytes, and given to the first who attaches, so that a short program's
output is not lost; somebody attached who does not read is dropped when QUEUE_LIMIT bytes wait for him, because a
program must not stand still for a slow reader.
"""

import asyncio
import datetime
import os
from collections import deque
from pathlib import Path

from isthmus.lab.supervisor.logfile import LogFile

LOG_LIMIT = 10 * 1024 * 1024
"""Bytes, as the kubelet's containerLogMaxSize."""
REPLAY_LIMIT = 64 * 1024
QUEUE_LIMIT = 1024 * 1024
LINE_LIMIT = 16 * 1024
"""Bytes of a log line before it is split, as container runtimes do."""
_READ_SIZE = 64 * 1024

STDOUT, STDERR = 1, 2
_NAMES = {STDOUT: b"stdout", STDERR: b"stderr"}


class Subscriber:
    """One who is attached: chunks of (stream, bytes), then the end."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[int, bytes]] = deque()
        self._size = 0
        self._closed = False
        self._wake = asyncio.Event()

    def put(self, stream: int, data: bytes) -> bool:
        """Queues a chunk; False if too much waits already."""
        if self._size + len(data) > QUEUE_LIMIT:
            self.close()
            return False
        self._chunks.append((stream, data))
        self._size += len(data)
        self._wake.set()
        return True

    def close(self) -> None:
        """Marks the end."""
        self._closed = True
        self._wake.set()

    async def next(self) -> tuple[int, bytes] | None:
        """Returns the next chunk, or None at the end. Waits as long as the container is silent."""
        while not self._chunks:
            if self._closed:
                return None
            self._wake.clear()
            await self._wake.wait()
        stream, data = self._chunks.popleft()
        self._size -= len(data)
        return stream, data


class Output:
    """The output of one run of a container."""

    def __init__(self, log: Path) -> None:
        self._log = LogFile(log, limit=LOG_LIMIT)
        self._partial: dict[int, bytes] = {STDOUT: b"", STDERR: b""}
        self._replay: list[tuple[int, bytes]] | None = []
        self._replay_size = 0
        self._subscribers: set[Subscriber] = set()
        self._readers: dict[int, int] = {}
        self.closed = False
        self.generation = 0
        """Counts the times that the log has grown or ended."""
        self._grown = asyncio.Event()

    def read_from(self, descriptor: int, stream: int) -> None:
        """Takes over a non-blocking descriptor and copies what comes from it."""
        self._readers[descriptor] = stream
        asyncio.get_running_loop().add_reader(descriptor, self._copy, descriptor)

    def attach(self) -> Subscriber:
        """Returns a subscriber, who gets the beginning too if he is the first."""
        subscriber = Subscriber()
        for stream, data in self._replay or ():
            subscriber.put(stream, data)
        self._replay = None
        if self.closed:
            subscriber.close()
        else:
            self._subscribers.add(subscriber)
        return subscriber

    def detach(self, subscriber: Subscriber) -> None:
        """Ends a subscription."""
        self._subscribers.discard(subscriber)

    @property
    def seen(self) -> bool:
        """Whether somebody was ever attached."""
        return self._replay is None

    async def grown_since(self, generation: int) -> None:
        """Returns when `generation` has changed; waits as long as the container is silent."""
        while self.generation == generation:
            await self._grown.wait()

    def finish(self) -> None:
        """Reads what is left, and ends: the container is over."""
        for descriptor in list(self._readers):
            while self._copy(descriptor):
                pass
        self._stop()
        for stream, rest in self._partial.items():
            if rest:
                self._log.write(_line(stream, rest, tag=b"F"))
                self._partial[stream] = b""
        self._log.close()
        self.closed = True
        self._grow()
        for subscriber in self._subscribers:
            subscriber.close()
        self._subscribers.clear()

    def _grow(self) -> None:
        self.generation += 1
        # Everybody who waits wakes up once; who comes later waits for the next event.
        self._grown.set()
        self._grown = asyncio.Event()

    def _stop(self) -> None:
        for descriptor in self._readers:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._readers.clear()

    def _copy(self, descriptor: int) -> bool:
        """Moves one chunk; tells whether there may be more."""
        try:
            data = os.read(descriptor, _READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # a terminal whose other end is closed says EIO
        if not data:
            asyncio.get_running_loop().remove_reader(descriptor)
            return False
        self._take(self._readers[descriptor], data)
        return True

    def _take(self, stream: int, data: bytes) -> None:
        self._write_log(stream, data)
        if self._replay is not None:
            room = REPLAY_LIMIT - self._replay_size
            if room > 0:
                self._replay.append((stream, data[:room]))
                self._replay_size += min(len(data), room)
        for subscriber in list(self._subscribers):
            if not subscriber.put(stream, data):
                self._subscribers.discard(subscriber)

    def _write_log(self, stream: int, data: bytes) -> None:
        lines = (self._partial[stream] + data).split(b"\n")
        rest = lines.pop()
        written = []
        for line in lines:
            pieces = [line[at : at + LINE_LIMIT] for at in range(0, len(line), LINE_LIMIT)] or [b""]
            written += [_line(stream, piece, tag=b"P") for piece in pieces[:-1]]
            written.append(_line(stream, pieces[-1], tag=b"F"))
        while len(rest) > LINE_LIMIT:
            written.append(_line(stream, rest[:LINE_LIMIT], tag=b"P"))
            rest = rest[LINE_LIMIT:]
        self._partial[stream] = rest
        if written:
            self._log.write(b"".join(written))
            self._grow()


def _line(stream: int, text: bytes, *, tag: bytes) -> bytes:
    # Nanoseconds, as the kubelet's parser expects; the clock gives microseconds.
    moment = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z").encode()
    return b"%s %s %s %s\n" % (moment, _NAMES[stream], tag, text)
