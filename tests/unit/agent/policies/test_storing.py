"""The file on the disk: when it is written, what becomes of it when it cannot be, and what is found at the start."""

import asyncio
import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from isthmus.agent.policies import kept, storing
from isthmus.agent.policies.book import PolicyBook
from isthmus.agent.policies.storing import IGNORED, LEFT_OUT, NAME, UNWRITABLE, WRITABLE, KeptStore
from isthmus.kube.reflector import Put, Snapshot
from isthmus.kube.resources import NETWORK_POLICIES
from isthmus.policy.context import Context
from tests.support.tasks import running
from tests.unit.agent.policies.test_book import BAD_PEER, policy

PATIENCE = 20.0


class Node:
    """A store and the book that it is for, as an agent has them."""

    def __init__(self, directory: Path) -> None:
        self.store = KeptStore(directory, cluster="east", node="n1")
        self.file = directory / NAME
        with capture_logs() as self.logs:
            self.loaded = self.store.load()
        self.book = PolicyBook(Context("east"), self.loaded)
        self.store.follow(self.book)

    def keep(self, name: str = "p") -> None:
        """Has the book keep the first version of a policy."""
        self.book.take(NETWORK_POLICIES, Put(policy(name)))
        self.book.take(NETWORK_POLICIES, Put(policy(name, generation=2, version="11", ingress=BAD_PEER)))
        self.store.look()

    def mend(self, name: str = "p") -> None:
        self.book.take(NETWORK_POLICIES, Put(policy(name, generation=3, version="12")))
        self.store.look()

    @property
    def warnings(self) -> list[str]:
        return [log["event"] for log in self.logs if log["log_level"] == "warning"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "isthmus" / "agent"


async def until(check) -> None:
    async with asyncio.timeout(PATIENCE):
        while not check():
            await asyncio.sleep(0.01)


async def test_what_is_kept_is_a_private_file_and_nothing_kept_is_none(place: Path):
    node = Node(place)
    assert (node.loaded, node.logs) == ({}, [])
    async with running(node.store.serve()):
        node.keep()
        await until(node.file.exists)
        assert stat.S_IMODE(node.file.stat().st_mode) == 0o600
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert os.listdir(place) == [NAME]
        assert list(Node(place).loaded) == list(node.book.kept_versions())

        node.mend()
        await until(lambda: not node.file.exists())
    assert os.listdir(place) == []


async def test_what_has_not_changed_is_not_written_again(place: Path, monkeypatch):
    written: list[bytes] = []
    replace = KeptStore._replace

    def spy(self: KeptStore, content: bytes) -> None:
        written.append(content)
        replace(self, content)

    monkeypatch.setattr(KeptStore, "_replace", spy)
    node = Node(place)
    node.keep()
    await node.store.write()
    assert len(written) == 1

    again = Node(place)
    assert again.logs[0]["event"] == storing.FOUND
    again.book.take(NETWORK_POLICIES, Snapshot((policy(generation=2, version="11", ingress=BAD_PEER),)))
    await again.store.write()
    again.book.take(NETWORK_POLICIES, Put(policy(generation=4, version="14", egress=BAD_PEER)))
    await again.store.write()
    assert len(written) == 1


async def test_a_change_in_the_moment_of_the_end_is_written(place: Path):
    node = Node(place)
    async with running(node.store.serve()):
        await asyncio.sleep(0)
        node.keep()
    assert list(Node(place).loaded) == list(node.book.kept_versions())


async def test_a_write_that_was_given_up_does_not_undo_a_later_one(place: Path):
    node = Node(place)
    node.keep()
    early, then = node.book.kept_versions(), node.book.keeping
    node.keep("q")
    await node.store.write()
    await asyncio.to_thread(node.store._put, early, then)
    assert [ref.name for ref in Node(place).loaded] == ["p", "q"]


@pytest.mark.parametrize(
    "left",
    [lambda path: path.write_bytes(b'{"format": "isthmus.d'), lambda path: os.mkfifo(path), lambda path: path.mkdir()],
    ids=["half a file", "pipe", "directory"],
)
async def test_what_a_killed_write_left_or_somebody_put_there_is_in_nobody_s_way(place: Path, left):
    place.mkdir(parents=True)
    draft = place / f".{NAME}.new"
    left(draft)
    node = Node(place)
    if draft.is_dir():
        assert node.warnings == [UNWRITABLE]
        draft.rmdir()
    else:
        assert node.warnings == []
    node.keep()
    await node.store.write()
    assert list(Node(place).loaded) == list(node.book.kept_versions())


def _link(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(b"{}")
    path.symlink_to(target)


def _writable(path: Path) -> None:
    path.write_bytes(b"{}")
    path.chmod(0o620)


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (lambda path: path.write_bytes(b"{"), "it cannot be read"),
        (os.mkfifo, "it is no regular file"),
        (Path.mkdir, "it is no regular file"),
        (_link, "Too many levels of symbolic links"),
        (_writable, "its mode is 0620: others may write it"),
        (lambda path: path.write_bytes(b" " * (storing.MOST_BYTES + 5)), "more than 4194304 bytes"),
        (lambda path: path.touch() or os.truncate(path, 1 << 40), "more than 4194304 bytes"),
    ],
    ids=["half", "pipe", "directory", "link", "writable", "too large", "a hole of a terabyte"],
)
async def test_what_is_found_and_cannot_be_used_is_one_warning_and_stays_until_there_is_better(place, put, reason):
    place.mkdir(parents=True)
    put(place / NAME)
    node = Node(place)
    assert node.loaded == {}
    (line,) = node.logs
    assert (line["event"], line["file"], line["log_level"]) == (IGNORED, str(place / NAME), "warning")
    assert reason in line["reason"]
    node.book.take(NETWORK_POLICIES, Snapshot((policy(),)))
    await node.store.write()
    assert os.path.lexists(place / NAME), "evidence is not removed for nothing"

    if (place / NAME).is_dir():
        (place / NAME).rmdir()
    node.keep("q")
    await node.store.write()
    assert [ref.name for ref in Node(place).loaded] == ["q"]


async def test_a_file_of_somebody_else_is_not_believed(place: Path, monkeypatch):
    node = Node(place)
    node.keep()
    await node.store.write()

    def another(descriptor: int) -> os.stat_result:
        found = os.stat(descriptor)
        return os.stat_result((*found[:4], 12345, *found[5:]))

    monkeypatch.setattr(os, "fstat", another)
    after = Node(place)
    assert (after.loaded, after.warnings) == ({}, [IGNORED])
    assert after.logs[0]["reason"] == "it belongs to user 12345"


async def test_a_directory_that_refuses_files_is_one_line_and_the_file_comes_as_soon_as_it_takes_them(place: Path):
    place.parent.mkdir()
    place.touch()  # in a directory root could write
    node = Node(place)
    assert node.warnings == [UNWRITABLE]
    with capture_logs() as logs:
        async with running(node.store.serve()):
            node.keep()
            await until(lambda: node.store.failures)
            assert logs == []

            place.unlink()
            await until(lambda: logs)
    assert [log["event"] for log in logs] == [WRITABLE]
    assert list(Node(place).loaded) == list(node.book.kept_versions())


async def test_a_write_that_fails_leaves_the_old_file_and_no_other(place: Path, monkeypatch):
    node = Node(place)
    node.keep()
    await node.store.write()
    before = node.file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        node.keep("q")
        with pytest.raises(OSError, match="No space"):
            await node.store.write()
    assert node.file.read_bytes() == before
    assert os.listdir(place) == [NAME]

    await node.store.write()
    assert len(Node(place).loaded) == 2


async def test_versions_that_are_too_large_are_named_once(place: Path, monkeypatch):
    monkeypatch.setattr(kept, "MOST_BYTES", 1024 + 250)
    node = Node(place)
    with capture_logs() as logs:
        for name in ("p", "q"):
            node.keep(name)
            await node.store.write()
        node.keep("a")
        node.mend("a")
        await node.store.write()
    (line,) = [log for log in logs if log["event"] == LEFT_OUT]
    assert line["policies"] == ["NetworkPolicy x/q"]
    assert [ref.name for ref in Node(place).loaded] == ["p"]
