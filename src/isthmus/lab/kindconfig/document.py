"""One YAML document from a file that anybody may have written, as plain values.

Invariants: no tag makes anything but plain values; size, depth and number of values are bounded, and aliases are
refused because a few of them can stand for billions of values; a key that appears twice is an error, not a riddle.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

MAX_SIZE = 256 * 1024
"""Bytes; kind's own examples are below 5 KiB."""
MAX_DEPTH = 20


class KindConfigError(Exception):
    """The file cannot be used; the message names it, and the field."""


def read_document(path: Path) -> tuple[str, dict[str, Any]]:
    """Returns what to call the file, and its only document; `-` is standard input. Raises KindConfigError."""
    name = "standard input" if str(path) == "-" else str(path)
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(MAX_SIZE + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise KindConfigError(f"cannot read {name}: {error.strerror or error}") from error
    if len(data) > MAX_SIZE:
        raise KindConfigError(f"{name}: more than {MAX_SIZE // 1024} KiB")
    return name, parse_document(data, name=name)


def parse_document(data: bytes, *, name: str) -> dict[str, Any]:
    """Returns the only document in `data`; raises KindConfigError."""
    try:
        documents = list(_documents(data.decode(), name))
    except UnicodeDecodeError as error:
        raise KindConfigError(f"{name}: not UTF-8: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise KindConfigError(f"{name}: not YAML: {_one_line(error)}") from error
    except RecursionError as error:
        raise KindConfigError(f"{name}: nested too deep") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise KindConfigError(f"{name}: one YAML document with a Cluster is expected")
    return documents[0]


def _documents(text: str, name: str) -> list[Any]:
    _check_events(text, name)
    return [document for document in yaml.load_all(text, Loader=_Strict) if document is not None]


def _check_events(text: str, name: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise KindConfigError(f"{name}: {_where(event)}: anchors and aliases are not accepted")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise KindConfigError(f"{name}: {_where(event)}: nested too deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _where(event: yaml.Event) -> str:
    return "somewhere" if event.start_mark is None else f"line {event.start_mark.line + 1}"


class _Strict(yaml.SafeLoader):
    """Refuses keys that appear twice, or that are no text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                problem = "a key that appears twice" if isinstance(key, yaml.ScalarNode) else "a key that is no text"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
