"""The file of kept versions on the disk of the node: read once at the start, written when something changes.

The shell around `isthmus.agent.policies.kept`. Invariants: readers see the file before a change or after it, never half
of it (a new file, synced, in the place of the old one); what is found at the start is somebody's input, and a pipe, a
link or a file that others may write is none of ours; whatever the disk does, enforcement goes on and the write is
tried again, with one line in the log when it begins to fail and one when it works again. Nothing kept is no file.

A file of a node, and not an object of the cluster: see docs/decisions.md. Rejected: writing before a version comes into
force; an agent on a full disk would then enforce nothing new.
"""

import asyncio
import os
import stat
import threading
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import structlog

from isthmus.agent.policies.book import PolicyBook
from isthmus.agent.policies.kept import MOST_BYTES, Spoiled, decode, encode
from isthmus.aio.backoff import Backoff
from isthmus.aio.runner import BoundedRunner
from isthmus.policy.rules import ObjectRef

NAME = "kept-policies.json"

PAUSE = 1.0
"""Seconds between two writes at least, whatever policies do."""

MOST_NAMED = 20  # of a long list in a log line

IGNORED = "file of kept policy versions cannot be used; invalid policies fail closed until they are mended"
FOUND = "earlier run kept versions of policies"
UNWRITABLE = "versions of policies that are in force cannot be stored; after a restart invalid ones would fail closed"
WRITABLE = "versions of policies can be stored again"
LEFT_OUT = "versions of policies that are in force are too large to be stored; after a restart invalid ones fail closed"

_NOTHING = b""
_UNKNOWN = b"?"  # no digest

_log = structlog.get_logger("isthmus.agent")


class KeptStore:
    """The kept versions of one node in `directory`, which need not exist yet."""

    def __init__(self, directory: Path, *, cluster: str, node: str) -> None:
        self.path = directory / NAME
        self._cluster, self._node = cluster, node
        self._book: PolicyBook | None = None
        self._stored = _NOTHING
        """Digest of what is in the file as far as we made it, or could use it."""
        self._seen = 0
        self._trouble = ""
        self._left_out: tuple[ObjectRef, ...] = ()
        self._disk = threading.Lock()  # a write that was given up goes on in its thread
        self._latest = 0
        """The state of the book that the last write was about."""
        self._runner = BoundedRunner(
            self.write, min_interval=PAUSE, retry=Backoff(base=1.0, cap=60.0), on_error=self._on_error
        )

    @property
    def failures(self) -> int:
        """Returns how many writes failed."""
        return self._runner.failures

    def load(self) -> dict[ObjectRef, bytes]:
        """Returns the packs that an earlier run left, none if there is no such file or it cannot be used. Blocks."""
        try:
            self._prepare()
        except OSError as error:
            self._complain(error)
        try:
            content = self._read()
            packs = decode(content, cluster=self._cluster, node=self._node) if content is not None else {}
        except (Spoiled, OSError) as error:
            reason = str(error) if isinstance(error, Spoiled) else error.strerror or str(error)
            _log.warning(IGNORED, file=str(self.path), reason=reason)
            return {}
        if content is not None:
            self._stored = _digest(content)
            _log.info(FOUND, file=str(self.path), policies=[str(ref) for ref in list(packs)[:MOST_NAMED]])
        return packs

    def follow(self, book: PolicyBook) -> None:
        """Says whose versions are to be stored."""
        self._book, self._seen = book, book.keeping

    def look(self) -> None:
        """Asks for a write if something has changed; cheap."""
        if self._book is not None and self._book.keeping != self._seen:
            self._runner.trigger()

    async def serve(self) -> None:
        """Writes, until cancelled; what has not been written then is tried once more."""
        try:
            await self._runner.serve()
        finally:
            if self._book is not None and self._book.keeping != self._seen:
                with suppress(OSError):
                    self._put(self._book.kept_versions(), self._book.keeping)

    async def write(self) -> None:
        """Writes what is kept now, if the file says otherwise. Raises OSError."""
        if self._book is None:
            return
        seen = self._book.keeping
        before = self._stored
        left_out = await asyncio.to_thread(self._put, self._book.kept_versions(), seen)
        self._seen = seen
        if self._trouble and self._stored != before:
            _log.info(WRITABLE, file=str(self.path))
        self._trouble = ""
        if left_out != self._left_out:
            self._left_out = left_out
            if left_out:
                _log.warning(LEFT_OUT, file=str(self.path), policies=[str(ref) for ref in left_out[:MOST_NAMED]])
        self.look()

    # -- the disk ----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Makes the directory, and looks whether it takes files: who runs the agent hears of it now, not too late."""
        directory = self.path.parent
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._draft()
        os.close(draft)
        self._draft_path.unlink()

    def _read(self) -> bytes | None:
        """Returns what is in the file, None if there is none. Raises OSError or Spoiled."""
        try:
            # Without O_NONBLOCK a pipe in its place would hold up the agent for ever.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Spoiled("it is no regular file")
            if found.st_uid not in (0, os.geteuid()):
                raise Spoiled(f"it belongs to user {found.st_uid}")
            if found.st_mode & 0o022:
                raise Spoiled(f"its mode is {stat.S_IMODE(found.st_mode):04o}: others may write it")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(MOST_BYTES + 1)
        finally:
            os.close(descriptor)

    def _put(self, packs: dict[ObjectRef, bytes], seen: int) -> tuple[ObjectRef, ...]:
        """Makes the file say what a book kept in state `seen`; returns what there was no room for.

        Raises OSError. Blocks.
        """
        with self._disk:
            if seen < self._latest:
                return ()
            self._latest = seen
            encoded = encode(packs, cluster=self._cluster, node=self._node)
            wanted = _digest(encoded.content) if len(encoded.left_out) < len(packs) else _NOTHING
            if wanted != self._stored:
                self._stored = _UNKNOWN
                if wanted:
                    self._replace(encoded.content)
                else:
                    self.path.unlink(missing_ok=True)
                self._sync_directory()
                self._stored = wanted
            return encoded.left_out

    def _replace(self, content: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with open(self._draft(), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._draft_path, self.path)
        except OSError:
            with suppress(OSError):
                self._draft_path.unlink()  # on a full disk it takes the room that is needed
            raise

    @property
    def _draft_path(self) -> Path:
        return self.path.with_name(f".{NAME}.new")

    def _draft(self) -> int:
        """Opens an empty new file; what a killed write left is in nobody's way."""
        self._draft_path.unlink(missing_ok=True)
        return os.open(self._draft_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def _sync_directory(self) -> None:
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # -- trouble -----------------------------------------------------------------------------------------------

    def _on_error(self, error: Exception, delay: float) -> None:
        if not isinstance(error, OSError):
            raise error
        self._complain(error)

    def _complain(self, error: OSError) -> None:
        text = error.strerror or str(error)
        if text != self._trouble:
            self._trouble = text
            _log.warning(UNWRITABLE, file=str(self.path), error=text)


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()
