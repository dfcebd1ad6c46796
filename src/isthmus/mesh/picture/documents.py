"""YAML and JSON files -> API objects. The files are hostile: somebody else's repository, or a pull request.

Bounded in size, depth and in what aliases stand for (a few hundred bytes can stand for gigabytes); only plain data is
made, and dates stay the text that Kubernetes takes them for. Every error names the file, and the line where there is
one. What is no API object (values of a chart) is left out. Rejected: refusing aliases altogether, which people use.
"""

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import yaml

MAX_FILE = 16 << 20
"""Bytes of one file."""

MAX_FILES = 20_000
MAX_TOTAL = 256 << 20
"""Bytes of all files of one directory."""

MAX_DEPTH = 100
"""Levels of nesting; a CustomResourceDefinition has some forty."""

MAX_VALUES = 2_000_000
"""Values of one file, with what aliases stand for."""

SUFFIXES = (".yaml", ".yml", ".json")
_BAD = (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError)
"""What PyYAML raises for a value with a tag that it does not fit."""


class DocumentError(Exception):
    """A file cannot be read; the message names it."""


def _loader() -> Any:
    """Returns a loader of plain data that knows no dates and no binary data."""
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(":timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return type("ObjectLoader", (base,), {"yaml_implicit_resolvers": resolvers})


_LOADER = _loader()


def read_file(path: Path) -> list[dict[str, Any]]:
    """Returns the API objects of a file, those of Lists one by one. Raises DocumentError."""
    try:
        with path.open("rb") as file:
            return read_stream(file, origin=str(path))
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror or error}") from None


def read_stream(stream: IO[bytes], *, origin: str) -> list[dict[str, Any]]:
    """Returns the API objects of a stream; `origin` names it in errors. Raises DocumentError."""
    data = stream.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise DocumentError(f"{origin}: is larger than {MAX_FILE >> 20} MiB")
    return list(_objects(_documents(data, origin), origin))


def read_place(place: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields the API objects of a file, or of all files below a directory, with their files. Raises DocumentError."""
    size = 0
    for path in files_of(place) if place.is_dir() else [place]:
        try:
            size += path.stat().st_size
        except OSError as error:
            raise DocumentError(f"{path}: {error.strerror or error}") from None
        if size > MAX_TOTAL:
            raise DocumentError(f"{place}: holds more than {MAX_TOTAL >> 20} MiB of manifests")
        yield from ((path, obj) for obj in read_file(path))


def files_of(directory: Path) -> list[Path]:
    """Returns the manifests below a directory; hidden files and directories are left out. Raises DocumentError."""
    if not directory.is_dir():
        raise DocumentError(f"{directory}: there is no such directory")
    found: list[Path] = []
    for path in sorted(directory.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if path.suffix in SUFFIXES and not hidden and path.is_file():
            found.append(path)
            if len(found) > MAX_FILES:
                raise DocumentError(f"{directory}: holds more than {MAX_FILES} manifests")
    return found


def _documents(data: bytes, origin: str) -> list[Any]:
    try:
        if _has_aliases(data):
            _weigh(data)
        return list(yaml.load_all(data, Loader=_LOADER))
    except yaml.YAMLError as error:
        raise DocumentError(f"{origin}: {_spoken(error)}") from None
    except RecursionError:
        raise DocumentError(f"{origin}: not YAML that can be read: nested too deep") from None
    except _BAD:
        raise DocumentError(f"{origin}: not YAML that can be read: a value does not fit its tag") from None


def _has_aliases(data: bytes) -> bool:
    """Tells whether there is an alias; raises YAMLError for nesting that would exhaust the parser's stack."""
    depth, found, count = 0, False, 0
    for event in yaml.parse(data, Loader=_LOADER):
        count += 1
        if count > 2 * MAX_VALUES:
            raise yaml.YAMLError(f"holds more than {MAX_VALUES} values")
        match event:
            case yaml.AliasEvent():
                found = True
            case yaml.CollectionStartEvent():
                depth += 1
                if depth > MAX_DEPTH:
                    raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")
            case yaml.CollectionEndEvent():
                depth -= 1
    return found


def _weigh(data: bytes) -> None:
    """Raises YAMLError if aliases make more of a file than it may be, or lead into themselves."""
    for root in yaml.compose_all(data, Loader=_LOADER):
        sizes: dict[int, int] = {}
        if root is not None and _size(root, sizes, set(), 0) > MAX_VALUES:
            raise yaml.YAMLError(f"aliases stand for more than {MAX_VALUES} values")


def _size(node: yaml.Node, sizes: dict[int, int], above: set[int], depth: int) -> int:
    known = sizes.get(id(node))
    if known is not None:
        return known
    if id(node) in above:
        raise yaml.YAMLError("an alias stands for what it is part of")
    if depth > MAX_DEPTH:
        raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")
    above.add(id(node))
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    size = 1 + sum(_size(child, sizes, above, depth + 1) for child in children)
    above.discard(id(node))
    sizes[id(node)] = size
    return size


def _spoken(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        where = f" (line {mark.line + 1})" if mark is not None else ""
        return f"not YAML: {error.problem or error.context}{where}"
    return f"not YAML that can be read: {str(error)[:200]}"


def _objects(documents: list[Any], origin: str) -> Iterator[dict[str, Any]]:
    waiting: list[Any] = list(reversed(documents))
    while waiting:
        found = waiting.pop()
        if not _is_object(found):
            continue
        kind = found["kind"]
        if kind.endswith("List") and isinstance(found.get("items"), list):
            # Items of a typed list need not say what they are.
            said = {"apiVersion": found["apiVersion"], "kind": kind.removesuffix("List")} if kind != "List" else {}
            items = [{**said, **item} if isinstance(item, dict) else item for item in found["items"]]
            waiting.extend(reversed(items))
            continue
        yield found


def _is_object(found: Any) -> bool:
    return (
        isinstance(found, Mapping)
        and isinstance(found.get("kind"), str)
        and isinstance(found.get("apiVersion"), str)
        and all(isinstance(key, Hashable) for key in found)
    )
