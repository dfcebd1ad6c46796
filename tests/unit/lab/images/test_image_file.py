"""The file that adds images."""

import os
from pathlib import Path

import pytest

from isthmus.lab.images.catalog import UnknownImage, full_argv
from isthmus.lab.images.imagefile import ImageFileError, ImageSource, parse

GOOD = b"""
- name: my-server
  aliases: [registry.example/team/other]
  entrypoint: [/usr/bin/python3, -m, http.server]
  command: ["8000"]
  env: {PYTHONUNBUFFERED: "1"}
  workdir: /srv
  user: "1000:1000"
  files: {/srv/data: /usr/share}
  ports: [8000]
- name: nginx
  command: [sleep, "1"]
"""


def test_images_of_the_file_are_found_and_win(tmp_path: Path) -> None:
    path = tmp_path / "images.yaml"
    path.write_bytes(GOOD)
    source = ImageSource(path)
    image = source.find("registry.example/team/my-server:v1")
    assert full_argv(image, command=(), args=()) == ("/usr/bin/python3", "-m", "http.server", "8000")
    assert (image.env, image.workdir, image.user) == ((("PYTHONUNBUFFERED", "1"),), "/srv", "1000:1000")
    assert (image.files, image.ports) == ((("/usr/share", "/srv/data"),), (8000,))
    assert source.find("registry.example/team/other") is image
    assert source.find("nginx").command == ("sleep", "1")
    assert source.find("busybox").name == "busybox"
    with pytest.raises(UnknownImage, match="my-server"):
        source.find("team/others")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "FILE: not YAML"),
        ("a: b", "FILE: expected a list of images"),
        ("- 5", "FILE: [0]: Expected `object`, got `int`"),
        ("- name: a\n  comand: [x]", "FILE: [0]: Object contains unknown field `comand`"),
        ("- name: a\n  command: x", "FILE: [0].command: Expected `array`, got `str`"),
        ("- name: a\n  command: [1]", "FILE: [0].command[0]: Expected `str`, got `int`"),
        ("- command: [x]", "FILE: [0]: Object missing required field `name`"),
        ("- name: A b\n  command: [x]", 'FILE: [0].name: "A b" is not the name of an image'),
        ("- name: a:1\n  command: [x]", 'FILE: [0].name: "a:1" must be without tag and digest'),
        ("- name: a\n  aliases: ['-']\n  command: [x]", "FILE: [0].aliases[0]:"),
        ("- name: a", "FILE: [0]: neither entrypoint nor command is given"),
        ("- name: a\n  command: ['x\\0']", None),
        ('- name: a\n  command: ["x\\0"]', "FILE: [0].command[0]: has a character that no program can be given"),
        ("- name: a\n  command: [x]\n  env: {'a b': c}", 'FILE: [0].env: "a b" is not the name of a variable'),
        ("- name: a\n  command: [x]\n  workdir: srv", 'FILE: [0].workdir: "srv" is not an absolute path'),
        ("- name: a\n  command: [x]\n  workdir: /srv/../..", "FILE: [0].workdir:"),
        ("- name: a\n  command: [x]\n  user: root", 'FILE: [0].user: "root" is not UID or UID:GID'),
        ("- name: a\n  command: [x]\n  user: '99999999999'", "FILE: [0].user:"),
        ("- name: a\n  command: [x]\n  ports: [0]", "FILE: [0].ports[0]: 0 is not between 1 and 65535"),
        ("- name: a\n  command: [x]\n  files: {/a: /no/such/file}", "/no/such/file does not exist on this machine"),
        ("- name: a\n  command: [x]\n- name: a\n  command: [x]", 'FILE: [1]: the name "a" is that of [0] already'),
        ("&a [*a]", "FILE: [0]"),
        ("!!python/object/apply:os.system [ls]", "FILE: not YAML"),
        ("- " * 5000, "FILE"),
        ("x" * (1024 * 1024 + 1), "FILE: longer than"),
    ],
)
def test_an_error_names_file_entry_and_field(text: str, message: str | None) -> None:
    if message is None:
        parse(text.encode(), where="FILE")
        return
    with pytest.raises(ImageFileError) as caught:
        parse(text.encode(), where="FILE")
    assert message in str(caught.value)


def test_a_bomb_of_references_is_refused_in_time() -> None:
    lines = ["- &a0 [x, x]"] + [f"- &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    with pytest.raises(ImageFileError):
        parse("\n".join(lines).encode(), where="FILE")


def test_a_change_is_seen_and_a_mistake_leaves_what_was(tmp_path: Path) -> None:
    path = tmp_path / "images.yaml"
    path.write_text("- name: one\n  command: [a]\n")
    said: list[str] = []
    source = ImageSource(path, on_error=said.append)
    rewrite(path, "- name: two\n  command: [b, c]\n")
    assert source.find("two").command == ("b", "c")
    rewrite(path, "- nonsense")
    assert source.find("two") and source.find("two")
    assert len(said) == 1 and "images.yaml: [0]" in said[0]
    path.unlink()
    assert source.find("two") and source.find("two")
    assert len(said) == 2
    rewrite(path, "- name: three\n  command: [x]\n")
    assert source.find("three")


def rewrite(path: Path, text: str) -> None:
    """Replaces a file as editors do; its inode changes, whatever the clock says."""
    draft = path.with_suffix(".new")
    draft.write_text(text)
    os.replace(draft, path)


def test_a_missing_file_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="No such file"):
        ImageSource(tmp_path / "none.yaml")
