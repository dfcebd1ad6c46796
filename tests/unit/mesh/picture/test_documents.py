"""Files of somebody else: what is in them, and what is refused with the file's name."""

import io
from pathlib import Path

import pytest

from isthmus.mesh.picture import documents
from isthmus.mesh.picture.documents import DocumentError, files_of, read_file, read_place, read_stream

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"


def names(text: str) -> list[str]:
    return [str(obj["metadata"]["name"]) for obj in read_stream(io.BytesIO(text.encode()), origin="x.yaml")]


def test_streams_lists_and_typed_lists_are_taken_apart() -> None:
    typed = "apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: b}}]\n"
    nested = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: c}}\n- 7\n"
    assert names(f"{POD}---\n---\n{typed}---\n{nested}---\nreplicas: 3\n") == ["a", "b", "c"]
    (found,) = read_stream(io.BytesIO(typed.encode()), origin="x")
    assert (found["kind"], found["apiVersion"]) == ("Pod", "v1")


def test_json_is_read_as_well_and_dates_stay_text() -> None:
    text = b'{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"day": "x"}}}'
    assert read_stream(io.BytesIO(text), origin="x")[0]["metadata"]["labels"] == {"day": "x"}
    (found,) = read_stream(io.BytesIO(f"{POD}spec: {{day: 2024-01-01, port: 80}}".encode()), origin="x")
    assert found["spec"] == {"day": "2024-01-01", "port": 80}


def test_an_alias_stands_for_what_it_names() -> None:
    (found,) = read_stream(io.BytesIO(f"{POD}spec:\n  one: &o [1, 2]\n  two: *o\n".encode()), origin="x")
    assert found["spec"] == {"one": [1, 2], "two": [1, 2]}


BILLION = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join(f'*{old}' for _ in range(10))}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BILLION, "aliases stand for more than"),
        ("a: &a [*a]", "an alias stands for what it is part of"),
        ("[" * 5000, "nested deeper than 100 levels"),
        ("{a: " * 5000, "nested deeper than 100 levels"),
        ("a: [1", "not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not YAML"),
        ("a: !!int maybe", "a value does not fit its tag"),
        ("a: \x00", "not YAML"),
        ("{{ if .Values.x }}", "not YAML"),
    ],
)
def test_what_is_hostile_is_refused_with_the_name_of_the_file(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "hostile.yaml"
    file.write_text(text)
    with pytest.raises(DocumentError) as error:
        read_file(file)
    assert "hostile.yaml" in str(error.value)
    assert said in str(error.value)


def test_huge_files_and_directories_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_FILE", 100)
    (tmp_path / "a.yaml").write_text("#" * 101)
    with pytest.raises(DocumentError, match=r"a\.yaml: is larger than"):
        list(read_place(tmp_path))
    monkeypatch.setattr(documents, "MAX_TOTAL", 150)
    (tmp_path / "a.yaml").write_text("#" * 90)
    (tmp_path / "b.yaml").write_text("#" * 90)
    with pytest.raises(DocumentError, match="holds more than"):
        list(read_place(tmp_path))
    monkeypatch.setattr(documents, "MAX_VALUES", 3)
    (tmp_path / "a.yaml").write_text("[1,2,3,4,5,6,7,8]")
    with pytest.raises(DocumentError, match="holds more than 3 values"):
        read_file(tmp_path / "a.yaml")


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.json", "d.txt", ".e.yaml", ".git/f.yaml", "deep/g.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert [path.name for path in files_of(tmp_path)] == ["a.yml", "b.yaml", "c.json", "g.yaml"]
    with pytest.raises(DocumentError, match="there is no such directory"):
        files_of(tmp_path / "none")
    with pytest.raises(DocumentError, match="No such file"):
        read_file(tmp_path / "none.yaml")
