"""The writer and its store."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from isthmus.lab.apiserver.errors import ApiError
from isthmus.lab.apiserver.schema.kinds import Registry
from isthmus.lab.apiserver.storage.disk import Row, Storage, StorageError
from isthmus.lab.apiserver.storage.state import MAX_WAITING, State, Transaction, decode

RESOURCE = Registry().get("configmaps")


class Faulty(Storage):
    """A store whose commits fail on demand, and which counts them."""

    failure: StorageError | None = None
    commits = 0

    def commit(self, rows: Sequence[Row]) -> None:
        if self.failure is not None:
            raise self.failure
        self.commits += 1
        super().commit(rows)


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[tuple[State, Faulty]]:
    storage = Faulty(tmp_path / "state.sqlite3")
    found = State(storage, Registry())
    writer = asyncio.create_task(found.run())
    yield found, storage
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    found.close()


def put(name: str, **data: str) -> Callable[[Transaction], int]:
    def action(transaction: Transaction) -> int:
        value: dict[str, Any] = {"metadata": {"name": name, "namespace": "n"}, "data": data}
        return transaction.put(RESOURCE, value).version

    return action


def increment(transaction: Transaction) -> int:
    stored = transaction.get(RESOURCE, namespace="n", name="counter")
    value = decode(RESOURCE, stored) if stored else {"metadata": {"name": "counter", "namespace": "n"}, "data": {}}
    value["data"]["count"] = str(int(value["data"].get("count", "0")) + 1)
    transaction.put(RESOURCE, value)
    return int(value["data"]["count"])


async def test_concurrent_writes_share_commits_and_see_each_other(state: tuple[State, Faulty]) -> None:
    found, storage = state
    counts = await asyncio.gather(*(found.write(increment) for _ in range(100)))
    assert sorted(counts) == list(range(1, 101))
    assert storage.commits < 10


async def test_a_failed_commit_leaves_everything_as_it_was(state: tuple[State, Faulty]) -> None:
    found, storage = state
    await found.write(put("a"))
    before = found.version
    for failure, code in ((StorageError("disk", full=True), 507), (StorageError("disk"), 500)):
        storage.failure = failure
        with pytest.raises(ApiError) as error:
            await found.write(put("b"))
        assert error.value.code == code
    assert (found.version, set(found.cache(RESOURCE).objects)) == (before, {("n", "a")})
    storage.failure = None
    assert await found.write(put("b")) > before


async def test_a_failing_action_fails_alone(state: tuple[State, Faulty]) -> None:
    found, _ = state

    def broken(transaction: Transaction) -> None:
        put("half")(transaction)
        raise KeyError("oops")

    good, bad, dry = await asyncio.gather(
        found.write(put("a")), found.write(broken), found.write(put("dry"), dry_run=True), return_exceptions=True
    )
    assert isinstance(good, int)
    assert isinstance(bad, KeyError)
    assert dry == 0
    assert set(found.cache(RESOURCE).objects) == {("n", "a")}


async def test_too_many_waiting_writes_are_refused(tmp_path: Path) -> None:
    found = State(Storage(tmp_path / "state.sqlite3"), Registry())
    waiting = [asyncio.create_task(found.write(put("a"))) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as error:
        await found.write(put("b"))
    assert error.value.code == 429
    writer = asyncio.create_task(found.run())
    await asyncio.gather(*waiting)
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    found.close()


async def test_what_was_written_is_there_after_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    first = State(Storage(path), Registry())
    writer = asyncio.create_task(first.run())
    await asyncio.gather(*(first.write(put(name, k=name)) for name in "abc"))

    def remove(transaction: Transaction) -> None:
        stored = transaction.get(RESOURCE, namespace="n", name="b")
        assert stored is not None
        transaction.remove(RESOURCE, decode(RESOURCE, stored))

    await first.write(remove)
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    objects, version = dict(first.cache(RESOURCE).objects), first.version
    first.close()
    second = State(Storage(path), Registry())
    assert (second.cache(RESOURCE).objects, second.version) == (objects, version)
    assert second.cache(RESOURCE).horizon == version
    second.close()


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "state.sqlite3")
    storage._db.execute("UPDATE settings SET value = 'future' WHERE name = 'format'")
    storage.close()
    with pytest.raises(StorageError, match="format that this version cannot read"):
        Storage(tmp_path / "state.sqlite3")


def test_a_stored_object_that_is_no_json_is_named(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "state.sqlite3")
    storage.commit([Row("configmaps", "n", "a", 1, b"nonsense")])
    with pytest.raises(StorageError, match="a stored object of configmaps cannot be read"):
        State(storage, Registry())
    storage.close()
