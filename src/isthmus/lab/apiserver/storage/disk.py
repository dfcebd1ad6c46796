"""Durability: every object is a row of one SQLite file, and a commit has reached the disk when it returns.

Write-ahead log with `synchronous=FULL`: a commit is one fsync, and a process killed at any moment loses nothing that
was committed and keeps nothing that was not. The file is locked exclusively, so that a second server on the same
directory is refused. Calls block; `state` makes them on a thread of its own. An own append-only log was rejected:
compaction, torn tails and full disks are what SQLite already gets right.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (resource TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (
    resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (resource, namespace, name)
);
"""
_FORMAT = b"1"
_LOCK_WAIT = 2.0  # seconds for a killed predecessor's lock to go


class StorageError(Exception):
    """The file cannot be read or written; `full` tells that there was no room."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class Row(msgspec.Struct, frozen=True):
    """An object to keep, or to remove where `value` is None; `version` is that of the change."""

    resource: str
    namespace: str
    name: str
    version: int
    value: bytes | None


def _translate(failure: sqlite3.Error, path: Path) -> StorageError:
    code = getattr(failure, "sqlite_errorcode", 0) & 0xFF
    return StorageError(f"{path}: {failure}", full=code == sqlite3.SQLITE_FULL)


class Storage:
    """The file. Raises StorageError from every method; after a failed commit nothing of it is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._open()
        except sqlite3.Error as failure:
            raise _translate(failure, path) from failure
        if self.setting("format", _FORMAT) != _FORMAT:
            raise StorageError(f"{path}: written in a format that this version cannot read")

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=_LOCK_WAIT)
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "cache_size=-256"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Closes the file; the log is folded into it."""
        self._db.close()

    def setting(self, name: str, default: bytes) -> bytes:
        """Returns a setting, after storing `default` if it had no value."""
        try:
            self._db.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (name, default))
            value: bytes = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()[0]
        except sqlite3.Error as failure:
            raise _translate(failure, self.path) from failure
        return value

    def version(self) -> int:
        """Returns the version of the last change, 0 for a new file."""
        return max(self.changes().values(), default=0)

    def changes(self) -> dict[str, int]:
        """Returns for each resource the version of its last change (deletions included)."""
        try:
            return dict(self._db.execute("SELECT resource, version FROM changes"))
        except sqlite3.Error as failure:
            raise _translate(failure, self.path) from failure

    def rows(self) -> Iterator[tuple[str, str, str, bytes]]:
        """Yields (resource, namespace, name, value) of every object."""
        try:
            yield from self._db.execute("SELECT resource, namespace, name, value FROM objects")
        except sqlite3.Error as failure:
            raise _translate(failure, self.path) from failure

    def commit(self, rows: Sequence[Row]) -> None:
        """Stores and removes all of `rows`, in their order, or nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for row in rows:
                if row.value is None:
                    key = (row.resource, row.namespace, row.name)
                    self._db.execute("DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?", key)
                else:
                    values = (row.resource, row.namespace, row.name, row.value)
                    self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", values)
            latest = {row.resource: row.version for row in rows}
            self._db.executemany("INSERT OR REPLACE INTO changes VALUES (?, ?)", list(latest.items()))
            self._db.execute("COMMIT")
        except sqlite3.Error as failure:
            self._roll_back()
            raise _translate(failure, self.path) from failure

    def _roll_back(self) -> None:
        """Leaves the failed transaction; a connection that cannot even do that is replaced."""
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            self._db.close()
            try:
                self._open()
            except sqlite3.Error as failure:
                raise _translate(failure, self.path) from failure
