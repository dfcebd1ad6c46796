"""The HTTP API over a JSON document."""

import json
from pathlib import Path

import pytest

from isthmus.lab.images.programs.jsonmock import DocumentError, Store, load, save, select


@pytest.fixture
def store() -> Store:
    return Store({"posts": [{"id": 1, "title": "a"}, {"id": "x", "title": "b"}], "profile": {"name": "n"}})


def test_collections_are_read_written_and_deleted(store: Store) -> None:
    assert store.answer("GET", "/posts/1", {}, b"") == (200, {"id": 1, "title": "a"})
    assert store.answer("GET", "/posts/x", {}, b"")[0] == 200
    assert store.answer("GET", "/posts/2", {}, b"") == (404, {})
    assert store.answer("POST", "/posts", {}, b'{"title": "c"}') == (201, {"title": "c", "id": 2})
    assert store.answer("POST", "/posts", {}, b'{"id": 2}')[0] == 500
    assert store.answer("PUT", "/posts/2", {}, b'{"title": "d", "id": 9}') == (200, {"title": "d", "id": 2})
    assert store.answer("PATCH", "/posts/2", {}, b'{"more": 1}') == (200, {"title": "d", "id": 2, "more": 1})
    assert store.answer("DELETE", "/posts/2", {}, b"") == (200, {})
    assert len(store.answer("GET", "/posts", {}, b"")[1]) == 2


def test_single_things_and_the_whole(store: Store) -> None:
    assert store.answer("GET", "/profile", {}, b"") == (200, {"name": "n"})
    assert store.answer("PATCH", "/profile", {}, b'{"age": 1}') == (200, {"name": "n", "age": 1})
    assert store.answer("PUT", "/profile", {}, b'{"age": 2}') == (200, {"age": 2})
    assert store.answer("GET", "/db", {}, b"")[1] is store.data
    assert store.answer("OPTIONS", "/posts", {}, b"") == (204, None)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/posts", b"{", 400),
        ("POST", "/posts", b"[1]", 400),
        ("POST", "/posts", b"[" * 100_000, 400),
        ("PUT", "/posts", b"{}", 404),
        ("DELETE", "/nope", b"", 404),
        ("GET", "/posts/1/comments", b"", 404),
        ("BREW", "/posts/1", b"{}", 404),
    ],
)
def test_bad_requests_are_answers(store: Store, method: str, path: str, body: bytes, status: int) -> None:
    assert store.answer(method, path, {}, body)[0] == status


def test_queries() -> None:
    items = [{"id": n, "tag": "even" if n % 2 == 0 else "odd", "deep": {"n": n}} for n in range(1, 7)]
    assert [item["id"] for item in select(items, {"tag": "odd"})] == [1, 3, 5]
    assert [item["id"] for item in select(items, {"deep.n": "4"})] == [4]
    assert [item["id"] for item in select(items, {"_sort": "id", "_order": "desc", "_limit": "2"})] == [6, 5]
    assert [item["id"] for item in select(items, {"_page": "2", "_limit": "4"})] == [5, 6]
    assert len(select(items, {"q": "EVEN"})) == 3
    assert select(items, {"_page": "x", "_limit": "-1"}) == items


def test_documents(tmp_path: Path) -> None:
    path = tmp_path / "db.json"
    for text, message in (("[1]", "must be an object"), ("{", "not JSON")):
        path.write_text(text)
        with pytest.raises(DocumentError, match=message):
            load(str(path))
    with pytest.raises(DocumentError, match="No such file"):
        load(str(tmp_path / "none"))
    save(str(path), {"a": []})
    assert json.loads(path.read_text()) == load(str(path)) == {"a": []}
    save("/proc/no/such", {"a": []})
