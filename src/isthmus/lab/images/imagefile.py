"""The file that adds images to a lab: a YAML list, read at the start and again whenever it has changed.

    - name: my-server
      aliases: [registry.example/team/my-server]
      entrypoint: [/usr/bin/python3, -m, http.server]
      command: ["8000"]
      env: {PYTHONUNBUFFERED: "1"}
      workdir: /srv
      user: "1000:1000"
      files: {/srv/data: /home/me/data}     # path in the container: file or directory of this machine
      ports: [8000]

Invariants: an error names the file, the entry and the field; a file that cannot be read any more leaves the images as
they were, and says so once for each change. Rejected: a directory of Dockerfiles, which promise layers and builds.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from isthmus.lab.images.builtin import BUILTIN
from isthmus.lab.images.catalog import Catalog, Image, InvalidImageName, repository_of

MAX_BYTES = 1024 * 1024
"""Size of a file of images; a longer one is refused."""
MAX_IMAGES = 1000
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_USER = re.compile(r"\d{1,10}(:\d{1,10})?")
_MAX_ID = 2**32 - 2


class ImageFileError(Exception):
    """The file cannot be used; the message names it, the entry and the field."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    aliases: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    workdir: str = ""
    user: str = ""
    files: dict[str, str] = {}
    ports: tuple[int, ...] = ()


def read(path: Path) -> Catalog:
    """Returns the built-in images and those of the file, which take precedence; raises ImageFileError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ImageFileError(f"{path}: {error.strerror or error}") from error
    return Catalog.of((*BUILTIN, *parse(data, where=str(path))))


def parse(data: bytes, *, where: str) -> tuple[Image, ...]:
    """Returns the images in the text of a file; `where` is what errors call it. Raises ImageFileError."""
    if len(data) > MAX_BYTES:
        raise ImageFileError(f"{where}: longer than {MAX_BYTES} bytes")
    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError, OverflowError) as error:
        raise ImageFileError(f"{where}: not YAML: {' '.join(str(error).split())[:500]}") from error
    if content is None:
        return ()
    if not isinstance(content, list):
        raise ImageFileError(f"{where}: expected a list of images")
    if len(content) > MAX_IMAGES:
        raise ImageFileError(f"{where}: more than {MAX_IMAGES} images")
    taken: dict[str, int] = {}
    images = []
    for number, item in enumerate(content):
        at = f"{where}: [{number}]"
        image = _image(item, at)
        for name in (image.name, *image.aliases):
            if name in taken:
                raise ImageFileError(f'{at}: the name "{name}" is that of [{taken[name]}] already')
            taken[name] = number
        images.append(image)
    return tuple(images)


def _image(item: Any, at: str) -> Image:
    try:
        entry = msgspec.convert(item, _Entry)
    except (msgspec.ValidationError, RecursionError) as error:
        # "... - at `$.command[0]`": the path is ours to word.
        text, _, path = str(error).partition(" - at ")
        raise ImageFileError(f"{at}{path.strip('`').removeprefix('$')}: {text}") from error
    for index, name in enumerate((entry.name, *entry.aliases)):
        field = "name" if index == 0 else f"aliases[{index - 1}]"
        try:
            bare = repository_of(name)
        except InvalidImageName as error:
            raise ImageFileError(f'{at}.{field}: "{name[:100]}" is not the name of an image') from error
        if bare != name:
            raise ImageFileError(f'{at}.{field}: "{name[:100]}" must be without tag and digest')
    if not entry.entrypoint and not entry.command:
        raise ImageFileError(f"{at}: neither entrypoint nor command is given")
    for field, words in (("entrypoint", entry.entrypoint), ("command", entry.command)):
        for index, word in enumerate(words):
            _check_text(f"{at}.{field}[{index}]", word)
    for name, value in entry.env.items():
        if not _VARIABLE.fullmatch(name):
            raise ImageFileError(f'{at}.env: "{name[:100]}" is not the name of a variable')
        _check_text(f"{at}.env.{name}", value)
    if entry.workdir:
        _check_path(f"{at}.workdir", entry.workdir)
    if entry.user and not (
        _USER.fullmatch(entry.user) and all(int(number) <= _MAX_ID for number in entry.user.split(":"))
    ):
        raise ImageFileError(f'{at}.user: "{entry.user[:100]}" is not UID or UID:GID in numbers')
    for target, source in entry.files.items():
        _check_path(f"{at}.files", target)
        _check_path(f"{at}.files.{target}", source)
        if not os.path.exists(source):
            raise ImageFileError(f"{at}.files.{target}: {source} does not exist on this machine")
    for index, port in enumerate(entry.ports):
        if not 0 < port < 65536:
            raise ImageFileError(f"{at}.ports[{index}]: {port} is not between 1 and 65535")
    return Image(
        name=entry.name,
        aliases=entry.aliases,
        entrypoint=entry.entrypoint,
        command=entry.command,
        env=tuple(entry.env.items()),
        workdir=entry.workdir,
        user=entry.user,
        files=tuple((source, target) for target, source in entry.files.items()),
        ports=entry.ports,
    )


def _check_text(at: str, text: str) -> None:
    if "\0" in text or (not text.isprintable() and any(0xD800 <= ord(letter) < 0xE000 for letter in text)):
        raise ImageFileError(f"{at}: has a character that no program can be given")


def _check_path(at: str, path: str) -> None:
    _check_text(at, path)
    if not path.startswith("/") or "/../" in f"{path}/" or os.path.normpath(path) == "/":
        raise ImageFileError(f'{at}: "{path[:200]}" is not an absolute path below /')


class ImageSource:
    """The images as of now: of a file that is read again when it has changed, or the built-in ones."""

    def __init__(self, path: Path | None = None, *, on_error: Callable[[str], None] = lambda _message: None) -> None:
        """Reads the file; raises ImageFileError. `on_error` hears of a change that cannot be used."""
        self._path = path
        self._on_error = on_error
        self._seen = self._stamp()
        self._catalog = Catalog.of(BUILTIN) if path is None else read(path)

    @property
    def catalog(self) -> Catalog:
        """The images; costs one stat(2) while the file is as it was."""
        stamp = self._stamp()
        if self._path is not None and stamp != self._seen:
            self._seen = stamp
            try:
                self._catalog = read(self._path)
            except ImageFileError as error:
                self._on_error(str(error))
        return self._catalog

    def find(self, reference: str) -> Image:
        """Returns the image for a reference; raises UnknownImage."""
        return self.catalog.find(reference)

    def _stamp(self) -> tuple[int, ...]:
        if self._path is None:
            return ()
        try:
            found = os.stat(self._path)
        except OSError as error:
            return (error.errno or 0,)
        return (found.st_ino, found.st_size, found.st_mtime_ns)
